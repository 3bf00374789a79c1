"""Deep SVDD, Deep SAD and the hypersphere classifier."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from torch import nn

from skad import HSC, KDE, Bag, DeepSAD, DeepSVDD
from skad.neural import Augmentation, EarlyStopping

RNG = np.random.default_rng(0)
MIXING = RNG.standard_normal((3, 6))
TABLE = RNG.standard_normal((200, 3)) @ MIXING + [5, 0, 0, 9, 0, 0]
IMAGES = load_digits().images[:120] / 16
LABELS = np.repeat([1, 0, -1], [60, 40, 20])
ROWS = {"table": TABLE, "images": IMAGES}
ALL = pytest.mark.parametrize("cls", [DeepSVDD, DeepSAD, HSC])
LABELLED = pytest.mark.parametrize("cls", [DeepSAD, HSC])
CENTRED = pytest.mark.parametrize("cls", [DeepSVDD, DeepSAD])
BOTH = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)


def make(cls, **params):
    return cls(**{"max_epochs": 4, "random_state": 0, **params})


def outputs(detector, X):
    """Outputs of the network in float64, by its weights: of standardised columns."""
    net = copy.deepcopy(feature_net(detector)).double()
    scaled = (X - TABLE.mean(axis=0)) / TABLE.std(axis=0) if X.ndim == 2 else X[:, None]
    with torch.no_grad():
        return net(torch.from_numpy(scaled)).numpy()


def feature_net(detector):
    module = detector.net_.module_
    return module if isinstance(detector, HSC) else module.net


def total(relevance):
    return relevance.reshape(len(relevance), -1).sum(axis=1)


def conv(row_shape=None, n_outputs=6, bias=False):
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(36, n_outputs, bias=bias)),
    )


# Centre and score.


@CENTRED
@BOTH
def test_the_centre_is_the_mean_output_before_training(cls, rows):
    # Training at this rate changes nothing.
    detector = make(cls, lr=1e-30, lr_schedule=None, max_epochs=1).fit(rows)
    mean = outputs(detector, rows).mean(axis=0)
    least = 0.1 * np.sqrt(np.square(mean).mean())
    far = abs(mean) >= least
    assert_allclose(detector.center_[far], mean[far], rtol=1e-5)
    assert_allclose(
        detector.center_[~far], np.copysign(least, mean)[~far], rtol=1e-4, atol=1e-7
    )
    assert abs(detector.center_).min() > 0.99 * least


@CENTRED
@pytest.mark.filterwarnings("ignore:The network has collapsed")
def test_small_components_of_the_centre_are_pushed_out(cls):
    net = nn.Linear(6, 4, bias=False)
    net.weight.data = torch.diag(torch.tensor([1.0, 1.0, 0, 1, 0, 0]))[:4]
    net.weight.data[3, 3] = -1e-6
    rows = np.tile([[1.0], [3.0]], (20, 6))  # of mean 0 when standardised
    detector = make(cls, network=net, lr=1e-30, max_epochs=1)
    with pytest.raises(ValueError, match="is 0: no row could be told"):
        detector.fit(rows)
    net = nn.Sequential(nn.ReLU(), net)  # half of the rows give (1, 1, 0, -1e-6)
    detector = make(cls, network=net, lr=1e-30, max_epochs=1).fit(rows)
    least = 0.1 * np.sqrt(2 * 0.25 / 4)
    assert_allclose(detector.center_, [0.5, 0.5, least, -least], rtol=1e-5)


@CENTRED
@pytest.mark.parametrize("rows", [np.zeros((10, 9, 9)), np.full((10, 9, 9), -5.0)])
def test_a_network_that_gives_0_is_refused(cls, rows):
    with pytest.raises(ValueError, match=r"The centre, .* is 0: no row"):
        make(cls).fit(rows)


@CENTRED
@BOTH
def test_the_score_is_the_squared_distance_to_the_centre(cls, rows):
    detector = make(cls).fit(rows)
    expected = np.square(outputs(detector, rows) - detector.center_).sum(axis=1)
    assert_allclose(-detector.score_samples(rows), expected, rtol=1e-3, atol=1e-5)


@BOTH
def test_the_score_of_the_hypersphere_is_the_pseudo_huber_distance(rows):
    detector = make(HSC).fit(rows)
    expected = np.sqrt(np.square(outputs(detector, rows)).sum(axis=1) + 1) - 1
    assert_allclose(-detector.score_samples(rows), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
@BOTH
def test_the_score_of_a_classifier_is_minus_the_log_probability(loss, rows):
    detector = make(HSC, loss=loss).fit(rows)
    logit = outputs(detector, rows)[:, 0]
    assert_allclose(-detector.score_samples(rows), np.log1p(np.exp(logit)), rtol=1e-3)
    far = 5 + 1e4 * RNG.standard_normal((50, *rows.shape[1:]))
    assert np.isfinite(detector.score_samples(far)).all()


@ALL
@BOTH
def test_training_learns_and_scores_differ(cls, rows):
    detector = make(cls, max_epochs=8).fit(rows)
    losses, scores = detector.history_["train_loss"], detector.score_samples(rows)
    assert losses[-1] < losses[0]
    assert scores.std() > 1e-3 * abs(scores.mean())
    assert len(set(scores)) > len(rows) / 2
    assert np.mean(detector.predict(rows) == -1) == pytest.approx(0.1, abs=0.01)


@ALL
def test_anomalies_are_found(cls):
    normal = RNG.standard_normal((300, 4))
    test = np.vstack([RNG.standard_normal((100, 4)), 6 * RNG.standard_normal((100, 4))])
    detector = make(cls, max_epochs=20).fit(normal)
    assert roc_auc_score(np.repeat([1, 0], 100), detector.score_samples(test)) > 0.9


def test_a_collapse_warns():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.point = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.point.expand(len(x), 3)

    with pytest.warns(ConvergenceWarning, match="The network has collapsed: the 200"):
        make(DeepSVDD, network=Constant()).fit(TABLE)


@pytest.mark.parametrize("nu", [0.1, 0.4])
@BOTH
def test_the_soft_boundary(nu, rows):
    detector = make(DeepSVDD, objective="soft-boundary", nu=nu).fit(rows)
    distance = np.square(outputs(detector, rows) - detector.center_).sum(axis=1)
    assert detector.squared_radius_ == pytest.approx(
        np.quantile(distance, 1 - nu), rel=1e-3
    )
    expected = distance - detector.squared_radius_
    assert_allclose(-detector.score_samples(rows), expected, rtol=1e-3, atol=1e-5)
    assert np.mean(detector.score_samples(rows) < 0) == pytest.approx(nu, abs=0.01)
    assert make(DeepSVDD).fit(rows).squared_radius_ == 0


# Explanation.


@CENTRED
@pytest.mark.parametrize("params", [{}, {"network": conv, "gamma": 0.0}])
def test_of_images_only_the_centre_is_unattributed(cls, params):
    detector = make(cls, **params).fit(IMAGES)
    deviation = outputs(detector, IMAGES) - detector.center_
    u = -(detector.center_ * deviation).sum(axis=1)
    score = -detector.score_samples(IMAGES)
    assert_allclose(detector.unattributed(IMAGES), u, atol=1e-4 * abs(score).max())
    assert_allclose(
        total(detector.explain(IMAGES)), score - u, atol=1e-4 * abs(score).max()
    )


def test_the_radius_is_unattributed_too():
    detector = make(DeepSVDD, objective="soft-boundary").fit(IMAGES)
    deviation = outputs(detector, IMAGES) - detector.center_
    u = -(detector.center_ * deviation).sum(axis=1) - detector.squared_radius_
    assert_allclose(detector.unattributed(IMAGES), u, atol=1e-4 * abs(u).max())


@CENTRED
def test_of_tables_the_means_keep_their_share(cls):
    detector = make(cls).fit(TABLE)
    deviation = outputs(detector, TABLE) - detector.center_
    relevance = detector.explain(TABLE)
    # A column comes as z + 3, and gets z c of (z + 3) c.
    z = (TABLE - TABLE.mean(axis=0)) / TABLE.std(axis=0)
    of_means = 3 * (relevance / z).sum(axis=1)
    u = of_means - (detector.center_ * deviation).sum(axis=1)
    scale = abs(of_means).max()
    assert_allclose(detector.unattributed(TABLE), u, atol=1e-3 * scale)


@CENTRED
def test_of_tables_without_gamma_it_is_gradient_times_deviation(cls):
    detector = make(cls, gamma=0.0).fit(TABLE)
    layers = detector.net_.module_.net.layers
    weights = [w.detach().double().numpy() for w in layers.parameters()]
    z = (TABLE - TABLE.mean(axis=0)) / TABLE.std(axis=0)
    expected = []
    for row in z:
        hidden, back = row + 3, np.eye(6)
        for w in weights[:-1]:
            back = (w @ hidden > 0)[:, None] * w @ back
            hidden = np.maximum(w @ hidden, 0)
        phi = weights[-1] @ hidden
        expected.append(row * ((phi - detector.center_) @ weights[-1] @ back))
    assert_allclose(detector.explain(TABLE), expected, atol=1e-4 * np.max(np.abs(expected)))


def test_without_biases_the_hypersphere_is_attributed_whole():
    detector = make(HSC, network=conv).fit(IMAGES)
    score = -detector.score_samples(IMAGES)
    assert_allclose(total(detector.explain(IMAGES)), score, rtol=1e-3)
    assert_allclose(detector.unattributed(IMAGES), 0, atol=1e-4 * score.max())


@ALL
@BOTH
@pytest.mark.parametrize("explanation", ["lrp", "gradient"])
def test_relevance_and_the_rest_sum_to_the_score(cls, rows, explanation):
    detector = make(cls, explanation=explanation).fit(rows)
    score = -detector.score_samples(rows)
    relevance = detector.explain(rows)
    assert relevance.shape == rows.shape
    assert_allclose(total(relevance) + detector.unattributed(rows), score, rtol=1e-9)
    if explanation == "gradient":
        assert_allclose(total(relevance), score, rtol=1e-5)
        assert_allclose(detector.unattributed(rows), 0, atol=1e-5 * score.max())


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (DeepSVDD, {"objective": "soft-boundary"}),
        (DeepSAD, {}),
        (HSC, {}),
        (HSC, {"loss": "focal"}),
    ],
)
def test_shares_of_the_gradient_are_those_of_differences(cls, params):
    detector = make(cls, explanation="gradient", **params).fit(TABLE)

    def score(X):
        output = outputs(detector, X)
        if cls is HSC:
            if params:
                return np.log1p(np.exp(output[:, 0]))
            return np.sqrt(np.square(output).sum(axis=1) + 1) - 1
        squared = np.square(output - detector.center_).sum(axis=1)
        return squared - getattr(detector, "squared_radius_", 0.0)

    # The gradient by what the network sees, standardised columns.
    rows, step = TABLE[:20], 1e-7 * np.diag(TABLE.std(axis=0))
    slopes = np.column_stack([score(rows + h) - score(rows - h) for h in step])
    share = abs(slopes) / abs(slopes).sum(axis=1, keepdims=True)
    expected = score(rows)[:, None] * share
    assert_allclose(detector.explain(rows), expected, atol=1e-3 * abs(expected).max())


def test_a_constant_column_gets_nothing():
    rows = np.column_stack([TABLE, np.full(200, 3.0)])
    for cls in (DeepSVDD, DeepSAD, HSC):
        assert not make(cls).fit(rows).explain(rows)[:, -1].any()


# Labels.


def test_labelled_anomalies_are_set_apart():
    normal = RNG.standard_normal((300, 4))
    subtle = RNG.standard_normal((150, 4)) * 0.3 + [1.5, 0, 0, 0]
    X, y = np.vstack([normal, subtle[:50]]), np.repeat([0, -1], [300, 50])
    test, truth = np.vstack([RNG.standard_normal((100, 4)), subtle[50:]]), y[-200:]
    truth = np.repeat([1, 0], 100)
    for cls in (DeepSAD, HSC):
        told = make(cls, max_epochs=20).fit(X, y)
        untold = make(cls, max_epochs=20).fit(X)
        auc = roc_auc_score(truth, told.score_samples(test))
        assert auc > 0.8
        assert auc > roc_auc_score(truth, untold.score_samples(test)) + 0.1


@pytest.mark.parametrize("loss", ["hypersphere", "cross_entropy", "focal"])
def test_every_loss_learns_from_labels(loss):
    X, y = np.vstack([TABLE, TABLE[:40] + 4]), np.repeat([1, -1], [200, 40])
    detector = make(HSC, loss=loss, max_epochs=10).fit(X, y)
    assert roc_auc_score(y, detector.score_samples(X)) > 0.95


def test_deep_sad_without_anomalies_is_deep_svdd():
    for rows in ROWS.values():
        sad, svdd = make(DeepSAD).fit(rows), make(DeepSVDD).fit(rows)
        assert sad.outliers_ == ()
        assert_array_equal(sad.score_samples(rows), svdd.score_samples(rows))
        assert_array_equal(sad.explain(rows), svdd.explain(rows))


def test_the_weight_of_labelled_rows():
    y = np.repeat([1, 0, -1], [100, 95, 5])
    plain, heavy = (make(DeepSAD, eta=eta).fit(TABLE, y) for eta in (1.0, 20.0))
    part = [-d.score_samples(TABLE) for d in (plain, heavy)]
    ratios = [scores[:100].mean() / scores[100:].mean() for scores in part]
    assert ratios[1] < ratios[0]


@LABELLED
def test_labels_that_say_nothing(cls):
    with pytest.warns(UserWarning, match="labels 0 and 1"):
        make(cls, max_epochs=1).fit(TABLE, np.arange(200) % 2)
    with pytest.warns(UserWarning, match="other than"):
        make(cls, max_epochs=1).fit(TABLE, np.arange(200))
    for y, message in (
        (np.repeat(["a", "b"], 100), "200 numbers.*'a'"),
        (np.r_[np.nan, np.ones(199)], "200 numbers.*nan"),
        (np.ones(199), "200 numbers.*got 199"),
        (-np.ones(200), "Two rows at least .* got 0 of 200"),
        (np.r_[1, -np.ones(199)], "Two rows at least .* got 1 of 200"),
    ):
        with pytest.raises(ValueError, match=message):
            make(cls).fit(TABLE, y)


@LABELLED
def test_labels_in_other_containers(cls):
    scores = make(cls).fit(IMAGES, LABELS).score_samples(IMAGES)
    for y in (LABELS.tolist(), pd.Series(LABELS), LABELS.astype(float)[:, None]):
        other = make(cls).fit(IMAGES.tolist(), y)
        assert_array_equal(other.score_samples(IMAGES), scores)
        assert other.outliers_ == ("labelled",)


@LABELLED
def test_the_threshold_is_that_of_rows_not_labelled_as_anomalies(cls):
    for rows in ROWS.values():
        X, y = rows[:120], LABELS
        for detector in (make(cls).fit(X, y), make(cls).partial_fit(X, y)):
            scores = detector.score_samples(X[y != -1])
            assert detector.offset_ == pytest.approx(np.quantile(scores, 0.1))


@LABELLED
def test_a_rate_of_false_alarms_beside_anomalies(cls):
    X, y = np.vstack([TABLE, TABLE[:20] * 3]), np.repeat([1, -1], [200, 20])
    detector = make(cls, false_alarm_rate=0.2, max_epochs=25).fit(X, y)
    fresh = np.random.default_rng(5).standard_normal((1000, 3)) @ MIXING
    fresh += [5, 0, 0, 9, 0, 0]
    assert np.mean(detector.predict(fresh) == -1) == pytest.approx(0.2, abs=0.1)


def test_cross_fits_see_all_labels():
    y = np.repeat([1, 0, -1], [80, 90, 30])
    params = {"eta": 10.0, "max_epochs": 2}
    detector = make(DeepSAD, false_alarm_rate=0.2, **params).fit(TABLE, y)
    normal, anomalies, scores = TABLE[:170], TABLE[170:], np.empty(170)
    for train, test in KFold(5, shuffle=True, random_state=0).split(normal):
        labels = np.concatenate([y[train], np.full(30, -1)])
        fold = make(DeepSAD, **params).fit(np.vstack([normal[train], anomalies]), labels)
        scores[test] = fold.score_samples(normal[test])
    assert detector.offset_ == pytest.approx(np.quantile(scores, 0.2))


@ALL
def test_a_bag_calibrates_its_members(cls):
    bag = Bag([("net", make(cls)), ("kde", KDE())]).fit(TABLE)
    relevance = bag.explain(TABLE).sum(axis=1) + bag.unattributed(TABLE)
    assert_allclose(relevance, -bag.score_samples(TABLE), atol=1e-6)


# Outliers.


def test_where_anomalies_come_from(caplog):
    caplog.set_level("INFO", "skad")
    corpus = TABLE[:50] * 5
    for params, y, names in (
        ({}, None, ("uniform",)),
        ({}, np.repeat([1, -1], 100), ("labelled",)),
        ({"outliers": corpus}, None, ("array",)),
        ({"outliers": corpus.tolist()}, np.repeat([1, -1], 100), ("labelled", "array")),
        ({"outliers": lambda X, rng: X * 9}, None, ("callable",)),
        ({"outliers": None}, np.repeat([1, -1], 100), ("labelled",)),
    ):
        assert make(HSC, max_epochs=1, **params).fit(TABLE, y).outliers_ == names
    assert make(HSC, max_epochs=1).fit(IMAGES).outliers_ == ("confetti",)
    assert [record.getMessage() for record in caplog.records] == [
        f"HSC got no anomalies: it learns from synthetic ones, outliers={name!r}."
        for name in ("uniform", "confetti")
    ]


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="learns from anomalies, and has none"):
        make(HSC, outliers=None).fit(TABLE)
    with pytest.raises(ValueError, match="drawn on images, but X has flat rows"):
        make(HSC, outliers="confetti").fit(TABLE)
    assert make(HSC, image_shape=(2, 3), outliers="confetti").fit(TABLE)


@LABELLED
@pytest.mark.parametrize(
    ("outliers", "message"),
    [
        (
            np.zeros((5, 3, 8, 8)),
            r"images of shape \(3, 8, 8\), X images of shape \(8, 8\)",
        ),
        (np.zeros((5, 8, 9)), r"images of shape \(8, 9\), X images"),
        (np.zeros((5, 63)), "outliers have 63 features, X has 64"),
        (np.full((5, 64), np.nan), "outliers contains NaN"),
        (np.zeros((0, 64)), "0 sample"),
        (np.full((5, 64), 255.0), "255 to 255, X from .* in the same units"),
        ("snow", "'outliers' parameter"),
    ],
)
def test_outliers_unlike_the_rows(cls, outliers, message):
    with pytest.raises(ValueError, match=message):
        make(cls, outliers=outliers).fit(IMAGES)
    if np.ndim(outliers) > 2:
        with pytest.raises(ValueError, match=r"images of shape .*, X flat rows"):
            make(cls, outliers=outliers).fit(TABLE)


@LABELLED
def test_one_channel_or_none_is_the_same(cls):
    outliers = RNG.random((9, 8, 8))
    scores = [
        make(cls, outliers=o).fit(IMAGES).score_samples(IMAGES)
        for o in (outliers, outliers[:, None], outliers.reshape(9, 64))
    ]
    assert_array_equal(scores[0], scores[1])
    assert_array_equal(scores[0], scores[2])


# Networks.


@ALL
def test_a_module_is_copied_and_trained_on(cls):
    net = conv(bias=cls is HSC)
    start = net[0].weight.clone()
    fitted = make(cls, network=net).fit(IMAGES)
    assert torch.equal(net[0].weight, start)
    trained = feature_net(fitted).layers[0].weight
    assert 0 < torch.dist(trained, start) < torch.linalg.norm(start)
    shapes = []
    make(cls, network=lambda shape: shapes.append(shape) or conv()).fit(IMAGES)
    assert shapes == [(1, 8, 8)]


@ALL
def test_networks_that_do_not_fit(cls):
    with pytest.raises(ValueError, match=r"fails on rows of shape \(6,\)"):
        make(cls, network=conv()).fit(TABLE)
    with pytest.raises(ValueError, match="but gave NoneType"):
        make(cls, network=lambda shape: None).fit(TABLE)
    with pytest.raises(ValueError, match="it gave a tuple"):
        make(cls, network=nn.LSTM(6, 2)).fit(TABLE)


def test_a_classifier_gives_one_number():
    with pytest.raises(ValueError, match=r'loss="focal" needs .* gives 6'):
        make(HSC, loss="focal", network=conv).fit(IMAGES)
    assert make(HSC, loss="focal", network=conv(n_outputs=1)).fit(IMAGES)


@ALL
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 5), (5, 2), (3, 60), (1, 1, 1), (3, 4, 6), (30, 17)]
)
def test_images_of_any_size(cls, shape):
    rows = RNG.random((14, *shape))
    detector = make(cls, max_epochs=2).fit(rows)
    relevance = detector.explain(rows)
    assert relevance.shape == rows.shape and np.isfinite(relevance).all()


@ALL
def test_few_rows_and_small_batches(cls):
    for rows in (TABLE[:2], IMAGES[:2], IMAGES[:5]):
        for batch_size in ("auto", 1):
            detector = make(cls, batch_size=batch_size).fit(rows)
            assert np.isfinite(detector.score_samples(rows)).all()


# Units, containers, precision.


@BOTH
def test_units_do_not_matter(rows):
    plain = make(DeepSVDD).fit(rows).score_samples(rows)
    for factor, shift in (
        (16.0, 0.0),
        (1.001, 0.0),
        (1e-2, 123456789.123),
        (1e12, 0.0),
        (1e140, -1e140),
    ):
        other = factor * rows + shift
        assert_allclose(make(DeepSVDD).fit(other).score_samples(other), plain, rtol=0.02)


@ALL
def test_far_rows_are_finite(cls):
    for rows in (TABLE, IMAGES):
        detector = make(cls).fit(rows)
        for far in (1e6, 1e12, 1e300):
            assert np.isfinite(detector.score_samples(far * rows)).all()
            assert np.isfinite(detector.explain(far * rows)).all()


def test_containers(tmp_path):
    rows = IMAGES.astype(np.float32)
    detector = make(DeepSVDD).fit(rows)
    scores = detector.score_samples(rows)
    fixed = rows.copy()
    fixed.flags.writeable = False
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for same in (fixed, mapped, rows.astype(np.float64), rows.tolist(), rows[:, None]):
        assert_array_equal(make(DeepSVDD).fit(same).score_samples(rows), scores)
        assert_array_equal(detector.score_samples(same), scores)
    flat = make(DeepSVDD, image_shape=(8, 8)).fit(rows.reshape(120, 64))
    assert_array_equal(flat.score_samples(rows), scores)
    assert flat.explain(rows.reshape(120, 64)).shape == (120, 64)


@ALL
@BOTH
def test_a_default_of_double_precision_does_not_matter(cls, rows):
    torch.set_default_dtype(torch.float64)
    try:
        detector = make(cls, max_epochs=1).fit(rows)
        assert np.isfinite(detector.explain(rows)).all()
        own = {"network": conv(bias=True), "augment": Augmentation(2, True, 0.1, 0.1)}
        if cls is DeepSVDD:
            del own["augment"]
        make(cls, max_epochs=1, **own).fit(IMAGES)
    finally:
        torch.set_default_dtype(torch.float32)


# Training, again and from files.


@ALL
def test_early_stopping(cls):
    stopping = EarlyStopping(patience=2)
    detector = make(cls, early_stopping=stopping, max_epochs=200, lr=0.02)
    curve = detector.fit(TABLE).history_["valid_loss"]
    assert len(curve) < 200
    assert len(curve) - 1 - int(np.argmin(curve)) >= 2


@ALL
def test_a_warm_start_keeps_weights_and_centre(cls):
    detector = make(cls, warm_start=True).fit(TABLE)
    first = detector.history_["train_loss"]
    centre = getattr(detector, "center_", None)
    detector.fit(TABLE)
    assert detector.history_["train_loss"][:4] == first
    assert len(detector.history_["train_loss"]) == 8
    if centre is not None:
        assert_array_equal(detector.center_, centre)


@ALL
@BOTH
def test_partial_fits(cls, rows):
    for seed in range(3):  # a first epoch of few steps is no divergence
        detector = make(cls, random_state=seed)
        for _ in range(3):
            detector.partial_fit(rows)
        assert len(detector.history_["train_loss"]) == 3
        assert np.mean(detector.predict(rows) == -1) == pytest.approx(0.1, abs=0.01)


@LABELLED
def test_later_rows_can_not_all_be_anomalies(cls):
    for detector in (make(cls), make(cls, warm_start=True)):
        detector.fit(TABLE)
        again = detector.fit if detector.warm_start else detector.partial_fit
        scores = detector.score_samples(TABLE)
        with pytest.raises(ValueError, match=r"Two rows at least .* got 0 of 3"):
            again(TABLE[:3], [-1, -1, -1])
        assert_array_equal(detector.score_samples(TABLE), scores)


@pytest.mark.parametrize("seed", [78, 387])
def test_an_anomaly_near_the_centre_is_no_divergence(seed):
    rows = np.random.RandomState(0).normal(size=(15, 4))
    DeepSAD(outliers="uniform", random_state=seed).partial_fit(rows)


@ALL
def test_a_training_that_diverges_is_refused(cls):
    with pytest.raises(ValueError, match="The training diverged"):
        make(cls, lr=1e6).fit(IMAGES)


MORE = [
    (DeepSVDD, {}),
    (DeepSVDD, {"objective": "soft-boundary"}),
    (DeepSAD, {"eta": 2.0}),
    (HSC, {}),
    (HSC, {"loss": "cross_entropy"}),
]


@pytest.mark.parametrize(("cls", "params"), MORE)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@BOTH
def test_pickles_and_weights_make_the_detector_again(cls, params, suffix, rows, tmp_path):
    X, y = rows[:120], LABELS
    fitted = make(cls, **params).fit(X, y)
    fitted.save_weights(tmp_path / f"weights.{suffix}")
    read = make(cls, **params).load_weights(tmp_path / f"weights.{suffix}")
    for again in (read, pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert_array_equal(again.decision_function(X), fitted.decision_function(X))
        assert_array_equal(again.explain(X), fitted.explain(X))
        assert_array_equal(again.unattributed(X), fitted.unattributed(X))
        assert getattr(again, "outliers_", 0) == getattr(fitted, "outliers_", 0)
    read.partial_fit(X, y)
    other = nn.Sequential(nn.Flatten(), nn.Linear(X[0].size, 1))
    with pytest.raises(ValueError, match="another network"):
        make(cls, network=other, **params).load_weights(tmp_path / f"weights.{suffix}")


@ALL
def test_seeds_and_global_states(cls):
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    detector = make(cls)
    for y in (None, np.repeat([1, -1], [180, 20])):
        scores = detector.fit(TABLE, y).score_samples(TABLE)
        assert_array_equal(clone(detector).fit(TABLE, y).score_samples(TABLE), scores)
        other = make(cls, random_state=1).fit(TABLE, y)
        assert (other.score_samples(TABLE) != scores).all()
    assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
