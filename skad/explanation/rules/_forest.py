"""Isolation forests: each split of a path shortens or lengthens it."""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import IsolationForest

from skad._decomposition import Decomposition, Exponential, refuse_space
from skad.explanation._decompose import decompose, rows
from skad.explanation.rules._blocks import in_blocks

__all__ = []


@decompose.register
def _(forest: IsolationForest, X, space=None):
    r"""Decompose the logarithm of an isolation forest's outlier score.

    The score is :math:`o = 2^{-h / c(\psi)}` of the mean path length h, where a leaf of m
    training rows counts :math:`c(m)` steps more, the mean path length of a random tree of m
    rows. The same c says how long a path is expected to be before a split, of n rows, and
    after it, of m. The split's feature gets the difference: over the splits of all T paths

    .. math:: R_i = \frac{1}{T c(\psi)} \sum_{\text{splits of } i} (c(n) - 1 - c(m)), \quad
              \log_2 o = u + \sum_i R_i, \quad
              u = - \frac{1}{T c(\psi)} \sum_t c(n_t),

    :math:`n_t` the rows of tree t. Without bootstrap u is -1: a row without evidence for or
    against it scores 1/2.
    """
    refuse_space(forest, space)
    X = rows(forest, X)
    scale = len(forest.estimators_) * expected_path_length(forest.max_samples_)
    trees = _Trees.of(forest)

    def gains(part):
        return trees.gains(X[part].astype(np.float32))  # as the trees see it

    relevance = in_blocks(gains, len(X), 4 * len(trees.root))
    if scale > 0:
        relevance /= scale
        start = -trees.length[trees.root].sum() / scale
    else:  # of trees with one row no path says anything
        start = -1.0
    return Decomposition(
        relevance,
        np.full(len(X), start),
        "log2 of the outlier score",
        outlier_threshold=-float(forest.offset_),
        link=Exponential(factor=1.0, rate=np.log(2), origin=start),
    )


def expected_path_length(n):
    """Return c(n), the mean path length of a random tree of n rows."""
    n = np.asarray(n, dtype=np.float64)
    many = np.maximum(n, 3)
    length = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return np.where(n > 2, length, np.where(n == 2, 1.0, 0.0))


@dataclass
class _Trees:
    """The nodes of all trees, one after the other; `length` is c of their rows."""

    root: np.ndarray
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, forest):
        trees = [tree.tree_ for tree in forest.estimators_]
        counts = [tree.node_count for tree in trees]
        root = np.cumsum([0, *counts[:-1]])
        shift = np.repeat(root, counts)
        left = np.concatenate([tree.children_left for tree in trees])
        right = np.concatenate([tree.children_right for tree in trees])
        feature = np.concatenate([tree.feature for tree in trees])
        names = forest.estimators_features_
        start = np.cumsum([0, *map(len, names[:-1])])
        # A leaf's feature is negative, and not looked at.
        feature = np.concatenate(names)[np.repeat(start, counts) + np.maximum(feature, 0)]
        return cls(
            root,
            np.where(left < 0, -1, left + shift),
            right + shift,
            feature,
            np.concatenate([tree.threshold for tree in trees]),
            np.concatenate([tree.missing_go_to_left for tree in trees]).astype(bool),
            expected_path_length(np.concatenate([tree.n_node_samples for tree in trees])),
        )

    def gains(self, X):
        """Walk all rows down all trees, a level a step, and sum the gains: (n, d)."""
        n, d = X.shape
        node, row = np.tile(self.root, n), np.repeat(np.arange(n), len(self.root))
        total = np.zeros(n * d)
        while len(node := node[inner := self.left[node] >= 0]):
            row, feature = row[inner], self.feature[node]
            x = X[row, feature]
            below = x <= self.threshold[node]
            below |= np.isnan(x) & self.missing_left[node]
            child = np.where(below, self.left[node], self.right[node])
            gain = self.length[node] - 1 - self.length[child]
            total += np.bincount(row * d + feature, gain, minlength=n * d)
            node = child
        return total.reshape(n, d)
