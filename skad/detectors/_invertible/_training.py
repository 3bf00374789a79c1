"""Training invertible networks: onto the cube, or by likelihood; several at once."""

from math import log, pi, sqrt

import torch
from torch import nn

__all__ = [
    "PULLS",
    "CubeNet",
    "DensityNet",
    "Likelihood",
    "MemberAdam",
    "PullAndPush",
    "negative_log_likelihood",
]


_FAR = 10.0  # standard deviations


def largest(z):
    """Give the largest of the absolute values: f(z) of the paper."""
    return z.abs().amax(dim=-1)


def p_norm(z):
    """Give the 8-norm, divided by that of a vector of ones."""
    size = z.abs()
    largest = size.amax(dim=-1, keepdim=True).clamp(min=1e-30)  # whose power may overflow
    return largest[..., 0] * (size / largest).pow(8).mean(dim=-1).pow(1 / 8)


def log_sum_exp(z):
    """Give a smooth maximum of the absolute values, within ``log(d) / 8`` of it."""
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
        """Give z of the rows (n, d), then of the samples: (n_members, 2 n, d)."""
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
        """Give the mean loss of the members; `output` is that of a `CubeNet`."""
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
        """Give z (n_members, n, d) and the logarithms (n_members, n)."""
        return self.net(x, log_det=True)


class Likelihood(nn.Module):
    """The mean negative log-likelihood of rows, with a standard normal z.

    An entry of z beyond 10, where none of normal rows is, costs as much more as it is
    further out, not the square: one row of a heavy tail would else rule the gradient.
    """

    def forward(self, output, batch, y):
        """Give the mean loss of the members, in nats a row."""
        z, log_det = output
        near = z.clamp(-_FAR, _FAR)
        beyond = _FAR * (z - near).abs().sum(dim=-1)  # along the tangent of the square
        losses = negative_log_likelihood(near, log_det) + beyond
        return _mean_of_members(losses.mean(dim=1))


def negative_log_likelihood(z, log_det):
    r"""Give :math:`\|z\|^2 / 2 + d \log(2 \pi) / 2 - \log |\det dz/dx|`, one a row."""
    constant = z.shape[-1] * log(2 * pi) / 2
    return z.square().sum(dim=-1) / 2 + constant - log_det


def _mean_of_members(losses):
    """Give the mean, with the gradient of the sum: a member trains as it would alone."""
    total = losses.sum()
    return total - (total - losses.mean()).detach()


class MemberAdam(torch.optim.Adam):
    """Adam for several networks at once, whose gradients are clipped one by one.

    The first axis of every parameter counts the networks. A gradient that is not finite
    counts as 0.

    Parameters
    ----------
    params : iterable of Parameter
    max_norm : float, default=1.0
        Greatest norm of the gradient of a network.
    eps : float or None, default=None
        What Adam adds to the root mean square of an entry's gradient before it divides by
        it. None is that of a clipped gradient with equal entries, ``max_norm / sqrt(P)``
        for P entries: smaller gradients then make smaller steps, as in gradient descent.
        Adam's own 1e-8, with which they don't, throws about networks that are nearly
        trained onto the cube.
    **kwargs : dict
        As for :class:`torch.optim.Adam`.

    Attributes
    ----------
    norms : list of tensor of shape (n_members,)
        Norms of the gradients of the steps so far, before they were clipped.
    """

    def __init__(self, params, *, max_norm=1.0, eps=None, **kwargs):
        if not max_norm > 0:
            raise ValueError(f"max_norm must be positive, got {max_norm}.")
        params = list(params)
        if eps is None:
            groups = [g["params"] if isinstance(g, dict) else [g] for g in params]
            eps = max_norm / sqrt(sum(p[0].numel() for group in groups for p in group))
        super().__init__(params, eps=eps, **{"fused": True, **kwargs})
        self.max_norm, self.norms = max_norm, []

    def __getstate__(self):
        return {**super().__getstate__(), "max_norm": self.max_norm, "norms": self.norms}

    def step(self, closure=None):
        """Make a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._clip()
        super().step()
        return loss

    @torch.no_grad()
    def _clip(self):
        gradients = [
            p.grad
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=(1, 2)) for g in gradients])
        norm = torch.linalg.vector_norm(norms, dim=0)
        factor = self.max_norm / norm.clamp(min=self.max_norm)
        for g in gradients:
            g.mul_(factor[:, None, None])
        if not (finite := norm.isfinite()).all():
            for g in gradients:
                g[~finite] = 0.0
        self.norms.append(norm.nan_to_num(nan=torch.inf))
