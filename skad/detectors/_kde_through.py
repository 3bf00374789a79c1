"""KDE behind linear transformers: relevance of the columns that they were made of."""

import numpy as np

from skad.decompositions._squares import (
    blocks,
    responsibilities,
    split_squares,
    squared_distances,
)
from skad.relevance._pooling import SoftMin

__all__ = ["relevance_through"]


def relevance_through(X, pool, rule, score, space):
    """Split the pooled distances among other columns, of which a LinearMap made X.

    Parameters
    ----------
    X : ndarray of shape (n, k)
    pool : TemplatePool
    rule : {"taylor", "conserving"}
    score : ndarray of shape (n,)
        Outlier scores of the rows.
    space : LinearMap

    Returns
    -------
    relevance : ndarray of shape (n, d)
    """
    templates, relevance = pool.templates, np.empty((len(X), space.matrix.shape[1]))
    # The pool keeps templates in units of its own: a row that is one may be off a little.
    rounding = (4 * np.finfo(float).eps * abs(templates).max()) ** 2 * X.shape[1]
    for part in blocks(len(X), len(templates)):
        distances = squared_distances(X[part], templates)
        distances[distances < rounding] = 0
        weights = _weights(distances, pool.pooling, rule, score[part, None])
        relevance[part] = split_squares(X[part], templates, weights, space)
    return relevance


def _weights(distances, pooling, rule, score):
    """Give the relevance of each template in units of its squared distance: (n, m)."""
    u = distances / pooling.scale
    soft_minimum = isinstance(pooling, SoftMin)
    p = responsibilities(u if soft_minimum else pooling.power * np.log1p(u), 0.0)
    if rule == "conserving":
        return np.divide(score * p, distances, out=np.zeros_like(p), where=distances > 0)
    return p if soft_minimum else score * p / (pooling.scale + distances)
