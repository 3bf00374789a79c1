import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing

from skad import KDE
from skad.base import as_rows
from skad.datasets._folder import load_image_folder

GREY, RGB = (6, 8), (6, 8, 3)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def make_folder(root, shape=GREY):
    """Write a folder whose images and masks tell where they come from.

    Image i of a part is 10 (i + 1) everywhere (RGB: times 1, 2, 3 in the channels); the
    mask of anomaly i of a kind has i + 1 white pixels in its first row.
    """
    parts = {"train/good": 3, "test/good": 2, "test/hole": 2, "test/crack": 2}
    for part, n in parts.items():
        for i in range(n):
            image = np.full(shape, 10 * (i + 1), np.uint8)
            if shape == RGB:
                image *= np.uint8([1, 2, 3])
            save(root / part / f"{i + 9}.png", image)
    for kind in ("hole", "crack"):
        for i in range(2):
            mask = np.zeros(GREY, np.uint8)
            mask[0, : i + 1] = 255
            save(root / "ground_truth" / kind / f"{i + 9}_mask.png", mask)
    return root


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


def test_grey_test_part(folder):
    test = load_image_folder(folder)
    assert test.images.shape == (6, 6, 8) and test.image_shape == GREY
    assert test.data.dtype == np.float32 and test.mask.dtype == bool
    assert "MVTec" in test.DESCR
    # In order of number, not of text, in which 10 is before 9.
    level = np.array([1, 2, 1, 2, 1, 2])
    np.testing.assert_allclose(test.data, np.tile(level[:, None] / 25.5, 48), rtol=1e-6)
    np.testing.assert_array_equal(test.target, [1, 1, -1, -1, -1, -1])
    assert test.kind.tolist() == ["normal"] * 2 + ["crack"] * 2 + ["hole"] * 2
    assert [path.name for path in test.paths] == ["9.png", "10.png"] * 3
    np.testing.assert_array_equal(test.mask.sum(axis=1), [0, 0, 1, 2, 1, 2])
    assert test.mask.reshape(6, *GREY)[:, 0].sum() == test.mask.sum()


def test_rgb_train_part(tmp_path):
    train = load_image_folder(str(make_folder(tmp_path, RGB)), subset="train")
    assert train.images.shape == (3, 3, 6, 8) and train.image_shape == (3, 6, 8)
    expected = np.outer([1, 2, 3], [1, 2, 3]) / 25.5
    np.testing.assert_allclose(train.images[:, :, 2, 5], expected, rtol=1e-6)
    assert (train.target == 1).all() and train.mask.shape == (3, 48)
    assert not train.mask.any() and {*train.kind} == {"normal"}


def test_color_and_depth(folder):
    assert load_image_folder(folder, color="rgb").image_shape == (3, 6, 8)
    deep = np.full(GREY, 50000, np.uint16)
    save(folder / "test/good/9.png", deep)
    red = np.zeros((*GREY, 3), np.uint8)
    red[..., 0] = 255
    grey = load_image_folder(folder)
    assert grey.images[0, 0, 0] == np.float32(50000) / np.float32(65535)
    save(folder / "test/good/10.png", red)
    mixed = load_image_folder(folder)
    np.testing.assert_allclose(mixed.images[0, :, 0, 0], 50000 / 65535, rtol=1e-6)
    np.testing.assert_array_equal(mixed.images[1, :, 0, 0], [1, 0, 0])
    # The luma of ITU-R 601.
    luma = load_image_folder(folder, color="grey").images[1, 0, 0]
    assert luma == pytest.approx(0.299, abs=1 / 255)


def test_size_resizes_with_antialiasing_and_masks_by_nearest_neighbour(folder):
    stripes = np.tile(np.uint8([0, 255]), (6, 4))
    save(folder / "test/good/9.png", stripes)
    save(folder / "test/good/10.png", np.full((30, 20), 99, np.uint8))  # another size
    with pytest.warns(UserWarning, match="at 3 x 4 pixels"):  # too small to be hit
        small = load_image_folder(folder, size=(3, 4))
    assert small.images.shape == (6, 3, 4)
    # Half of the columns by a triangle four wide: (1, 3, 3, 1) / 8.
    np.testing.assert_allclose(small.images[0, :, 1:3], 0.5, rtol=1e-6)
    np.testing.assert_allclose(small.images[1], 99 / 255, rtol=1e-6)
    mask = np.zeros(GREY, np.uint8)
    mask[2:4, 4:] = 128
    mask[0] = 127
    save(folder / "ground_truth/hole/9_mask.png", mask)
    large = load_image_folder(folder, size=24).mask[4].reshape(24, 24)
    expected = np.kron(mask > 127, np.ones((4, 3), bool))
    np.testing.assert_array_equal(large, expected)


def test_other_names(folder):
    for path in (folder / "ground_truth").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_mask", "")))
    (folder / "test/hole/.DS_Store").touch()
    (folder / "test/hole/notes.txt").touch()
    X, y, mask = load_image_folder(folder, mask_suffix="", return_X_y_mask=True)
    assert X.shape == mask.shape == (6, 48) and y.sum() == -2


# --- lazy


@pytest.mark.parametrize("shape", [GREY, RGB])
@pytest.mark.parametrize("size", [None, 5])
def test_lazy_equals_eager(tmp_path, shape, size):
    make_folder(tmp_path, shape)
    eager = load_image_folder(tmp_path, size=size)
    lazy = load_image_folder(tmp_path, size=size, lazy=True)
    rows = np.array([4, 0, 4])
    for name in ("data", "images", "mask"):
        some, all_ = lazy[name], eager[name]
        assert (some.shape, some.ndim, some.dtype) == (all_.shape, all_.ndim, all_.dtype)
        np.testing.assert_array_equal(some, all_)
        np.testing.assert_array_equal(some[rows], all_[rows])
        for key in (rows, [1, 2], slice(1, 4), lazy.target == -1):
            np.testing.assert_array_equal(_safe_indexing(some, key), all_[key])
        np.testing.assert_array_equal(some[1:-1:2], all_[1:-1:2])
        np.testing.assert_array_equal(some[lazy.target == 1], all_[eager.target == 1])
        np.testing.assert_array_equal(some[-1], all_[-1])
        np.testing.assert_array_equal(some[:0], all_[:0])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(some)), all_)
        assert np.asarray(some, dtype=np.float64).dtype == np.float64
        assert len([*some]) == 6


def test_lazy_images_are_split_before_anything_is_decoded(folder):
    eager, lazy = load_image_folder(folder), load_image_folder(folder, lazy=True)
    parts = train_test_split(lazy.images, lazy.mask, random_state=0)
    whole = train_test_split(eager.images, eager.mask, random_state=0)
    for part, expected in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(part, expected)
    for path in lazy.paths:
        path.unlink()
    parts = train_test_split(lazy.images, random_state=0)
    assert repr(parts[0]) == "LazyImages(shape=(4, 6, 8), dtype=float32)"
    with pytest.raises(ValueError, match=r"test.good.9\.png is not a readable image"):
        lazy.images[0]


def test_detectors_take_lazy_images(folder):
    eager, lazy = load_image_folder(folder), load_image_folder(folder, lazy=True)
    rows, shape = as_rows(lazy.images)
    assert shape == GREY
    np.testing.assert_array_equal(rows, eager.data)
    expected = KDE().fit(eager.images).score_samples(eager.data)
    for X in (lazy.images, lazy.data):
        np.testing.assert_array_equal(KDE().fit(X).score_samples(lazy.data), expected)


def test_lazy_images_refuse(folder):
    images = load_image_folder(folder, lazy=True).images
    with pytest.raises(IndexError, match="by rows only"):
        images[:, 0]
    with pytest.raises(IndexError, match="by rows only"):
        images[None]
    with pytest.raises(IndexError):
        images[6]
    with pytest.raises(ValueError, match=r"\(6, 6, 8\) can't be reshaped to \(-1, 5\)"):
        images.reshape(-1, 5)
    with pytest.raises(ValueError, match="without a copy"):
        images.__array__(copy=False)


# --- what is refused


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            lambda root: (root / "ground_truth/hole/10_mask.png").unlink(),
            FileNotFoundError,
            r"test/hole/10\.png has no mask: there is no .*hole/10_mask\.png\. Masks are "
            "missing for 1 of the 2 images of 'hole'",
        ),
        (
            lambda root: (root / "ground_truth/hole").rename(root / "elsewhere"),
            FileNotFoundError,
            r"test/hole/9\.png has no mask.* 2 of the 2 images",
        ),
        (
            lambda root: (root / "test/hole/9.png").unlink(),
            ValueError,
            r"The mask .*hole/9_mask\.png has no image in .*test/hole",
        ),
        (
            lambda root: save(root / "ground_truth/dent/0_mask.png", np.eye(4) > 0),
            ValueError,
            r"The mask .*dent/0_mask\.png has no image in .*test/dent",
        ),
        (
            lambda root: save(root / "test/hole/9.bmp", np.eye(4) > 0),
            ValueError,
            r"hole/9\.bmp and 9\.png differ by the ending only",
        ),
        (
            lambda root: (root / "test/dent").mkdir(),
            ValueError,
            r"test/dent holds no image \(\.bmp",
        ),
        (
            lambda root: (root / "test").rename(root / "tests"),
            FileNotFoundError,
            r"There is no folder .*test\. .* holds ground_truth, tests, train\.",
        ),
        (
            lambda root: ((root / "test").rename(root / "old"), (root / "test").mkdir()),
            ValueError,
            "test holds no folder",
        ),
    ],
)
def test_names_are_checked_before_anything_is_decoded(folder, change, error, match):
    (folder / "test/good/9.png").write_bytes(b"no image")
    change(folder)
    with pytest.raises(error, match=match):
        load_image_folder(folder)


def test_train_needs_good_images(folder):
    for path in (folder / "train/good").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="train/good holds no image"):
        load_image_folder(folder, subset="train")
    (folder / "train/good").rmdir()
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*train/good\. "):
        load_image_folder(folder, subset="train")
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere\.$"):
        load_image_folder(folder / "nowhere")


@pytest.mark.parametrize("lazy", [False, True])
def test_sizes_must_fit(folder, lazy):
    save(folder / "ground_truth/hole/9_mask.png", np.ones((3, 4), bool))
    message = r"hole/9_mask\.png has 3 x 4 pixels, but its image .*hole/9\.png has 6 x 8"
    for size in (None, 5):
        with pytest.raises(ValueError, match=message):
            load_image_folder(folder, size=size, lazy=lazy)
    save(folder / "test/good/10.png", np.ones((3, 4), bool))
    message = r"good/9\.png has 6 x 8 pixels, but .*good/10\.png has 3 x 4: give size="
    with pytest.raises(ValueError, match=message):
        load_image_folder(folder, lazy=lazy)


def test_empty_masks_warn(folder):
    save(folder / "ground_truth/hole/9_mask.png", np.full(GREY, 127, np.uint8))
    message = r"No pixel is brighter .* in \S*hole/9_mask\.png, at 6 x 8 pixels"
    with pytest.warns(UserWarning, match=message):
        test = load_image_folder(folder)
    assert test.target[4] == -1 and not test.mask[4].any()
    lazy = load_image_folder(folder, lazy=True).mask
    with pytest.warns(UserWarning, match=message):
        lazy[4]


def test_files_that_cannot_be_read(folder):
    path = folder / "test/good/9.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    save(path, noise)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"good/9\.png is not a readable image: .*trunc"):
        load_image_folder(folder, size=8)
    path.unlink()
    save(path.with_suffix(".tif"), np.ones(GREY, np.float32))
    with pytest.raises(ValueError, match=r"good/9\.tif has 32-bit pixels \(mode 'F'\)"):
        load_image_folder(folder)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"subset": "all"}, "subset must be one of 'train', 'test', got 'all'"),
        ({"color": "bgr"}, "color must be one of 'auto', 'grey', 'rgb', got 'bgr'"),
        ({"size": 0}, r"size must be None, a positive integer or a pair .*, got 0"),
        ({"size": (1, 2, 3)}, r"got \(1, 2, 3\)"),
    ],
)
def test_parameters_are_checked(folder, params, match):
    with pytest.raises(ValueError, match=match):
        load_image_folder(folder, **params)
