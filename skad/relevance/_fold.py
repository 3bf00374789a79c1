"""Batch norms become part of the linear layers before them."""

import torch
from torch import nn

from skad.relevance._modules import BATCH_NORMS, LINEAR, close, label

__all__ = ["fold_batch_norms"]


def fold_batch_norms(module, row):
    """Fold each batch norm into the linear layer whose output it gets, in place.

    With ``s = weight / sqrt(running_var + eps)`` the layer's w becomes ``w s``, its b
    ``(b - running_mean) s + bias``, and the norm passes its input on. Pairs are found by
    the data flow of one forward.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode. A copy: its layers are changed.
    row : tensor of shape (1, ...)

    Raises
    ------
    TypeError
        Where a norm gets something else, a layer feeds two norms, or the output changes.
    """
    if not any(isinstance(child, BATCH_NORMS) for child in module.modules()):
        return
    trace = _Trace(module)
    before = trace.run(row.clone())
    for layer, norm in trace.pairs.items():
        _fold(layer, norm)
    for norm in trace.pairs.values():
        norm.forward = _identity
    if not close(module(row.clone()), before):
        folded = ", ".join(trace.label(norm) for norm in trace.pairs.values())
        raise TypeError(
            f"Folding {folded} into the layers before changes the output: such a layer "
            "must feed nothing but its batch norm."
        )


class _Trace:
    """Which linear layer each batch norm gets its input from."""

    def __init__(self, module):
        self.module = module
        self.names = {child: name for name, child in module.named_modules()}
        self.outputs, self.pairs = {}, {}

    def label(self, module):
        return label(self.names[module], module)

    def run(self, row):
        handles = []
        for child in self.names:
            if isinstance(child, LINEAR):
                handles.append(child.register_forward_hook(self._after_linear))
            if isinstance(child, BATCH_NORMS):
                handles.append(child.register_forward_pre_hook(self._before_norm))
        try:
            return self.module(row)
        finally:
            for handle in handles:
                handle.remove()

    def _after_linear(self, layer, args, output):
        # The version tells whether it was changed in place since.
        self.outputs[id(output)] = layer, output, output._version

    def _before_norm(self, norm, args):
        layer, output, version = self.outputs.get(id(args[0]), (None, args[0], None))
        if layer is None or output._version != version or not _same_channels(layer, output):
            raise TypeError(
                f"{self.label(norm)} does not come directly after a linear layer, so it "
                f"cannot be folded into one. The last of these was {self._last()}."
            )
        if self.pairs.setdefault(layer, norm) is not norm:
            raise TypeError(
                f"{self.label(layer)} feeds both {self.label(self.pairs[layer])} and "
                f"{self.label(norm)}, so neither can be folded into it."
            )

    def _last(self):
        layers = [layer for layer, *_ in self.outputs.values()]
        return self.label(layers[-1]) if layers else "none"


def _same_channels(layer, output):
    """Whether a batch norm of the output has a channel for each of the layer's."""
    return not isinstance(layer, nn.Linear) or output.ndim == 2


def _fold(layer, norm):
    scale = torch.rsqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    layer.weight = nn.Parameter(_scaled(layer, scale), False)
    layer.bias = nn.Parameter(shift, False)


def _scaled(layer, scale):
    """Weights times the scale of their output channel."""
    weight, rest = layer.weight, [1] * (layer.weight.ndim - 2)
    if not getattr(layer, "transposed", False):
        return weight * scale.view(-1, 1, *rest)
    grouped = weight.unflatten(0, (layer.groups, -1))  # weight: (in, out / groups, ...)
    return (grouped * scale.view(layer.groups, 1, -1, *rest)).flatten(0, 1)


def _identity(x):
    return x
