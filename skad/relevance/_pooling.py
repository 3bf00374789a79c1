"""Min-pooling of distances: the score of a density, and how it flows back.

A kernel density estimate pools the squared distances d_j to its templates by a soft
minimum (Clever Hans paper, eq. 1). Distances come in units of the bandwidth, u = d / s,
and a kernel is given by its logarithm ell(u), so that one sweep over the templates serves
every kernel:

    L = log mean_j exp(ell(u_j)),    p_j = softmax_j(ell(u_j)),    o = score(L).

A rule turns o into relevance of the templates, ``unit(o) * p_j * slope(u_j) * u_j``; the
distance step splits that among the features in proportion to (x_i - x_ji)^2.
"""

from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Conserving", "PowerMean", "SoftMin", "Taylor"]


@dataclass(frozen=True)
class SoftMin:
    """Gaussian kernel: ``o = -s log mean_j exp(-d_j / s)`` with ``s = 2 sigma^2``.

    ``1 / s`` is the paper's stiffness gamma.
    """

    scale: float
    linear = True  # in u, so that a shift of ell can be folded into the distances

    def log_kernel(self, minus_u):
        """Return ell from -u."""
        return minus_u

    def energies(self, distances):
        """Return -ell for an array of squared distances."""
        return distances / self.scale

    def distance(self, ell):
        """Return u back from ell."""
        return -ell

    def score(self, log_mean):
        """Return o from L."""
        return -self.scale * log_mean

    def slope(self, u):
        """Return the slope of the Taylor rule, c_j = p_j: none, which stands for 1."""
        return None

    def unit(self, score):
        """Return the unit of the Taylor rule."""
        return self.scale


@dataclass(frozen=True)
class PowerMean:
    """Student-t kernel: ``o = (mean_j h_j^-q)^(-1/q)`` with ``h_j = s + d_j``.

    ``s = df sigma^2``. With q = 1 this is the paper's harmonic mean; with
    ``q = (df + d) / 2`` the kernel is a density.
    """

    scale: float
    power: float
    linear = False

    def log_kernel(self, minus_u):
        """Return ell from -u (overwrites it)."""
        return minus_u.clamp_(max=0).neg_().log1p_().mul_(-self.power)

    def energies(self, distances):
        """Return -ell for an array of squared distances."""
        return self.power * np.log1p(distances / self.scale)

    def distance(self, ell):
        """Return u back from ell."""
        return torch.expm1(-ell / self.power)

    def score(self, log_mean):
        """Return o from L."""
        return self.scale * torch.exp(-log_mean / self.power)

    def slope(self, u):
        """Return the slope of the Taylor rule, c_j = p_j o / h_j."""
        return 1 / (1 + u)

    def unit(self, score):
        """Return the unit of the Taylor rule."""
        return score


class Taylor:
    """Deep Taylor (appendix A.2): template j gets ``c_j d_j``, the zero-order term drops.

    What drops is the unattributed part: ``KL(p || 1/n) s`` for the soft minimum,
    ``s sum_j c_j`` for the power mean.
    """

    singular = False

    def needs_distance(self, pooling):
        """Whether `slope` needs u."""
        return not pooling.linear

    def slope(self, pooling, u):
        """Return what each template's weight is multiplied by (None stands for 1)."""
        return pooling.slope(u)

    def unit(self, pooling, score):
        """Return what the whole explanation is multiplied by."""
        return pooling.unit(score)


class Conserving:
    """Split ``p_j o`` itself among the features, so that nothing is left over.

    A template equal to x has no differing feature to carry its share: that share,
    ``o sum_{j: d_j = 0} p_j``, is the unattributed part.
    """

    singular = True  # at u = 0

    def needs_distance(self, pooling):
        """Whether `slope` needs u."""
        return True

    def slope(self, pooling, u):
        """Return what each template's weight is multiplied by."""
        return torch.where(u > 0, 1 / u, 0)

    def unit(self, pooling, score):
        """Return what the whole explanation is multiplied by."""
        return score
