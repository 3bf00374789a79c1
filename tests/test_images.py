import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.datasets import load_digits

from skad.images import CORRUPTIONS, MNIST_C, corrupt


@pytest.fixture(scope="module")
def digits():
    """Real digits, enlarged to 28 x 28, in [0, 1]."""
    images = ndimage.zoom(load_digits().images[:100] / 16, (1, 3.5, 3.5), order=1)
    images.flags.writeable = False
    return images


@pytest.fixture
def noise():
    return np.random.default_rng(0).random((200, 28, 28))


def test_the_names():
    assert len(MNIST_C) == 15
    assert {*CORRUPTIONS} - {*MNIST_C} == {"missing_stroke"}


@pytest.mark.parametrize("name", CORRUPTIONS)
@settings(max_examples=6, deadline=None)
@given(
    height=st.integers(6, 40),
    width=st.integers(6, 40),
    dtype=st.sampled_from(["uint8", "float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_any_size_keeps_shape_dtype_and_range(name, height, width, dtype, seed):
    clean = np.random.default_rng(seed).random((3, height, width))
    top = 255 if dtype == "uint8" else 1
    clean = (clean * top).astype(dtype)
    corrupted, mask = corrupt(clean, name, random_state=seed)
    assert corrupted.shape == mask.shape == clean.shape
    assert corrupted.dtype == clean.dtype and mask.dtype == bool
    assert np.isfinite(corrupted).all()
    assert 0 <= corrupted.min() and corrupted.max() <= top


def global_state():
    return repr(np.random.get_state())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_same_seed_same_images_and_nothing_else_changes(name, digits):
    before, state = digits.copy(), global_state()
    first, mask = corrupt(digits, name, random_state=3)
    again, _ = corrupt(digits, name, random_state=3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(digits, before)
    assert global_state() == state
    assert mask.any(axis=(1, 2)).mean() > 0.95


@pytest.mark.parametrize("name", sorted({*CORRUPTIONS} - {"shot_noise", "canny_edges"}))
def test_uint8_agrees_with_float(name, digits):
    coded = np.rint(digits * 255).astype(np.uint8)
    from_float, _ = corrupt(coded / 255, name, random_state=0)
    from_uint8, mask = corrupt(coded, name, random_state=0, mask="absolute")
    np.testing.assert_allclose(from_uint8 / 255, from_float, atol=0.51 / 255)
    np.testing.assert_allclose(mask, np.abs(from_uint8 / 255 - coded / 255), atol=1e-12)


def test_masks_are_the_difference(noise):
    corrupted, changed = corrupt(noise, "impulse_noise", random_state=0)
    _, absolute = corrupt(noise, "impulse_noise", random_state=0, mask="absolute")
    _, squared = corrupt(noise, "impulse_noise", random_state=0, mask="squared")
    np.testing.assert_array_equal(absolute, np.abs(corrupted - noise))
    np.testing.assert_array_equal(squared, absolute**2)
    np.testing.assert_array_equal(changed, absolute > 0.1)


def test_stripe_inverts_columns_0_to_6_and_21_to_27(noise):
    corrupted, _ = corrupt(noise, "stripe")
    outer = [*range(7), *range(21, 28)]
    np.testing.assert_array_equal(corrupted[:, :, outer], 1 - noise[:, :, outer])
    np.testing.assert_array_equal(corrupted[:, :, 7:21], noise[:, :, 7:21])


def test_brightness_adds_half(noise):
    corrupted, _ = corrupt(noise, "brightness")
    np.testing.assert_array_equal(corrupted, np.minimum(noise + 0.5, 1))


@pytest.mark.parametrize(("size", "shift"), [(28, 3), (8, 1), (56, 6)])
def test_translate_shifts_both_axes(size, shift):
    clean = np.zeros((100, size, size))
    clean[:, shift:-shift, shift:-shift] = 1 - np.random.default_rng(0).random(
        (100, size - 2 * shift, size - 2 * shift)
    )
    corrupted, _ = corrupt(clean, "translate", random_state=0)
    moves = [(a, b) for a in (-shift, shift) for b in (-shift, shift)]
    equal = np.array(
        [(np.roll(clean, move, (1, 2)) == corrupted).all((1, 2)) for move in moves]
    )
    assert (equal.sum(axis=0) == 1).all()
    assert equal.any(axis=1).all()


def test_impulse_noise_hits_17_percent_black_or_white(noise):
    corrupted, _ = corrupt(noise, "impulse_noise", random_state=0)
    hit = corrupted != noise
    assert abs(hit.mean() - 0.17) < 4 * np.sqrt(0.17 * 0.83 / noise.size)
    assert {*np.unique(corrupted[hit])} == {0.0, 1.0}
    assert abs(corrupted[hit].mean() - 0.5) < 4 * 0.5 / np.sqrt(hit.sum())


def test_shot_noise_is_unbiased_in_thirds():
    clean = np.full((500, 28, 28), 0.1)
    corrupted, _ = corrupt(clean, "shot_noise", random_state=0)
    error = np.sqrt(0.1 / 3 / clean.size)
    assert abs(corrupted.mean() - 0.1) < 4 * error + 1e-4
    np.testing.assert_allclose(corrupted * 3 % 1, 0, atol=1e-12)


def test_glass_blur_moves_ink_down_the_rows_more_than_across():
    clean = np.zeros((300, 28, 28))
    clean[:, 14, 14] = 1
    corrupted, _ = corrupt(clean, "glass_blur", random_state=0)
    y, x = np.mgrid[:28, :28]
    weights = corrupted.mean(axis=0) / corrupted.mean(axis=0).sum()
    spread = [(weights * a**2).sum() - (weights * a).sum() ** 2 for a in (y, x)]
    # Two blurs of variance .7 ** 2, in one direction only.
    assert spread[0] - spread[1] == pytest.approx(2 * 0.7**2, abs=0.15)
    assert corrupted.sum() == pytest.approx(clean.sum())


def test_motion_blur_smears_to_one_side_and_keeps_the_ink():
    clean = np.zeros((100, 41, 41))
    clean[:, 20, 20] = 1
    corrupted, _ = corrupt(clean, "motion_blur", random_state=0)
    assert corrupted.sum() == pytest.approx(100, rel=1e-3)
    assert not corrupted[:, :, 21:].any()
    rows = np.abs(np.arange(41) - 20)[:, None]
    columns = np.abs(np.arange(41) - 20)
    assert not corrupted[:, rows > columns].any()


@pytest.mark.parametrize("name", ["rotate", "shear"])
def test_warps_keep_the_centre_and_turn_to_both_sides(name):
    clean = np.zeros((20, 27, 27))
    clean[:, 13, 13] = clean[:, 3, 13] = 1
    corrupted, _ = corrupt(clean, name, random_state=0)
    np.testing.assert_allclose(corrupted[:, 13, 13], 1)
    left = corrupted[:, :10, :13].sum(axis=(1, 2)) > 0.5
    right = corrupted[:, :10, 14:].sum(axis=(1, 2)) > 0.5
    assert (left ^ right).all() and left.any() and right.any()


def test_rotate_turns_by_the_published_angle():
    y, x = np.mgrid[:29, :29] - 14
    clean = ((np.abs(x) <= 1) & (np.abs(y) <= 12)).astype(float)[None]
    corrupted, _ = corrupt(clean, "rotate", random_state=0)
    _, vectors = np.linalg.eigh(np.cov([y.ravel(), x.ravel()], aweights=corrupted.ravel()))
    assert np.arctan(abs(vectors[1, 1] / vectors[0, 1])) == pytest.approx(0.4, abs=0.01)


def test_scale_shrinks_to_seven_tenths():
    y, x = np.mgrid[:28, :28] - 13.5
    clean, smaller = (np.exp(-(y**2 + x**2) / (2 * s**2)) for s in (5, 3.5))
    corrupted, _ = corrupt(clean[None], "scale")
    inner = np.hypot(y, x) < 9
    np.testing.assert_allclose(corrupted[0][inner], smaller[inner], atol=0.02)


def test_fog_scales_by_max_over_max_plus_three(digits):
    corrupted, _ = corrupt(digits, "fog", random_state=0)
    top = digits.max(axis=(1, 2), keepdims=True)
    clouds = (corrupted * (top + 3) / top - digits) / 3
    assert clouds.min() > -0.1 and clouds.max() < 1.1
    assert clouds.mean() == pytest.approx(0.5, abs=0.1)


def test_spatter_covers_by_grey_63(noise):
    corrupted, _ = corrupt(np.ones_like(noise), "spatter", random_state=0)
    covered = corrupted < 1
    assert 0.02 < covered.mean() < 0.5
    # At least .8 of the pixel is 63 / 255, the rest is white.
    assert corrupted[covered].max() <= 0.8 * 63 / 255 + 0.2 + 1e-12
    assert corrupted[covered].min() >= 63 / 255 - 1e-12


def test_dotted_line_keeps_two_of_four_columns():
    corrupted, _ = corrupt(np.zeros((50, 28, 28)), "dotted_line", random_state=0)
    columns = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26]
    on = np.isin(np.arange(28), columns)
    assert (corrupted.any(axis=1) == on).all()
    # The brightest pixel is at most half a row off the line.
    peak = corrupted.max(axis=1)[:, columns]
    assert (peak >= np.log(1 - 0.5 / 2.3) + 1 - 1e-12).all()


def test_zigzag_runs_from_column_2_to_25_up_and_down():
    corrupted, _ = corrupt(np.zeros((200, 28, 28)), "zigzag", random_state=0)
    assert not corrupted[:, :, [0, 1, 27]].any()
    inside = corrupted[~corrupted[:, [0, 1, 26, 27]].any(axis=(1, 2))]
    corners = inside[:, :, [4, 8, 12, 16, 20]].argmax(axis=1)
    bends = np.diff(corners, n=2, axis=1)
    # 2 rows above and below in turn: the second differences are -8, 8, -8 or so.
    assert (bends * [1, -1, 1] < -4).all() or (bends * [1, -1, 1] > 4).all()


def test_canny_edges_are_binary_outlines():
    clean = np.zeros((1, 28, 28))
    clean[:, 8:20, 8:20] = 1
    corrupted, _ = corrupt(clean, "canny_edges")
    assert {*np.unique(corrupted)} == {0.0, 1.0}
    assert not corrupted[:, 11:17, 11:17].any() and not corrupted[:, :6].any()


def test_missing_stroke_erases_ink_in_a_disk(digits):
    corrupted, mask = corrupt(digits, "missing_stroke", random_state=0)
    assert mask.any(axis=(1, 2)).all()
    different = corrupted != digits
    assert not corrupted[different].any()
    for changed in different:
        y, x = np.nonzero(changed)
        assert np.ptp(y) <= 8 and np.ptp(x) <= 8


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_black_and_tiny_images_do_not_fail(name):
    for shape in [(2, 28, 28), (2, 2, 2), (1, 1, 1), (1, 1, 5), (1, 5, 1)]:
        corrupted, _ = corrupt(np.zeros(shape), name, random_state=0)
        assert corrupted.shape == shape and np.isfinite(corrupted).all()


def test_blocks_leave_no_seam(noise):
    many = np.tile(noise, (10, 1, 1))
    corrupted, _ = corrupt(many, "brightness")
    np.testing.assert_array_equal(corrupted, np.minimum(many + 0.5, 1))


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (np.zeros((28, 28)), ValueError, r"shape \(n, H, W\)"),
        (np.zeros((0, 28, 28)), ValueError, "at least one pixel"),
        (np.full((1, 4, 4), 1.5), ValueError, r"in \[0, 1\]"),
        (np.full((1, 4, 4), -0.1), ValueError, r"in \[0, 1\]"),
        (np.full((1, 4, 4), np.nan), ValueError, "finite"),
        (np.zeros((1, 4, 4), int), TypeError, "uint8"),
        (np.full((1, 4, 4), "a"), TypeError, "dtype"),
    ],
)
def test_wrong_images_are_refused(images, error, match):
    with pytest.raises(error, match=match):
        corrupt(images, "stripe")


def test_wrong_names_are_refused(noise):
    with pytest.raises(ValueError, match="'rain' is unknown; known: shot_noise"):
        corrupt(noise, "rain")
    with pytest.raises(ValueError, match="known: changed, absolute, squared"):
        corrupt(noise, "stripe", mask="soft")


def test_import_is_light():
    code = "import sys, skad.images; print({'skimage', 'torch'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()"
