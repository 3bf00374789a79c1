"""One sign for every detector's score: higher is more normal, as in scikit-learn."""

import numpy as np

__all__ = ["can_score", "is_pyod", "normality"]


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


def _last_step(estimator):
    estimator = getattr(estimator, "best_estimator_", estimator)
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
