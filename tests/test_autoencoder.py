"""The autoencoder: residuals, units, shapes, codes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import nn

from skad import AutoEncoder
from skad.datasets import load_corrupted_digits
from skad.detectors._autoencoder._networks import convolutional

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 3)) @ RNG.standard_normal((3, 8)) + 5
IMAGES = RNG.random((40, 12, 15))


def detector(**params):
    return AutoEncoder(**{"max_epochs": 5, "random_state": 0, **params})


def linear(row_shape, code_size):
    (d,) = row_shape
    return nn.Linear(d, code_size), nn.Linear(code_size, d)


def test_a_linear_autoencoder_finds_the_principal_components():
    rows = X + 0.1 * RNG.standard_normal(X.shape)
    model = detector(network=linear, code_size=3, max_epochs=100, lr=0.01).fit(rows)
    pca = PCA(3).fit(rows)
    expected = np.square(rows - pca.inverse_transform(pca.transform(rows)))
    assert -model.score_samples(rows).mean() == pytest.approx(
        expected.sum(1).mean(), rel=0.02
    )
    np.testing.assert_allclose(model.explain(rows), expected, atol=0.05)


@pytest.mark.parametrize("rows", [X, IMAGES, IMAGES[:, None].repeat(3, axis=1)])
def test_relevance_is_the_squared_residual(rows):
    model = detector().fit(rows)
    residual = rows - model.reconstruct(rows)
    relevance = model.explain(rows)
    np.testing.assert_allclose(relevance, residual**2, rtol=1e-3, atol=1e-5)
    total = relevance.reshape(len(rows), -1).sum(axis=1)
    np.testing.assert_allclose(total, -model.score_samples(rows), rtol=1e-5)
    assert not model.unattributed(rows).any()


@pytest.mark.parametrize("rows", [X, IMAGES])
def test_units_do_not_matter(rows):
    plain = detector().fit(rows)
    other = detector().fit(1e5 * rows + 1e7)
    np.testing.assert_allclose(
        other.explain(1e5 * rows + 1e7), 1e10 * plain.explain(rows), rtol=0.02, atol=1e5
    )


@pytest.mark.parametrize("unit", [1e-140, 1e-40, 1e40, 1e140])
def test_units_beyond_single_precision(unit):
    plain, other = detector().fit(X), detector().fit(unit * X)
    ratio = other.score_samples(unit * X) / unit / (plain.score_samples(X) * unit)
    np.testing.assert_allclose(ratio, 1, rtol=0.02)
    assert np.mean(other.predict(unit * X) == -1) == pytest.approx(0.1, abs=0.02)


def test_it_finds_a_broken_dependency_and_says_where():
    rows = X + 0.1 * RNG.standard_normal(X.shape)
    model = AutoEncoder(random_state=0, code_size=3).fit(rows[:200])
    broken = rows[200:].copy()
    column = RNG.integers(8, size=100)
    broken[np.arange(100), column] = rows[200:][::-1][np.arange(100), column] + 3
    y = np.repeat([1, -1], 100)
    assert roc_auc_score(y, model.score_samples(np.vstack([rows[200:], broken]))) > 0.95
    assert np.mean(model.explain(broken).argmax(axis=1) == column) > 0.75


def test_the_reconstruction_of_images_stays_in_their_range():
    dark = 0.2 + 0.1 * IMAGES
    model = detector().fit(dark)
    made = model.reconstruct(np.vstack([dark, 50 * IMAGES]))
    assert made.min() >= dark.min() - 1e-5
    assert made.max() <= dark.max() + 1e-5


@pytest.mark.parametrize(
    "size", [(1, 9), (10, 11), (28, 28), (33, 17), (64, 100), (224, 224)]
)
def test_convolutional_networks_of_any_size(size):
    encoder, decoder = convolutional((3, *size), 5, (16,))
    code = encoder(torch.zeros(2, 3, *size))
    assert code.shape == (2, 5)
    assert decoder(code).shape == (2, 3, *size)


def test_the_network_at_28_by_28_is_the_papers():
    encoder, decoder = convolutional((1, 28, 28), 64, (256,))

    def kinds(net):
        return [type(layer).__name__ for layer in net if type(layer) is not nn.ReLU]

    down, up = ["Conv2d", "MaxPool2d"] * 2, ["Upsample", "ConvTranspose2d"] * 2
    dense = ["AlignedLinear"] * 2
    assert kinds(encoder) == [*down, "Flatten", *dense, "Tanh"]
    assert kinds(decoder) == [*dense, "Unflatten", *up]


def test_flat_images_are_images_where_their_shape_is_told():
    told = detector(image_shape=(12, 15)).fit(IMAGES.reshape(40, -1))
    seen = detector().fit(IMAGES)
    assert isinstance(told.net_.module_.encoder[0], nn.Conv2d)
    np.testing.assert_array_equal(
        told.explain(IMAGES.reshape(40, -1)).reshape(IMAGES.shape), seen.explain(IMAGES)
    )
    flat = detector(network="dense").fit(IMAGES)
    assert flat.explain(IMAGES).shape == IMAGES.shape


def test_codes_feed_a_pipeline():
    model = make_pipeline(detector(code_size=2), OneClassSVM()).fit(X)
    codes = model[0].transform(X)
    assert codes.shape == (300, 2)
    assert codes.dtype == np.float64
    assert abs(codes).max() <= 1
    expected = OneClassSVM().fit(codes).score_samples(codes)
    np.testing.assert_allclose(model.score_samples(X), expected)
    assert list(model[0].get_feature_names_out()) == ["autoencoder0", "autoencoder1"]


def test_what_never_varied_is_reconstructed():
    rows = np.column_stack([X, np.full(300, 7.0)])
    model = detector().fit(rows)
    rows[0, -1] = 9.0
    assert model.explain(rows[1:])[:, -1].max() == 0
    assert model.explain(rows[:1])[0, -1] == pytest.approx(4.0)
    constant = detector().fit(np.ones((5, 2)))
    assert constant.explain([[1.0, 3.0]]).tolist() == [[0.0, 4.0]]


def test_far_rows_are_finite():
    model = detector().fit(X)
    far = 5 + np.outer([1e3, 1e6, 1e12, 1e200, 1e300], np.ones(8))
    scores = -model.score_samples(far)
    assert np.isfinite(model.explain(far)).all()
    assert (np.diff(scores) >= 0).all()
    assert scores[1] > 1e6 * scores[0] * 0.5


def test_real_digits():
    X, y, _ = load_corrupted_digits("all", return_X_y_mask=True)
    normal = load_digits().data[:500] / 16
    model = AutoEncoder(image_shape=(8, 8), random_state=0, max_epochs=30).fit(normal)
    assert roc_auc_score(y, model.score_samples(X)) > 0.85
    assert make_pipeline(StandardScaler(), AutoEncoder(max_epochs=1)).fit(normal)


@pytest.mark.parametrize(
    ("params", "rows", "message"),
    [
        ({"hidden": (8, 0)}, X, r"hidden must be widths, positive integers; got \(8, 0\)"),
        ({"code_size": 0}, X, "'code_size' parameter"),
        ({"network": lambda *_: nn.Linear(8, 8)}, X, "two modules, encoder and decoder"),
        ({"network": lambda *_: (nn.Linear(8, 2), nn.Linear(2, 1))}, X, r"it gives \(1,\)"),
        (
            {"network": lambda *_: (nn.Linear(7, 2), nn.Linear(2, 8))},
            X,
            r"rows of shape \(8,",
        ),
        ({"device": "meta"}, X, "device='meta' can't be used"),
        ({"false_alarm_rate": 0.1}, X[:2], "three rows at least; got 2"),
        ({"network": "deep"}, X, "'network' parameter"),
    ],
)
def test_bad_parameters(params, rows, message):
    with pytest.raises(ValueError, match=message):
        detector(**params).fit(rows)


def test_bad_rows():
    model = detector().fit(IMAGES)
    with pytest.raises(ValueError, match=r"images of shape \(15, 12\)"):
        model.predict(IMAGES.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="180 features"):
        model.transform(X)
    with pytest.raises(NotFittedError):
        detector().reconstruct(X)
