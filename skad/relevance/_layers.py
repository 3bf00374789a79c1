"""Relevance through the layers of a network: LRP-gamma, and a rule for the input.

What is propagated is c, not R. The paper's relevance model of an activation is
``R_j = a_j c_j`` with c_j locally constant (appendices A.4, A.5), and a layer that is
positively homogeneous of degree 1, ``f(t a) = t f(a)``, has ``f(a) = sum_j a_j df/da_j``:
there c is the gradient. So autograd carries c through ReLU, pooling and sums, however a
``forward`` combines them. Linear layers replace their gradient, and those that see the
input hand relevance to it.
"""

import math
from contextvars import ContextVar
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from skad.relevance._fold import fold_batch_norms
from skad.relevance._input_rules import input_relevance, make_input_rule
from skad.relevance._modules import (
    assert_homogeneous,
    check_supported,
    label,
    linear_layers,
    shared_copy,
    twin,
)

__all__ = ["LayerwiseRelevance"]

# A context variable, so that threads can share a copy.
_CALL: ContextVar[Any] = ContextVar("skad_layerwise_relevance")


class LayerwiseRelevance:
    """Explain a function of a network's output by its input.

    With a relevance model ``R_k = z_k c_k`` at the outputs ``z_k = sum_j a_j w_jk + b_k``
    of a linear layer, the gamma rule (Clever Hans paper, appendix A.5) gives its inputs

    ::

        R_j = a_j c_j,    c_j = sum_k (w_jk + gamma w_jk^+) z_k / z'_k c_k,
        z'_k = sum_j a_j (w_jk + gamma w_jk^+) + b_k + gamma b_k^+.

    That is for z_k > 0, as behind a ReLU; where z_k < 0, minus replaces plus, so that
    z_k / z'_k is in [0, 1] always. With ``gamma=0`` it is LRP-0. Other layers need no rule:
    max pooling goes to the winner, average pooling in proportion to ``a_j``, L2 pooling to
    ``a_j^2``.

    A layer that sees the input has a rule for it (Montavon et al., Pattern Recognition 65,
    2017, and *Layer-Wise Relevance Propagation: An Overview*, 2019):

    - "zbox": ``R_i = sum_k (x_i w_ik - l_i w_ik^+ - h_i w_ik^-) / sum_i'(same) R_k`` for
      features in [l, h], such as pixels. All terms are >= 0. A feature outside moves the
      bound that it passes.
    - "wsquare": ``R_i = sum_k w_ik^2 / sum_i' w_i'k^2 R_k`` for unbounded features.
    - "gamma": as in the other layers, for features >= 0. Zeros get no relevance.

    Zero padding gets nothing, and neither does a bias under the first two. Under the gamma
    rule a bias keeps ``(b_k + gamma b_k^+) / z'_k R_k``. What all of them keep is the
    unattributed part, ``o - sum_i R_i`` for a score o.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode. It is never touched: hooks are on a copy that shares its weights.
        Batch norms become part of the linear layers before them. Make a new object after
        training goes on, or after a move to another device.
    gamma : float >= 0 or dict
        One for all linear layers, or ``{name: gamma}`` with the names of
        ``module.named_modules()`` and 0 for the others. Greater values favour what speaks
        for a neuron.
    input_rule : {"gamma", "wsquare", "zbox"}
    low, high : float or tensor, default=None
        Range of the features for "zbox", broadcastable to a row: (C, 1, 1) for channels.
    reference : float or tensor, default=0.0
        What features are compared with where no other rule than "gamma" is at the input:
        ``R_i = (x_i - r_i) c_i``; what ``r_i c_i`` is left is unattributed.

    Raises
    ------
    TypeError, ValueError
        For a module that relevance has no way through, by name, and for bad arguments.
        Some of it shows in the first call only.

    Notes
    -----
    A call with weights of no layer, such as ``F.linear(x, W)`` or an einsum in a
    ``forward``, goes by LRP-0 unseen, and so do modules kept in a plain list. What is not
    homogeneous, such as ``torch.sigmoid``, is found by doubling an input.

    A path of x to the output other than through a layer that sees it, such as a skip
    connection, contributes ``x_i c_i``. A layer sees x itself or a view of all of it.

    An object can be shared by threads.

    Examples
    --------
    One neuron, ``relu(a_1 - a_2 / 4)``, at a = (1, 2):

    >>> import torch
    >>> from skad.relevance._layers import LayerwiseRelevance
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.ReLU()).eval()
    >>> net[0].weight.data = torch.tensor([[1.0, -0.25]])
    >>> explain = LayerwiseRelevance(net, gamma=1)
    >>> explain(torch.tensor([[1.0, 2.0]]), top=lambda output: output[:, 0])
    tensor([[ 0.6667, -0.1667]])
    """

    def __init__(
        self,
        module,
        *,
        gamma=0.25,
        input_rule="gamma",
        low=None,
        high=None,
        reference=0.0,
    ):
        self._rule = make_input_rule(input_rule, low, high)
        self._reference = reference
        check_supported(module, leaky=not _positive_anywhere(gamma))
        self._gammas = _by_layer(gamma, linear_layers(module))
        with torch.inference_mode(False):
            self._copy = shared_copy(module)
        self._ready = None

    def __call__(self, x, top):
        """Give the relevance of each feature.

        Parameters
        ----------
        x : floating-point tensor of shape (n, ...)
        top : callable
            From the module's output to a tensor of shape (n,), a number for each row. Its
            gradient is c there, so that the output carries ``R_j = a_j c_j``. For the
            score ``|W a|^2`` of a deep one-class model (appendix A.4) it is
            ``z = a @ W.T; (z * z.detach()).sum(1)``.

        Returns
        -------
        relevance : tensor of the shape, dtype and device of x
        """
        if not (isinstance(x, torch.Tensor) and x.is_floating_point()):
            raise TypeError("x must be a tensor of floating-point numbers.")
        if len(x) == 0:
            return torch.zeros_like(x)
        with torch.inference_mode(False), torch.enable_grad():
            x = (x.clone() if x.is_inference() else x.detach()).contiguous()
            if self._ready is None:
                self._ready = self._prepare(_probe(x[:1]))
            return self._relevance(x, top)

    def _prepare(self, row):
        """Make the copy that has the hooks."""
        module = shared_copy(self._copy)
        with torch.no_grad():
            fold_batch_norms(module, row)
            assert_homogeneous(module, row)
        for name, layer in linear_layers(module).items():
            if self._rule or self._gammas[name]:
                hook = _LinearHook(layer, name, self._gammas[name], self._rule)
                layer.register_forward_hook(hook, prepend=True, with_kwargs=True)
        return module

    def _relevance(self, x, top):
        call = _Call(x.requires_grad_())
        token = _CALL.set(call)
        try:
            output = self._ready(x)
        finally:
            _CALL.reset(token)
        self._check_seen(call)
        values = _checked(top(output), len(x))
        leaves = [x, *(cut.leaf for cut in call.cuts)]
        c, *cs = torch.autograd.grad(values.sum(), leaves, allow_unused=True)
        x = x.detach()
        relevance = torch.zeros_like(x) if c is None else (x - self._reference) * c
        for cut, c in zip(call.cuts, cs, strict=True):
            if c is not None:
                relevance += input_relevance(self._rule, x, cut, c)
        return relevance

    def _check_seen(self, call):
        if self._rule and not call.cuts:
            raise ValueError(
                "No linear layer sees the input itself, so that its rule would not be "
                f"used. The first to be called is {_first_call(self._copy, call.x[:1])}. "
                "Take out of the module what comes before a linear layer, and pass its "
                'result; or choose input_rule="gamma".'
            )


def _positive_anywhere(gamma):
    values = gamma.values() if isinstance(gamma, dict) else [gamma]
    return any(_checked_gamma(value) > 0 for value in values)


def _checked_gamma(gamma):
    if not isinstance(gamma, Real) or isinstance(gamma, bool):
        raise TypeError(f"gamma must be a number or a dict of them, not {gamma!r}.")
    if not (0 <= gamma and math.isfinite(gamma)):
        raise ValueError(f"gamma must be finite and at least 0, but is {gamma}.")
    return gamma


def _by_layer(gamma, layers):
    """Give a gamma for the name of each linear layer."""
    if not isinstance(gamma, dict):
        return dict.fromkeys(layers, gamma)
    if unknown := [name for name in gamma if name not in layers]:
        raise ValueError(f"gamma has {unknown}, but the linear layers are {[*layers]}.")
    return {name: gamma.get(name, 0) for name in layers}


def _checked(values, n):
    """Give what `top` returned, if it can be explained."""
    if not (isinstance(values, torch.Tensor) and values.shape == (n,)):
        raise ValueError(f"top must return a tensor of shape ({n},), one number a row.")
    if not values.requires_grad:
        raise ValueError("What top returns does not depend on the output of the module.")
    return values


def _probe(row):
    """Give a row by which the module is looked at, whatever the rows are."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(row.shape, generator=generator, dtype=torch.float64).to(row)


def _first_call(module, row):
    """Name the first module that is called and has none inside."""
    seen = []
    module = shared_copy(module)
    for name, child in module.named_modules():
        if next(child.children(), None) is None:
            child.register_forward_pre_hook(
                lambda child, args, name=name: seen.append(label(name, child))
            )
    with torch.no_grad():
        module(row.clone())
    return seen[0] if seen else "none"


class _Call:
    """What the hooks leave for the way back, in one call of the whole network."""

    def __init__(self, x):
        self.x, self.cuts = x, []
        self.memory = x.untyped_storage().data_ptr()

    def sees(self, a):
        """Whether a layer's input is the rows themselves, or a view of them all."""
        return a.numel() == self.x.numel() and a.untyped_storage().data_ptr() == self.memory


class _LinearHook:
    """Changes what goes back through a linear layer; its output is as before."""

    def __init__(self, layer, name, gamma, rule):
        self.layer, self.name, self.gamma, self.rule = layer, name, gamma, rule

    @cached_property
    def raised(self):
        """The layer with ``w + gamma w^+`` for w."""
        return twin(self.layer, lambda w: w + self.gamma * w.clamp(min=0), bias=True)

    @cached_property
    def maps(self):
        """The maps of the input rule."""
        return self.rule.maps(self.layer)

    def __call__(self, layer, args, kwargs, z):
        call = _CALL.get()
        a = args[0] if args else kwargs["input"]
        if self.rule and call.sees(a):
            options = {key: value for key, value in kwargs.items() if key != "input"}
            call.cuts.append(cut := _Cut(self.maps, a, (args[1:], options), z))
            return cut.leaf.clone()  # in-place layers may follow
        if self.gamma and z.requires_grad:
            self._check_sign(a, call)
            return _Gamma.apply(z, self.raised.forward(*args, **kwargs), self.gamma)
        return None

    def _check_sign(self, a, call):
        low = a.detach().amin().item()
        if low < 0:
            other = 'another input_rule ("zbox", "wsquare")' if call.sees(a) else "a ReLU"
            raise ValueError(
                f"The input of {label(self.name, self.layer)} goes down to {low:.3g}, but "
                f"gamma={self.gamma} is for inputs >= 0. Take {other} or gamma=0 there."
            )


class _Cut:
    """A call of a layer that sees the input; its output is a leaf for autograd."""

    def __init__(self, maps, a, options, z):
        self.maps, self.a, self.options = maps, a.detach(), options
        self.z = z.detach()
        self.leaf = self.z.detach().requires_grad_()

    def forward(self, layer, a):
        """Call another layer the way this one was called."""
        args, kwargs = self.options
        return layer.forward(a, *args, **kwargs)


class _Gamma(torch.autograd.Function):
    """The values of z; backwards, the gamma rule.

    `raised` is ``sum_j a_j (w_j + gamma w_j^+)`` and so on, z' where z > 0. Where z < 0,
    z' is ``(2 + gamma) z - raised``, since the parts w^+ and w^- of w sum to it.
    """

    @staticmethod
    def forward(ctx, z, raised, gamma):
        ctx.save_for_backward(z, raised)
        ctx.gamma = gamma
        return z.clone()  # in-place layers may follow

    @staticmethod
    @once_differentiable
    def backward(ctx, c):
        z, raised = ctx.saved_tensors
        tiny = torch.finfo(z.dtype).tiny
        # |z'| >= |z| but for rounding, so the bounds only avert 0 / 0 and noise.
        to_raised = z.clamp(min=0).div_(torch.maximum(raised, z).clamp_(min=tiny)).mul_(c)
        below = z.clamp(max=0).mul_(c)
        if not below.any():  # behind a ReLU always, which spares half of the products
            return None, to_raised, None
        lowered = (2 + ctx.gamma) * z - raised
        below.div_(torch.minimum(lowered, z).clamp_(max=-tiny))
        return (2 + ctx.gamma) * below, to_raised - below, None
