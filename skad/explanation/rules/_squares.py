"""Weighted squared differences to templates, split among the features."""

import numpy as np

from skad._linear_map import check_kept
from skad.explanation.rules._blocks import blocks

__all__ = ["split_squares", "squared_distances"]

_NEAR = 1e-5  # of the size of the rows: below it products of matrices lose digits


def squared_distances(X, templates):
    """Squared distances, (n, m); exact where they are small."""
    center = templates.mean(axis=0)
    X, templates = X - center, templates - center
    sizes = np.square(X).sum(axis=1)[:, None] + np.square(templates).sum(axis=1)
    distances = np.maximum(sizes - 2 * X @ templates.T, 0)
    i, j = np.nonzero(distances < _NEAR * sizes)
    for part in blocks(len(i), X.shape[1]):
        differences = X[i[part]] - templates[j[part]]
        distances[i[part], j[part]] = np.square(differences).sum(axis=1)
    return distances


def split_squares(X, templates, weights, space=None):
    r"""Return :math:`R_i = \sum_j q_j (x_i - c_{ji})^2`, behind the space if there is one.

    Parameters
    ----------
    X : ndarray of shape (n, k)
    templates : ndarray of shape (m, k)
    weights : ndarray of shape (n, m)
        q, not negative.
    space : LinearMap, default=None

    Returns
    -------
    relevance : ndarray of shape (n, k), or (n, d) with a space

    Raises
    ------
    LostRelevanceError
        Where the space keeps no accurate sums.
    """
    center = templates.mean(axis=0)
    X, templates = X - center, templates - center
    total = weights.sum(axis=1, keepdims=True)
    mean = weights @ templates / np.where(total == 0, 1, total)
    # Around the weighted mean of the templates: nothing cancels but their own spread.
    spread = weights @ np.square(templates) - total * np.square(mean)
    relevance = total * np.square(X - mean) + np.maximum(spread, 0)
    size = total * np.square(X).sum(axis=1, keepdims=True)
    size += weights @ np.square(templates).sum(axis=1, keepdims=True)
    near = np.flatnonzero(relevance.sum(axis=1) < _NEAR * size[:, 0])
    for i in near:
        relevance[i] = weights[i] @ np.square(X[i] - templates)
    if space is None:
        return relevance
    own, relevance = relevance, _split_products(X, templates, weights, total, mean, space)
    for i in near:
        relevance[i] = weights[i] @ space(X[i] - templates)
    check_kept(relevance, own)
    return relevance


def _split_products(X, templates, weights, total, mean, space):
    deviations = (space.deviation(points) for points in (X - mean, templates, mean))
    gradients = (space.gradient(points) for points in (X - mean, templates, mean))
    around, both, center = (d * g for d, g in zip(deviations, gradients, strict=True))
    return total * (around - center) + weights @ both
