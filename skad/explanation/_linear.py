"""Linear transformers, which explanations by squared distances go back through."""

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

from skad._typing import AnyArray, AnyRows, Floats, Rules, singledispatch

__all__ = ["LinearMap", "linear_map"]


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
    linear_map : Gives that of a transformer.
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
        r"""Give the shortest deviations in x that make those in z.

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
        r"""Give gradients in x.

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
        """Give the map of this one and then another.

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


def by_unit_vectors(transformer: Any, X: Any) -> LinearMap:
    """Give the matrix of any linear transformer, by what it makes of unit vectors.

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
    """Give the matrix of a fitted linear transformer.

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
