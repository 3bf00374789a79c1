"""One sign for every detector's score: higher is more normal, as in scikit-learn."""

from functools import singledispatch

import numpy as np
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.svm import OneClassSVM

__all__ = ["can_score", "grows_with_rows", "is_pyod", "normality"]


def is_pyod(estimator):
    """Whether a detector is PyOD's own, told without importing PyOD."""
    return any(c.__module__.split(".")[0] == "pyod" for c in type(estimator).__mro__)


def can_score(estimator):
    """Whether `normality` can score with the estimator."""
    return hasattr(estimator, "score_samples") or hasattr(estimator, "decision_function")


def normality(estimator, X):
    """Score rows by any fitted detector, Pipeline or search.

    Parameters
    ----------
    estimator : object
        With ``score_samples``, or else ``decision_function``.
    X : array-like of shape (n, d) or (n, ...)

    Returns
    -------
    scores : ndarray of shape (n,), float64
        Higher for normal rows, also where PyOD's own detectors score.

    Raises
    ------
    TypeError
        When the estimator has neither method.
    """
    if not can_score(estimator):
        raise TypeError(
            f"{type(estimator).__name__} is no detector: it has neither score_samples "
            "nor decision_function."
        )
    if hasattr(estimator, "score_samples"):
        return np.asarray(estimator.score_samples(X), dtype=np.float64).ravel()
    scores = np.asarray(estimator.decision_function(X), dtype=np.float64).ravel()
    return -scores if is_pyod(_last_step(estimator)) else scores


@singledispatch
def grows_with_rows(estimator):
    """Whether the score is a sum over the training rows, in proportion to their number.

    Scores of copies that are fitted on fewer rows have to be scaled up then.
    """
    return False


@grows_with_rows.register
def _(estimator: OneClassSVM):
    return True  # the dual coefficients sum to nu times the number of rows


@grows_with_rows.register
def _(estimator: Pipeline):
    return grows_with_rows(estimator.steps[-1][1])


@grows_with_rows.register(GridSearchCV)
@grows_with_rows.register(RandomizedSearchCV)
def _(estimator):
    return grows_with_rows(estimator.estimator)


def _last_step(estimator):
    estimator = getattr(estimator, "best_estimator_", estimator)
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
