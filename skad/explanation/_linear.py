"""Linear transformers, through which squared distances are pulled back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from sklearn.decomposition import PCA, FactorAnalysis, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from skad._decomposition import NoDecompositionError
from skad._typing import AnyArray, AnyRows, Floats, Rules, singledispatch

__all__ = ["LinearMap", "LostRelevanceError", "check_kept", "linear_map"]

_LOST = 1e-7  # of relevance, in sums that are pulled back: more is no rounding


@dataclass(frozen=True, eq=False)
class LinearMap:
    r"""How the columns z of a model came out of others: ``z = W x + const``.

    A product of a deviation and a gradient in z, as :math:`\delta_i \cdot \delta_i` of a
    squared distance, is the sum over the columns of x of

    .. math:: (W^+ \delta)_i \cdot (W^\top \delta)_i,

    the shortest deviation in x that makes :math:`\delta`, times the gradient in x.

    Parameters
    ----------
    matrix : ndarray of shape (k, d)
        W.

    See Also
    --------
    linear_map : Returns that of a transformer.
    decompose : Takes one as `space`.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.explanation import LinearMap
    >>> total = LinearMap(np.array([[1.0, 1.0]]))  # z = x_1 + x_2
    >>> total(np.array([[3.0]]))  # 9, shared
    array([[4.5, 4.5]])
    """

    matrix: Floats

    @cached_property
    def inverse(self) -> AnyArray:
        """The pseudo-inverse of W: ndarray (d, k)."""
        return np.linalg.pinv(self.matrix)

    def deviation(self, deviations: Floats) -> Floats:
        r"""Return the shortest deviations in x that make those in z.

        Parameters
        ----------
        deviations : ndarray of shape (n, k)
            A deviation :math:`\delta` in z a row.

        Returns
        -------
        deviations : ndarray of shape (n, d)
            The rows :math:`W^+ \delta`.
        """
        return deviations @ self.inverse.T

    def gradient(self, gradients: Floats) -> Floats:
        r"""Return gradients in x.

        Parameters
        ----------
        gradients : ndarray of shape (n, k)
            A gradient g in z a row.

        Returns
        -------
        gradients : ndarray of shape (n, d)
            The rows :math:`W^\top g`.
        """
        return gradients @ self.matrix

    def __call__(self, deviations: Floats) -> Floats:
        """Share squared deviations in z out among the columns of x.

        Parameters
        ----------
        deviations : ndarray of shape (n, k)
            A deviation in z a row, not squared.

        Returns
        -------
        squares : ndarray of shape (n, d)
            The sum of a row is that of its squared deviations, as far as a deviation in x
            can make them.
        """
        return self.deviation(deviations) * self.gradient(deviations)

    def then(self, other: LinearMap) -> LinearMap:
        """Return the map of this one and then another.

        Parameters
        ----------
        other : LinearMap
            From the columns that this one gives.

        Returns
        -------
        map : LinearMap
            Its matrix is ``other.matrix @ self.matrix``.
        """
        return LinearMap(other.matrix @ self.matrix)


class LostRelevanceError(NoDecompositionError):
    """Columns whose squared distances a linear map does not keep."""


def check_kept(relevance: Floats, own: Floats) -> None:
    """Raise LostRelevanceError where relevance behind a map does not sum to what it was.

    Parameters
    ----------
    relevance : ndarray of shape (n, d)
        Of the columns that the map made others of.
    own : ndarray of shape (n, k)
        Of those others.
    """
    lost = abs(relevance.sum(axis=1) - own.sum(axis=1))
    if (lost > _LOST * (abs(own).sum(axis=1) + abs(relevance).max(initial=0))).any():
        raise LostRelevanceError(
            f"More than {_LOST} of the relevance is lost: the matrix has no accurate "
            "inverse. Leave out constant and collinear columns, or components of next to "
            "no variance; or give references= to explain from outside, by Shapley values."
        )


def by_unit_vectors(transformer: Any, X: Any) -> LinearMap:
    """Return the matrix of any linear transformer, by what it makes of unit vectors.

    The units are those of X: a transformer that takes off large means would hide others.
    """
    size = np.abs(np.asarray(X, dtype=np.float64)).max(axis=0, initial=0)
    unit = np.where(np.isfinite(size) & (size > 0), size, 1.0)
    steps = np.vstack([np.zeros(len(unit)), np.diag(unit)])
    if hasattr(X, "iloc"):
        steps = type(X)(steps, columns=X.columns)
    images = np.asarray(transformer.transform(steps), dtype=np.float64)
    return LinearMap(((images[1:] - images[0]) / unit[:, None]).T)


class _LinearMaps(Rules[[Any, AnyRows], LinearMap | None], Protocol):
    by_unit_vectors: Callable[[Any, Any], LinearMap]


def _with_unit_vectors(rules: Any) -> _LinearMaps:
    rules.by_unit_vectors = by_unit_vectors
    return rules


@_with_unit_vectors
@singledispatch
def linear_map(transformer: Any, X: AnyRows) -> LinearMap | None:
    """Return the matrix of a fitted linear transformer.

    Parameters
    ----------
    transformer : object
        Fitted. Known as linear, up to a constant, are scikit-learn's PCA, IncrementalPCA,
        TruncatedSVD, FastICA, FactorAnalysis, random projections, scalers that do not
        clip, and selectors.
    X : array-like of shape (n, d)
        What it transforms.

    Returns
    -------
    map : LinearMap or None
        None for other transformers.

    See Also
    --------
    pull_back : Undoes transformers that keep columns apart.

    Notes
    -----
    ``linear_map.register(MyTransformer, linear_map.by_unit_vectors)`` teaches another.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from skad.explanation import linear_map
    >>> X = np.random.default_rng(0).standard_normal((50, 3))
    >>> linear_map(PCA(2).fit(X), X).matrix.shape
    (2, 3)
    """
    return None


for kind in (
    *(PCA, IncrementalPCA, TruncatedSVD, FastICA, FactorAnalysis),
    *(GaussianRandomProjection, SparseRandomProjection),
    *(StandardScaler, RobustScaler, SelectorMixin),
):
    linear_map.register(kind, by_unit_vectors)


@linear_map.register
def _(transformer: FunctionTransformer, X):
    return LinearMap(np.eye(X.shape[1])) if transformer.func is None else None


@linear_map.register(MinMaxScaler)
@linear_map.register(MaxAbsScaler)
def _(transformer, X):
    clips = getattr(transformer, "clip", False)
    return None if clips else by_unit_vectors(transformer, X)
