"""Weighted squared differences to templates, split among the features."""

import numpy as np
from scipy.special import rel_entr

__all__ = ["blocks", "divergence", "responsibilities", "split_squares", "squared_distances"]

_BLOCK = 2**22  # numbers held at once
_NEAR = 1e-5  # of the size of the rows: below it products of matrices lose digits


def blocks(n, width):
    """Iterate over slices of n rows, such that a block of `width` columns is small."""
    step = max(1, _BLOCK // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


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
    r"""Give :math:`R_i = \sum_j q_j (x_i - c_{ji})^2`, pulled back where there is a space.

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
    if space is not None:
        relevance = _split_products(X, templates, weights, total, mean, space)
    for i in near:
        delta = X[i] - templates
        relevance[i] = weights[i] @ (np.square(delta) if space is None else space(delta))
    return relevance


def _split_products(X, templates, weights, total, mean, space):
    deviations = (space.deviation(points) for points in (X - mean, templates, mean))
    gradients = (space.gradient(points) for points in (X - mean, templates, mean))
    around, both, center = (d * g for d, g in zip(deviations, gradients, strict=True))
    return total * (around - center) + weights @ both


def responsibilities(energies, log_weights):
    """Give ``p_j = w_j exp(-e_j) / sum_k w_k exp(-e_k)``: (n, m)."""
    logits = log_weights - energies
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def divergence(p, log_weights):
    """Give the Kullback-Leibler divergence KL(p || w) of each row: (n,)."""
    return rel_entr(p, np.exp(log_weights)).sum(axis=1)
