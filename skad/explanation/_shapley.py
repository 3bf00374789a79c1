"""Explain a detector from outside, with a sum that holds: sampled Shapley values."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state
from tqdm import tqdm

from skad._estimators import normality
from skad._typing import AnyRows, ArrayLike, Seed
from skad.explanation._occlusion import Exchange

__all__ = ["shapley_values"]

_CHUNK = 20_000  # rows scored at once, fewer where they are long
_NUMBERS = 2**24
_HELD = 2**22  # scores held at once


def shapley_values(
    estimator: Any,
    X: AnyRows,
    references: AnyRows,
    *,
    groups: ArrayLike | None = None,
    n_references: int = 4,
    n_permutations: int = 4,
    random_state: Seed = 0,
    progress: bool = False,
) -> Bunch:
    r"""Explain any scoring estimator by sampled Shapley values against normal rows.

    Features of a row x take the place of those of a normal row r one by one, in random
    order; each gets the rise of the outlier score that it brings. Relevance is the mean
    over the orders, and over the k normal rows nearest to x, as `occlude` chooses them:

    .. math:: \sum_i R_i = o(x) - \tfrac{1}{k} \sum_r o(r)

    holds exactly, whatever the number of orders; single entries have a standard error.
    Orders come in pairs, one the reverse of the other, which cancels much of it (all of it
    where the score has no interactions of more than two features).

    This costs ``k * n_permutations * (n_groups - 1)`` scored rows a row of `X`, in calls of
    up to 20,000 rows.

    Parameters
    ----------
    estimator : object
        Fitted; with ``score_samples``, or else ``decision_function``, higher for normal
        rows (for PyOD's detectors, lower).
    X : array-like of shape (n, d) or (n, ...), or data frame
        Rows to explain.
    references : array-like of shape (m, d) or (m, ...), or data frame
        Normal rows.
    groups : array-like of int, of shape (d,) or (...), default=None
        Group of each feature; features of a group move together and share its relevance
        equally. None: each feature by itself.
    n_references : int, default=4
        How many normal rows k each row is compared with.
    n_permutations : int, default=4
        Orders for each of the k; an even number. All rows of `X` see the same orders.
    random_state : int, RandomState instance or None, default=0
        Draws the orders.
    progress : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    result : Bunch
        With the attributes

        relevance : ndarray of the shape of X, float64
            Evidence for anomaly, in the units of the outlier score.
        standard_error : ndarray of the shape of X, float64
            Of `relevance`, from the spread between pairs of orders; NaN where
            `n_permutations` is 2, one pair.
        unattributed : ndarray of shape (n,), float64
            The mean outlier score of the k normal rows.

    Raises
    ------
    TypeError
        When `X` or `references` are sparse, or `estimator` scores nothing.
    ValueError
        When `references` or `groups` do not fit `X`, `n_references` is no count, or
        `n_permutations` no even one.

    See Also
    --------
    occlude : Cheaper; its sum is not the score.
    decompose : Exact, without normal rows, for the detectors that it knows.
    skad.explain : Chooses a way to explain by the detector.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from skad.explanation import shapley_values
    >>> X = np.random.default_rng(0).standard_normal((200, 3))
    >>> forest = IsolationForest(random_state=0).fit(X)
    >>> row = np.array([[0.0, 5.0, 0.0]])
    >>> shapley = shapley_values(forest, row, X)
    >>> int(shapley.relevance.argmax())
    1
    >>> total = shapley.relevance.sum() + shapley.unattributed[0]
    >>> bool(np.isclose(total, -forest.score_samples(row)[0]))
    True
    """
    even = isinstance(n_permutations, Integral) and n_permutations % 2 == 0
    if not even or n_permutations < 2:
        raise ValueError(
            f"n_permutations must be an even number from 2 on, got {n_permutations!r}."
        )
    exchange = Exchange(X, references, groups, n_references)
    k, n_groups = exchange.n_donors, exchange.n_groups
    rng = check_random_state(random_state)
    one_way = [
        [rng.permutation(n_groups) for _ in range(n_permutations // 2)] for _ in range(k)
    ]
    places = np.argsort([[(o, o[::-1]) for o in orders] for orders in one_way], axis=-1)
    whole = -normality(estimator, exchange.X)
    empty = exchange.scores_of_donors(estimator)
    marginals = np.empty((exchange.n_rows, k, n_permutations // 2, n_groups))
    step = max(1, _HELD // (k * n_permutations * n_groups))
    starts = range(0, exchange.n_rows, step)
    for start in tqdm(starts, desc="Shapley values", disable=not progress):
        rows = np.arange(start, min(start + step, exchange.n_rows))
        path = _scores_on_the_way(estimator, exchange, rows, places)
        path = np.concatenate([_ends(empty[rows], path), path], axis=-1)
        path = np.concatenate([path, _ends(whole[rows][:, None], path)], axis=-1)
        rises = np.diff(path, axis=-1)  # by place in the order
        by_group = np.take_along_axis(rises, np.broadcast_to(places, rises.shape), -1)
        marginals[rows] = by_group.mean(axis=3)
    relevance = marginals.mean(axis=(1, 2))
    if n_permutations > 2:
        variance = marginals.var(axis=2, ddof=1).mean(axis=1) / (k * n_permutations // 2)
        standard_error = np.sqrt(variance)
    else:
        standard_error = np.full(relevance.shape, np.nan)
    return Bunch(
        relevance=exchange.spread(relevance),
        standard_error=exchange.spread(standard_error),
        unattributed=empty.mean(axis=1),
    )


def _ends(scores, path):
    """Return the score at an end of each path, as a column of it."""
    return np.broadcast_to(scores[:, :, None, None, None], (*path.shape[:-1], 1))


def _scores_on_the_way(estimator, exchange, rows, places):
    """Score rows between donor and x: (rows, k, pairs, 2, n_groups - 1)."""
    shape = (len(rows), *places.shape[:-1], exchange.n_groups - 1)
    scores = np.empty(shape)
    step = min(_CHUNK, max(1, _NUMBERS // exchange.n_features))
    for start in range(0, scores.size, step):
        flat = np.arange(start, min(start + step, scores.size))
        row, donor, pair, way, taken = np.unravel_index(flat, shape)
        donors_own = places[donor, pair, way] > taken[:, None]
        mixed = exchange.mixed(rows[row], donor, donors_own)
        scores.flat[flat] = -normality(estimator, mixed)
    return scores
