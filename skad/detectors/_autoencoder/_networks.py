"""Networks that squeeze a row into a code and unfold it again."""

from itertools import pairwise
from math import ceil, log2, prod

import torch
from torch import nn
from torch.nn.functional import linear, pad

from skad.neural._blocks import ALIGNMENT

__all__ = [
    "AlignedLinear",
    "Bounded",
    "Constant",
    "EncoderDecoder",
    "convolutional",
    "dense",
]

_SMALLEST_MAP = 7  # pixels a side that pooling goes down to, as LeNet's on MNIST
_CHANNELS = (16, 32, 64, 64)  # of the first, second, ... convolution; the last repeats


class EncoderDecoder(nn.Module):
    """A network with its two halves by name."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x):
        """Reconstruct a batch."""
        return self.decoder(self.encoder(x))


class AlignedLinear(nn.Linear):
    """A linear layer that gives a row the same bits wherever it stands in the batch."""

    def forward(self, x):
        """Apply the layer; to aligned rows, where it is not for training."""
        if self.training or not (short := -x.shape[-1] % ALIGNMENT):
            return linear(x, self.weight, self.bias)
        return linear(pad(x, (0, short)), pad(self.weight, (0, short)), self.bias)


class Bounded(nn.Module):
    """Squash into the range of the data: ``low + (high - low) sigmoid(x)``."""

    def __init__(self, low, high):
        super().__init__()
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float32))

    def forward(self, x):
        """Squash a batch."""
        return torch.lerp(self.low, self.high, torch.sigmoid(x))


class Constant(nn.Module):
    """Reconstruct the values that never varied in training as they were."""

    def __init__(self, varies, values):
        super().__init__()
        varies, values = torch.as_tensor(varies), torch.as_tensor(values)
        self.register_buffer("factor", varies.float())
        self.register_buffer("constant", torch.where(varies, 0, values).float())

    def forward(self, x):
        """Replace what never varied."""
        return torch.addcmul(self.constant, self.factor, x)


def dense(n_features, code_size, hidden):
    """Give encoder and decoder of linear layers with ReLU, and tanh at the code.

    A bounded code keeps the reconstruction near the data: what lies far outside can't be
    reconstructed by extrapolation.

    Parameters
    ----------
    n_features, code_size : int
    hidden : tuple of int
        Widths between input and code; the decoder has them in reverse.
    """
    sizes = (n_features, *hidden, code_size)
    encoder = nn.Sequential(*_linear(sizes), nn.Tanh())
    return encoder, nn.Sequential(*_linear(sizes[::-1]))


def convolutional(row_shape, code_size, hidden):
    """Give encoder and decoder of LeNet's type for images of any size.

    Convolutions 5 x 5 with ReLU and max-pooling down to maps of about 7 x 7 (two of them
    for 28 x 28, as in the Clever Hans paper), then linear layers to the code; the decoder
    mirrors them with upsampling and transposed convolutions.

    Parameters
    ----------
    row_shape : tuple of int
        (C, H, W).
    code_size : int
    hidden : tuple of int
        Widths of the linear layers between the last maps and the code.
    """
    n_channels, *size = row_shape
    channels = [n_channels]
    sizes = [tuple(size)]
    for i in range(_n_pools(row_shape)):
        channels.append(_CHANNELS[min(i, len(_CHANNELS) - 1)])
        sizes.append(tuple(ceil(side / 2) for side in sizes[-1]))
    flat = (channels[-1], *sizes[-1])
    inner, outer = dense(prod(flat), code_size, hidden)
    down = [layer for a, b in pairwise(channels) for layer in _down(a, b)]
    up = []
    for (b, a), to in zip(pairwise(channels[::-1]), sizes[-2::-1], strict=True):
        up += [nn.ReLU(), nn.Upsample(size=to), nn.ConvTranspose2d(b, a, 5, padding=2)]
    encoder = nn.Sequential(*down, nn.Flatten(), *inner)
    return encoder, nn.Sequential(*outer, nn.Unflatten(1, flat), *up)


def _n_pools(row_shape):
    """Count the poolings that bring an image's smaller side near 7 pixels; at least one."""
    return max(1, round(log2(min(row_shape[1:]) / _SMALLEST_MAP)))


def _down(a, b):
    pool = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), pool


def _linear(sizes):
    layers = []
    for a, b in pairwise(sizes):
        layers += [AlignedLinear(a, b), nn.ReLU()]
    return layers[:-1]
