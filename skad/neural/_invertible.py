"""Invertible networks: several at once, of affine coupling blocks and rotations."""

from math import ceil

import torch
from torch import nn

__all__ = ["InvertibleNet"]


class InvertibleNet(nn.Module):
    r"""Invertible networks x -> z of one shape, computed together as batched products.

    Each is a chain of `n_blocks` blocks and, at the end, one factor. A block splits a row
    in half and moves the second half by what a small network, one hidden layer of ReLUs,
    makes of the first (an affine coupling [1]_); then each feature has a scale and a shift,
    and a fixed rotation mixes the features:

    .. math::

        (a, t) = W_2\,\mathrm{relu}(W_1 x_1 + b_1) + b_2, \quad
        x_2' = x_2 \odot e^{c \tanh(a / c)} + t, \quad
        y = R\,\bigl((x_1, x_2') \odot e^{c \tanh(p / c)} + o\bigr).

    The clamp c bounds both scales, so that no block stretches or shrinks without end.
    Networks start as rotations. One feature can't be split: it gets scales and shifts only.

    Parameters
    ----------
    n_features : int
    n_blocks : int, default=8
    hidden : int, default=64
        Width of the hidden layer of each block.
    n_members : int, default=1
        Networks. Weights and rotations come from torch's global generator.
    clamp : float, default=2.0

    Notes
    -----
    Rows are computed in their own precision. Rotations are kept in float64 whatever the
    network is cast to: the transpose of one that was rounded to float32 does not invert
    it, which far points show. So float64 rows are inverted however far they are.

    References
    ----------
    .. [1] L. Dinh, J. Sohl-Dickstein, S. Bengio. "Density estimation using Real NVP".
       ICLR 2017.

    Examples
    --------
    >>> import torch
    >>> from skad.neural import InvertibleNet
    >>> net = InvertibleNet(3, n_members=2)
    >>> x = torch.randn(5, 3)
    >>> z = net(x)
    >>> z.shape
    torch.Size([2, 5, 3])
    >>> bool((net.inverse(z) - x).abs().max() < 1e-4)
    True
    """

    def __init__(self, n_features, *, n_blocks=8, hidden=64, n_members=1, clamp=2.0):
        super().__init__()
        shape = n_members, n_features, hidden, clamp
        self.blocks = nn.ModuleList(_Block(*shape) for _ in range(n_blocks))
        self.register_buffer("scale", torch.ones(n_members, 1, 1))

    @property
    def n_members(self):
        """Number of networks."""
        return len(self.scale)

    def forward(self, x, *, log_det=False):
        """Map rows to z.

        Parameters
        ----------
        x : tensor of shape (n, d), the same for all members, or (n_members, n, d)
        log_det : bool, default=False

        Returns
        -------
        z : tensor of shape (n_members, n, d)
        log_det : tensor of shape (n_members, n)
            Logarithm of the absolute determinant of dz/dx; only where asked for.
        """
        z, total = x.expand(self.n_members, *x.shape[-2:]), 0.0
        for block in self.blocks:
            z, stretch = block(z)
            total = total + stretch
        z = z * self.scale.to(x.dtype)
        if not log_det:
            return z
        total = total + x.shape[-1] * self.scale[:, :, 0].to(x.dtype).log()
        return z, total.expand(z.shape[:2])

    def inverse(self, z):
        """Map z of shape (n_members, n, d) back to rows, of the same shape."""
        x = z / self.scale.to(z.dtype)
        for block in reversed(self.blocks):
            x = block.inverse(x)
        return x


class _Block(nn.Module):
    """One block of each member: coupling, scale and shift, rotation."""

    def __init__(self, n_members, n_features, hidden, clamp):
        super().__init__()
        self.clamp = clamp
        self.n_kept = n_kept = ceil(n_features / 2)
        self.n_moved = n_moved = n_features - n_kept
        if n_moved:
            bound = n_kept**-0.5
            self.w1 = nn.Parameter(_uniform(bound, n_members, n_kept, hidden))
            self.b1 = nn.Parameter(_uniform(bound, n_members, 1, hidden))
            self.w2 = nn.Parameter(torch.zeros(n_members, hidden, 2 * n_moved))
            self.b2 = nn.Parameter(torch.zeros(n_members, 1, 2 * n_moved))
        self.p = nn.Parameter(torch.zeros(n_members, 1, n_features))
        self.o = nn.Parameter(torch.zeros(n_members, 1, n_features))
        self.register_buffer("rotation", _rotations(n_members, n_features))

    def _apply(self, fn, recurse=True):
        exact = self.rotation
        super()._apply(fn, recurse)
        self.rotation = exact.to(self.rotation.device)  # moved, never rounded
        return self

    def forward(self, x):
        """Give y, and the logarithm of the determinant, (n_members, n or 1)."""
        log_scale, shift = self._affine(x.dtype)
        log_det = log_scale.sum(2)
        if self.n_moved:
            kept, moved = x.split((self.n_kept, self.n_moved), dim=2)
            stretch, push = self._coupling(kept)
            x = torch.cat((kept, torch.addcmul(push, moved, stretch.exp())), dim=2)
            log_det = log_det + stretch.sum(2)
        # Scale, shift and rotation are one product: (x * s + o) R = x (diag(s) R) + o R.
        rotation = self.rotation.to(x.dtype)
        mix = log_scale.exp().transpose(1, 2) * rotation
        return torch.baddbmm(shift @ rotation, x, mix), log_det

    def inverse(self, y):
        """Give x of y."""
        log_scale, shift = self._affine(y.dtype)
        x = torch.bmm(y, self.rotation.to(y.dtype).transpose(1, 2))
        x = (x - shift) * (-log_scale).exp()
        if self.n_moved:
            kept, moved = x.split((self.n_kept, self.n_moved), dim=2)
            stretch, push = self._coupling(kept)
            x = torch.cat((kept, (moved - push) * (-stretch).exp()), dim=2)
        return x

    def _affine(self, dtype):
        return self._bounded(self.p.to(dtype)), self.o.to(dtype)

    def _coupling(self, kept):
        """Give the logarithms of the scales, and the shifts, of the second half."""
        w1, b1, w2, b2 = (w.to(kept.dtype) for w in (self.w1, self.b1, self.w2, self.b2))
        h = torch.baddbmm(b1, kept, w1).relu()
        a, t = torch.baddbmm(b2, h, w2).split(self.n_moved, dim=2)
        return self._bounded(a), t

    def _bounded(self, a):
        return self.clamp * (a / self.clamp).tanh()


def _uniform(bound, *shape):
    return (2 * torch.rand(shape) - 1) * bound


def _rotations(n, d):
    """Draw rotations uniformly, as the orthogonal factors of Gaussian matrices."""
    q, r = torch.linalg.qr(torch.randn(n, d, d, dtype=torch.float64))
    return q * torch.where(r.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)[:, None]
