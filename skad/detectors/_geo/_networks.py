"""Networks that tell by which view an image is shown: feature maps, their mean, heads."""

from math import ceil

import numpy as np
import torch
from torch import nn

from skad.neural._feature_net import Scaling, make_module, output_of
from skad.relevance._modules import shared_copy
from skad.relevance._receptive_field import ReceptiveField, receptive_field

__all__ = ["VIEW_NETWORKS", "ViewNetwork", "make_view_network", "pointwise"]

_CELL = 8  # pixels of a map that the paper's networks average over
_SMALLEST_MAP = 6  # pixels a side that strides go down to
_WIDEST = 64  # channels of the small networks


class ViewNetwork(nn.Module):
    """A classifier of images by the mean of their feature maps.

    Parameters
    ----------
    layers : torch.nn.Module
        From images (n, C, H, W) to maps (n, D, u, v).
    row_shape : tuple of int
        (C, H, W).
    n_outputs : int
        Logits of all heads, side by side.
    scaling : Scaling or None, default=None
        The first step.
    cell : int or None, default=None
        Side of the cells that the maps are cut into, each with a mean of its own; None:
        one cell.
    task : ViewTask or None, default=None
        What the logits tell.

    Attributes
    ----------
    map_shape : tuple of int
        (D, u, v).
    field : ReceptiveField
        What an entry of the maps sees of an image; a regular grid, where it is unknown.

    Raises
    ------
    ValueError
        If the layers fail on such rows, or do not give maps (n, D, u, v).
    """

    def __init__(self, layers, row_shape, n_outputs, *, scaling=None, cell=None, task=None):
        super().__init__()
        self.scaling = Scaling() if scaling is None else scaling
        self.layers = layers
        self.task = task
        to_maps = nn.Sequential(self.scaling, layers)
        self.map_shape = _map_shape(to_maps, row_shape)
        n_features, *size = self.map_shape
        grid = [1, 1] if cell is None else [max(1, side // cell) for side in size]
        self.pool = nn.AdaptiveAvgPool2d(tuple(grid))
        self.heads = nn.Linear(n_features * grid[0] * grid[1], n_outputs)
        nn.init.zeros_(self.heads.bias)
        self.field = _field(to_maps, row_shape, size)

    def maps(self, x):
        """Return the feature maps, (n, D, u, v)."""
        return self.layers(self.scaling(x))

    def classify(self, maps):
        """Return the logits of maps, (n, n_outputs)."""
        return self.heads(self.pool(maps).flatten(1))

    def forward(self, x):
        """Return the logits of images, (n, n_outputs)."""
        return self.classify(self.maps(x))

    def cells(self):
        """Return the share of each place of a map in the mean of a cell: (cells, u * v)."""
        size = self.map_shape[1:]
        places = torch.eye(size[0] * size[1], dtype=torch.float64).view(-1, 1, *size)
        return self.pool(places).flatten(1).T


def make_view_network(network, row_shape, n_outputs, *, scaling=None, task=None):
    """Make a `ViewNetwork`.

    Parameters
    ----------
    network : {"auto", "wrn-10-4", "wrn-16-8"}, torch.nn.Module or callable
        What makes the feature maps; a callable makes a module from (C, H, W).
    row_shape : tuple of int
        (C, H, W).
    n_outputs : int
    scaling : Scaling or None, default=None
    task : ViewTask or None, default=None

    Raises
    ------
    ValueError
        If the network fails on such rows, or does not give maps (n, D, u, v).
    """
    cell = None
    if isinstance(network, str):
        layers = VIEW_NETWORKS[network](row_shape).float()
        cell = None if network == "auto" else _CELL
    else:
        layers = make_module(network, row_shape).requires_grad_(True)
    return ViewNetwork(layers, row_shape, n_outputs, scaling=scaling, cell=cell, task=task)


def _map_shape(layers, row_shape):
    # A copy, since modules of a user may keep things.
    maps = output_of(shared_copy(layers), row_shape)
    shape = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
    if len(shape) != 4 or shape[0] != 2:
        raise ValueError(
            "The network must give feature maps, (n, D, u, v), whose mean is classified; "
            f"for 2 rows of shape {row_shape} it gives {shape}."
        )
    return shape[1:]


def _field(layers, row_shape, map_size):
    size = row_shape[1:]
    try:
        field = receptive_field(layers, row_shape)
        start, jump, seen = field.start, field.jump, field.size
    except ValueError:
        jump = tuple(np.divide(size, map_size).tolist())
        start, seen = tuple((j - 1) / 2 for j in jump), size
    reach = [(min(n, side) - 1) / 2 for n, side in zip(seen, size, strict=True)]
    low, high = (
        tuple(s + sign * r for s, r in zip(start, reach, strict=True)) for sign in (-1, 1)
    )
    return ReceptiveField(low, high, jump)


def _auto(row_shape):
    """Make a small network: some 28,000 weights, maps of 6 to 11 pixels a side.

    Convolutions at strides of 2 down to that size, one more, and one by places alone,
    which widens what a place sees no further.
    """
    channels, *size = row_shape
    layers, width = [], 16
    kernel = 5 if min(size) >= 2 * _SMALLEST_MAP else 3
    while not layers or max(size) >= 2 * _SMALLEST_MAP:
        stride = tuple(2 if side >= 2 * _SMALLEST_MAP else 1 for side in size)
        layers += _block(channels, width, size, kernel=kernel, stride=stride)
        size = [ceil(side / s) for side, s in zip(size, stride, strict=True)]
        channels, kernel, width = width, 3, min(2 * width, _WIDEST)
    layers += _block(channels, _WIDEST, size)
    return nn.Sequential(*layers, *_block(_WIDEST, _WIDEST, (1, 1)))


def pointwise(row_shape):
    """Make a network that looks at each entry of a table alone, for it has no geometry."""
    ones = (1, 1)
    return nn.Sequential(*_block(row_shape[0], 32, ones), *_block(32, _WIDEST, ones))


def _block(channels, width, size, *, kernel=3, stride=1):
    """Convolve, with no more than a pixel along an axis of one."""
    kernels = tuple(kernel if side > 1 else 1 for side in size)
    padding = tuple(k // 2 for k in kernels)
    conv = nn.Conv2d(channels, width, kernels, stride=stride, padding=padding, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


class _WideBlock(nn.Module):
    """A block of a wide residual network, activated before each convolution."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = _conv3(channels, width, stride)
        self.conv2 = _conv3(width, width, 1)
        self.shortcut = None
        if channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
            nn.init.kaiming_normal_(self.shortcut.weight)

    def forward(self, x):
        h = torch.relu(self.norm1(x))
        y = self.conv2(torch.relu(self.norm2(self.conv1(h))))
        return y + (x if self.shortcut is None else self.shortcut(h))


def _conv3(channels, width, stride):
    # At stride 2 the paper's code pads at the bottom and on the right only.
    padding = nn.ZeroPad2d((0, 1, 0, 1) if stride == 2 else 1)
    conv = nn.Conv2d(channels, width, 3, stride=stride, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return nn.Sequential(padding, conv)


def _wide_resnet(depth, factor):
    """Make what makes a wide residual network (Zagoruyko and Komodakis, 2016)."""

    def make(row_shape):
        channels, widths = 16, [16 * factor, 32 * factor, 64 * factor]
        layers = [_conv3(row_shape[0], channels, 1)]
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            for i in range((depth - 4) // 6):
                layers.append(_WideBlock(channels, width, stride if i == 0 else 1))
                channels = width
        return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())

    return make


VIEW_NETWORKS = {
    "auto": _auto,
    "wrn-10-4": _wide_resnet(10, 4),
    "wrn-16-8": _wide_resnet(16, 8),
}
