"""What is inside a wrapper, one sign for every detector's score, and who may score what."""

from collections.abc import Callable, Iterator
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
    "chain",
    "grows_with_rows",
    "inside",
    "is_pyod",
    "layers",
    "needs_memory",
    "normality",
    "refuse_torch_dataset",
    "unwrapped",
]


@singledispatch
def inside(estimator: Any) -> Any:
    """Return the fitted estimator that a wrapper hands its rows to; None if it wraps none.

    A Pipeline, which changes the rows, is no wrapper. ``inside.register(MyWrapper)`` adds a
    wrapper; searches are known by their ``best_estimator_``.
    """
    return getattr(estimator, "best_estimator_", None)


@inside.register
def _(estimator: FrozenEstimator):
    return estimator.estimator


def unwrapped(estimator: Any) -> Any:
    """Return the estimator inside all wrappers; one that is no wrapper, as it is."""
    while (within := inside(estimator)) is not None:
        estimator = within
    return estimator


def layers(estimator: Any) -> Iterator[Any]:
    """Iterate from an estimator down to what is inside, or last in a Pipeline."""
    while estimator is not None:
        yield estimator
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        else:
            estimator = inside(estimator)


def chain(estimator: Any, stop: Callable[[Any], bool] = lambda part: False) -> list[Any]:
    """Return the fitted transformers and the detector of a model, wrapped or not, in order.

    Parameters
    ----------
    estimator : object
        A detector, a Pipeline or a wrapper, fitted and nested in any way.
    stop : callable, default=never
        Whether an estimator is to be left as it is, with what is inside.
    """
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        return [part for step in steps for part in chain(step, stop)]
    within = None if stop(estimator) else inside(estimator)
    return [estimator] if within is None else chain(within, stop)


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
    *_, last = layers(estimator)
    return -scores if is_pyod(last) else scores


def refuse_torch_dataset(estimator, X):
    """Raise TypeError for a data set of torch, unless the estimator is skad's.

    skad's read it part by part or refuse it themselves; others hand it to numpy, which may
    read it without an end.
    """
    estimator = unwrapped(estimator)
    if is_torch_dataset(X) and not _is_of(estimator, "skad"):
        raise needs_memory(estimator, X)


def needs_memory(estimator, X):
    """Return the TypeError for a data set of torch."""
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
