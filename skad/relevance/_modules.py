"""What a network may be made of, so that relevance can be propagated through it."""

import copy

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = [
    "BATCH_NORMS",
    "LINEAR",
    "assert_homogeneous",
    "check_supported",
    "close",
    "label",
    "linear_layers",
    "shared_copy",
    "twin",
]

_DIMENSIONS = (1, 2, 3)
LINEAR = (
    nn.Linear,
    *(getattr(nn, f"Conv{d}d") for d in _DIMENSIONS),
    *(getattr(nn, f"ConvTranspose{d}d") for d in _DIMENSIONS),
)
BATCH_NORMS = tuple(getattr(nn, f"BatchNorm{d}d") for d in _DIMENSIONS)
_LEAKY = (nn.LeakyReLU, nn.PReLU)
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Positively homogeneous of degree 1, so that the gradient is c.
_POOLS = ("MaxPool", "AvgPool", "LPPool", "AdaptiveMaxPool", "AdaptiveAvgPool")
_PADS = ("ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad")
_HOMOGENEOUS = (
    *(getattr(nn, f"{kind}{d}d") for kind in _POOLS + _PADS for d in _DIMENSIONS),
    *(nn.ReLU, nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
)
_SUPPORTED = (*LINEAR, *BATCH_NORMS, *_HOMOGENEOUS, *_LEAKY, *_CONTAINERS)


def label(name, module):
    """Name a module for a message."""
    where = repr(name) if name else "the module itself"
    return f"{where} ({type(module).__qualname__})"


def linear_layers(module):
    """Give the linear layers by name."""
    named = module.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, LINEAR)}


def check_supported(module, leaky):
    """Raise where relevance has no way through; `leaky` allows negative activations."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}.")
    for name, child in module.named_modules():
        if child.training:
            raise ValueError(
                f"{label(name, child)} is in training mode. Call module.eval() before."
            )
        problem = _problem(child, leaky)
        if problem:
            raise TypeError(f"{label(name, child)} {problem}")


def _problem(module, leaky):
    """Say what is wrong with a module, not looking at its children."""
    kind = _torch_class(module)
    if is_parametrized(module):
        return "is parametrised. Bake that in first, with remove_parametrizations."
    if kind not in _SUPPORTED:
        return f"is not supported. Supported are {_listed()}, and classes made of these."
    if kind in _LEAKY and not leaky:
        return "lets negative activations through, which needs gamma=0 in all layers."
    if kind in _CONTAINERS and next(module.parameters(recurse=False), None) is not None:
        return "has parameters of its own. Put them into layers such as nn.Linear."
    if kind in (*LINEAR, *BATCH_NORMS) and type(module).forward is not kind.forward:
        return f"overrides {kind.__name__}.forward, so its weights may mean another map."
    if kind in LINEAR and not isinstance(module.weight, nn.Parameter):
        return "computes its weight in a hook. Remove weight_norm or pruning first."
    if kind in BATCH_NORMS and module.running_mean is None:
        return "has no running statistics, so a row's output depends on other rows."
    return None


def _listed():
    """Name what is supported, "2d" standing for 1d and 3d as well."""
    names = [kind.__name__ for kind in _SUPPORTED if kind is not nn.Module]
    return ", ".join(name for name in names if not name.endswith(("1d", "3d")))


def _torch_class(module):
    """Give the class of torch that a module's class is or derives from."""
    classes = type(module).__mro__
    return next(c for c in classes if c.__module__.partition(".")[0] == "torch")


def shared_copy(module):
    """Copy the structure of a module; its tensors share memory and need no gradient."""
    memo = {id(p): nn.Parameter(_detached(p), False) for p in module.parameters()}
    memo |= {id(b): _detached(b) for b in module.buffers()}
    return copy.deepcopy(module, memo)


def _detached(tensor):
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def twin(layer, change, *, bias=False):
    """Copy a linear layer with changed weights, and the bias likewise or without one.

    Call its ``forward``: it shares the hooks of the layer.
    """
    changed = copy.copy(layer)
    changed._parameters = {**layer._parameters}  # else it would be the layer's own
    changed.weight = nn.Parameter(change(layer.weight), False)
    keeps = bias and layer.bias is not None
    changed.bias = nn.Parameter(change(layer.bias), False) if keeps else None
    return changed


def assert_homogeneous(module, row):
    """Raise unless twice the input and twice the biases make twice the output.

    That finds what hides in a ``forward``: functional sigmoids, norms, added constants.
    """
    output = module(row.clone())
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"module must return a tensor, not {type(output).__name__}.")
    biased = [layer for layer in linear_layers(module).values() if layer.bias is not None]
    biases = [layer.bias for layer in biased]
    for layer in biased:
        layer.bias = nn.Parameter(2 * layer.bias, False)
    doubled = module(2 * row)
    for layer, bias in zip(biased, biases, strict=True):
        layer.bias = bias
    if not close(doubled, 2 * output):
        raise TypeError(
            f"{type(module).__qualname__} is not made of its layers alone: twice the input "
            "and twice the biases do not give twice the output. Its forward may call a "
            "function such as torch.sigmoid or F.layer_norm, or add a constant."
        )


def close(a, b):
    """Whether two outputs are equal up to rounding."""
    if not torch.isfinite(b).all():  # nothing can be seen from it
        return True
    tolerance = torch.finfo(b.dtype).eps ** 0.5 * b.abs().amax()
    return bool(((a - b).abs() <= tolerance).all())
