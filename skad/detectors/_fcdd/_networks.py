"""Fully convolutional networks: the FCDD paper's, small ones, heads of trunks."""

from math import prod

from torch import nn

__all__ = [
    "MAP_NETWORKS",
    "auto_network",
    "map_head",
    "paper_network",
    "pointwise_layers",
]

_EPSILON = 1e-4  # of batch norm, in the paper's code
_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512)


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
    """Return one of the FCDD paper's networks (appendix D), by the size of its images."""
    return nn.Sequential(*MAP_NETWORKS[name](channels))


def auto_network(row_shape):
    """Return a small network for images of a size: a map 1, 2, 4 or 8 times smaller.

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
    """Return layers that see three pixels a side; one where there are fewer."""
    kernel = tuple(3 if side >= 3 else 1 for side in (height, width))
    if prod(kernel) > 1:
        first = nn.Conv2d(channels, 32, kernel, padding=tuple(k // 2 for k in kernel))
        return [first, _norm(32), nn.LeakyReLU(), nn.Conv2d(32, 1, 1)]
    return [*pointwise_layers(channels)]


def pointwise_layers(channels=1, width=32):
    """Return layers that look at each entry alone, for tables."""
    yield from (nn.Conv2d(channels, width, 1), nn.LeakyReLU())
    yield from (nn.Conv2d(width, width, 1), nn.LeakyReLU())
    yield nn.Conv2d(width, 1, 1)


def _block(channels, width, kernel):
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
    return conv, _norm(width), nn.LeakyReLU()


def map_head(kind, channels):
    """Return what makes a map of a trunk's features.

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
