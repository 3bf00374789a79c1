"""Noise on images, and global contrast normalisation."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.utils.estimator_checks import check_estimator

from skad.images._contrast import GlobalContrastNormalizer
from skad.images._noise import add_noise

NOISES = ("gaussian", "uniform", "solid", "blobs")


# --- noise


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 9, 7), (3, 1, 30, 20), (3, 3, 8, 50)])
def test_shape_dtype_range_seed_and_mask(noise, dtype, shape):
    top = 255 if dtype == "uint8" else 1
    clean = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    before = clean.copy()
    noisy, mask = add_noise(clean, noise, random_state=1, mask_threshold=0.25)
    np.testing.assert_array_equal(clean, before)
    assert noisy.shape == shape and noisy.dtype == clean.dtype
    assert 0 <= noisy.min() and noisy.max() <= top
    difference = abs(noisy.astype(float) - clean).reshape(3, -1, *shape[-2:])
    np.testing.assert_array_equal(mask, difference.max(axis=1) > 0.25 * top)
    assert mask.dtype == bool and mask.any(axis=(1, 2)).all()
    again, _ = add_noise(clean, noise, random_state=1)
    np.testing.assert_array_equal(again, noisy)


GREY = np.full((10, 240, 240), 0.5)


def test_gaussian_and_uniform_have_their_distributions():
    gaussian, mask = add_noise(GREY, "gaussian", random_state=0)
    sigma = 64 / 255
    assert np.mean(abs(gaussian - 0.5) > sigma) == pytest.approx(0.3173, abs=0.003)
    assert mask.mean() == pytest.approx(2 * stats.norm.sf(0.1 / sigma), abs=0.003)
    uniform, mask = add_noise(GREY, "uniform", random_state=0)
    assert stats.kstest(uniform[0].ravel(), "uniform").pvalue > 0.01
    assert mask.mean() == pytest.approx(0.8, abs=0.003)


def test_solid_is_one_colour_an_image():
    solid, _ = add_noise(np.zeros((50, 3, 4, 5)), "solid", random_state=0)
    assert (np.ptp(solid, axis=(2, 3)) == 0).all()
    assert len(np.unique(solid[:, :, 0, 0])) == 150


@pytest.mark.parametrize(("side", "square"), [(240, 6), (480, 12)])
def test_blobs_are_white_squares(side, square):
    blobs, mask = add_noise(np.full((4, side, side), 0.5), "blobs", random_state=0)
    np.testing.assert_array_equal(blobs, np.where(mask, 1, 0.5))
    # 115 centres on average, whatever the size of the image.
    assert mask.mean() == pytest.approx(1 - np.exp(-0.002 * 36), rel=0.1)
    boxes = ndimage.find_objects(ndimage.label(mask[0])[0])
    sides = [tuple(s.stop - s.start for s in box) for box in boxes]
    assert sides.count((square, square)) > len(sides) / 2


def test_every_image_has_a_blob_and_all_channels_are_white():
    blobs, mask = add_noise(np.zeros((500, 3, 4, 4)), "blobs", random_state=0)
    assert mask.any(axis=(1, 2)).all() and 1 - mask.mean() > 0.85
    np.testing.assert_array_equal(blobs, np.repeat(mask[:, None], 3, axis=1))


@pytest.mark.parametrize(
    ("images", "params", "error", "match"),
    [
        (GREY, {"noise": "rain"}, ValueError, "noise='rain' is unknown; known: gaussian"),
        (GREY, {"mask_threshold": 1}, ValueError, r"must be in \[0, 1\), got 1"),
        (GREY * 3, {}, ValueError, r"in \[0, 1\]"),
        (GREY[0], {}, ValueError, "shape"),
        (GREY.astype(int), {}, TypeError, "dtype int64"),
    ],
)
def test_add_noise_refuses(images, params, error, match):
    with pytest.raises(error, match=match):
        add_noise(images, **{"noise": "solid", **params})


# --- global contrast normalisation

# Extremes of the training images of a class, from the code of FCDD.
FASHION_MNIST = {
    0: (-2.68124, 24.8543),
    5: (-1.23585, 28.4631),
    8: (-3.65610, 11.3503),
}


@pytest.mark.parametrize("scale", ["l1", "l2"])
def test_scikit_learn_checks(scale):
    check_estimator(GlobalContrastNormalizer(scale=scale))


@pytest.mark.parametrize("label", FASHION_MNIST)
def test_the_extremes_are_those_of_fcdd(label):
    path = Path(os.environ.get("SKAD_DATA", "")) / "fashion_mnist.npz"
    if not path.is_file():
        pytest.skip("SKAD_DATA names no folder with fashion_mnist.npz")
    with np.load(path) as file:
        images = file["x_train"][file["y_train"] == label] / 255
    normalizer = GlobalContrastNormalizer().fit(images)
    extremes = normalizer.min_, normalizer.max_
    np.testing.assert_allclose(extremes, FASHION_MNIST[label], rtol=1e-5)


@pytest.mark.parametrize("scale", ["l1", "l2"])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (3, 2, 2)])
def test_against_a_loop(scale, shape):
    rng = np.random.default_rng(0)
    train, new = rng.random((5, *shape)), rng.random((4, *shape)) * 3

    def contrast(row):
        mean = sum(row.flat) / 12
        if scale == "l1":
            return (row - mean) / (sum(abs(x - mean) for x in row.flat) / 12)
        return (row - mean) / (sum((x - mean) ** 2 for x in row.flat) / 12) ** 0.5

    rows = [contrast(row) for row in train]
    low, high = np.min(rows), np.max(rows)
    expected = [(contrast(row) - low) / (high - low) for row in new]
    normalizer = GlobalContrastNormalizer(scale=scale).fit(train)
    np.testing.assert_allclose(normalizer.transform(new), expected, rtol=1e-12)
    assert (normalizer.min_, normalizer.max_) == pytest.approx((low, high))
    scaled = normalizer.transform(train)
    assert scaled.min() == 0 and scaled.max() == 1 and scaled.shape == train.shape


def test_many_rows_go_in_blocks(monkeypatch):
    X = np.random.default_rng(0).random((50, 12))
    whole = GlobalContrastNormalizer().fit_transform(X)
    monkeypatch.setattr("skad.images._contrast._ENTRIES", 36)
    np.testing.assert_array_equal(GlobalContrastNormalizer().fit_transform(X), whole)


@pytest.mark.parametrize("scale", ["l1", "l2"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-200])
def test_constant_rows_have_no_contrast(scale, value):
    constant = np.full((3, 7, 7), value)
    normalizer = GlobalContrastNormalizer(scale=scale).fit(constant)
    np.testing.assert_array_equal(normalizer.transform(constant), 0)
    mixed = np.concatenate([constant, np.random.default_rng(0).random((3, 7, 7))])
    normalizer.fit(mixed)
    # What v = 0 becomes.
    grey = -normalizer.min_ / (normalizer.max_ - normalizer.min_)
    np.testing.assert_allclose(normalizer.transform(constant), grey, rtol=1e-12)


def test_float32_stays_and_other_types_become_float64():
    coded = np.random.default_rng(0).integers(0, 256, (9, 5, 5), dtype=np.uint8)
    exact = GlobalContrastNormalizer().fit_transform(coded)
    single = GlobalContrastNormalizer().fit_transform(coded.astype(np.float32))
    assert exact.dtype == np.float64 and single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=1e-6)
    np.testing.assert_array_equal(
        GlobalContrastNormalizer().fit_transform(coded.reshape(9, 25)).reshape(9, 5, 5),
        exact,
    )


def test_shapes_that_do_not_fit_are_refused():
    images = np.random.default_rng(0).random((5, 4, 6))
    with pytest.raises(ValueError, match=r"image_shape=\(5, 5\) needs 25 .*; X has 24"):
        GlobalContrastNormalizer(image_shape=(5, 5)).fit(images.reshape(5, 24))
    with pytest.raises(ValueError, match=r"shape \(4, 6\), but \(6, 4\) are expected"):
        GlobalContrastNormalizer(image_shape=(6, 4)).fit(images)
    normalizer = GlobalContrastNormalizer().fit(images)
    assert normalizer.transform(images[:, None]).shape == (5, 1, 4, 6)
    with pytest.raises(ValueError, match=r"shape \(6, 4\), but \(4, 6\)"):
        normalizer.transform(images.reshape(5, 6, 4))
    with pytest.raises(ValueError, match=r"got an array of shape \(1, 5, 4, 6, 1\)"):
        normalizer.transform(images[None, ..., None])
