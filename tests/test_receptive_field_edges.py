"""Edges of receptive fields and upsampling, by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from skad.relevance._receptive_field import ReceptiveField, receptive_field
from skad.relevance._upsampling import GaussianUpsampling, check_fits, gaussian_matrix


class Function(nn.Module):
    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.function(self, x)


class Inherited(nn.Conv2d):
    """A convolution as it is."""


class Norm(nn.BatchNorm2d):
    """A layer whose forward cannot be traced."""


class Overridden(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (2, 0, 1, 0)), self.weight, self.bias)


@pytest.mark.parametrize(("cls", "low"), [(Inherited, (0, 0)), (Overridden, (-1, -2))])
def test_subclasses_of_layers(cls, low):
    net = nn.Sequential(Norm(1), cls(1, 1, 3))
    field = receptive_field(net, input_shape=(1, 9, 9))
    assert (field.low, field.size) == (low, (3, 3))


def function(forward):
    return Function(lambda m, x: forward(x))


@pytest.mark.parametrize(
    ("step", "low", "high", "jump"),
    [
        # Output i sees input floor(2 i / 3).
        (nn.Upsample(scale_factor=1.5), (-1, -1), (0, 0), (2 / 3, 2 / 3)),
        (function(lambda x: F.pad(x, (1, 2, 3, 0))), (-3, -1), (-3, -1), (1, 1)),
        # Outputs 0 and 1 lie on the first and the last of 5 inputs.
        (
            nn.Upsample(size=2, mode="bilinear", align_corners=True),
            *((-1, -1), (1, 1), (4, 4)),
        ),
        # Output i lies at i / 2 - 1 / 4.
        (
            function(lambda x: F.interpolate(x, None, 2, "bilinear", antialias=True)),
            *((-5 / 4, -5 / 4), (3 / 4, 3 / 4), (1 / 2, 1 / 2)),
        ),
        (
            nn.Upsample(scale_factor=2, mode="bicubic"),
            *((-9 / 4, -9 / 4), (7 / 4, 7 / 4), (1 / 2, 1 / 2)),
        ),
        (function(lambda x: torch.cat([x, x], -3)), (0, 0), (0, 0), (1, 1)),
    ],
    ids=["1.5", "pad", "aligned", "antialias", "bicubic", "cat"],
)
def test_fields_by_hand(step, low, high, jump):
    field = receptive_field(step, input_shape=(1, 5, 5))
    assert [*field.low, *field.high, *field.jump] == pytest.approx([*low, *high, *jump])


PIXEL_BY_PIXEL = {
    "ndim": lambda m, x: x * x.ndim,
    "device": lambda m, x: x.to(x.device),
    "size": lambda m, x: x / x.size(1),
    "dim": lambda m, x: x + x.dim(),
    "tensors": lambda m, x: torch.cat(tensors=[x, x], dim=1),
    "bias": lambda m, x: F.conv2d(x, m.one.weight, m.one.bias * 2),
    # Only functions and methods with such a name change what they get.
    "unused_": lambda m, x: (m.three_(x), 2 * x)[1],
}


@pytest.mark.parametrize("forward", PIXEL_BY_PIXEL.values(), ids=PIXEL_BY_PIXEL)
def test_forwards_that_see_one_pixel(forward):
    layers = {"one": nn.Conv2d(1, 1, 1), "three_": nn.Conv2d(1, 1, 3)}
    field = receptive_field(Function(forward, **layers), input_shape=(1, 5, 5))
    assert (field.low, field.high, field.jump) == ((0, 0), (0, 0), (1, 1))


@pytest.mark.parametrize("dim", [(), (0,), (3,)])
def test_images_joined_otherwise_than_by_channels(dim):
    with pytest.raises(ValueError, match="otherwise than by their channels"):
        receptive_field(function(lambda x: torch.cat([x, x], *dim)))


def test_a_computed_weight_needs_shapes():
    module = Function(
        lambda m, x: F.conv2d(x, m.layer.weight * 2), layer=nn.Conv2d(1, 1, 3)
    )
    with pytest.raises(ValueError, match=r"conv2d\(\) see depends on shapes"):
        receptive_field(module)
    assert receptive_field(module, input_shape=(1, 9, 9)).size == (3, 3)


# ---- upsampling

FIELD = ReceptiveField((0.0, 0.0), (1.0, 1.0), (2.0, 2.0))


def test_maps_of_two_dtypes_keep_them():
    up = GaussianUpsampling(FIELD, (4, 4), (2, 2))
    for dtype in (torch.float32, torch.float64):
        expected = torch.full((4, 4), 0.25, dtype=dtype)
        assert_close(up(torch.ones(2, 2, dtype=dtype)), expected)


def test_weights_have_the_digits_of_float64():
    matrix = gaussian_matrix(
        5, 12, start=-1 / 3, jump=1 / 3, size=10, sigma=0.7, normalize="none"
    )
    distance = np.arange(5)[:, None] - (-1 / 3 + np.arange(12) / 3)
    np.testing.assert_allclose(matrix, np.exp(-((distance / 0.7) ** 2) / 2), rtol=1e-12)


def test_bad_geometry():
    with pytest.raises(ValueError, match="sigma must be positive and finite"):
        GaussianUpsampling(FIELD, (4, 4), (2, 2), sigma=float("inf"))
    with pytest.raises(ValueError, match="sigma must be positive and finite"):
        gaussian_matrix(4, 2, start=0, jump=2, size=2, sigma=0, normalize="mass")
    with pytest.raises(ValueError, match="longer"):
        check_fits(FIELD, (28, 28, 1))
