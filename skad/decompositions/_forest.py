"""Isolation forests: each split of a path shortens or lengthens it."""

import numpy as np
from sklearn.ensemble import IsolationForest

from skad.decompositions._decomposition import (
    Decomposition,
    Exponential,
    NoDecompositionError,
    decompose,
    rows,
)

__all__ = ["isolation_parts"]


@decompose.register
def _(estimator: IsolationForest, X, space):
    return isolation_parts(estimator, X, space)


def isolation_parts(forest, X, space=None):
    r"""Decompose the logarithm of an isolation forest's outlier score.

    The score is :math:`o = 2^{-h / c(\psi)}` of the mean path length h, where a leaf of m
    training rows counts :math:`c(m)` steps more, the mean path length of a random tree of m
    rows. The same c says how long a path is expected to be before a split, of n rows, and
    after it, of m. The split's feature gets the difference: over the splits of all T paths

    .. math:: R_i = \frac{1}{T c(\psi)} \sum_{\text{splits of } i} c(n) - 1 - c(m), \qquad
              \log_2 o = u + \sum_i R_i, \quad
              u = - \frac{1}{T c(\psi)} \sum_t c(n_t),

    :math:`n_t` the rows of tree t. Without bootstrap u is -1: a row without evidence for or
    against it scores 1/2.
    """
    if space is not None:
        raise NoDecompositionError(
            "The score of IsolationForest is no function of squared distances."
        )
    X = rows(forest, X)
    unit = expected_path_length(np.array([forest.max_samples_]))[0] or np.inf
    scale = len(forest.estimators_) * unit
    relevance, start = np.zeros(X.shape), 0.0
    single = X.astype(np.float32)  # as the trees see it
    for tree, features in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = tree.tree_
        every = len(features) == X.shape[1]  # then they come in order
        leaves = tree.apply(single if every else np.ascontiguousarray(single[:, features]))
        gains = _gains_on_the_way(tree, len(features))[leaves]
        if every:
            relevance += gains
        else:
            relevance[:, features] += gains
        start += expected_path_length(tree.n_node_samples[:1])[0]
    relevance /= scale
    start = -start / scale
    return Decomposition(
        relevance,
        np.full(len(X), start),
        "log2 of the outlier score",
        outlier_threshold=-float(forest.offset_),
        link=Exponential(factor=1.0, rate=np.log(2), origin=start),
    )


def expected_path_length(n):
    """Give c(n), the mean path length of a random tree of n rows."""
    n = np.asarray(n, dtype=np.float64)
    many = np.maximum(n, 3)
    length = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return np.where(n > 2, length, np.where(n == 2, 1.0, 0.0))


def _gains_on_the_way(tree, d):
    """Sum the gains of the splits on the way to each node, by feature: (nodes, d)."""
    length = expected_path_length(tree.n_node_samples)
    gains = np.zeros((tree.node_count, d))
    level = np.zeros(1, dtype=int)
    while len(level := level[tree.children_left[level] >= 0]):
        feature = tree.feature[level]
        children = tree.children_left[level], tree.children_right[level]
        for child in children:
            gains[child] = gains[level]
            gains[child, feature] += length[level] - 1 - length[child]
        level = np.concatenate(children)
    return gains
