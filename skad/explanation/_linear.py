"""Linear transformers, through which squared distances are pulled back."""

from __future__ import annotations

from collections.abc import Callable
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

from skad._linear_map import LinearMap
from skad._typing import AnyRows, Rules, singledispatch

__all__ = ["linear_map"]


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
