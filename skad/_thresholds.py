"""The one threshold: a quantile of scores of training rows, in or out of sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold

from skad._estimators import grows_with_rows, normality
from skad._typing import Floats, Ints
from skad._warnings import warn

__all__ = [
    "TrainingScores",
    "calibration_rows",
    "cross_fitted_scores",
    "offset_of_fresh",
    "offset_of_share",
]

# An offset is a quantile: 5,000 rows place the 10 % quantile within 0.4 % of its rate.
_MAX_CALIBRATION_ROWS = 5000


@dataclass(frozen=True)
class TrainingScores:
    """Where a threshold gets the outlier scores of normal training rows from.

    Parameters
    ----------
    n : int
        How many rows there are.
    in_sample : callable
        Returns the scores of all rows by the fitted detector: ndarray (n,).
    out_of_sample : callable
        Returns the scores of the rows of some numbers, as if they were fresh.
    """

    n: int
    in_sample: Callable[[], Floats]
    out_of_sample: Callable[[Ints], Floats]


def offset_of_share(scores: Floats, share: float) -> float:
    """Return the threshold on normality that flags a share of these outlier scores."""
    return np.quantile(-scores, share)


def offset_of_fresh(scores: Floats, rate: float) -> float:
    """Return the threshold that flags a rate of out-of-sample scores."""
    if len(scores) * rate < 1:
        warn(
            f"{len(scores)} rows can't tell a false_alarm_rate of {rate:g} from 0: it "
            f"takes {1 / rate:.0f} at least. More fresh rows will be flagged.",
        )
    return offset_of_share(scores, rate)


def calibration_rows(n: int, most: int = _MAX_CALIBRATION_ROWS) -> Ints:
    """Choose the rows whose out-of-sample scores set a threshold or a scale."""
    if n <= most:
        return np.arange(n)
    rows = np.random.default_rng(0).choice(n, most, replace=False)
    return np.sort(rows)


def cross_fitted_scores(
    detector: Any,
    X: Any,
    rows: Ints,
    fit: Callable[..., Any] | None = None,
    score: Callable[..., Any] | None = None,
) -> Floats:
    """Return outlier scores of ``X[rows]``, each by a copy fitted on the other folds.

    They are in the units of a detector that is fitted on all of X.

    Parameters
    ----------
    detector : object
        What the copies are clones of.
    X : array of n rows
    rows : ndarray of int
    fit : callable, default=None
        ``fit(copy, X, train)`` fits a copy on ``X[train]``, where that takes more than
        rows.
    score : callable, default=None
        ``score(copy, X, train, test)`` scores ``X[test]``, where the scores of a copy have
        units of their own.
    """
    fit = fit or (lambda copy, X, train: copy.fit(X[train], None))
    score = score or (lambda copy, X, train, test: -normality(copy, X[test]))
    if len(X) < 3:
        raise ValueError(
            "Scores out of sample, for a threshold by false_alarm_rate or the scale of a "
            f"Bag's member, need three rows at least; got {len(X)}."
        )
    scores = np.empty(len(X))
    for train, test in folds(len(X)):
        test = np.intersect1d(test, rows, assume_unique=True)
        if len(test):
            scores[test] = score(fit(clone(detector), X, train), X, train, test)
            if grows_with_rows(detector):
                scores[test] *= len(X) / len(train)
    return scores[rows]


def folds(n):
    """Iterate over (train, test) numbers of n rows: five folds, always the same."""
    return KFold(min(5, n), shuffle=True, random_state=0).split(np.empty((n, 1)))
