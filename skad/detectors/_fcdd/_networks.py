"""Fully convolutional networks: the FCDD paper's, small ones, pretrained trunks."""

from math import prod

import numpy as np
import torch
from torch import nn

__all__ = [
    "MAP_NETWORKS",
    "Frozen",
    "auto_network",
    "find_map_shape",
    "paper_network",
    "pointwise_layers",
    "trunk_steps",
]

_EPSILON = 1e-4  # of batch norm, in the paper's code
_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512)
# The whole of what is taken of a backbone by default, and how much of that is frozen:
# VGG11-BN's are the paper's.
TRUNKS = {"vgg11_bn": (21, 15), "squeezenet1_1": (8, 8), "resnet18": (6, 6)}
_WHOLE_BLOCKS = 3  # of VGG's five, where the paper says nothing


def _norm(channels):
    return nn.BatchNorm2d(channels, eps=_EPSILON)


def _paper28(channels):
    return [
        nn.Conv2d(channels, 128, 5, padding=2),
        *(_norm(128), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(128, 128, 5, padding=2), nn.MaxPool2d(2)),
        nn.Conv2d(128, 1, 1),
    ]


def _paper32(channels):
    return [
        nn.Conv2d(channels, 128, 3, padding=1),
        *(_norm(128), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(128, 256, 3, padding=1), _norm(256), nn.LeakyReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), _norm(256), nn.LeakyReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(256, 128, 3, padding=1),
        nn.Conv2d(128, 1, 1),
    ]


def _paper224(channels):
    layers = []
    for step in _VGG11:
        if step == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            conv = nn.Conv2d(channels, step, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(step), nn.ReLU()]
            channels = step
    return [*layers, nn.Conv2d(channels, 1, 1)]


MAP_NETWORKS = {"paper28": _paper28, "paper32": _paper32, "paper224": _paper224}


def paper_network(name, channels):
    """Give one of the FCDD paper's networks (appendix D), by the size of its images."""
    return nn.Sequential(*MAP_NETWORKS[name](channels))


def auto_network(row_shape):
    """Give a small network for images of a size: a map 1, 2, 4 or 8 times smaller.

    From 16 pixels a side on it has the layout of the paper's for 28 pixels, with a quarter
    of the widths; from 64 on one more pooling.

    Parameters
    ----------
    row_shape : tuple of int
        (C, H, W).
    """
    channels, height, width = row_shape
    shorter = min(height, width)
    if shorter < 8:
        return nn.Sequential(*_tiny(channels, height, width))
    if shorter < 16:
        return nn.Sequential(
            *_block(channels, 16, 3),
            nn.MaxPool2d(2),
            *_block(16, 32, 3),
            nn.Conv2d(32, 1, 1),
        )
    widths = (32, 32) if shorter < 64 else (16, 32, 64)
    layers = []
    for a, b, kernel in zip((channels, *widths), widths, (5, 5, 3), strict=False):
        layers += [*_block(a, b, kernel), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))


def _tiny(channels, height, width):
    """Look at three pixels a side; at one where there are fewer."""
    kernel = tuple(3 if side >= 3 else 1 for side in (height, width))
    if prod(kernel) > 1:
        first = nn.Conv2d(channels, 32, kernel, padding=tuple(k // 2 for k in kernel))
        return [first, _norm(32), nn.LeakyReLU(), nn.Conv2d(32, 1, 1)]
    return [*pointwise_layers(channels)]


def pointwise_layers(channels=1, width=32):
    """Give layers that look at each entry alone, for tables."""
    yield from (nn.Conv2d(channels, width, 1), nn.LeakyReLU())
    yield from (nn.Conv2d(width, width, 1), nn.LeakyReLU())
    yield nn.Conv2d(width, 1, 1)


def _block(channels, width, kernel):
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
    return conv, _norm(width), nn.LeakyReLU()


def map_head(kind, channels):
    """Give what makes a map of a trunk's features.

    Parameters
    ----------
    kind : {"mlp", "linear"} or callable
        A hidden layer of 64 for each place, or none, as in the paper; a callable makes a
        module from the number of channels.
    channels : int
    """
    if callable(kind):
        return kind(channels)
    if kind == "linear":
        return nn.Conv2d(channels, 1, 1)
    return nn.Sequential(*_block(channels, 64, 1), nn.Conv2d(64, 1, 1))


def trunk_steps(backbone, name, *, n_layers, freeze, head):
    """Give the steps of a network on the first layers of a backbone.

    Parameters
    ----------
    backbone : FeatureNet
        Of `load_backbone`.
    name : str
    n_layers : int or None
        How many layers; None is what the name stands for in `TRUNKS`, else three blocks.
    freeze : bool, int or "auto"
        How many of them are not trained; "auto" is what the paper froze, or all.
    head : {"mlp", "linear"} or callable
        As for `map_head`.

    Returns
    -------
    steps : dict of str to torch.nn.Module
        "scaling", "frozen", "trained", "head".

    Raises
    ------
    ValueError
        For more layers than there are.
    """
    layers, n_frozen = _first_layers(backbone, name, n_layers)
    if isinstance(freeze, bool | np.bool_):
        n_frozen = len(layers) if freeze else 0
    elif freeze != "auto":
        n_frozen = freeze
    if n_frozen > len(layers):
        raise ValueError(f"freeze={freeze}, but {name} is cut to {len(layers)} layers.")
    with torch.no_grad():
        rows = torch.zeros((1, 3, 64, 64), dtype=torch.float32)
        n_channels = nn.Sequential(*layers).eval()(rows).shape[1]
    return {
        "scaling": backbone.scaling,
        "frozen": Frozen(*layers[:n_frozen]),
        "trained": nn.Sequential(*layers[n_frozen:]).requires_grad_(True),
        "head": map_head(head, n_channels),
    }


def _first_layers(backbone, name, n_layers):
    """Give the layers, and how many of them the paper froze; all, where it says nothing."""
    named = dict(backbone.layers.named_children())
    named.pop("pool", None)
    features = named.pop("features", None)
    layers = list(features.children() if features is not None else named.values())
    if n_layers is not None:
        if n_layers > len(layers):
            raise ValueError(f"{name} has {len(layers)} layers; got n_layers={n_layers}.")
        n_frozen = TRUNKS[name][1] if name == "vgg11_bn" else n_layers
        return layers[:n_layers], min(n_frozen, n_layers)
    if name in TRUNKS:
        taken, n_frozen = TRUNKS[name]
        return layers[:taken], n_frozen
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    return layers[: pools[_WHOLE_BLOCKS - 1]], pools[_WHOLE_BLOCKS - 1]


def find_map_shape(net, row_shape):
    """Give (u, v), the size of a network's maps; raise unless they have one channel."""
    rows = torch.zeros((2, *row_shape), dtype=torch.float32)
    try:
        with torch.no_grad():
            shape = tuple(net.float().eval()(rows).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"The network fails on rows of shape {row_shape}: {error}"
        ) from error
    if len(shape) != 4 or shape[:2] != (2, 1):
        raise ValueError(
            "The network must give maps of one channel, (n, 1, u, v); for 2 rows of shape "
            f"{row_shape} it gives {shape}."
        )
    return shape[2:]


class Frozen(nn.Sequential):
    """Layers that are not trained: neither weights nor the statistics of batch norms."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode=True):
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x):
        """Apply the layers, without a gradient."""
        with torch.no_grad():  # on a CPU twice as fast with the channels last
            return super().forward(x.contiguous(memory_format=torch.channels_last))
