"""FCDD: the map, what it says where, the masks it learns from, its networks."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import nn

from skad import FCDD
from skad.datasets import make_textures
from skad.detectors._fcdd._networks import auto_network, paper_network
from skad.images import GlobalContrastNormalizer, confetti
from skad.metrics import ExplanationAwareScorer
from skad.neural import Augmentation, EarlyStopping, Trunk
from skad.neural._backbones import _make_layers
from skad.relevance._receptive_field import receptive_field

RNG = np.random.default_rng(0)
GREY = RNG.random((30, 12, 10))
COLOUR = RNG.random((24, 3, 9, 14))
TABLE = RNG.standard_normal((60, 5)) * [1, 2, 3, 4, 0.1] + 7
LABELS = np.repeat([1, 0, -1], [10, 10, 10])
MASK = np.zeros(GREY.shape, dtype=bool)
MASK[20:29, 2:6, 3:8] = True  # the last anomaly has none
ROWS = {"grey": GREY, "colour": COLOUR, "table": TABLE}
EACH = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)


def make(**params):
    return FCDD(**{"max_epochs": 2, "random_state": 0, **params})


def total(relevance):
    return relevance.reshape(len(relevance), -1).sum(axis=1)


# Score and explanation.


@EACH
def test_the_score_is_the_mean_of_the_map(rows):
    detector = make().fit(rows)
    maps = detector.heatmap(rows, upsampling=None)
    assert maps.shape == (len(rows), *detector.map_shape_)
    assert maps.min() >= 0
    assert_allclose(maps.mean(axis=(1, 2)), -detector.score_samples(rows), rtol=1e-5)
    for pooling, k in (("max", 1), ("topk", -(-maps[0].size // 50))):
        top = np.sort(maps.reshape(len(maps), -1))[:, -k:].mean(axis=1)
        detector.set_params(pooling=pooling)
        assert_allclose(-detector.score_samples(rows), top, rtol=1e-5)


@EACH
@pytest.mark.parametrize("pooling", ["mean", "max", "topk"])
def test_relevance_sums_to_the_score(rows, pooling):
    detector = make(pooling=pooling).fit(rows)
    relevance = detector.explain(rows)
    assert relevance.shape == rows.shape
    assert relevance.min() >= 0
    assert_allclose(total(relevance), -detector.score_samples(rows), rtol=1e-6)
    assert not detector.unattributed(rows).any()
    if rows.ndim == 4:
        assert_array_equal(relevance[:, 0], relevance[:, 2])


def test_a_fiftieth_is_rounded_up():
    detector = make(network=nn.Conv2d(1, 1, 3), pooling="topk").fit(GREY)
    maps = detector.heatmap(GREY, upsampling=None).reshape(30, -1)
    assert maps.shape[1] == 80
    top = np.sort(maps, axis=1)[:, -2:].mean(axis=1)
    assert_allclose(-detector.score_samples(GREY), top, rtol=1e-5)
    assert_allclose(total(detector.explain(GREY)), top, rtol=1e-5)


def test_the_map_is_pseudo_huber_of_the_networks_output():
    detector = make().fit(GREY)
    net = copy.deepcopy(detector.net_.module_).double()
    phi = net(torch.from_numpy(GREY)[:, None])[:, 0].detach().numpy()
    expected = np.sqrt(phi**2 + 1) - 1
    maps = detector.heatmap(GREY, upsampling=None)
    assert_allclose(maps, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sigma", [None, 0.8, 3.0])
@pytest.mark.parametrize("rows", [GREY, COLOUR], ids=["grey", "colour"])
def test_the_papers_map_is_algorithm_1(rows, sigma):
    detector = make(sigma=sigma).fit(rows)
    field, maps = detector.receptive_field_, detector.heatmap(rows[:2], upsampling=None)
    expected = np.zeros((2, *rows.shape[-2:]))
    r = field.size[0]
    s = max(0.19 * r, field.jump[0] / 2) if sigma is None else sigma
    assert detector.sigma_ == pytest.approx((s, s))
    for n, y, x in np.ndindex(expected.shape):
        for i, j in np.ndindex(maps.shape[1:]):
            dy = y - field.start[0] - i * field.jump[0]
            dx = x - field.start[1] - j * field.jump[1]
            if max(abs(dy), abs(dx)) <= (r - 1) / 2:
                expected[n, y, x] += maps[n, i, j] * np.exp(-(dy**2 + dx**2) / (2 * s**2))
    assert_allclose(detector.heatmap(rows[:2], upsampling="paper"), expected, atol=1e-10)


def test_other_upsamplings():
    detector = make().fit(GREY)
    maps = detector.heatmap(GREY, upsampling=None)
    mass = detector.heatmap(GREY, upsampling="mass")
    assert_allclose(mass.sum(axis=(1, 2)), maps.sum(axis=(1, 2)))
    assert_allclose(mass / maps[0].size, detector.explain(GREY))
    partition = detector.heatmap(GREY)
    assert partition.shape == GREY.shape
    assert (partition.max(axis=(1, 2)) <= maps.max(axis=(1, 2)) + 1e-12).all()
    assert (partition.min(axis=(1, 2)) >= maps.min(axis=(1, 2)) - 1e-12).all()
    with pytest.raises(ValueError, match="upsampling must be one of"):
        detector.heatmap(GREY, upsampling="gaussian")


def test_of_a_table_each_entry_is_judged_alone():
    detector = make().fit(TABLE)
    relevance = detector.explain(TABLE)
    assert_allclose(5 * relevance, detector.heatmap(TABLE, upsampling=None)[:, 0])
    changed = TABLE.copy()
    changed[:, 2] += 50
    others = [0, 1, 3, 4]
    assert_array_equal(detector.explain(changed)[:, others], relevance[:, others])
    assert (detector.explain(changed)[:, 2] != relevance[:, 2]).all()


# Networks and their fields.


def reach(net, shape):
    """The pixels from the first to the last that each output of a map depends on."""
    x = torch.rand(1, *shape, requires_grad=True)
    maps = net.eval()(x)[0, 0]
    for i, j in {(0, 0), (maps.shape[0] // 2, maps.shape[1] // 2)}:
        (gradient,) = torch.autograd.grad(maps[i, j], x, retain_graph=True)
        yield i, j, gradient[0].abs().sum(dim=0).nonzero()


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        *(("auto", s) for s in [(1, 1, 1), (1, 2, 5), (3, 5, 3), (1, 8, 9), (3, 13, 40)]),
        *(("auto", s) for s in [(1, 16, 16), (1, 37, 28), (1, 64, 70)]),
        *(("paper28", (1, 28, 28)), ("paper32", (3, 32, 32)), ("paper224", (3, 96, 80))),
    ],
)
def test_outputs_depend_on_nothing_outside_of_their_field(net, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = auto_network(shape) if net == "auto" else paper_network(net, shape[0])
        field = receptive_field(net, shape)
        assert all(size <= side for size, side in zip(field.size, shape[1:], strict=True))
        for i, j, seen in reach(net, shape):
            assert len(seen)
            for axis, k in enumerate((i, j)):
                low, high = seen[:, axis].min(), seen[:, axis].max()
                assert low >= field.low[axis] + k * field.jump[axis]
                assert high <= field.high[axis] + k * field.jump[axis]


@pytest.mark.parametrize(
    ("name", "shape", "n_parameters", "map_size", "size", "jump", "start"),
    [
        ("paper28", (1, 28, 28), 413_441, 7, 16, 4, 1.5),
        ("paper32", (3, 32, 32), 1_185_281, 8, 22, 4, 1.5),
        ("paper224", (3, 224, 224), 4_504_833, 28, 62, 8, 3.5),
    ],
)
def test_the_papers_networks(name, shape, n_parameters, map_size, size, jump, start):
    net = paper_network(name, shape[0])
    assert sum(p.numel() for p in net.parameters()) == n_parameters
    field = receptive_field(net, shape)
    assert (field.size, field.jump, field.start) == ((size,) * 2, (jump,) * 2, (start,) * 2)
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, *shape)).shape == (1, 1, map_size, map_size)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (3, 40), (7, 7), (3, 1, 1), (3, 17, 16)])
def test_images_of_any_size(shape):
    rows = RNG.random((10, *shape))
    detector = make(max_epochs=1).fit(rows)
    assert detector.heatmap(rows).shape == (10, *shape[-2:])
    assert_allclose(total(detector.explain(rows)), -detector.score_samples(rows), rtol=1e-6)


def test_a_network_of_the_user():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 1, 1))
    net[0].requires_grad_(False)
    first, last = net[0].weight.clone(), net[2].weight.clone()
    detector = make(network=net).fit(GREY)
    trained = detector.net_.module_.layers
    assert torch.equal(trained[0].weight, first)
    assert not torch.equal(trained[2].weight, last)
    assert torch.equal(net[2].weight, last)
    assert detector.map_shape_ == (5, 4)
    assert detector.receptive_field_.size == (3, 3)
    made = make(network=lambda shape: nn.Conv2d(shape[0], 1, 3)).fit(COLOUR)
    assert made.map_shape_ == (7, 12)


@pytest.mark.parametrize(
    ("params", "rows", "message"),
    [
        (
            {"network": "paper28"},
            RNG.random((9, 8, 8)),
            "smaller than the receptive field: 8 x 8 .* 16 x 16",
        ),
        (
            {"network": nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(8, 4))},
            GREY,
            "not bounded",
        ),
        ({"network": nn.Conv2d(1, 2, 3)}, GREY, r"one channel.* gives \(2, 2, 10, 8\)"),
        ({"network": nn.Flatten()}, GREY, r"maps of one channel.* gives \(2, 120\)"),
        ({"network": nn.Conv2d(3, 1, 3)}, GREY, r"fails on rows of shape \(1, 12, 10\)"),
        ({"network": nn.AvgPool2d(3)}, GREY, "nothing to train"),
        (
            {"network": nn.Conv2d(1, 1, 3).requires_grad_(False)},
            GREY,
            "nothing to train",
        ),
        ({"network": lambda shape: None}, GREY, "but gave NoneType"),
        ({"network": "paper64"}, GREY, "'network' parameter"),
        (
            {"network": Trunk("vgg11_bn")},
            COLOUR,
            r"Trunk\('vgg11_bn'\) needs weights, a file or a state dict",
        ),
        ({"network": Trunk("vgg12")}, COLOUR, "'name' parameter of Trunk"),
        ({"network": Trunk("vgg11", freeze=-1)}, COLOUR, "'freeze' parameter of Trunk"),
        ({"objective": "both"}, GREY, "'objective' parameter"),
        ({"sigma": 0}, GREY, "'sigma' parameter"),
        ({"outliers": None}, GREY, "FCDD learns from anomalies, and has none"),
        ({"outliers": "confetti"}, TABLE, "drawn on images, but X has flat rows"),
        ({"outliers": RNG.random((4, 3, 12, 10))}, GREY, r"images of shape \(3, 12, 10\)"),
        ({"image_shape": (5, 5)}, GREY, "image_shape="),
        ({"lr": 1e8, "max_epochs": 4}, GREY, "diverged"),
    ],
)
def test_bad_fits_say_so(params, rows, message):
    with pytest.raises(ValueError, match=message):
        make(**params).fit(rows)


def test_other_images_at_prediction():
    detector = make().fit(GREY)
    with pytest.raises(ValueError, match=r"images of shape \(3, 12, 10\).* \(12, 10\)"):
        detector.score_samples(np.repeat(GREY[:, None], 3, axis=1))
    with pytest.raises(ValueError, match=r"images of shape \(10, 12\).* \(12, 10\)"):
        detector.heatmap(GREY.transpose(0, 2, 1))


def test_flat_rows_of_a_known_shape_are_images():
    y, flat = LABELS, GREY.reshape(30, 120)
    seen, told = make().fit(GREY, y, mask=MASK), make(image_shape=(12, 10))
    told.fit(flat, y, mask=MASK.reshape(30, 120))
    assert_array_equal(told.score_samples(flat), seen.score_samples(GREY))
    assert_array_equal(told.explain(flat).reshape(GREY.shape), seen.explain(GREY))
    assert_array_equal(told.heatmap(flat), seen.heatmap(GREY))
    assert make(max_epochs=1).fit(flat).map_shape_ == (1, 120)  # else a table


@pytest.mark.parametrize(
    ("size", "resize", "map_size"),
    [((8, 8), (16, 24), (8, 12)), ((9, 14), 16, (8, 8)), ((64, 50), 16, (8, 8))],
)
def test_resized_images(size, resize, map_size):
    rows, seen = RNG.random((8, 3, *size)), []
    detector = make(resize=resize, max_epochs=1).fit(rows)
    assert detector.map_shape_ == map_size
    assert detector.heatmap(rows).shape == (8, *size)
    assert_allclose(total(detector.explain(rows)), -detector.score_samples(rows), rtol=1e-6)
    own = make(resize=resize, network=lambda s: seen.append(s) or nn.Conv2d(3, 1, 1))
    own.set_params(max_epochs=1).fit(rows)
    assert seen == [(3, *np.broadcast_to(resize, 2))]


@pytest.mark.parametrize("resize", [(16,), (16, 0), ("a", "b"), (16, 16.0), [8, 8, 8]])
def test_bad_sizes(resize):
    with pytest.raises(ValueError, match=r"resize must be .* positive integers"):
        make(resize=resize).fit(GREY)


# What comes to the network.


def in_units(images, low, high):
    """Images as they come to the network: values in [0, 1]."""
    return torch.from_numpy((images - low) / (high - low)).float()


def spread(images):
    return images.min(), images.max()


def test_standard_normalization():
    units = ((GREY, 0, 1), (255 * COLOUR, 0, 255))
    for rows, low, high in (*units, (40 * GREY - 300, *spread(40 * GREY - 300))):
        net = make(max_epochs=1).fit(rows).net_.module_.normalization
        images = rows.reshape(len(rows), -1, *rows.shape[-2:])
        scaled = net(in_units(images, low, high)).double().numpy()
        mean, std = (f(images, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
        assert_allclose(scaled, (images - mean) / std, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "high"), [(GREY, 1), (255 * COLOUR, 255)], ids=["grey", "colour"]
)
def test_contrast_normalization_is_that_of_the_transformer(rows, high):
    normal = rows[:20]
    y = np.where(np.arange(len(rows)) < 20, 1, -1)
    expected = GlobalContrastNormalizer().fit(normal)
    net = make(normalization="contrast").fit(rows, y).net_.module_.normalization
    # The unit in which images come changes neither of the extremes.
    extremes = net.low.item(), (net.low + net.width).item()
    assert extremes == pytest.approx((expected.min_, expected.max_), rel=1e-4)
    images = rows.reshape(len(rows), -1, *rows.shape[-2:])
    scaled = net(in_units(images, 0, high)).double().numpy()
    assert_allclose(scaled.reshape(rows.shape), expected.transform(rows), atol=1e-4)
    flat = make(normalization="contrast", max_epochs=1).fit(np.full((5, 9, 9), 0.5))
    assert np.isfinite(flat.explain(RNG.random((3, 9, 9)))).all()


def test_no_normalization():
    detector = make(normalization=None, max_epochs=1).fit(GREY)
    assert not hasattr(detector.net_.module_, "normalization")


def test_anomalies_do_not_set_the_units():
    X = np.concatenate([GREY[:20], 200 * GREY[20:]])
    net = make().fit(X, LABELS).net_.module_.normalization
    assert net.mean.item() == pytest.approx(GREY[:20].mean(), rel=1e-6)
    assert net.std.item() == pytest.approx(GREY[:20].std(), rel=1e-6)


# Masks.


def test_masks_of_any_shape_are_one():
    expected = make().fit(GREY, LABELS, mask=MASK).score_samples(GREY)
    flat = MASK.reshape(30, 120)
    for mask in (MASK[:, None], flat, MASK.tolist(), pd.DataFrame(flat), 255 * MASK):
        fitted = make().fit(GREY, pd.Series(LABELS), mask=mask)
        assert_array_equal(fitted.score_samples(GREY), expected)
        assert fitted.objective_ == "pixel"
    y, mask = np.repeat([0, -1], [18, 6]), np.zeros(COLOUR.shape)
    mask[18:, 1, 3:6, 3:6] = 1  # in one of the channels
    merged = mask.any(axis=1)
    scores = [make().fit(COLOUR, y, mask=m).score_samples(COLOUR) for m in (mask, merged)]
    assert_array_equal(*scores)


def test_masks_matter():
    other = np.roll(MASK, 4, axis=1)
    fits = [make().fit(GREY, LABELS, mask=m) for m in (MASK, other, None)]
    first, second, none = (fitted.score_samples(GREY) for fitted in fits)
    assert (first != second).any() and (first != none).any()
    assert [fitted.objective_ for fitted in fits] == ["pixel", "pixel", "image"]
    whole = make(objective="pixel").fit(GREY, LABELS)
    empty = make().fit(GREY, LABELS, mask=np.zeros_like(MASK))  # anomalous everywhere
    assert_array_equal(empty.score_samples(GREY), whole.score_samples(GREY))
    ignored = make(objective="image").fit(GREY, LABELS, mask=MASK)
    assert_array_equal(ignored.score_samples(GREY), none)


@pytest.mark.parametrize(
    ("y", "mask", "message"),
    [
        (LABELS, MASK[1:], r"mask must have shape \(30, 12, 10\).* got \(29, 12, 10\)"),
        (LABELS, MASK[:, 1:], r"got \(30, 11, 10\)"),
        (LABELS, MASK.transpose(0, 2, 1), r"got \(30, 10, 12\)"),
        (LABELS, MASK[0], r"got \(12, 10\)"),
        (LABELS, True, r"got \(\)"),
        (LABELS[::-1], MASK, "9 rows that are not labelled -1; the first is row 20.*1"),
        (None, MASK, "9 rows that are not labelled -1.* row 20, labelled 0"),
        (np.r_[LABELS[:20], 0, LABELS[21:]], MASK, "1 rows .* row 20, labelled 0"),
    ],
)
def test_bad_masks(y, mask, message):
    detector = make()
    with pytest.raises(ValueError, match=message):
        detector.fit(GREY, y, mask=mask)
    assert set(vars(detector)) == set(detector.get_params())
    fitted = make().fit(GREY)
    before = set(vars(fitted))
    with pytest.raises(ValueError, match=message):
        fitted.partial_fit(GREY, y, mask=mask)
    assert set(vars(fitted)) == before


def test_masks_teach_where():
    def planted(n, seed):
        rng = np.random.default_rng(seed)
        images, mask = rng.random((n, 16, 16)), np.zeros((n, 16, 16), dtype=bool)
        for image, m, (y, x) in zip(
            images, mask, rng.integers(12, size=(n, 2)), strict=True
        ):
            m[y : y + 4, x : x + 4] = True
            image[m] = 0.3 + 0.4 * image[m]  # flatter
        return images, mask

    normal = np.random.default_rng(9).random((80, 16, 16))
    anomalous, mask = planted(40, seed=0)
    X, y = np.concatenate([normal, anomalous]), np.repeat([1, -1], [80, 40])
    masks = np.concatenate([np.zeros((80, 16, 16)), mask])
    fitted = make(max_epochs=12, lr=5e-3).fit(X, y, mask=masks)
    test, truth = planted(40, seed=1)
    auc = roc_auc_score(truth.ravel(), fitted.heatmap(test).ravel())
    untold = make(max_epochs=12, lr=5e-3, outliers="uniform").fit(normal)
    assert auc > 0.8
    assert auc > roc_auc_score(truth.ravel(), untold.heatmap(test).ravel()) + 0.1
    fresh = np.random.default_rng(7).random((40, 16, 16))
    scores = fitted.score_samples(np.concatenate([fresh, test]))
    assert roc_auc_score(np.repeat([1, 0], 40), scores) > 0.65


def test_confetti_teach_where_without_labels():
    normal = make_textures(60, anomaly_share=0, size=16, texture="noise", random_state=0)
    fitted = make(max_epochs=12, lr=3e-3).fit(normal.images)
    drawn, mask = confetti(normal.images, random_state=5)
    auc = roc_auc_score(mask.ravel(), fitted.explain(drawn).ravel())
    assert auc > 0.8


# Where anomalies come from.


def test_sources_and_what_they_make_the_objective(caplog):
    caplog.set_level("INFO", "skad")
    corpus = RNG.random((5, 12, 10))
    marked = {"outliers": lambda X, rng: (1 - X, X > 0.5)}
    for params, y, names, objective in (
        ({}, None, ("confetti",), "pixel"),
        ({"outliers": "uniform"}, None, ("uniform",), "pixel"),
        ({"outliers": corpus}, None, ("array",), "image"),
        ({}, LABELS, ("labelled",), "image"),
        (
            {"outliers": corpus, "objective": "pixel"},
            LABELS,
            ("labelled", "array"),
            "pixel",
        ),
        ({"outliers": lambda X, rng: 1 - X}, None, ("callable",), "image"),
        (marked, LABELS, ("labelled", "callable"), "pixel"),
        ({**marked, "objective": "image"}, None, ("callable",), "image"),
    ):
        fitted = make(max_epochs=1, **params).fit(GREY, y)
        assert (fitted.outliers_, fitted.objective_) == (names, objective)
    (record,) = caplog.records
    assert record.name == "skad"
    assert "outliers='confetti'" in record.getMessage()


def test_labels_that_say_nothing():
    with pytest.warns(UserWarning, match="labels 0 and 1"):
        make(max_epochs=1).fit(GREY, np.arange(30) % 2)
    for y in (-np.ones(30), np.r_[1, -np.ones(29)]):
        with pytest.raises(ValueError, match="Two rows at least must not be labelled -1"):
            make().fit(GREY, y)


def test_the_threshold_is_that_of_rows_not_labelled_as_anomalies():
    for fitted in (
        make().fit(GREY, LABELS, mask=MASK),
        make().partial_fit(GREY, LABELS, mask=MASK),
    ):
        expected = np.quantile(fitted.score_samples(GREY[:20]), 0.1)
        assert fitted.offset_ == pytest.approx(expected)
    rate = make(false_alarm_rate=0.3, max_epochs=1).fit(GREY, LABELS, mask=MASK)
    assert np.isfinite(rate.offset_)


# Backbones.


def weights_of(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = _make_layers(name).state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
    return state


RGB = RNG.random((8, 3, 32, 32)).astype(np.float32)
VGG = {"name": "vgg11_bn", "weights": weights_of("vgg11_bn"), "n_layers": 11}


def make_on(trunk, **params):
    return make(network=Trunk(**trunk), **params)


def differing(fitted, weights, names):
    """The trained layers' tensors that differ from the weights, by name."""
    module = fitted.net_.module_
    layers = [*module.frozen, *module.trained]
    own = {
        f"{name}.{key}": value
        for name, layer in zip(names, layers, strict=True)
        for key, value in layer.state_dict().items()
    }
    return {k for k, v in own.items() if not torch.equal(v, weights[k])}, set(own)


@pytest.mark.parametrize(
    ("freeze", "n_frozen"), [(True, 11), ("auto", 11), (False, 0), (0, 0), (5, 5)]
)
def test_a_frozen_trunk_does_not_change(freeze, n_frozen):
    fitted = make_on({**VGG, "freeze": freeze}, batch_size=4).fit(RGB)
    names = [f"features.{i}" for i in range(11)]
    changed, known = differing(fitted, VGG["weights"], names)
    trained = {k for k in known if int(k.split(".")[1]) >= n_frozen}
    assert changed == trained  # statistics of batch norms included
    assert len(fitted.net_.module_.frozen) == n_frozen
    assert not any(p.requires_grad for p in fitted.net_.module_.frozen.parameters())
    head = fitted.net_.module_.head
    assert all(p.requires_grad for p in head.parameters())
    assert fitted.receptive_field_.size == (18, 18)
    assert_allclose(total(fitted.explain(RGB)), -fitted.score_samples(RGB), rtol=1e-6)


def test_a_frozen_trunk_is_never_in_training_mode():
    network = make_on({**VGG, "freeze": True}).fit(RGB).net_.module_.train()
    assert not any(module.training for module in network.frozen.modules())
    assert network.head.training


def test_the_paper_froze_15_layers_of_vgg():
    detector = make_on({**VGG, "n_layers": 17}, resize=64, max_epochs=1)
    assert len(detector.fit(RGB).net_.module_.frozen) == 15


def test_a_residual_trunk():
    weights = weights_of("resnet18")
    trunk = {"name": "resnet18", "weights": weights, "n_layers": 5, "freeze": 4}
    fitted = make_on({**trunk, "head": "linear"}, batch_size=4, resize=64).fit(RGB)
    names = ["conv1", "bn1", "relu", "maxpool", "layer1"]
    changed, known = differing(fitted, weights, names)
    assert changed == {k for k in known if k.startswith("layer1")}
    assert isinstance(fitted.net_.module_.head, nn.Conv2d)
    grey = make_on(trunk, max_epochs=1, resize=64).fit(RGB[:, 0])
    assert grey.explain(RGB[:, 0]).shape == (8, 32, 32)
    with pytest.raises(ValueError, match="8 layers; got n_layers=9"):
        make_on({**trunk, "n_layers": 9}).fit(RGB)
    with pytest.raises(ValueError, match="freeze=6, but resnet18 is cut to 5 layers"):
        make_on({**trunk, "freeze": 6}).fit(RGB)
    with pytest.raises(ValueError, match="smaller than the receptive field: 32 x 32"):
        make_on(trunk).fit(RGB)
    with pytest.raises(ValueError, match="grey or RGB"):
        make_on(trunk, resize=64).fit(RGB[:, :2])


def test_a_head_of_the_user():
    fitted = make_on({**VGG, "head": lambda c: nn.Conv2d(c, 1, 3, padding=1)}, max_epochs=1)
    assert fitted.fit(RGB).receptive_field_.size == (26, 26)
    with pytest.raises(ValueError, match="one channel"):
        make_on({**VGG, "head": lambda c: nn.Conv2d(c, 2, 1)}).fit(RGB)


def test_a_search_over_the_layers_of_a_trunk():
    y = np.repeat([1, -1], 4)
    search = GridSearchCV(
        make_on(VGG, max_epochs=1, outliers="confetti"),
        {"network__n_layers": [2, 8]},
        scoring="roc_auc",
        cv=StratifiedKFold(2),
        error_score="raise",
    ).fit(RGB, y)
    layers = search.best_params_["network__n_layers"]
    assert len(search.best_estimator_.net_.module_.frozen) == layers


# In scikit-learn.


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class Recording(FCDD):
    seen = []

    def fit(self, X, y=None, *, mask=None):
        super().fit(X, y, mask=mask)
        self.seen.append((X, y, mask, self.score_samples(X)))
        return self


def test_a_search_hands_on_masks(routing):
    textures = make_textures(36, anomaly_share=0.5, size=12, random_state=0)
    X, y, mask = textures.images, textures.target, textures.mask.reshape(-1, 12, 12)
    Recording.seen.clear()
    search = GridSearchCV(
        Recording(max_epochs=1, random_state=0),
        {"lr": [1e-3, 1e-2]},
        scoring=ExplanationAwareScorer().set_score_request(mask=True),
        cv=StratifiedKFold(2),
        error_score="raise",
    ).fit(X, y, mask=mask)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(Recording.seen) == 2 * 2 + 1
    where = {x.tobytes(): i for i, x in enumerate(X)}
    rates = [1e-3, 1e-3, 1e-2, 1e-2, search.best_params_["lr"]]
    for lr, (X_fit, y_fit, mask_fit, scores) in zip(rates, Recording.seen, strict=True):
        rows = [where[x.tobytes()] for x in X_fit]
        assert_array_equal(y_fit, y[rows])
        assert_array_equal(mask_fit, mask[rows])
        direct = make(lr=lr, max_epochs=1).fit(X[rows], y[rows], mask=mask[rows])
        assert_array_equal(scores, direct.score_samples(X_fit))
        assert (
            make(lr=lr, max_epochs=1).fit(X_fit, y_fit).score_samples(X_fit) != scores
        ).any()


def test_cross_fits_see_labels_and_masks():
    Recording.seen.clear()
    detector = Recording(false_alarm_rate=0.3, max_epochs=1, random_state=0)
    detector.fit(GREY, LABELS, mask=MASK)
    where = {x.tobytes(): i for i, x in enumerate(GREY)}
    *folds, _ = Recording.seen
    assert len(folds) == 5
    for X_fit, y_fit, mask_fit, _ in folds:
        rows = [where[x.tobytes()] for x in X_fit]
        assert len(rows) == 16 + 10
        assert_array_equal(y_fit, LABELS[rows])
        filled = MASK.copy()
        filled[29] = mask_fit[-1, 0]  # which had none
        assert_array_equal(mask_fit[:, 0], filled[rows])


class Recorder:
    """A callback of scikit-learn's that counts tasks, and the ends of fits."""

    max_propagation_depth = None

    def __init__(self):
        self.ended, self.n_fits = [], 0

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.ended.append(context.task_name)

    def teardown(self, estimator, context):
        self.n_fits += 1


@pytest.mark.skipif(not hasattr(FCDD, "set_callbacks"), reason="scikit-learn before 1.9")
def test_scikit_learns_callbacks_see_a_fit_with_masks():
    seen = Recorder()
    fitted = make().set_callbacks(seen).fit(GREY, LABELS, mask=MASK)
    assert seen.ended == ["epoch"] * 2 + ["fit"]
    with pytest.raises(ValueError, match="mask must have shape"):
        fitted.fit(GREY, LABELS, mask=MASK[1:])
    assert seen.n_fits == 2  # torn down after a failed one, too


def test_containers(tmp_path):
    rows = GREY.astype(np.float32)
    expected = make().fit(rows).score_samples(rows)
    fixed = rows.copy()
    fixed.flags.writeable = False
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for same in (fixed, mapped, rows.tolist(), rows[:, None], rows.astype(float)):
        assert_array_equal(make().fit(same).score_samples(same), expected)
    frame = pd.DataFrame(TABLE, columns=list("abcde"))
    assert make().fit(frame).explain(frame).shape == (60, 5)


def test_units_do_not_matter():
    plain = make().fit(GREY).explain(GREY)
    for factor, shift in (
        *((255, 0), (16, 0), (1.001, 0), (100, -50)),
        *((1e-2, 123456789.123), (1e12, 0), (1e140, -1e140)),
    ):
        rows = factor * GREY + shift
        relevance = make().fit(rows).explain(rows)
        assert_allclose(relevance, plain, rtol=0.1, atol=0.02 * plain.max())


def test_few_rows_and_far_rows():
    for rows in (GREY[:2], TABLE[:2], RNG.random((4, 1, 1))):
        for batch_size in ("auto", 1):
            fitted = make(batch_size=batch_size).fit(rows)
            for far in (1, 1e6, 1e12, 1e300):
                assert np.isfinite(fitted.score_samples(far * rows)).all()
                assert np.isfinite(fitted.explain(far * rows)).all()
    for value in (0.0, 0.5, 7.0, -5.0):
        assert np.isfinite(make().fit(np.full((9, 9, 9), value)).offset_)


def test_a_default_of_double_precision_does_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        for rows in (*ROWS.values(), GREY):
            augment = Augmentation(1, True, 0.1, 0.1) if rows.ndim > 2 else None
            fitted = make(max_epochs=1, augment=augment).fit(rows)
            assert np.isfinite(fitted.explain(rows)).all()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("normalization", ["standard", "contrast", None])
def test_pickles_and_weights_make_the_detector_again(suffix, normalization, tmp_path):
    params = {"normalization": normalization, "pooling": "topk"}
    fitted = make(**params).fit(GREY, LABELS, mask=MASK)
    fitted.save_weights(tmp_path / f"weights.{suffix}")
    read = make(**params).load_weights(tmp_path / f"weights.{suffix}")
    for again in (read, pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert_array_equal(again.decision_function(GREY), fitted.decision_function(GREY))
        assert_array_equal(again.explain(GREY), fitted.explain(GREY))
        assert_array_equal(again.heatmap(GREY), fitted.heatmap(GREY))
        assert (again.outliers_, again.objective_) == (("labelled",), "pixel")
        assert again.receptive_field_ == fitted.receptive_field_
        assert again.map_shape_ == fitted.map_shape_
    read.partial_fit(GREY, LABELS, mask=MASK)
    with pytest.raises(ValueError, match="another network"):
        make(**params, network="paper28", resize=28).load_weights(
            tmp_path / f"weights.{suffix}"
        )


def test_weights_of_a_table_and_of_a_backbone(tmp_path):
    for params, rows in (({}, TABLE), ({"network": Trunk(**VGG)}, RGB)):
        fitted = make(max_epochs=1, **params).fit(rows)
        fitted.save_weights(tmp_path / "weights.pt")
        read = make(**params).load_weights(tmp_path / "weights.pt")
        assert_array_equal(read.explain(rows), fitted.explain(rows))


def test_training_goes_on():
    fitted = make(warm_start=True).fit(GREY, LABELS, mask=MASK)
    first = fitted.history_["train_loss"]
    fitted.fit(GREY, LABELS, mask=MASK)
    assert fitted.history_["train_loss"][:2] == first
    fitted.partial_fit(GREY)
    assert len(fitted.history_["train_loss"]) == 5
    stopping = EarlyStopping(patience=2)
    stopped = make(early_stopping=stopping, max_epochs=60, lr=0.03).fit(GREY)
    curve = stopped.history_["valid_loss"]
    assert len(curve) < 60 and len(curve) - 1 - int(np.argmin(curve)) >= 2


def test_seeds_and_global_states():
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    augment = Augmentation(shift=1, mirror=True, brightness=0.1, noise=0.1)
    detector = make(augment=augment, early_stopping=EarlyStopping())
    scores = detector.fit(GREY).score_samples(GREY)
    assert_array_equal(clone(detector).fit(GREY).score_samples(GREY), scores)
    assert (
        detector.set_params(random_state=1).fit(GREY).score_samples(GREY) != scores
    ).all()
    assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
