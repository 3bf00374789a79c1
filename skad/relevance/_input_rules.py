"""How a layer that sees the input hands its relevance to the features.

Pixels have no relevance model ``R = x c`` as activations have: a black pixel would get
nothing, though it can be what is wrong. Each rule here is a sum of linear maps of
something that is not negative,

    q = sum_m p_m(x) V_m,    R_i = sum_m p_mi sum_k V_mik R_k / q_k    (0/0 = 0),

and leaves no relevance to the bias.
"""

from numbers import Real

import numpy as np
import torch

from skad.relevance._modules import twin

__all__ = ["INPUT_RULES", "input_relevance", "make_input_rule"]

INPUT_RULES = ("gamma", "wsquare", "zbox")


class WSquare:
    """Unbounded features: ``R_i = sum_k w_ik^2 / sum_i' w_i'k^2 R_k``."""

    def maps(self, layer):
        """Give the V of a layer."""
        return (twin(layer, torch.square),)

    def parts(self, x):
        """Give the p of some rows."""
        return (torch.ones_like(x),)


class ZBox:
    """Features in ``[l, h]``, z^B: ``R_ik ~ x_i w_ik - l_i w_ik^+ - h_i w_ik^-``.

    That is ``(x_i - l_i) w_ik^+ + (h_i - x_i) |w_ik^-|``, which cancels no digits.
    """

    def __init__(self, low, high):
        self.low, self.high = low, high
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("low and high must be finite.")
        if not np.less(low, high).all():
            raise ValueError(f"low must be less than high, but they are {low} and {high}.")

    def maps(self, layer):
        """Give the V of a layer."""
        return twin(layer, _positive), twin(layer, lambda w: _positive(-w))

    def parts(self, x):
        """Give the p of some rows; an entry beyond a bound moves it, for itself."""
        above, below = x - _bound("low", self.low, x), _bound("high", self.high, x) - x
        return above.clamp_(min=0), below.clamp_(min=0)


def _positive(w):
    return w.clamp(min=0)


def _bound(name, bound, x):
    """Give a bound as something that can be subtracted from rows."""
    if bound.ndim == 0:
        return bound.item()
    row = x.shape[1:]
    try:
        fits = np.broadcast_shapes(bound.shape, row) == row
    except ValueError:
        fits = False
    if not fits:
        shapes = f"{bound.shape} does not fit rows of shape {tuple(row)}"
        raise ValueError(f"{name} of shape {shapes}.")
    return torch.as_tensor(bound, dtype=x.dtype, device=x.device)


def make_input_rule(name, low, high):
    """Give the rule of a name: None for "gamma", which treats the input like a layer's."""
    if name not in INPUT_RULES:
        raise ValueError(f"input_rule must be one of {INPUT_RULES}, but is {name!r}.")
    if name != "zbox":
        return WSquare() if name == "wsquare" else None
    return ZBox(_as_bound("low", low), _as_bound("high", high))


def _as_bound(name, bound):
    if bound is None:
        raise ValueError('input_rule="zbox" needs low and high, the range of the features.')
    if isinstance(bound, torch.Tensor):
        bound = bound.detach().cpu().numpy()
    if not isinstance(bound, Real | np.ndarray):
        raise TypeError(f"{name} must be a number or a tensor, not {type(bound).__name__}.")
    return np.asarray(bound, dtype=np.float64)


def input_relevance(rule, x, cut, c):
    """Relevance of x from one layer that sees it, whose outputs z carry ``R = z c``.

    Parameters
    ----------
    rule : WSquare or ZBox
    x : tensor
        The rows, contiguous.
    cut : Cut
        The call of the layer.
    c : tensor
        Of the shape of z.

    Returns
    -------
    relevance : tensor of the shape of x
    """
    parts = [part.requires_grad_() for part in rule.parts(x)]
    mapped = zip(cut.maps, parts, strict=True)
    q = sum(cut.forward(v, _like(part, cut.a, x)) for v, part in mapped)
    share = cut.z * c / q.detach().masked_fill(q == 0, torch.inf)
    gradients = torch.autograd.grad(q, parts, share)
    return sum(p.detach() * g for p, g in zip(parts, gradients, strict=True))


def _like(part, a, x):
    """Lay out something of the shape of x as `a`, a view of x, is laid out."""
    if a.shape == x.shape and a.stride() == x.stride():
        return part
    return part.as_strided(a.shape, a.stride(), a.storage_offset() - x.storage_offset())
