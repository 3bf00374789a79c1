"""The mean gradient along a straight line: what a difference of scores is made of."""

import numpy as np
import torch

__all__ = ["mean_gradient"]


def mean_gradient(score, start, end, *, n_nodes=32):
    r"""Average a gradient from `start` to `end`, so that its product is the difference.

    .. math::

        G = \int_0^1 \nabla s(z_0 + t\,(z - z_0))\,dt, \qquad
        G \cdot (z - z_0) = s(z) - s(z_0)

    by Gauss-Legendre quadrature. What that misses of the difference, as it does where the
    score has kinks on the way, is made up by the least change of G.

    Parameters
    ----------
    score : callable
        From a tensor (..., k) to one of (...); ``score.gradient`` gives (..., k).
    start, end : float64 tensor of shape (..., k)
        Of one shape.
    n_nodes : int, default=32
        Points at which the gradient is computed.

    Returns
    -------
    gradient : float64 tensor of shape (..., k)

    Examples
    --------
    >>> import torch
    >>> from skad.relevance._path import mean_gradient
    >>> from skad.relevance._view_score import ViewHeads, ViewScore
    >>> heads = ViewHeads(torch.tensor([[0]]), [2], ["view"])
    >>> score = ViewScore("log", heads, torch.ones(1, 2))
    >>> start, end = torch.tensor([[[0.0, 0.0]], [[-2.0, 2.0]]]).double()
    >>> gradient = mean_gradient(score, start, end)
    >>> bool((gradient * (end - start)).sum() - (score(end) - score(start)) < 1e-9)
    True
    """
    step = end - start
    mean = torch.zeros_like(step)
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    for t, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        mean += float(weight) * score.gradient(start + float(t) * step)
    missed = score(end) - score(start) - (mean * step).sum(-1)
    length = step.square().sum(-1)
    share = torch.where(length > 0, missed / length.clamp(min=1e-300), 0.0)
    return mean + share[..., None] * step
