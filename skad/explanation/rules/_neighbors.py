"""Nearest neighbours: distances to a few rows, each split among the features."""

import numpy as np
from sklearn.neighbors import LocalOutlierFactor

from skad._decomposition import Decomposition, NoDecompositionError
from skad._linear_map import check_kept
from skad._sklearn import local_outlier_memory
from skad.explanation._decompose import decompose, rows
from skad.explanation.rules._blocks import in_blocks

__all__ = ["minkowski_power", "split_distances"]


@decompose.register
def _(estimator: LocalOutlierFactor, X, space=None):
    r"""Decompose the local outlier factor.

    A row's factor is the mean L of its neighbours' densities times the mean of its
    reachability distances :math:`\max(k_j, \|x - x_j\|)`. A distance that reaches is
    split among the features; one that is cut off at :math:`k_j`, the neighbour's own
    distance to its k-th, belongs to none:

    .. math:: R_i = \frac{L}{k} \sum_{j: d_j > k_j} \frac{(x_i - x_{ji})^2}{\|x - x_j\|},
              \quad u = \frac{L}{k} \sum_{j: d_j \le k_j} k_j + 10^{-10} L.
    """
    if not estimator.novelty:
        raise NoDecompositionError(
            "LocalOutlierFactor scores new rows, and can be explained, with novelty=True."
        )
    X = rows(estimator, X)
    power, k = minkowski_power(estimator, space), estimator.n_neighbors_
    distances, neighbors = estimator.kneighbors(X, n_neighbors=k)
    templates, cuts, densities = local_outlier_memory(estimator)
    cut = cuts[neighbors]
    density = densities[neighbors].mean(axis=1)
    reaches = distances > cut
    weights = density[:, None] / k * reaches
    relevance = split_distances(X, templates, neighbors, distances, weights, power, space)
    constant = np.where(reaches, 0, cut).mean(axis=1) + 1e-10
    threshold = -float(estimator.offset_)
    return Decomposition(relevance, density * constant, "local outlier factor", threshold)


def minkowski_power(neighbors, space=None):
    """Return p of the metric of a fitted neighbours estimator.

    Raises
    ------
    NoDecompositionError
        For a metric that is no plain Minkowski distance, or with a `space` not the
        Euclidean.
    """
    metric = neighbors.effective_metric_
    params = neighbors.effective_metric_params_ or {}
    powers = {"euclidean": 2, "l2": 2, "manhattan": 1, "l1": 1, "cityblock": 1}
    powers["minkowski"] = params.get("p", 2) if params.get("p", 2) < np.inf else None
    p = None if callable(metric) or params.get("w") is not None else powers.get(metric)
    if p is None or (space is not None and p != 2):
        weighted = ", weighted," if params.get("w") is not None else ""
        raise NoDecompositionError(
            f"Neighbours by metric={metric!r}{weighted} have no exact decomposition"
            f"{'' if space is None else ' behind a linear transformer'}: Minkowski "
            "distances with a finite p and no weights have, and behind linear transformers "
            "the Euclidean."
        )
    return p


def split_distances(X, templates, neighbors, distances, weights, power=2, space=None):
    r"""Split weighted distances to neighbours among the features.

    .. math:: R_i = \sum_j q_j |x_i - x_{ji}|^p / \|x - x_j\|_p^{p-1}

    Parameters
    ----------
    X : ndarray of shape (n, d)
    templates : ndarray of shape (m, d)
    neighbors : ndarray of shape (n, k), int
    distances, weights : ndarray of shape (n, k)
        Distances to the neighbours; q.
    power : float, default=2
        p.
    space : LinearMap, default=None

    Returns
    -------
    relevance : ndarray of shape (n, d)
    """

    def of_block(part):
        block = X[part], templates, neighbors[part], distances[part], weights[part]
        return _split_block(*block, power, space)

    width = X.shape[1] if space is None else space.matrix.shape[1]
    relevance = in_blocks(of_block, len(X), width)
    if space is not None:
        check_kept(relevance, weights * distances)
    return relevance


def _split_block(X, templates, neighbors, distances, weights, power, space):
    relevance = 0.0
    for j in range(neighbors.shape[1]):
        difference = X - templates[neighbors[:, j]]
        split = np.abs(difference) ** power if space is None else space(difference)
        # By the distance that the detector found, which may differ in some digits.
        total = split.sum(axis=1)
        share = weights[:, j] * distances[:, j]
        share = np.divide(share, total, out=np.zeros(len(total)), where=total > 0)
        relevance = relevance + share[:, None] * split
    return relevance
