"""The network of FCDD: from images as they come to maps, and where the maps look."""

from collections import OrderedDict
from math import ceil
from numbers import Integral

import torch
from torch import nn

from skad.detectors._fcdd._networks import (
    auto_network,
    map_head,
    paper_network,
    pointwise_layers,
)
from skad.detectors._fcdd._trunk import cut_trunk
from skad.neural._backbones import Trunk
from skad.neural._feature_net import make_module, output_of
from skad.relevance._receptive_field import ReceptiveField, receptive_field
from skad.relevance._upsampling import GaussianUpsampling, check_fits, default_sigma

__all__ = ["MapNetwork", "map_steps"]


class MapNetwork(nn.Sequential):
    """Steps from rows (n, C, H, W) to deviations (n, 1, u, v), and their geometry.

    Attributes
    ----------
    row_shape : tuple of three ints
        (C, H, W).
    map_shape : tuple of two ints
        (u, v).
    receptive_field : ReceptiveField
        What an entry of the map sees, in pixels of a row.
    """

    row_shape: tuple[int, ...]
    map_shape: tuple[int, int]
    receptive_field: ReceptiveField

    @classmethod
    def of(cls, steps, row_shape):
        """Make one of modules by name.

        Raises
        ------
        ValueError
            If they give no maps of one channel, what an entry sees is not bounded, or is
            more than a whole row.
        """
        net = cls(OrderedDict(steps))
        net.row_shape = row_shape
        net.map_shape = find_map_shape(net, row_shape)
        net.receptive_field = receptive_field(net, row_shape)
        check_fits(net.receptive_field, row_shape[1:])
        return net

    def sigmas(self, sigma):
        """Return the standard deviation of the Gaussians by axis; None is the default."""
        if sigma is not None:
            return (float(sigma),) * 2
        field = self.receptive_field
        return tuple(map(default_sigma, field.size, field.jump))

    def upsampling(self, sigma, normalize):
        """Return what brings maps to the size of a row, as `GaussianUpsampling` says."""
        return GaussianUpsampling(
            self.receptive_field,
            self.row_shape[1:],
            self.map_shape,
            sigma=sigma,
            normalize=normalize,
        )


def find_map_shape(net, row_shape):
    """Return (u, v), the size of a network's maps; raise unless they have one channel."""
    shape = tuple(output_of(net, row_shape).shape)
    if len(shape) != 4 or shape[:2] != (2, 1):
        raise ValueError(
            "The network must give maps of one channel, (n, 1, u, v); for 2 rows of shape "
            f"{row_shape} it gives {shape}."
        )
    return shape[2:]


def map_steps(network, resize, data):
    """Return the steps of a network behind its normalisation: modules by name.

    Parameters
    ----------
    network, resize : object
        Parameters of `FCDD`.
    data : TrainingData
        With the shape of a row, and whether rows are images.
    """
    channels, *own = data.row_shape
    if resize is None:
        return _layers(network, data.row_shape, data.row_shape, data.is_image)
    size = _checked_size(resize)
    # A pixel on each side of what an entry sees is that of the resizing.
    fits = [max(1, n - 2 * ceil(max(1, n / m))) for n, m in zip(size, own, strict=True)]
    seen, to_fit = (channels, *size), (channels, *fits)
    return {
        "resize": nn.Upsample(size=size, mode="bilinear"),
        **_layers(network, seen, to_fit, data.is_image),
    }


def _checked_size(resize):
    size = (resize,) * 2 if isinstance(resize, Integral) else tuple(resize)
    if len(size) != 2 or not all(isinstance(n, Integral) and n > 0 for n in size):
        raise ValueError(
            f"resize must be (H, W), positive integers, or one for both; got {resize}."
        )
    return size


def _layers(network, seen, to_fit, is_image):
    """Return the layers for rows of the shape `seen`, whose field lies in `to_fit`."""
    if isinstance(network, Trunk):
        return _on_trunk(network)
    if not isinstance(network, str):
        return {"layers": make_module(network, seen)}
    if network != "auto":
        return {"layers": paper_network(network, seen[0])}
    if is_image:
        return {"layers": auto_network(to_fit)}
    return {"layers": nn.Sequential(*pointwise_layers())}


def _on_trunk(trunk):
    steps = cut_trunk(trunk)
    with torch.no_grad():
        rows = torch.zeros((1, 3, 64, 64), dtype=torch.float32)
        features = nn.Sequential(steps["frozen"], steps["trained"]).eval()(rows)
    return {**steps, "head": map_head(trunk.head, features.shape[1])}
