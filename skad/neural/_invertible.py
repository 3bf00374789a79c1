"""Invertible networks: several at once, of affine coupling blocks and rotations."""

from math import ceil
from typing import Any

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
        Length d of a row.
    n_blocks : int, default=8
        Blocks of each network.
    hidden : int, default=64
        Width of the hidden layer of each block.
    n_members : int, default=1
        Networks. Weights and rotations come from torch's global generator.
    clamp : float, default=2.0
        Bound c of the logarithms of the scales.

    See Also
    --------
    skad.IOCN, skad.NormalizingFlow : Train such networks.

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

    n_kept: int
    n_moved: int
    w1: nn.Parameter
    b1: nn.Parameter
    w2: nn.Parameter
    b2: nn.Parameter
    p: nn.Parameter
    o: nn.Parameter
    rotation: torch.Tensor
    scale: torch.Tensor
    clamp: torch.Tensor

    def __init__(
        self,
        n_features: int,
        *,
        n_blocks: int = 8,
        hidden: int = 64,
        n_members: int = 1,
        clamp: float = 2.0,
    ):
        super().__init__()
        self.n_blocks = n_blocks
        self.n_kept = ceil(n_features / 2)
        self.n_moved = n_features - self.n_kept
        # The blocks of a member lie side by side: few tensors make quick steps.
        n, bound = n_blocks, self.n_kept**-0.5
        if self.n_moved:
            self.w1 = _uniform(bound, n_members, n * self.n_kept, hidden)
            self.b1 = _uniform(bound, n_members, n, hidden)
            # Laid out as that of nn.Linear, which is faster.
            self.w2 = _zeros(n_members, n * 2 * self.n_moved, hidden)
            self.b2 = _zeros(n_members, n, 2 * self.n_moved)
        self.p = _zeros(n_members, n, n_features)
        self.o = _zeros(n_members, n, n_features)
        rotations = _rotations(n_members * n, n_features)
        rotations = rotations.reshape(n_members, -1, n_features)
        self.register_buffer("rotation", rotations)
        self.register_buffer("scale", torch.ones(n_members, 1, 1))
        self.register_buffer("clamp", torch.full((n_members, 1, 1), float(clamp)))

    def _apply(self, fn, recurse=True):
        exact = self.rotation
        super()._apply(fn, recurse)
        self.rotation = exact.to(self.rotation.device)  # moved, never rounded
        return self

    @property
    def n_members(self) -> int:
        """Number of networks."""
        return len(self.scale)

    def forward(self, x: torch.Tensor, *, log_det: bool = False) -> Any:
        """Map rows to z.

        Parameters
        ----------
        x : tensor of shape (n, d) or (n_members, n, d)
            Rows, the same for all members or each member's own.
        log_det : bool, default=False
            Whether to give the second tensor too.

        Returns
        -------
        z : tensor of shape (n_members, n, d)
            In the dtype of the rows.
        log_det : tensor of shape (n_members, n)
            Logarithm of the absolute determinant of dz/dx; only where asked for.
        """
        log_scale, shift, rotation = self._affine(x.dtype)
        # Scale, shift and rotation are one product: (x * s + o) R = x (diag(s) R) + o R.
        mixes = (log_scale.exp()[..., None] * rotation).unbind(1)
        shifts = (shift[:, :, None] @ rotation).unbind(1)
        z, stretches = x.expand(self.n_members, *x.shape[-2:]), []
        for coupling, mix, moved_by in zip(
            self._couplings(x.dtype), mixes, shifts, strict=True
        ):
            if coupling is not None:
                kept, moved = z.split((self.n_kept, self.n_moved), dim=2)
                stretch, push = self._move(kept, coupling)
                z = torch.cat((kept, torch.addcmul(push, moved, stretch.exp())), dim=2)
                stretches.append(stretch)
            z = torch.baddbmm(moved_by, z, mix)
        scale = self.scale.to(x.dtype)
        if not log_det:
            return z * scale
        total = log_scale.sum((1, 2)) + x.shape[-1] * scale[:, 0, 0].log()
        moved = sum(stretch.sum(dim=2) for stretch in stretches)
        return z * scale, (total[:, None] + moved).expand(z.shape[:2])

    def inverse(self, z: torch.Tensor) -> torch.Tensor:
        """Map z back to rows.

        Parameters
        ----------
        z : tensor of shape (n_members, n, d)
            What each member is to map back.

        Returns
        -------
        x : tensor of shape (n_members, n, d)
            Rows that the member maps to `z`, up to rounding.
        """
        log_scale, shift, rotation = self._affine(z.dtype)
        shrink = (-log_scale).exp()
        mixes = (rotation.mT * shrink[:, :, None]).unbind(1)
        shifts = (-shift * shrink)[:, :, None].unbind(1)
        x = z / self.scale.to(z.dtype)
        blocks = [*zip(self._couplings(z.dtype), mixes, shifts, strict=True)]
        for coupling, mix, moved_by in reversed(blocks):
            x = torch.baddbmm(moved_by, x, mix)
            if coupling is not None:
                kept, moved = x.split((self.n_kept, self.n_moved), dim=2)
                stretch, push = self._move(kept, coupling)
                x = torch.cat((kept, (moved - push) * (-stretch).exp()), dim=2)
        return x

    def _affine(self, dtype):
        """Give logarithms of scales and shifts, (n_members, n_blocks, d), and rotations."""
        rotation = self.rotation.to(dtype).unflatten(1, (self.n_blocks, -1))
        return self._bounded(self.p.to(dtype)), self.o.to(dtype), rotation

    def _couplings(self, dtype):
        """Give the weights of each block's small network; None where nothing moves."""
        if not self.n_moved:
            return [None] * self.n_blocks
        weights = [
            w.to(dtype).unflatten(1, (self.n_blocks, -1)).unbind(1)
            for w in (self.w1, self.b1, self.w2, self.b2)
        ]
        return [*zip(*weights, strict=True)]

    def _move(self, kept, coupling):
        """Give the logarithms of the scales, and the shifts, of the second half."""
        w1, b1, w2, b2 = coupling
        h = torch.baddbmm(b1, kept, w1).relu_()
        a, t = torch.baddbmm(b2, h, w2.mT).split(self.n_moved, dim=2)
        return self._bounded(a), t

    def _bounded(self, a):
        clamp = self.clamp.to(a.dtype)
        return clamp * (a / clamp).tanh()


def _uniform(bound, *shape):
    return nn.Parameter((2 * torch.rand(shape) - 1) * bound)


def _zeros(*shape):
    return nn.Parameter(torch.zeros(shape))


def _rotations(n, d):
    """Draw rotations uniformly, as the orthogonal factors of Gaussian matrices."""
    q, r = torch.linalg.qr(torch.randn(n, d, d, dtype=torch.float64))
    return q * torch.where(r.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)[:, None]
