"""The optimiser of several networks at once."""

from math import sqrt

import torch

__all__ = ["MemberAdam"]


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
        With Adam's own 1e-8 they don't, and networks that are nearly trained onto the
        cube are moved by noise.
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
