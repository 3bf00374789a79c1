"""One sign for every detector's score, and who may be asked to score what."""

from functools import singledispatch
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.svm import OneClassSVM

from skad._sklearn import is_torch_dataset

__all__ = [
    "can_score",
    "grows_with_rows",
    "is_pyod",
    "needs_memory",
    "normality",
    "refuse_torch_dataset",
    "unwrapped",
]


def is_pyod(estimator):
    """Whether a detector is PyOD's own, told without importing PyOD."""
    return _is_of(estimator, "pyod")


def _is_of(estimator, package):
    return any(c.__module__.split(".")[0] == package for c in type(estimator).__mro__)


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
        When the estimator has neither method, or X is a data set of torch and the
        estimator none of skad's.
    """
    refuse_torch_dataset(estimator, X)
    if not can_score(estimator):
        raise TypeError(
            f"{type(estimator).__name__} is no detector: it has neither score_samples "
            "nor decision_function."
        )
    if hasattr(estimator, "score_samples"):
        return np.asarray(estimator.score_samples(X), dtype=np.float64).ravel()
    scores = np.asarray(estimator.decision_function(X), dtype=np.float64).ravel()
    return -scores if is_pyod(_last_step(estimator)) else scores


def refuse_torch_dataset(estimator, X):
    """Raise TypeError for a data set of torch, unless the estimator is skad's.

    Those know what to do; others hand it to numpy, which reads on and on.
    """
    if isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    if is_torch_dataset(X) and not _is_of(estimator, "skad"):
        raise needs_memory(estimator, X)


def needs_memory(estimator, X):
    """Make the TypeError for a data set of torch."""
    return TypeError(
        f"X is a data set of torch ({type(X).__name__}), which skad's neural detectors "
        f"read part by part. {type(estimator).__name__} needs its rows in memory, as an "
        "array."
    )


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


def unwrapped(estimator: Any) -> Any:
    """Give the estimator that a fitted search found, or that is frozen.

    Parameters
    ----------
    estimator : object
        Any estimator.

    Returns
    -------
    estimator : object
        The one inside; one that is neither a fitted search nor frozen, as it is.

    Examples
    --------
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skad.decompositions import unwrapped
    >>> unwrapped(FrozenEstimator(IsolationForest()))
    IsolationForest()
    """
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            return estimator


def _last_step(estimator):
    estimator = unwrapped(estimator)
    return _last_step(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator
