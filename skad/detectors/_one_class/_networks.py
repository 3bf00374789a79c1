"""Networks that map a row to a point: near the centre for normal rows."""

from itertools import pairwise
from math import ceil, log2, prod

import torch
from torch import nn

from skad.neural._features import make_module
from skad.neural._scaling import FeatureNet, Scaling

__all__ = ["make_network", "n_outputs_of"]

_SMALLEST_MAP = 7  # pixels a side that pooling goes down to, as LeNet's on MNIST
_CHANNELS = (16, 32, 64, 64)  # of the first, second, ... convolution; the last repeats
_HIDDEN = (128, 64)  # of a table's network
_CORNER = 3.0  # standard deviations of a column below its mean, where 0 is


def make_network(network, row_shape, n_outputs, *, bias):
    """Give a `FeatureNet` from rows to points.

    Parameters
    ----------
    network : "auto", torch.nn.Module or callable
        "auto": convolutions 5 x 5 with ReLU and max-pooling for images, and a linear
        layer; two hidden layers for tables. A callable makes a module from the shape of a
        row.
    row_shape : tuple of int
    n_outputs : int
    bias : bool
        Whether the layers of "auto" have biases, and its convolutions batch norm.
    """
    if isinstance(network, str):
        layers = nn.Sequential(*_layers(row_shape, n_outputs, bias))
        if len(row_shape) == 1 and not bias:
            # Such a network keeps 0 at 0, which must not be where the rows are.
            return FeatureNet(layers, Scaling(mean=-_CORNER))
    else:
        layers = make_module(network, row_shape).requires_grad_(True)
    net = layers if isinstance(layers, FeatureNet) else FeatureNet(layers)
    return net


def n_outputs_of(net, row_shape):
    """Count the features that a network gives; raise if it can't take the rows."""
    try:
        with torch.no_grad():
            rows = torch.zeros((2, *row_shape), dtype=torch.float32)
            return net.float().eval()(rows).shape[1]
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"The network fails on rows of shape {row_shape}: {error}"
        ) from error


def _layers(row_shape, n_outputs, bias):
    if len(row_shape) == 1:
        sizes = (*row_shape, *_HIDDEN)
        for a, b in pairwise(sizes):
            yield from (nn.Linear(a, b, bias=bias), nn.ReLU())
        yield nn.Linear(sizes[-1], n_outputs, bias=bias)
        return
    channels, *size = row_shape
    for i in range(max(1, round(log2(max(min(size), 1) / _SMALLEST_MAP)))):
        width = _CHANNELS[min(i, len(_CHANNELS) - 1)]
        yield nn.Conv2d(channels, width, 5, padding=2, bias=bias)
        if bias:
            yield nn.BatchNorm2d(width)
        yield from (nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))
        channels, size = width, [ceil(side / 2) for side in size]
    yield nn.Flatten()
    yield nn.Linear(channels * prod(size), n_outputs, bias=bias)
