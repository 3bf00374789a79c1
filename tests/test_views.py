"""Geometric views: the table against a literal pipeline, its adjoint, and the edges."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skad.images import View, Views, geometric_views

RNG = np.random.default_rng(0)


def literal(image, view):
    """Mirror, pad, cut out, turn: image by image, channel by channel."""
    if image.ndim == 3:
        return np.stack([literal(channel, view) for channel in image])
    if view.mirrored:
        image = np.fliplr(image)
    height, width = image.shape
    pad = max(abs(view.up), abs(view.left))
    padded = np.pad(image, pad, mode="symmetric")
    top, first = pad + view.up, pad + view.left
    return np.rot90(padded[top : top + height, first : first + width], view.turns)


@pytest.mark.parametrize("shape", [(28, 28), (8, 8), (3, 32, 32), (9, 14), (2, 13, 13)])
def test_views_equal_the_literal_pipeline_to_the_bit(shape):
    images = RNG.standard_normal((3, *shape)).astype(np.float32)
    views = Views(geometric_views(shape[-2:]), shape[-2:])
    expected = [[literal(image, view) for view in views.views] for image in images]
    assert_array_equal(views(images), np.array(expected))


def test_the_72_are_in_the_order_of_the_paper_s_code():
    views = geometric_views((32, 32))
    shifts = (0, -8, 8)
    expected = [
        View(mirrored, up, left, turns)
        for mirrored in (False, True)
        for up in shifts
        for left in shifts
        for turns in range(4)
    ]
    assert views == expected
    # tx=+8 moves the pixel (20, 5) to (12, 5); ty=+8 moves (20, 20) to (20, 12).
    image = np.zeros((2, 32, 32))
    image[0, 20, 5] = image[1, 20, 20] = 1
    moved = Views([View(up=8), View(left=8)], (32, 32))(image)
    assert moved[0, 0, 12, 5] == 1 and moved[1, 1, 20, 12] == 1


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["geometric", "dihedral", "upright"]),
    st.integers(0, 2**32 - 1),
)
def test_the_adjoint_is_the_transpose(height, width, kind, seed):
    rng = np.random.default_rng(seed)
    views = Views(geometric_views((height, width), kind), (height, width))
    x = rng.standard_normal((2, 3, height, width))
    y = rng.standard_normal((2, len(views), 3, height, width))
    assert_allclose((views(x) * y).sum(), (x * views.adjoint(y)).sum(), rtol=1e-10)
    assert_allclose(views.adjoint(y).sum((2, 3)), y.sum((1, 3, 4)), rtol=1e-9, atol=1e-9)


def test_every_pixel_is_shown_equally_often_by_the_72():
    views = Views(geometric_views((28, 28)), (28, 28))
    assert (np.bincount(views.table.flatten()) == 72).all()


@pytest.mark.parametrize(
    ("size", "kind", "n"),
    [
        ((28, 28), "geometric", 72),
        ((28, 28), "dihedral", 8),
        ((28, 28), "upright", 18),
        ((28, 20), "geometric", 36),
        ((28, 20), "dihedral", 4),
        ((1, 12), "geometric", 6),
        ((1, 1), "geometric", 1),
    ],
)
def test_how_many_differ(size, kind, n):
    views = geometric_views(size, kind)
    assert views[0] == View()
    assert len(views) == n
    # The views that were left out show nothing new.
    distinct = np.unique(Views(views, size).table, axis=0)
    assert len(distinct) == n


def test_one_view_of_each_image():
    images = RNG.standard_normal((40, 2, 8, 8))
    views = Views(geometric_views((8, 8)), (8, 8))
    which = RNG.integers(72, size=40)
    expected = views(images)[np.arange(40), which]
    assert_array_equal(views.select(images, which), expected)
    tensor = views.select(torch.from_numpy(images), torch.from_numpy(which))
    assert_array_equal(tensor.numpy(), expected)


def test_dtypes_subsets_and_pickles():
    views = Views(geometric_views((8, 8)), (8, 8))
    images = RNG.integers(0, 255, size=(2, 8, 8)).astype(np.uint8)
    assert views(images).dtype == np.uint8
    big_endian = images.astype(">f8")
    assert_array_equal(views(big_endian), views(images))
    assert_array_equal(views.subset([3, 70])(images), views(images)[:, [3, 70]])
    copied = pickle.loads(pickle.dumps(views))
    assert_array_equal(copied(images), views(images))
    assert len(pickle.dumps(views)) < 5_000


@pytest.mark.parametrize(
    ("views", "size", "error", "message"),
    [
        ([View(turns=1)], (8, 9), ValueError, "Only square images"),
        ([View(up=8)], (8, 9), ValueError, "less than a side"),
        ([View(), View(turns=4)], (8, 8), ValueError, "Views 0 and 1 are the same"),
        ([], (8, 8), ValueError, "one view at least"),
        ([View()], (8,), ValueError, "size must be"),
        ([View()], 8, ValueError, "size must be"),
        (None, (8, 8), TypeError, "a list of skad.images.View"),
        ([3], (8, 8), TypeError, "skad.images.View"),
        ([View(up=1.5)], (8, 8), TypeError, "a bool and three integers"),
    ],
)
def test_bad_views(views, size, error, message):
    with pytest.raises(error, match=message):
        Views(views, size)


def test_bad_images():
    views = Views([View()], (8, 8))
    with pytest.raises(ValueError, match=r"\(8, 8\); got shape \(2, 8, 9\)"):
        views(np.zeros((2, 8, 9)))
    with pytest.raises(ValueError, match="1 views in their second axis"):
        views.adjoint(np.zeros((2, 3, 8, 8)))
    with pytest.raises(TypeError, match="must be floating-point"):
        views.adjoint(np.ones((2, 1, 8, 8), dtype=np.uint8))
    for which in ([0, 0, 0], [0.0, 0.0], [[0], [0]]):
        with pytest.raises(ValueError, match="an integer for each of 2 images"):
            views.select(np.zeros((2, 8, 8)), which)
    with pytest.raises(TypeError, match="Numbers are needed"):
        views(np.full((2, 8, 8), "a"))
    with pytest.raises(ValueError, match="kind must be one of"):
        geometric_views((8, 8), "all")
