"""Mean gradients along straight lines: what a difference of scores is made of."""

import numpy as np
import torch

__all__ = ["ByAutograd", "expected_gradients", "mean_gradient"]


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


def expected_gradients(score, rows, references, *, n_nodes=16):
    r"""Attribute scores of rows to their entries, each against references of its own.

    .. math::

        R(x) = \frac1k \sum_{j=1}^k (x - x_j) \odot \int_0^1
               \nabla s(x_j + t\,(x - x_j))\,dt,
        \qquad \sum_i R_i(x) = s(x) - \frac1k \sum_j s(x_j),

    integrated gradients [1]_, averaged over the references.

    Parameters
    ----------
    score : callable
        As for `mean_gradient`.
    rows : float64 tensor of shape (n, d)
    references : float64 tensor of shape (n, k, d)
    n_nodes : int, default=16

    Returns
    -------
    relevance : float64 tensor of shape (n, d)

    References
    ----------
    .. [1] M. Sundararajan, A. Taly, Q. Yan. "Axiomatic Attribution for Deep Networks".
       ICML 2017.
    """
    rows = rows[:, None].expand_as(references)
    gradient = mean_gradient(score, references, rows, n_nodes=n_nodes)
    return ((rows - references) * gradient).mean(dim=1)


class ByAutograd:
    """A score of flat float64 rows, and its gradient; the score itself sees float32.

    Parameters
    ----------
    score : callable
        From float32 rows, a tensor (n, *row_shape), to a tensor (n,).
    row_shape : tuple of int
    """

    def __init__(self, score, row_shape):
        self.score, self.row_shape = score, row_shape

    def __call__(self, x):
        """Score rows, float64 of shape (..., d): float64 of shape (...)."""
        return self._scores(x).detach().double()

    def gradient(self, x):
        """Differentiate the score of each row."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self._scores(x).sum(), x)[0]

    def _scores(self, x):
        return self.score(x.float().reshape(-1, *self.row_shape)).view(x.shape[:-1])
