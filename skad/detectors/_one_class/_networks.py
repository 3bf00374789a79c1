"""Networks that map a row to a point: near the centre for normal rows."""

from itertools import pairwise
from math import ceil, log2, prod
from numbers import Integral

from torch import nn

from skad._sklearn import Interval, StrOptions
from skad.neural._feature_net import FeatureNet, Scaling, make_module, output_of

__all__ = ["NETWORK_CONSTRAINTS", "make_network", "n_outputs_of"]

NETWORK_CONSTRAINTS = {
    "network": [StrOptions({"auto"}), callable],
    "n_outputs": [Interval(Integral, 1, None, closed="left")],
}
_SMALLEST_MAP = 7  # pixels a side that pooling goes down to, as LeNet's on MNIST
_CHANNELS = (16, 32, 64, 64)  # of the first, second, ... convolution; the last repeats
_HIDDEN = (128, 64)  # of a table's network
_CORNER = 3.0  # standard deviations of a column below its mean, where 0 is


def make_network(network, row_shape, n_outputs, *, bias):
    """Return a `FeatureNet` from rows to points.

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
            # Such a network maps 0 to 0, which must not be where the rows are.
            return FeatureNet(layers, Scaling(mean=-_CORNER))
    else:
        layers = make_module(network, row_shape).requires_grad_(True)
    return layers if isinstance(layers, FeatureNet) else FeatureNet(layers)


def n_outputs_of(net, row_shape):
    """Count the features that a network gives; raise if it can't take the rows."""
    return output_of(net, row_shape).shape[1]


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
