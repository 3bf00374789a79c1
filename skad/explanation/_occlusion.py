"""Explain a detector from outside: exchange features for normal ones, and score again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.sparse import issparse

from skad._estimators import normality
from skad._sklearn import _safe_indexing
from skad._typing import AnyRows, ArrayLike, Floats, Ints

__all__ = ["Exchange", "occlude", "patch_groups"]

_CHUNK = 20_000  # rows scored at once


def occlude(
    estimator: Any,
    X: AnyRows,
    references: AnyRows,
    *,
    groups: ArrayLike | None = None,
    n_references: int = 4,
) -> Floats:
    r"""Explain any scoring estimator by occlusion.

    The features of one group g are exchanged for those of normal rows r, and relevance is
    the outlier score that goes away with them, on average:

    .. math:: R_g = o(x) - \tfrac{1}{k} \sum_r o(x_{\setminus g}, r_g).

    The k normal rows are those of `references` that differ from x in the fewest columns of
    no numbers, and of these the nearest in the numeric columns, each measured by its
    standard deviation: what a row like this one has in place of the features in question.
    The relevance of a group is shared equally by its features.

    This costs ``k * n_groups`` scored rows a row of `X`. The sum of the relevance is not
    the score; what is left over has no closed form.

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
        Group of each feature. None: each feature by itself.
    n_references : int, default=4
        How many normal rows k each row is compared with.

    Returns
    -------
    relevance : ndarray of the shape of X, float64
        Evidence for anomaly, in the units of the outlier score.

    Raises
    ------
    TypeError
        When `X` or `references` are sparse, or `estimator` scores nothing.
    ValueError
        When `references` or `groups` do not fit `X`, or `n_references` is no count.

    See Also
    --------
    patch_groups : Groups of the pixels of an image.
    shapley_values : Parts of the score that sum to it.
    skad.explain : Chooses a way to explain by the detector.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from skad.explanation import occlude
    >>> X = np.random.default_rng(0).standard_normal((200, 3))
    >>> forest = IsolationForest(random_state=0).fit(X)
    >>> int(occlude(forest, np.array([[0.0, 5.0, 0.0]]), X).argmax())
    1
    """
    exchange = Exchange(X, references, groups, n_references)
    k, n_groups = exchange.n_donors, exchange.n_groups
    score = -normality(estimator, exchange.X)
    lost = np.empty((exchange.n_rows, n_groups))
    every = np.eye(n_groups, dtype=bool)
    for row, group in _chunks(exchange.n_rows, n_groups, k):
        donor = np.tile(np.arange(k), len(row))
        changed = exchange.mixed(np.repeat(row, k), donor, every[np.repeat(group, k)])
        without = -normality(estimator, changed).reshape(len(row), k)
        lost[row, group] = score[row] - without.mean(axis=1)
    return exchange.spread(lost)


def patch_groups(image_shape: Sequence[int], side: int) -> Ints:
    """Group the pixels of an image into square patches, for `occlude`.

    Parameters
    ----------
    image_shape : tuple
        ``(H, W)`` or ``(C, H, W)``; the channels of a pixel belong together.
    side : int
        Side of a patch in pixels; patches at the far borders may be smaller.

    Returns
    -------
    groups : ndarray of shape image_shape, int
        Number of each pixel's patch, from 0 on, row by row.

    See Also
    --------
    occlude, shapley_values : Take groups of features.

    Examples
    --------
    >>> from skad.explanation import patch_groups
    >>> patch_groups((2, 4), 2)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    if not (isinstance(side, Integral) and side > 0):
        raise ValueError(f"side must be a positive integer, got {side!r}.")
    height, width = image_shape[-2:]
    row, column = np.arange(height) // side, np.arange(width) // side
    patches = row[:, None] * (column[-1] + 1) + column
    return np.broadcast_to(patches, image_shape).copy()


class Exchange:
    """Rows, and normal rows like each of them to take features from.

    Parameters
    ----------
    X, references, groups, n_references
        As in `occlude`.

    Attributes
    ----------
    X : ndarray or data frame
    n_rows, n_features, n_groups, n_donors : int
    donors : ndarray of shape (n_rows, n_donors), int
        The normal rows of each row, the most alike first.
    """

    def __init__(self, X, references, groups, n_references):
        self.X, self._references = _alike(_as_table(X), _as_table(references))
        counts = isinstance(n_references, Integral) and not isinstance(n_references, bool)
        if not counts or n_references < 1:
            raise ValueError(f"n_references must be a positive int, got {n_references!r}.")
        shape = self.X.shape[1:]
        if not shape or self._references.shape[1:] != shape:
            raise ValueError(
                f"references have shape {self._references.shape[1:]} a row, X has {shape}."
            )
        if len(self._references) == 0:
            raise ValueError("references hold no row.")
        self._group = _group_numbers(groups, shape)  # of each feature
        self._sizes = np.bincount(self._group)
        self.n_rows, self.n_groups = len(self.X), len(self._sizes)
        self.n_features = len(self._group)
        self.n_donors = min(n_references, len(self._references))
        self.donors = _nearest(self.X, self._references, self.n_donors)

    def mixed(self, rows, donors, exchanged):
        """Copy rows, some of whose groups are their donors'.

        Parameters
        ----------
        rows, donors : ndarray of shape (n,), int
            Numbers of rows, and which of their donors.
        exchanged : ndarray of shape (n, n_groups), bool
        """
        changed = _safe_indexing(self.X, rows)
        donor = _safe_indexing(self._references, self.donors[rows, donors])
        member = exchanged[:, self._group]
        if not hasattr(changed, "iloc"):
            return np.where(member.reshape(changed.shape), donor, changed)
        changed = changed.reset_index(drop=True)
        donor = donor.reset_index(drop=True)
        for j in range(changed.shape[1]):
            changed.isetitem(j, _chosen(changed.iloc[:, j], donor.iloc[:, j], member[:, j]))
        return changed

    def scores_of_donors(self, estimator):
        """Outlier scores of the donors: ndarray (n_rows, n_donors)."""
        own, place = np.unique(self.donors, return_inverse=True)
        scores = -normality(estimator, _safe_indexing(self._references, own))
        return scores[place.reshape(self.donors.shape)]

    def spread(self, values):
        """Share values of groups, (n_rows, n_groups), equally by their features."""
        return (values / self._sizes)[:, self._group].reshape(self.X.shape)


def _as_table(X):
    if issparse(X):
        raise TypeError("Explanations from outside take no sparse rows: give X.toarray().")
    if hasattr(X, "__dataframe__") and not hasattr(X, "iloc"):
        return X.to_pandas()  # polars' and pyarrow's
    return X if hasattr(X, "iloc") else np.asarray(X)


def _alike(X, references):
    """Check that both are frames, of the same columns, or both arrays; return them."""
    if hasattr(X, "iloc") != hasattr(references, "iloc"):
        raise TypeError(
            "X and references must both be data frames, or both arrays; got "
            f"{type(X).__name__} and {type(references).__name__}."
        )
    if hasattr(X, "iloc"):
        if set(X.columns) != set(references.columns):
            raise ValueError(
                f"references have the columns {list(references.columns)}, X has "
                f"{list(X.columns)}."
            )
        references = references[X.columns]
    return X, references


def _chosen(own, donor, exchanged):
    """Return a column, the donors' where exchanged; new categories are allowed."""
    if own.dtype == donor.dtype and str(own.dtype) != "category":
        return own.where(~exchanged, donor)
    mixed = own.astype(object).where(~exchanged, donor.astype(object))
    known = getattr(own.dtype, "categories", None)
    if known is not None and mixed.dropna().isin(known).all():
        return mixed.astype(own.dtype)
    return mixed if known is not None else mixed.infer_objects()


def _group_numbers(groups, shape):
    """Return the number of each feature's group, from 0: int (features,)."""
    d = prod(shape)
    if groups is None:
        return np.arange(d)
    groups = np.ravel(groups)
    if len(groups) != d:
        raise ValueError(f"groups names {len(groups)} features, X has {d}.")
    try:
        return np.unique(groups, return_inverse=True)[1].ravel()
    except TypeError as error:
        raise ValueError(f"groups must be labels of one kind; got {groups[:5]}.") from error


def _nearest(X, references, k):
    """Return the k nearest references of each row: int (n, k)."""
    x, r = _numeric(X), _numeric(references)
    centre, spread = r.mean(axis=0), r.std(axis=0)
    spread[spread == 0] = 1
    x, r = (x - centre) / spread, (r - centre) / spread  # or large means cancel digits
    distances = np.square(r).sum(1) - 2 * x @ r.T  # up to a constant of the row
    return np.lexsort((distances, _mismatches(X, references)), axis=1)[:, :k]


def _mismatches(X, references):
    """Count the columns of no number in which rows differ from references: (n, m)."""
    count = np.zeros((len(X), len(references)), dtype=int)
    for x, r in zip(_levels(X), _levels(references), strict=True):
        count += x[:, None] != r
    return count


def _levels(X):
    """Iterate over the columns of no numbers, each as strings.

    In arrays of objects numbers are all alike; `_numeric` has them.
    """
    if hasattr(X, "iloc"):
        for _, column in X.select_dtypes(exclude="number").items():
            yield np.array([str(x) for x in column])
    elif X.dtype.kind not in "biuf":
        for column in X.reshape(len(X), prod(X.shape[1:])).T:
            yield np.array(["" if _is_number(x) else str(x) for x in column])


def _numeric(X):
    """Return rows as float64 (n, d); what is missing or no number is 0."""
    if hasattr(X, "iloc"):
        X = X.select_dtypes("number").to_numpy(dtype=np.float64, na_value=np.nan)
    X = X.reshape(len(X), prod(X.shape[1:]))
    if X.dtype.kind not in "biuf":
        numbers = [x if _is_number(x) else 0 for x in X.ravel().tolist()]
        X = np.array(numbers, dtype=np.float64).reshape(X.shape)
    return np.nan_to_num(X.astype(np.float64))


def _is_number(x):
    return isinstance(x, Real) and not isinstance(x, bool)


def _chunks(n_rows, n_groups, k):
    """Iterate over (row, group) pairs, as many as may be scored at once."""
    pairs = np.arange(n_rows * n_groups)
    for chunk in np.array_split(pairs, 1 + len(pairs) * k // _CHUNK):
        yield np.divmod(chunk, n_groups)
