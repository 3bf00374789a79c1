"""One-class losses: normal rows near the centre, anomalies away from it.

A network gives deviations from its centre. Labels are those of skad: +1 normal, 0
unlabelled, -1 anomaly. Each loss decides row by row, so that a batch of anomalies alone is
trained away from the centre too.
"""

import torch
from torch import nn
from torch.nn.functional import softplus

__all__ = [
    "ClassifierLoss",
    "HypersphereLoss",
    "SADLoss",
    "SVDDLoss",
    "harmless_loss",
    "log_one_minus_exp",
    "pseudo_huber",
]

# Below, a float32 map is 0 to the last bit, and has no gradient to follow.
_LEAST = 1e-30
# Deep SAD's: keeps 1 / d finite.
_SAD_EPSILON = 1e-6
_HARMLESS = 10.0


def harmless_loss(net):
    """Return a loss of training on anomalies that is no sign of divergence.

    A single anomaly near the centre may cost as much.
    """
    return _HARMLESS


def pseudo_huber(squared):
    """Return ``sqrt(s + 1) - 1`` of squared distances s, without cancellation."""
    return squared / ((squared + 1).sqrt() + 1)


class _LogOneMinusExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        near = torch.log(-torch.expm1(-a))
        return torch.where(a > 0.6931, torch.log1p(-torch.exp(-a)), near)

    @staticmethod
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        return gradient / torch.expm1(a)


def log_one_minus_exp(a):
    """Return ``log(1 - exp(-a))`` for a >= 0, with value and gradient exact near 0."""
    return _LogOneMinusExp.apply(a.clamp(min=_LEAST))


def _per_row(anomalous, distance):
    """Terms of the hypersphere classifier: a, or ``-log(1 - exp(-a))`` of anomalies."""
    return torch.where(anomalous, -log_one_minus_exp(distance), distance)


class HypersphereLoss(nn.Module):
    """Hypersphere classifier (FCDD paper, eq. 1) with the pseudo-Huber distance."""

    def forward(self, output, batch, y):
        """Return the mean loss; `output` is (n, D), the deviations."""
        distance = pseudo_huber(output.square().sum(dim=1))
        return _per_row(y.label < 0, distance).mean()


class ClassifierLoss(nn.Module):
    """Cross-entropy of the logit of being an anomaly; focal where ``focus > 0``.

    Parameters
    ----------
    focus : float
        Exponent of the focal loss (Lin et al. 2017): terms are weighted by
        ``(1 - p)^focus`` with p the probability given to the right class.
    """

    def __init__(self, focus=0.0):
        super().__init__()
        self.focus = focus

    def forward(self, output, batch, y):
        """Return the mean loss; `output` is (n, 1), the logits."""
        logit = output[:, 0]
        terms = softplus(torch.where(y.label < 0, -logit, logit))
        if self.focus:
            terms = (-torch.expm1(-terms)).pow(self.focus) * terms
        return terms.mean()


class SADLoss(nn.Module):
    """Deep SAD (Ruff et al. 2020): ``d``, ``eta d`` of normal, ``eta / d`` of anomalous.

    Parameters
    ----------
    eta : float
        Weight of labelled rows.
    """

    def __init__(self, eta=1.0):
        super().__init__()
        self.eta = eta

    def forward(self, output, batch, y):
        """Return the mean loss; `output` is (n, D), the deviations."""
        distance = output.square().sum(dim=1)
        labelled = self.eta * (distance + _SAD_EPSILON).pow(y.label)
        return torch.where(y.label == 0, distance, labelled).mean()


class SVDDLoss(nn.Module):
    """Deep SVDD (Ruff et al. 2018): mean squared distance, or a soft boundary.

    Parameters
    ----------
    nu : float or None
        Share of rows outside of the soft boundary; None for the one-class objective.
    warm_up : int
        Steps of training before the radius moves from 0.
    """

    def __init__(self, nu=None, warm_up=0):
        super().__init__()
        self.nu, self.warm_up, self.steps = nu, warm_up, 0
        self.register_buffer("squared_radius", torch.zeros(()))

    def forward(self, output, batch, y):
        """Return the mean loss; `output` is (n, D), the deviations."""
        distance = output.square().sum(dim=1)
        if self.nu is None:
            return distance.mean()
        if self.training:
            self._follow(distance.detach())
        excess = (distance - self.squared_radius).clamp(min=0).mean()
        return self.squared_radius + excess / self.nu

    def _follow(self, distance):
        self.steps += 1
        if self.steps > self.warm_up:
            self.squared_radius.copy_(distance.quantile(1 - self.nu))
