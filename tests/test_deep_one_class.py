"""Deep one-class: whitening, propagation to the input, feature networks, backbones."""

import copy
import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import inv, sqrtm
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import nn
from torch.nn import functional as F

from skad import DeepOneClass
from skad._thresholds import cross_fitted_scores
from skad.neural import FeatureNet, Scaling, _backbones
from skad.neural._backbones import BACKBONES, download_weights, load_backbone
from skad.neural._fit_features import feature_layers, fit_features

WEIGHTS = Path(os.environ.get("SKAD_DATA", "")) / "weights"
VGG16 = WEIGHTS / "vgg16_features_imagenet_fp16.pth"
SQUEEZENET = WEIGHTS / "squeezenet1_1_caffe_bgr.pth"
needs_weights = pytest.mark.skipif(
    "SKAD_DATA" not in os.environ or not (VGG16.is_file() and SQUEEZENET.is_file()),
    reason=f"needs {VGG16.name} and {SQUEEZENET.name} in $SKAD_DATA/weights",
)


def rows(n=60, d=5, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def dense(d=5, bias=True):
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(d, 8, bias=bias), nn.ReLU(), nn.Linear(8, 6, bias=bias), nn.ReLU()
        )
    )


def conv(channels=1, bias=False):
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 4, 3, bias=bias),
            nn.ReLU(),
            nn.LPPool2d(2, 2),
            nn.Conv2d(4, 6, 2, bias=bias),
            nn.ReLU(),
        )
    )


def images(n=40, channels=1, seed=0):
    return np.random.default_rng(seed).random((n, channels, 8, 8))


def plain(regularization=1e-4, **params):
    """Give a detector whose features are the entries of a row."""
    return DeepOneClass(features=nn.Flatten(), regularization=regularization, **params)


# The score and its relevance for the features.


def test_score_and_relevance_by_hand():
    # Second moment diag(1/2, 2), its mean 5/4, lambda 1/2: W^2 = diag(1, 2/5).
    detector = plain(0.4, input_rule="gamma").fit([[1.0, 0.0], [0.0, 2.0]])
    assert_allclose(detector.whitening_, np.diag([1, np.sqrt(0.4)]), atol=1e-15)
    assert_allclose(detector.score_samples([[1.0, 1.0]]), [-1.4], rtol=1e-14)
    assert_allclose(detector.explain([[1.0, 1.0]]), [[1.0, 0.4]], rtol=1e-6)


def test_score_is_the_norm_of_whitened_features():
    net, X, fresh = dense(), rows(), rows(seed=1)
    detector = DeepOneClass(features=net, regularization=0.1).fit(X)

    def features(x):
        (w1, b1), (w2, b2) = [(m.weight, m.bias) for m in net if hasattr(m, "weight")]
        w1, b1, w2, b2 = (p.detach().double().numpy() for p in (w1, b1, w2, b2))
        return np.maximum(w2 @ np.maximum(w1 @ x + b1, 0) + b2, 0)

    moment = sum(np.outer(features(x), features(x)) for x in X) / len(X)
    W = sqrtm(inv(moment + 0.1 * np.trace(moment) / 6 * np.eye(6)))
    scores = [-(np.linalg.norm(W @ features(x)) ** 2) for x in fresh]
    assert_allclose(detector.whitening_, W, rtol=1e-5, atol=1e-5)
    assert_allclose(detector.score_samples(fresh), scores, rtol=1e-4)


@pytest.mark.parametrize("form", ["pca", "zca"])
def test_relevance_of_features_is_the_papers_double_sum(form):
    X = abs(rows() @ rows(5, seed=2))
    detector = plain(0.01, input_rule="gamma").fit(X)
    W = detector.whitening_
    if form == "pca":  # any other root of the inverse explains alike
        W = np.linalg.qr(rows(5, seed=3))[0] @ W
    for a, relevance in zip(X[:3], detector.explain(X[:3]), strict=True):
        expected = np.zeros(5)
        for k in range(5):
            z = sum(a[j] * W[k, j] for j in range(5))
            for j in range(5):
                expected[j] += a[j] * W[k, j] / z * z**2
        assert_allclose(relevance, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("rule", ["zbox", "wsquare", "gamma"])
def test_without_biases_relevance_sums_to_the_score(rule):
    X = images()
    detector = DeepOneClass(features=conv(), input_rule=rule).fit(X)
    score = -detector.score_samples(X)
    assert_allclose(detector.explain(X).sum(axis=(1, 2, 3)), score, rtol=1e-4)
    assert_allclose(detector.unattributed(X), 0, atol=1e-4 * score.max())


def test_biases_keep_the_unattributed_part():
    X = images()
    detector = DeepOneClass(features=conv(bias=True)).fit(X)
    total = detector.explain(X).sum(axis=(1, 2, 3)) + detector.unattributed(X)
    assert_allclose(total, -detector.score_samples(X), rtol=1e-10)
    assert abs(detector.unattributed(X)).max() > 0.1


def test_a_score_has_the_same_bits_alone_and_in_a_batch():
    X = rows(300)
    detector = DeepOneClass(features=dense()).fit(X)
    alone = [detector.score_samples(x[None])[0] for x in X[:20]]
    assert_array_equal(detector.score_samples(X)[:20], alone)
    assert_array_equal(detector.score_samples(X[::-1])[::-1], detector.score_samples(X))


# What the second moment is like, and its regularisation.


def test_dead_features_need_regularization():
    X = np.c_[rows(d=3), np.zeros((60, 2))]
    assert np.isfinite(plain().fit(X).score_samples(X)).all()
    with pytest.raises(ValueError, match=r"2 of the 5 eigenvalues .* regularization > 0"):
        plain(0).fit(X)
    with pytest.raises(ValueError, match="All features are always 0"):
        plain().fit(np.zeros((5, 2)))
    assert np.isfinite(plain(0).fit(rows()).whitening_).all()


def test_regularization_is_chosen_by_anomalies():
    rng = np.random.default_rng(0)

    def sample(n, wide=0.0, narrow=0.0):
        return np.c_[rng.normal(wide, 1.0, n), rng.normal(narrow, 1e-3, n)]

    normal = sample(1000)
    chosen = []
    for anomalies in (sample(200, narrow=0.01), sample(200, wide=2.0)):
        X, y = np.r_[normal, anomalies], np.repeat([1, -1], [1000, 200])
        detector = plain("auto").fit(X, y)
        chosen.append(detector.regularization_)
        fixed = plain(detector.regularization_).fit(normal)
        assert_array_equal(detector.whitening_, fixed.whitening_)
        assert detector.offset_ == fixed.offset_
        others = [plain(r).fit(normal) for r in (1e-8, 1e-4, 1e-1, 10)]
        best = max(roc_auc_score(y, other.score_samples(X)) for other in others)
        assert roc_auc_score(y, detector.score_samples(X)) > best - 0.01
    assert chosen[0] <= 1e-4 < 1e-2 <= chosen[1]


def test_labels_that_say_nothing_are_refused():
    X = rows()
    with pytest.raises(ValueError, match="chooses by anomalies"):
        plain("auto").fit(X)
    with pytest.raises(ValueError, match="labels 0 and 1"):
        plain("auto").fit(X, np.arange(60) % 2)
    with pytest.warns(UserWarning, match="labels 0 and 1"):
        plain().fit(X, np.arange(60) % 2)
    with pytest.raises(ValueError, match=r"60 numbers.*got 59"):
        plain().fit(X, np.ones(59))
    with pytest.raises(ValueError, match="Two rows at least"):
        plain().fit(X, -np.ones(60))


def test_false_alarms_by_five_whitenings_of_the_same_features():
    X, rate = rows(103), 0.1
    detector = DeepOneClass(features=dense(), false_alarm_rate=rate).fit(X)
    scores = cross_fitted_scores(DeepOneClass(features=dense()), X, np.arange(103))
    assert_allclose(detector.offset_, np.quantile(-scores, rate), rtol=1e-6)


# The network, and what the detector makes of it.


def test_the_network_is_copied():
    net, X = dense().train(), rows()
    detector = DeepOneClass(features=net).fit(X)
    assert net.training and net[0].weight.requires_grad
    scores = detector.score_samples(X)
    with torch.no_grad():
        net[0].weight.mul_(2)
    assert_array_equal(detector.score_samples(X), scores)
    assert_array_equal(pickle.loads(pickle.dumps(detector)).score_samples(X), scores)
    made = DeepOneClass(features=lambda row_shape: dense(*row_shape)).fit(X)
    assert_array_equal(made.score_samples(X), scores)


def test_a_search_over_regularization():
    X = np.r_[rows(100), 2 * rows(20, seed=1)]
    y = np.repeat([1, -1], [100, 20])
    detector = clone(DeepOneClass(features=dense()))
    grid = {"regularization": [1e-4, 1e-1]}
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(detector, grid, scoring="roc_auc", cv=folds, error_score="raise")
    assert search.fit(X, y).best_score_ > 0.6


def test_networks_that_do_not_fit():
    X = images()
    for params in ({}, {"features": conv(), "backbone": "vgg16"}):
        with pytest.raises(ValueError, match="Give one of features"):
            DeepOneClass(**params).fit(X)
    with pytest.raises(ValueError, match=r"fails on rows of shape \(1, 8, 8\)"):
        DeepOneClass(features=feature_layers()).fit(X)
    with pytest.raises(ValueError, match=r"shape \(64,\).*set image_shape"):
        DeepOneClass(features=conv()).fit(X.reshape(40, 64))
    with pytest.raises(ValueError, match="10 of 40 rows, the first being row 0"):
        DeepOneClass(features=_Root()).fit(np.r_[-X[:10] - 1, X[10:]])
    with pytest.raises(ValueError, match="it gave a tuple"):
        DeepOneClass(features=nn.LSTM(5, 2)).fit(rows())
    with pytest.raises(ValueError, match="but gave NoneType"):
        DeepOneClass(features=lambda row_shape: None).fit(X)
    with pytest.raises(ValueError, match="needs weights"):
        DeepOneClass(backbone="vgg16").fit(X)
    fitted = DeepOneClass(features=conv()).fit(X)
    with pytest.raises(ValueError, match=r"images of shape \(1, 7, 7\)"):
        fitted.score_samples(X[:, :, 1:, 1:])


class _Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


def test_networks_without_a_rule_score_and_do_not_explain():
    detector = DeepOneClass(features=nn.Sequential(nn.Linear(5, 3), nn.Tanh())).fit(rows())
    assert np.isfinite(detector.score_samples(rows())).all()
    with pytest.raises(TypeError, match="Tanh"):
        detector.explain(rows())


# The range of the input.


def test_input_range_is_seen_in_the_rows():
    X = rows()
    unit = (X - X.min()) / (X.max() - X.min())
    for data, input_range, rule in (
        (X, None, "wsquare"),
        (unit, (0, 1), "zbox"),
        (255 * unit, (0, 255), "zbox"),
    ):
        detector = DeepOneClass(features=dense()).fit(data)
        assert (detector.input_range_, detector.input_rule_) == (input_range, rule)
    assert DeepOneClass(features=dense(), input_range=None).fit(unit).input_range_ is None
    for params, message in (
        ({"input_range": (0, 0.5)}, "out of input_range"),
        ({"input_range": (1, 0)}, "low < high"),
        ({"input_range": (0, "1")}, "two numbers"),
        ({"input_range": None, "input_rule": "zbox"}, "needs the range"),
    ):
        with pytest.raises(ValueError, match=message):
            DeepOneClass(features=dense(), **params).fit(unit)


def test_a_row_out_of_the_range_widens_it_for_itself():
    X = np.random.default_rng(0).random((60, 5))
    layer = seeded(lambda: nn.Linear(5, 4, bias=False))
    detector = DeepOneClass(features=layer).fit(X)
    x = np.array([0.5, 3.0, 0.2, -1.0, 0.9])
    W = layer.weight.detach().double().numpy()
    top = W @ x * (detector.whitening_ @ detector.whitening_ @ (W @ x))
    low, high = np.minimum(0, x), np.maximum(1, x)
    z = x * W - low * W.clip(min=0) - high * W.clip(max=0)
    expected = (z / z.sum(axis=1, keepdims=True) * top[:, None]).sum(axis=0)
    relevance = detector.explain([X[0], x])
    assert_allclose(relevance[1], expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    assert_allclose(relevance[0], detector.explain(X[:1])[0], rtol=1e-6)


def test_images_are_brought_to_the_range_of_the_network():
    X = images()
    net = FeatureNet(conv(), input_range=(0.0, 1.0))
    unit = DeepOneClass(features=net).fit(X)
    for data, params in (
        (255 * X, {}),
        (X - 0.5, {"input_range": (-0.5, 0.5)}),
        (X, {"input_range": (0, 1)}),
    ):
        other = DeepOneClass(features=net, **params).fit(data)
        assert_allclose(other.score_samples(data), unit.score_samples(X), rtol=1e-4)
        assert_allclose(other.explain(data), unit.explain(X), rtol=1e-3, atol=1e-3)
    for data, high in ((300 * X, 1.0), (5 * X - 2, 1.0), (X, 16.0)):
        net = FeatureNet(conv(), input_range=(0.0, high))
        with pytest.raises(ValueError, match="Scale them alike"):
            DeepOneClass(features=net).fit(data)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_scaling_is_a_change_of_the_first_weights(order):
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    scaled = FeatureNet(conv(3, bias=True), Scaling(mean, std, channels=order)).eval()
    first, mean = scaled.layers[0], torch.tensor(mean)
    weight = first.weight / torch.tensor(std).view(3, 1, 1)
    merged = conv(3, bias=True).eval()
    bias = first.bias - (weight * mean.view(3, 1, 1)).sum(dim=(1, 2, 3))
    merged[0].bias.data, merged[0].weight.data = bias, weight
    if order == "bgr":
        merged[0].weight.data = weight.flip(1)
    X = images(channels=3)
    one, other = (DeepOneClass(features=net).fit(X) for net in (scaled, merged))
    assert_allclose(one.score_samples(X), other.score_samples(X), rtol=1e-3)
    relevance = other.explain(X)
    assert_allclose(one.explain(X), relevance, atol=1e-3 * abs(relevance).max())


def test_a_grey_image_stands_for_its_channels():
    X = images()
    net = FeatureNet(conv(3), Scaling([0.1, 0.2, 0.3], 0.5, channels="bgr"))
    grey = DeepOneClass(features=net).fit(X)
    colour = DeepOneClass(features=net).fit(X.repeat(3, axis=1))
    relevance = colour.explain(X.repeat(3, axis=1)).sum(axis=1, keepdims=True)
    assert_allclose(grey.explain(X), relevance, atol=1e-5 * abs(relevance).max())
    with pytest.raises(ValueError, match="grey or RGB images"):
        DeepOneClass(features=net).fit(X.repeat(2, axis=1))
    with pytest.raises(ValueError, match="std must be positive"):
        Scaling(0.0, [1.0, 0.0])


# Features from an auxiliary set.

DIGITS, CLASSES = load_digits(return_X_y=True)


def test_features_are_learned_and_scaled():
    before = torch.get_rng_state()
    state = np.random.get_state()
    net = fit_features(DIGITS, CLASSES, max_epochs=3, random_state=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert_array_equal(np.random.get_state()[1], state[1])
    assert net.validation_accuracy > 0.8
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    x = torch.tensor(DIGITS[:50], dtype=torch.float32)
    assert net(x).min() == 0  # behind a ReLU
    assert (net.scaling(x).min(), net.scaling(x).max()) == (-1, 1)
    names = CLASSES.astype(str)
    same = fit_features(DIGITS / 16, names, max_epochs=3, random_state=0)
    torch.testing.assert_close(same(x / 16), net(x))
    other = fit_features(DIGITS, CLASSES, max_epochs=3, random_state=1)
    assert not torch.allclose(other(x), net(x))
    copy = pickle.loads(pickle.dumps(net))
    assert torch.equal(copy(x), net(x)) and copy.input_range == net.input_range


def test_features_of_images():
    X = np.kron(DIGITS[:60].reshape(-1, 8, 8), np.ones((4, 4)))[:, 2:30, 2:30]
    net = fit_features(X, CLASSES[:60], max_epochs=1, random_state=0)
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 640)
    assert net.input_range == (0, 16)
    flat = fit_features(
        X.reshape(60, -1), CLASSES[:60], image_shape=(28, 28), max_epochs=1, random_state=0
    )
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(flat(x), net(x))
    detector = DeepOneClass(features=net).fit(X)
    assert (detector.input_range_, detector.input_rule_) == ((0, 16), "zbox")
    assert detector.explain(X[:3]).shape == (3, 28, 28)


def test_a_users_network_is_trained_on_a_copy():
    net = dense(64)
    weight = net[0].weight.clone()
    trained = fit_features(DIGITS, CLASSES, network=net, max_epochs=1, random_state=0)
    assert torch.equal(net[0].weight, weight)
    assert not torch.equal(trained.layers[0].weight, weight)
    made = [
        fit_features(
            DIGITS,
            CLASSES,
            network=lambda s: nn.Linear(*s, 3),
            max_epochs=1,
            random_state=0,
        )
        for _ in range(2)
    ]
    assert torch.equal(made[0].layers.weight, made[1].layers.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones(1797)}, "two classes"),
        ({"y": np.r_[7, np.zeros(1796)]}, "two rows of each class"),
        ({"y": CLASSES[1:]}, "inconsistent numbers"),
        ({"X": np.where(DIGITS == 3, np.nan, DIGITS)}, "NaN"),
        ({"X": np.ones((1797, 4))}, "All entries of X are 1"),
        ({"X": DIGITS.reshape(-1, 8, 8)}, r"fails on rows of shape \(1, 8, 8\)"),
        ({"image_shape": (7, 8)}, "does not fit X"),
        ({"network": "paper"}, "network must be"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"lr": -1}, "lr must be"),
        ({"lr": 1e30, "max_epochs": 2}, "diverged"),
    ],
)
def test_what_features_are_not_learned_from(change, message):
    with pytest.raises(ValueError, match=message):
        fit_features(**({"X": DIGITS, "y": CLASSES, "random_state": 0} | change))


# Backbones: torchvision's numbers of parameters, and forwards written from its weights.

PARAMETERS = {
    "resnet18": 11_689_512,
    "squeezenet1_1": 1_235_496,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}
CLASSIFIERS = {"resnet18": 513_000, "squeezenet1_1": 513_000}  # vgg: 123,642,856


def skeleton(name):
    with torch.device("meta"):
        return _backbones._make_layers(name)


def random_weights(name, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(key, shape):
        values = torch.rand(shape, generator=generator)
        spread = len(shape) == 4 and (2 / np.prod(shape[1:])) ** 0.5
        return (2 * values - 1) * spread if len(shape) == 4 else 0.5 + values

    own = skeleton(name).state_dict().items()
    return {key: draw(key, tensor.shape) for key, tensor in own if "num_b" not in key}


def norm(x, w, key):
    statistics = [w[f"{key}.{name}"] for name in ("running_mean", "running_var")]
    return F.batch_norm(x, *statistics, w[f"{key}.weight"], w[f"{key}.bias"])


def vgg(x, w, normed):
    keys = sorted({int(key.split(".")[1]) for key in w})
    convs = keys[::2] if normed else keys
    for key, following in pairwise([*convs, convs[-1]]):
        x = F.conv2d(x, w[f"features.{key}.weight"], w[f"features.{key}.bias"], padding=1)
        x = F.relu(norm(x, w, f"features.{key + 1}") if normed else x)
        if following - key > 2 + normed:
            x = F.max_pool2d(x, 2)
    return x.mean(dim=(2, 3))


def squeezenet(x, w):
    def apply(x, key, **params):
        key = f"features.{key}"
        return F.relu(F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], **params))

    x = apply(x, 0, stride=2)
    for fire in (3, 4, 6, 7, 9, 10, 11, 12):
        if fire in (3, 6, 9):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = apply(x, f"{fire}.squeeze")
        wide = apply(x, f"{fire}.expand3x3", padding=1)
        x = torch.cat([apply(x, f"{fire}.expand1x1"), wide], dim=1)
    return x.mean(dim=(2, 3))


def resnet18(x, w):
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], None, 2, 3), w, "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for i in range(8):
        key = f"layer{i // 2 + 1}.{i % 2}"
        stride = 2 if i in (2, 4, 6) else 1
        y = F.conv2d(x, w[f"{key}.conv1.weight"], None, stride, 1)
        y = F.conv2d(F.relu(norm(y, w, f"{key}.bn1")), w[f"{key}.conv2.weight"], None, 1, 1)
        if stride > 1:
            x = F.conv2d(x, w[f"{key}.downsample.0.weight"], None, 2)
            x = norm(x, w, f"{key}.downsample.1")
        x = F.relu(norm(y, w, f"{key}.bn2") + x)
    return x.mean(dim=(2, 3))


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_have_as_many_parameters_as_torchvisions(name):
    n = sum(p.numel() for p in skeleton(name).parameters())
    assert n + CLASSIFIERS.get(name, 123_642_856) == PARAMETERS[name]


FORWARDS = {
    "resnet18": resnet18,
    "squeezenet1_1": squeezenet,
    "vgg11": lambda x, w: vgg(x, w, False),
    "vgg11_bn": lambda x, w: vgg(x, w, True),
}


@pytest.mark.parametrize(("name", "forward"), FORWARDS.items(), ids=FORWARDS)
def test_backbones_compute_what_their_weights_say(name, forward):
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    scaled = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    weights = random_weights(name)
    net = load_backbone(name, weights)
    assert net(x).shape == (2, 512)
    torch.testing.assert_close(net(x), forward(scaled, weights), rtol=1e-3, atol=1e-5)
    relevance = net.explainer(gamma=0.25, input_rule="wsquare")(x, lambda phi: phi.sum(1))
    assert relevance.isfinite().all() and relevance.any()


@needs_weights
def test_files_of_weights():
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    weights = torch.load(SQUEEZENET, weights_only=True)
    means = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    net = load_backbone("squeezenet1_1", SQUEEZENET, preprocessing="caffe")
    expected = squeezenet(255 * x.flip(1) - means, weights)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)

    weights = torch.load(VGG16, weights_only=True)
    weights = {f"features.{key}": tensor.float() for key, tensor in weights.items()}
    net = load_backbone("vgg16", VGG16)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    scaled = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(net(x), vgg(scaled, weights, False), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="another network: missing features"):
        load_backbone("squeezenet1_1", VGG16)


def test_a_backbone_in_a_detector(tmp_path):
    path = tmp_path / "weights.pth"
    classifier = {"classifier.1.weight": torch.ones(2), "classifier.1.bias": torch.ones(2)}
    torch.save(random_weights("squeezenet1_1") | classifier, path)
    X = np.random.default_rng(0).integers(0, 256, (12, 40, 40)).astype(np.uint8)
    detector = DeepOneClass(backbone="squeezenet1_1", weights=str(path)).fit(X)
    assert detector.input_range_ == (0, 255)
    assert detector.explain(X[:2]).shape == (2, 40, 40)
    unit = DeepOneClass(backbone="squeezenet1_1", weights=path).fit(X / 255)
    assert_allclose(detector.score_samples(X), unit.score_samples(X / 255), rtol=1e-2)


def test_weights_of_something_else(tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    weights = random_weights("resnet18")
    for bad, message in (
        (broken, "can't be read as weights"),
        (weights | {"extra": torch.ones(1)}, "unknown extra"),
        ({**weights, "bn1.weight": torch.ones(3)}, r"bn1.weight is \(3,\), not \(64,\)"),
        ({key: weights[key] for key in list(weights)[1:]}, "missing conv1.weight"),
        ([1], "file or a state dict"),
    ):
        with pytest.raises(ValueError, match=message):
            load_backbone("resnet18", bad)
    with pytest.raises(FileNotFoundError):
        load_backbone("resnet18", tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"name must be one of .*'vgg16'.*got 'vgg12'"):
        load_backbone("vgg12", weights)


def test_download_checks_the_checksum(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.setattr(_backbones, "_URL", source.as_uri() + "/")
    file = source / _backbones._FILES["resnet18"]
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        download_weights("resnet18", tmp_path / "home")
    file.write_bytes(b"other")
    with pytest.raises(FileNotFoundError, match="invalid hash"):
        download_weights("resnet18", tmp_path / "home")
    assert not [*(tmp_path / "home").rglob("*.*")]
    # SHA-256 of b"weights" starts so.
    monkeypatch.setitem(_backbones._FILES, "resnet18", "resnet18-9a129038.pth")
    (source / "resnet18-9a129038.pth").write_bytes(b"weights")
    path = download_weights("resnet18", tmp_path / "home")
    assert path.read_bytes() == b"weights"
    (source / "resnet18-9a129038.pth").unlink()
    assert download_weights("resnet18", tmp_path / "home") == path
    with pytest.raises(ValueError, match="name must be one of"):
        download_weights("resnet152")


def test_odd_numbers_of_features_keep_their_bits():
    for width in (9, 17, 21):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, width), nn.ReLU())
        X = np.random.default_rng(0).standard_normal((1200, 8))
        fitted = DeepOneClass(features=net).fit(X[:300])
        scores = fitted.score_samples(X)
        for shift in (1, 2, 3):
            assert_array_equal(fitted.score_samples(X[shift:]), scores[shift:])


def test_an_explainer_is_kept_for_its_gamma():
    X = images()
    fitted = DeepOneClass(features=conv()).fit(X)
    first = fitted.explain(X[:2])
    assert_array_equal(fitted.explain(X[:2]), first)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).explain(X[:2]), first)
    other = fitted.set_params(gamma=1.0).explain(X[:2])
    fresh = DeepOneClass(features=conv(), gamma=1.0).fit(X).explain(X[:2])
    assert_array_equal(other, fresh)
    assert not np.allclose(other, first)


def test_anomalies_do_not_choose_the_range():
    X = np.random.default_rng(0).random((50, 1, 8, 8))
    y = np.repeat([1, -1], [50, 3])
    both = DeepOneClass(features=conv()).fit(np.concatenate([X, 200 * X[:3]]), y)
    alone = DeepOneClass(features=conv()).fit(X)
    assert both.input_range_ == alone.input_range_ == (0, 1)
    with torch.inference_mode():
        both.explain(X[:2])


def test_features_can_be_trained_on():
    class Wide(FeatureNet):
        def forward(self, x):
            return 2 * super().forward(x)

    net = fit_features(DIGITS, CLASSES, max_epochs=1, random_state=0)
    more = fit_features(DIGITS, CLASSES, network=net, max_epochs=1, random_state=0)
    assert torch.equal(more.scaling.mean, net.scaling.mean)
    start, end = net.layers[0].weight, more.layers[0].weight
    assert 0 < torch.dist(start, end) < 0.1 * torch.linalg.norm(start)
    assert type(copy.deepcopy(Wide(conv()))) is Wide
    detector = DeepOneClass(features=more).fit(DIGITS)
    assert np.isfinite(detector.explain(DIGITS[:3])).all()
