import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.utils import Bunch

from skad.datasets import (
    _fetch,
    fetch_fashion_mnist,
    fetch_mnist,
    fetch_mnist_c,
    load_corrupted_digits,
    make_textures,
)
from skad.images import MNIST_C

CLEAN = load_digits().data / 16


def needs(name):
    """Skip unless the folder in SKAD_DATA holds the file."""
    missing = not (Path(os.environ.get("SKAD_DATA", "")) / name).is_file()
    return pytest.mark.skipif(missing, reason=f"SKAD_DATA names no folder with {name}")


# --- corrupted digits


@pytest.mark.parametrize("corruption", ["stripe", "all", ["zigzag", "brightness"]])
def test_digits_layout(corruption):
    digits = load_corrupted_digits(corruption)
    assert digits.data.shape == digits.mask.shape == (1797, 64)
    assert digits.data.dtype == np.float64 and digits.mask.dtype == bool
    assert digits.image_shape == (8, 8) and "MNIST-C" in digits.DESCR
    np.testing.assert_array_equal(digits.images.reshape(1797, 64), digits.data)
    anomalous = digits.target == -1
    assert anomalous.sum() == round(0.2 * 1797)
    np.testing.assert_array_equal(anomalous, digits.mask.any(axis=1))
    np.testing.assert_array_equal(anomalous, digits.kind != "normal")
    np.testing.assert_array_equal(digits.digit, load_digits().target)


def test_digits_differ_from_the_clean_ones_where_the_mask_says():
    digits = load_corrupted_digits("all", mask="absolute")
    np.testing.assert_allclose(digits.mask, np.abs(digits.data - CLEAN), atol=1e-15)
    np.testing.assert_array_equal(
        digits.data[digits.target == 1], CLEAN[digits.target == 1]
    )
    assert {*digits.kind} == {
        "normal",
        "stripe",
        "dotted_line",
        "zigzag",
        "brightness",
        "translate",
        "impulse_noise",
        "missing_stroke",
    }


def test_digits_seed_and_tuple():
    X, y, mask = load_corrupted_digits("zigzag", random_state=5, return_X_y_mask=True)
    again = load_corrupted_digits("zigzag", random_state=5)
    np.testing.assert_array_equal(X, again.data)
    np.testing.assert_array_equal(mask, again.mask)
    other = load_corrupted_digits("zigzag", random_state=6)
    assert (other.target != y).any()


def test_a_corruption_that_changes_nothing_makes_no_anomaly(monkeypatch):
    def only_even_sums(images, kinds, mask, rng):
        even = images.sum(axis=(1, 2)) * 16 % 2 == 0
        out = np.where(even[:, None, None], 1 - images, images)
        return out, np.abs(out - images) > 0.1

    monkeypatch.setattr("skad.datasets._digits.corrupt_each", only_even_sums)
    digits = load_corrupted_digits("stripe", anomaly_share=0.3)
    anomalous = digits.target == -1
    assert anomalous.sum() == round(0.3 * 1797)
    assert (CLEAN[anomalous].sum(axis=1) * 16 % 2 == 0).all()
    assert digits.mask[anomalous].any(axis=1).all()


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"corruption": "rain"}, "'rain' is unknown; known: shot_noise"),
        ({"corruption": ["stripe", "rain"]}, "is unknown"),
        ({"corruption": []}, "is unknown"),
        ({"anomaly_share": 1.5}, r"in \[0, 1\], got 1.5"),
        ({"mask": "soft"}, "mask must be one of 'changed'"),
    ],
)
def test_digits_refuse(params, match):
    with pytest.raises(ValueError, match=match):
        load_corrupted_digits(**params)


# --- textures


@pytest.mark.parametrize("defect", ["all", "blot", "scratch", "patch"])
@pytest.mark.parametrize("size", [8, 32, 50])
def test_textures_layout(defect, size):
    textures = make_textures(60, size=size, defect=defect, random_state=0)
    assert textures.data.shape == textures.mask.shape == (60, size * size)
    assert 0 <= textures.data.min() and textures.data.max() <= 1
    anomalous = textures.target == -1
    assert anomalous.sum() == 12
    np.testing.assert_array_equal(anomalous, textures.mask.any(axis=1))
    np.testing.assert_array_equal(anomalous, textures.kind != "normal")
    assert {*textures.texture} == {"stripes", "noise"}
    assert textures.mask[anomalous].mean() < 0.15


def test_small_textures_have_a_defect_each():
    textures = make_textures(3000, anomaly_share=1.0, size=8, random_state=0)
    assert textures.mask.any(axis=1).all()


def test_texture_defects_stand_out_where_the_mask_says():
    for defect, sign in [("blot", -1), ("scratch", 1)]:
        textures = make_textures(100, defect=defect, random_state=1)
        rows = textures.target == -1
        auc = roc_auc_score(textures.mask[rows].ravel(), sign * textures.data[rows].ravel())
        assert auc > 0.98


def test_textures_seed_and_tuple():
    X, y, mask = make_textures(30, random_state=2, return_X_y_mask=True)
    again = make_textures(30, random_state=2)
    np.testing.assert_array_equal(y, again.target)
    np.testing.assert_array_equal(X, again.data)
    np.testing.assert_array_equal(mask, again.mask)
    assert (make_textures(30, random_state=3).data != X).any()
    assert {*make_textures(30, texture="noise").texture} == {"noise"}


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"n_samples": 0}, "positive integer"),
        ({"size": 4}, "at least 8"),
        ({"anomaly_share": -1}, "anomaly_share"),
        ({"texture": "wood"}, "'stripes', 'noise', got 'wood'"),
        ({"defect": "hole"}, "'blot', 'scratch', 'patch', got 'hole'"),
    ],
)
def test_textures_refuse(params, match):
    with pytest.raises(ValueError, match=match):
        make_textures(**params)


# --- fetched data


def arrays(n_train=30, n_test=20):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n_train + n_test, 28, 28), dtype=np.uint8)
    y = (np.arange(n_train + n_test) % 10).astype(np.uint8)
    parts = (x[:n_train], y[:n_train], x[n_train:], y[n_train:])
    return dict(zip(_fetch.ARRAYS, parts, strict=True))


@pytest.fixture
def home(tmp_path):
    """A folder with small files of random images."""
    for name in ("mnist", "fashion_mnist"):
        np.savez(tmp_path / f"{name}.npz", **arrays())
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(_fetch, "fetch_openml", fail)


def test_data_home_is_the_argument_then_the_environment(home, tmp_path, monkeypatch):
    monkeypatch.setenv("SKAD_DATA", str(home))
    assert len(fetch_mnist().data) == 30
    with pytest.raises(FileNotFoundError):
        fetch_mnist(data_home=tmp_path / "none", download_if_missing=False)


def test_without_file_or_network_the_error_says_what_to_do(tmp_path, no_network):
    with pytest.raises(FileNotFoundError, match="no route to host") as info:
        fetch_fashion_mnist(data_home=tmp_path)
    for part in (str(tmp_path), "fashion_mnist.npz", "x_train", "SKAD_DATA"):
        assert part in str(info.value)
    assert isinstance(info.value.__cause__, OSError)
    with pytest.raises(FileNotFoundError, match="download_if_missing is False"):
        fetch_mnist(data_home=tmp_path, download_if_missing=False)


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch):
    parts = arrays()
    calls = []

    def fake(name, **options):
        calls.append((name, options["version"], options["as_frame"]))
        x = np.concatenate([parts["x_train"], parts["x_test"]]).reshape(50, 784)
        y = np.concatenate([parts["y_train"], parts["y_test"]]).astype(str)
        return Bunch(data=x.astype(float), target=y.astype(object))

    source = _fetch.Source("mnist_784", 30, _fetch.checksum(parts))
    monkeypatch.setattr(_fetch, "fetch_openml", fake)
    monkeypatch.setitem(_fetch.SOURCES, "mnist", source)
    home = tmp_path / "new"
    first = fetch_mnist(subset="test", data_home=home)
    second = fetch_mnist(subset="test", data_home=home)
    assert calls == [("mnist_784", 1, False)]
    assert [path.name for path in home.iterdir()] == ["mnist.npz"]
    np.testing.assert_array_equal(first.images * 255, parts["x_test"])
    np.testing.assert_array_equal(second.data, first.data)
    parts["x_train"][0, 0, 0] ^= 1
    with pytest.raises(FileNotFoundError, match="expected checksum"):
        fetch_mnist(data_home=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.pop("y_test"), "lacks the arrays y_test"),
        (lambda a: a.update(x_test=a["x_test"][:, :9]), r"x_test as uint8 \(n, 28"),
        (lambda a: a.update(y_train=a["y_train"][1:]), "y_train as"),
        (lambda a: a.update(x_train=a["x_train"] / 255), "got float64"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, change, match):
    parts = arrays()
    change(parts)
    np.savez(tmp_path / "mnist.npz", **parts)
    with pytest.raises(ValueError, match=match):
        fetch_mnist(data_home=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an npz", b"PK\x03\x04 cut off"])
def test_an_unreadable_file_is_refused(tmp_path, content):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable npz"):
        fetch_mnist(data_home=tmp_path)


def test_a_single_array_or_damaged_bytes_are_refused(tmp_path):
    path = tmp_path / "mnist.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="not a readable npz"):
        fetch_mnist(data_home=tmp_path)
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    content[500:600] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable npz"):
        fetch_mnist(data_home=tmp_path)


@pytest.mark.parametrize("fetch", [fetch_mnist, fetch_fashion_mnist])
def test_one_class_against_the_rest(fetch, home):
    data = fetch(normal_class=3, data_home=home)
    assert data.data.dtype == np.float32 and data.data.shape == (30, 784)
    np.testing.assert_array_equal(data.images * 255, arrays()["x_train"])
    np.testing.assert_array_equal(data.target == 1, data.label == 3)
    X, y = fetch(n_samples=7, data_home=home, return_X_y=True)
    assert X.shape == (7, 784) and (y == 1).all()
    with pytest.raises(ValueError, match="normal_class"):
        fetch(normal_class=10, data_home=home)
    with pytest.raises(ValueError, match=r"n_samples must be an integer in \[1, 30\]"):
        fetch(n_samples=31, data_home=home)
    with pytest.raises(ValueError, match="subset must be one of 'train', 'test'"):
        fetch(subset="all", data_home=home)


def test_mnist_c_pairs_clean_and_corrupted(home):
    data = fetch_mnist_c("stripe", n_samples=12, data_home=home)
    assert data.data.shape == data.mask.shape == (24, 784)
    np.testing.assert_array_equal(data.target, np.repeat([1, -1], 12))
    np.testing.assert_array_equal(data.label[:12], data.label[12:])
    assert not data.mask[:12].any()
    inside = np.s_[:, :, 7:21]
    np.testing.assert_array_equal(data.images[:12][inside], data.images[12:][inside])


def test_mnist_c_unpaired_shares_no_image(home):
    X, y, mask = fetch_mnist_c(
        "stripe", paired=False, data_home=home, mask="squared", return_X_y_mask=True
    )
    assert X.shape == mask.shape == (20, 784) and mask.dtype == np.float64
    assert y.sum() == 0
    inside = X.reshape(-1, 28, 28)[:, :, 7:21].reshape(20, -1)
    assert len(np.unique(inside, axis=0)) == 20
    with pytest.raises(ValueError, match=r"\[1, 10\], got 11"):
        fetch_mnist_c("stripe", n_samples=11, paired=False, data_home=home)


def test_mnist_c_draws_among_many_and_repeats_by_seed(home):
    data = fetch_mnist_c("all", data_home=home)
    assert {*data.kind} <= {"normal", *MNIST_C} and len({*data.kind}) > 5
    again = fetch_mnist_c("all", data_home=home)
    np.testing.assert_array_equal(data.data, again.data)
    with pytest.raises(ValueError, match="unknown"):
        fetch_mnist_c("rain", data_home=home)


@needs("mnist.npz")
def test_the_mnist_file_has_the_checksum():
    parts = _fetch.load_arrays("mnist", None, False)
    assert _fetch.checksum(parts) == _fetch.SOURCES["mnist"].sha256


@needs("fashion_mnist.npz")
def test_the_fashion_mnist_file_has_the_checksum():
    parts = _fetch.load_arrays("fashion_mnist", None, False)
    assert _fetch.checksum(parts) == _fetch.SOURCES["fashion_mnist"].sha256


# AUROC of the distance to the mean training digit, which the KDE column of Figure 2
# of the Clever Hans paper turns out to be: it weighs how much ink went where.
DISTANCE_TO_MEAN = {
    "brightness": 100.0,
    "canny_edges": 78.9,
    "dotted_line": 68.5,
    "fog": 62.1,
    "glass_blur": 8.0,
    "impulse_noise": 98.0,
    "motion_blur": 8.1,
    "rotate": 37.1,
    "scale": 5.0,
    "shear": 49.9,
    "shot_noise": 41.6,
    "spatter": 44.5,
    "stripe": 100.0,
    "translate": 76.2,
    "zigzag": 84.0,
}


@needs("mnist.npz")
def test_corruptions_are_as_hard_as_the_published_ones():
    mean = fetch_mnist(n_samples=20000).data.mean(axis=0)
    off = {}
    for name, published in DISTANCE_TO_MEAN.items():
        X, y, _ = fetch_mnist_c(name, n_samples=2000, return_X_y_mask=True)
        distance = ((X - mean) ** 2).sum(axis=1)
        off[name] = abs(100 * roc_auc_score(-y, distance) - published)
    assert off.pop("fog") < 5
    assert max(off.values()) < 2 and np.mean([*off.values()]) < 1
