"""What invertible networks are trained by: onto the cube, or by likelihood."""

from math import log, pi

import torch
from torch import nn

__all__ = [
    "PULLS",
    "CubeNet",
    "DensityNet",
    "Likelihood",
    "PullAndPush",
    "negative_log_likelihood",
]


_FAR = 10.0  # standard deviations


def largest(z):
    """Return the largest of the absolute values: f(z) of the paper."""
    return z.abs().amax(dim=-1)


def p_norm(z):
    """Return the 8-norm, divided by that of a vector of ones."""
    size = z.abs()
    largest = size.amax(dim=-1, keepdim=True).clamp(min=1e-30)  # whose power may overflow
    return largest[..., 0] * (size / largest).pow(8).mean(dim=-1).pow(1 / 8)


def log_sum_exp(z):
    """Return a smooth maximum of the absolute values, within ``log(d) / 8`` of it."""
    return (8 * z.abs()).logsumexp(dim=-1) / 8


PULLS = {"max": largest, "p_norm": p_norm, "logsumexp": log_sum_exp}


class CubeNet(nn.Module):
    """Rows, and as many samples of the cube mapped back: both are mapped to z (IOCN).

    Parameters
    ----------
    net : InvertibleNet
    """

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        """Return z of the rows (n, d), then of the samples: (n_members, 2 n, d)."""
        rows = x.expand(self.net.n_members, *x.shape)
        with torch.no_grad():  # the paper's stopgrad
            samples = self.net.inverse(2 * torch.rand_like(rows) - 1)
        return self.net(torch.cat((rows, samples), dim=1))


class PullAndPush(nn.Module):
    r"""The loss of IOCN (equation 1): rows are pulled to the origin, samples pushed.

    .. math:: \frac1n \sum_i f(z(x_i)) - f(z(\tilde x_i))

    Parameters
    ----------
    pull : callable
        f, from a tensor (..., d) to one of (...).
    """

    def __init__(self, pull=largest):
        super().__init__()
        self.pull = pull

    def forward(self, output, batch, y):
        """Return the mean loss of the members; `output` is that of a `CubeNet`."""
        f = self.pull(output)
        found = tuple(f.shape) if isinstance(f, torch.Tensor) else type(f).__name__
        if found != output.shape[:-1]:
            raise ValueError(
                f"pull must make of a tensor of shape {tuple(output.shape)} one of shape "
                f"{tuple(output.shape[:-1])}, a number for each z; it gave {found}."
            )
        if output.requires_grad and not f.requires_grad:
            raise ValueError("pull must have a gradient: take functions of torch alone.")
        pulled, pushed = f.chunk(2, dim=1)
        return _mean_of_members((pulled - pushed).mean(dim=1))


class DensityNet(nn.Module):
    """z of rows, and the logarithm of the determinant: what a likelihood is made of.

    Parameters
    ----------
    net : InvertibleNet
    """

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        """Return z (n_members, n, d) and the logarithms (n_members, n)."""
        return self.net(x, log_det=True)


class Likelihood(nn.Module):
    """The mean negative log-likelihood of rows, with a standard normal z.

    An entry of z beyond 10, where none of normal rows is, costs linearly
    more, not by its square: otherwise one row of a heavy tail would rule the gradient.
    """

    def forward(self, output, batch, y):
        """Return the mean loss of the members, in nats a row."""
        z, log_det = output
        near = z.clamp(-_FAR, _FAR)
        beyond = _FAR * (z - near).abs().sum(dim=-1)  # along the tangent of the square
        losses = negative_log_likelihood(near, log_det) + beyond
        return _mean_of_members(losses.mean(dim=1))


def negative_log_likelihood(z, log_det):
    r"""Return :math:`\|z\|^2 / 2 + d \log(2 \pi) / 2 - \log |\det dz/dx|`, one a row."""
    constant = z.shape[-1] * log(2 * pi) / 2
    return z.square().sum(dim=-1) / 2 + constant - log_det


def _mean_of_members(losses):
    """Return the mean, with the gradient of the sum: a member trains as it would alone."""
    total = losses.sum()
    return total - (total - losses.mean()).detach()
