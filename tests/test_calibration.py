"""Conformal p-values: by counting, and whether the promises are kept."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pyod.models.hbos import HBOS
from pyod.models.knn import KNN
from scipy.stats import binom, kstest
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import OneClassSVM

from skad import KDE, ConformalDetector, InlierTraining, explain
from skad.explanation import decompose

DETECTORS = {
    "KDE": KDE(bandwidth=1.0),
    "IsolationForest": IsolationForest(n_estimators=20, random_state=0),
    "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
    "OneClassSVM": OneClassSVM(),
    "KNN": KNN(),
    "HBOS": HBOS(n_bins=20),
}
LAWS = {
    "normal": lambda rng, n: rng.standard_normal((n, 3)),
    "heavy tails": lambda rng, n: rng.standard_t(2, (n, 2)),
    "clusters": lambda rng, n: rng.standard_normal((n, 2)) + 5 * rng.integers(0, 2, (n, 1)),
}


@pytest.fixture(params=["split", "cross"])
def fitted(request):
    rng = np.random.default_rng(0)
    detector = ConformalDetector(
        KDE(bandwidth=0.5), calibration=request.param, random_state=0
    )
    return detector.fit(rng.standard_normal((99, 2))), rng.standard_normal((300, 2)) * 2


def test_p_values_by_counting(fitted):
    detector, fresh = fitted
    p = detector.p_values(fresh)
    for x, own in zip(fresh[::10], p[::10], strict=True):
        at_most = sum(
            (scores <= copy.score_samples(x[None])[0]).sum()
            for copy, scores in zip(
                detector.detectors_, detector.calibration_scores_, strict=True
            )
        )
        assert_allclose(own, (1 + at_most) / (1 + detector.n_calibration_))
    assert p.min() == 1 / (1 + detector.n_calibration_)


def test_a_frozen_detector_is_calibrated_on_all_rows():
    rng = np.random.default_rng(0)
    train, own, fresh = (rng.standard_normal((n, 2)) for n in (50, 49, 20))
    kde = KDE(bandwidth=0.5).fit(train)
    y = np.where(np.arange(49) < 9, -1, 1)
    for calibration in ("split", "cross"):
        detector = ConformalDetector(FrozenEstimator(kde), calibration=calibration)
        p = detector.fit(own, y).p_values(fresh)
        held_out, scores = kde.score_samples(own[9:]), kde.score_samples(fresh)
        assert_allclose(p, [(1 + sum(held_out <= score)) / 41 for score in scores])


def test_columns_of_tables_of_arrow_keep_their_names():
    table = pa.table(
        dict(zip("abc", np.random.default_rng(0).random((3, 60)), strict=True))
    )
    detector = ConformalDetector(KDE(), random_state=0).fit(table)
    assert list(detector.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        detector.predict(table.select(["c", "b", "a"]))
    forest = IsolationForest(random_state=0).fit(table.to_pandas())
    pairs = [explain(forest, rows, references=rows) for rows in (table, table.to_pandas())]
    assert_allclose(*pairs)


def test_rows_that_calibrate_are_not_those_that_train():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 2))
    for calibration, sizes in (("split", [15]), ("cross", [10] * 5)):
        detector = ConformalDetector(KDE(), calibration=calibration, random_state=1).fit(X)
        seen = 0
        for copy, scores in zip(
            detector.detectors_, detector.calibration_scores_, strict=True
        ):
            templates = copy._pool.templates
            trained = (abs(X[:, None] - templates) < 1e-9).all(axis=2).any(axis=1)
            assert_allclose(np.sort(copy.score_samples(X[~trained])), scores)
            seen = seen + ~trained
        assert list(map(len, detector.calibration_scores_)) == sizes
        assert seen.max() == 1 and seen.sum() == sum(sizes)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.filterwarnings("ignore:No row can be flagged")
def test_flagged_rows_are_those_with_small_p_values(fitted, rate):
    detector, fresh = fitted
    detector.set_params(max_false_positive_rate=rate)
    detector = detector.fit(fresh[::3])
    for X in (fresh, fresh[::3], fresh + 100):
        assert_array_equal(detector.predict(X) == -1, detector.p_values(X) <= rate)
        assert_allclose(
            detector.decision_function(X), detector.score_samples(X) - detector.offset_
        )


def test_rates_that_are_no_binary_fractions():
    X = np.random.default_rng(0).standard_normal((30, 1))
    for rate, n, flagged in ((0.1, 9, 1), (0.3, 9, 3), (0.07, 99, 7), (0.1, 8, 0)):
        detector = ConformalDetector(
            KDE(), max_false_positive_rate=rate, held_out=n / (n + 5), random_state=0
        )
        rows = np.resize(X, (n + 5, 1)) + np.arange(n + 5)[:, None] / 100
        if not flagged:
            with pytest.warns(
                UserWarning, match="takes 9 calibration rows, and there are 8"
            ):
                detector.fit(rows)
        else:
            detector.fit(rows)
        assert detector.n_calibration_ == n
        assert_allclose(detector.offset_, flagged / (n + 1))


def test_a_split_keeps_the_order_of_the_scores():
    rng = np.random.default_rng(0)
    detector = ConformalDetector(KDE(bandwidth=0.5), random_state=0)
    detector.fit(rng.standard_normal((60, 2)))
    fresh = np.vstack([rng.standard_normal((200, 2)), rng.standard_normal((50, 2)) * 1000])
    inner = detector.detectors_[0].score_samples(fresh)
    assert_array_equal(np.argsort(inner), np.argsort(detector.score_samples(fresh)))
    assert (
        0 <= detector.score_samples(fresh).min() <= detector.score_samples(fresh).max() < 1
    )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", DETECTORS)
def test_the_promised_rate_is_kept(name, law):
    """Given its calibration rows, a detector's rate is Beta(k, n + 1 - k), of mean 0.1."""
    n, k, n_fresh, repeats = 39, 4, 200, 12
    flagged = 0
    for seed in range(repeats):
        rng = np.random.default_rng([seed, *map(ord, name)])
        detector = ConformalDetector(DETECTORS[name], held_out=n / 139, random_state=seed)
        detector.fit(LAWS[law](rng, n + 100))
        assert detector.n_calibration_ == n
        flagged += (detector.predict(LAWS[law](rng, n_fresh)) == -1).mean()
    mean, a, b = k / (n + 1), k, n + 1 - k
    variance = a * b / ((a + b) ** 2 * (a + b + 1)) + mean * (1 - mean) / n_fresh
    error = np.sqrt(variance / repeats)
    assert flagged / repeats < mean + 3.5 * error
    if name not in ("HBOS", "IsolationForest"):  # ties lower the rate
        assert flagged / repeats > mean - 3.5 * error


def test_p_values_of_fresh_rows_are_uniform():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(200):  # one fresh row each, so that they are independent
        X = rng.standard_normal((70, 2))
        detector = ConformalDetector(KDE(bandwidth=1.0), held_out=0.7, random_state=seed)
        p += list(detector.fit(X[:-1]).p_values(X[-1:]))
    values, counts = np.unique(np.round(np.array(p) * 50), return_counts=True)
    assert values.min() >= 1 and values.max() <= 50
    assert counts.max() <= binom.ppf(1 - 1e-4 / 50, 200, 1 / 50)
    jittered = np.array(p) - rng.random(200) / 50
    assert kstest(jittered, "uniform").pvalue > 0.01


def test_cross_calibration_is_near_the_rate():
    rng = np.random.default_rng(0)
    flagged = [
        (
            ConformalDetector(KDE(), calibration="cross", random_state=seed)
            .fit(rng.standard_normal((60, 2)))
            .predict(rng.standard_normal((200, 2)))
            == -1
        ).mean()
        for seed in range(20)
    ]
    assert 0.05 < np.mean(flagged) < 0.13


def test_few_of_the_selected_are_false():
    false, found = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        detector = ConformalDetector(KDE(bandwidth=1.0), held_out=0.8, random_state=seed)
        detector.fit(rng.standard_normal((500, 2)))
        odd = np.arange(100) < 20
        X = rng.standard_normal((100, 2)) + 5 * odd[:, None]
        selected = detector.select(X, max_false_discovery_rate=0.2)
        false.append((selected & ~odd).sum() / max(selected.sum(), 1))
        found.append((selected & odd).sum() / 20)
    error = np.std(false, ddof=1) / np.sqrt(60)
    assert np.mean(false) < 0.2 * 0.8 + 3 * error
    assert np.mean(found) > 0.8


def test_selection_by_a_plain_loop(fitted):
    detector, fresh = fitted
    p = detector.p_values(fresh)
    for rate in (0.05, 0.2, 0.5):
        last = 0
        for rank, value in enumerate(np.sort(p), start=1):
            if value <= rate * rank / len(p):
                last = value
        assert_array_equal(detector.select(fresh, max_false_discovery_rate=rate), p <= last)
    for bad in (0, 1, "0.1", -0.1):
        with pytest.raises(ValueError, match="max_false_discovery_rate must be a number"):
            detector.select(fresh, max_false_discovery_rate=bad)


def test_labels():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 2)), np.repeat([1, -1, 0], 20)
    X[y == -1] += 50
    detector = ConformalDetector(KDE(), random_state=0).fit(X, y)
    assert detector.n_calibration_ == 12
    assert (detector.predict(X[y == -1]) == -1).all()
    with pytest.warns(UserWarning, match="labels 0 and 1"):
        ConformalDetector(KDE(), random_state=0).fit(X, np.repeat([0, 1], 30))
    with pytest.raises(ValueError, match="none is left to train on"):
        detector.fit(X, np.full(60, -1))
    assert detector.n_calibration_ == 12  # as it was


def test_frames_images_and_copies():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.random(50), "colour": rng.choice(["r", "b"], 50)})
    encode = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["colour"]), (StandardScaler(), ["a"])
    )
    model = ConformalDetector(make_pipeline(encode, KDE(bandwidth=1.0)), random_state=0)
    odd = frame.iloc[:1].assign(a=9.0)
    model.fit(frame)
    assert model.explain(odd).argmax() == 0
    assert list(model.feature_names_in_) == ["a", "colour"]
    assert_allclose(model.explain(frame), explain(model.detectors_[0], frame))
    images = rng.random((40, 3, 4))
    detector = ConformalDetector(KDE(), calibration="cross", random_state=0).fit(images)
    mean = np.mean([copy.explain(images) for copy in detector.detectors_], axis=0)
    assert_allclose(detector.explain(images), mean)
    again = clone(detector).fit(images), pickle.loads(pickle.dumps(detector))
    for copy in again:
        assert_array_equal(copy.p_values(images), detector.p_values(images))


@pytest.mark.parametrize("detector", [KDE(), OneClassSVM(), make_pipeline(PCA(2), KDE())])
def test_a_split_is_decomposed_with_the_threshold_of_its_p_values(detector):
    X = np.random.default_rng(0).standard_normal((300, 3))
    rows = np.random.default_rng(1).standard_normal((200, 3)) * 2
    for rate in (0.001, 0.1, 0.5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # none can be flagged
            model = ConformalDetector(
                detector, max_false_positive_rate=rate, random_state=0
            ).fit(X)
            inlier = InlierTraining(model).fit(X)
        for wrapped in (model, FrozenEstimator(model), inlier):
            parts = decompose(wrapped, rows)
            flagged = parts.score > parts.threshold
            assert_array_equal(flagged, wrapped.predict(rows) == -1)
        assert_allclose(decompose(model, rows).relevance, model.explain(rows))
    crossed = ConformalDetector(detector, calibration="cross", n_folds=2).fit(X)
    with pytest.raises(TypeError, match="no one score"):
        decompose(crossed, rows)


def test_global_state_and_ties():
    X = np.random.default_rng(0).standard_normal((40, 2))
    for calibration in ("split", "cross"):
        state = str(np.random.get_state())  # with the position, which a few draws move
        ConformalDetector(KDE(), calibration=calibration).fit(X)
        assert str(np.random.get_state()) == state

    class Constant(KDE):
        def _outlier_score(self, X):
            return np.zeros(len(X))

    detector = ConformalDetector(Constant(), random_state=0).fit(X)
    assert (detector.p_values(X) == 1).all()
    assert (detector.predict(X) == 1).all()


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"max_false_positive_rate": 0}, ValueError, "max_false_positive_rate"),
        ({"max_false_positive_rate": 1.0}, ValueError, "max_false_positive_rate"),
        ({"calibration": "jackknife"}, ValueError, "calibration"),
        ({"held_out": 1.0}, ValueError, "held_out"),
        ({"held_out": 0.99}, ValueError, "n_samples = 20, 0 train"),
        ({"n_folds": 1}, ValueError, "n_folds"),
        ({"n_folds": 11, "calibration": "cross"}, ValueError, "22 in all; got n_samples"),
        ({"detector": StandardScaler()}, TypeError, "^detector must be a detector"),
    ],
)
def test_bad_parameters(params, error, words):
    X = np.random.default_rng(0).standard_normal((20, 2))
    with pytest.raises(error, match=words):
        ConformalDetector(**{"detector": KDE(), **params}).fit(X)


class FirstColumn(OutlierMixin, BaseEstimator):
    """Score rows by their first column: what calibration does has a closed form."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return np.where(X[:, 0] == 7e7, np.nan, X[:, 0])


def fit_columns(values, **params):
    detector = ConformalDetector(FirstColumn(), random_state=0, **params)
    return detector.fit(np.asarray(values, dtype=float)[:, None])


@pytest.mark.parametrize("rate", [1 - 0.9, 0.1 * 3, 0.29, 0.07, np.nextafter(0.1, 0)])
@pytest.mark.filterwarnings("ignore:No row can be flagged")
def test_rates_off_by_rounding_decide_as_the_p_values(rate):
    for n in (9, 19, 99):
        rows = np.arange(n + 5)
        detector = fit_columns(rows, max_false_positive_rate=rate, held_out=n / (n + 5))
        X = np.linspace(-1, n + 5, 300)[:, None]
        assert detector.n_calibration_ == n
        assert_array_equal(detector.decision_function(X) < 0, detector.p_values(X) <= rate)


def test_the_number_of_rows_held_out_and_needed():
    few = fit_columns(np.arange(100), held_out=0.07, max_false_positive_rate=0.2)
    assert few.n_calibration_ == 7
    with pytest.warns(UserWarning, match="takes 48 calibration rows, and there are 5"):
        fit_columns(np.arange(10), held_out=0.5, max_false_positive_rate=1 / 49)


def test_far_scores_are_told_apart_and_infinite_ones_harmless():
    rows = np.random.default_rng(0).standard_normal(100)
    far = -np.logspace(0, 90, 91)[:, None]
    scores = fit_columns(rows).score_samples(far)
    assert (np.diff(scores) < 0).all() and scores.min() > 0
    for odd in (-1e10, -np.inf):
        detector = fit_columns([*rows[:98], odd, odd], held_out=0.98)
        own = detector.calibration_scores_[0]
        X = np.linspace(-3, 3, 50)[:, None]
        counted = (1 + (own <= X).sum(axis=1)) / (1 + len(own))
        assert_allclose(detector.p_values(X), counted)


def test_scores_that_are_no_numbers_are_refused():
    detector = fit_columns(np.arange(50))
    for method in (detector.p_values, detector.predict):
        with pytest.raises(ValueError, match="FirstColumn gave the score NaN to 1 of 2"):
            method(np.array([[1.0], [7e7]]))
