"""Metrics against closed forms, loops that follow the definitions, and scikit-learn."""

import sys
import warnings
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skad import metrics
from skad.metrics import (
    aupro_score,
    clever_hans_report,
    clever_hans_score,
    cosine_similarity_score,
    pixel_flipping_curve,
    pixel_roc_auc_score,
    pointing_game_score,
    relevance_mass_score,
    relevance_rank_score,
)

PER_ROW = [
    cosine_similarity_score,
    pixel_roc_auc_score,
    pointing_game_score,
    relevance_mass_score,
    relevance_rank_score,
]
BINARY = [f for f in PER_ROW if f is not cosine_similarity_score]
LOCALIZATION = [*PER_ROW, aupro_score]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@st.composite
def maps(draw, max_side=5):
    """A binary mask and a relevance map full of ties, as images."""
    n, h, w = (draw(st.integers(1, k)) for k in (3, max_side, max_side))
    mask = draw(hnp.arrays(bool, (n, h, w)))
    levels = st.integers(-2, 3).map(float)
    return mask, draw(hnp.arrays(np.float64, (n, h, w), elements=levels))


# ---- definitions, one row at a time


def slow_cosine(mask, relevance):
    r = [max(v, 0) for v in relevance]
    norm = sum(v * v for v in r) ** 0.5 * sum(m * m for m in mask) ** 0.5
    return sum(v * m for v, m in zip(r, mask, strict=True)) / norm if norm else 0


def slow_auc(mask, relevance):
    inside, outside = relevance[mask], relevance[~mask]
    if not (len(inside) and len(outside)):
        return np.nan
    return np.mean([(a > b) + (a == b) / 2 for a in inside for b in outside])


def slow_mass(mask, relevance):
    r = [max(v, 0) for v in relevance]
    return sum(v for v, m in zip(r, mask, strict=True) if m) / sum(r) if sum(r) else 0


def slow_rank(mask, relevance):
    """The mean over every order of the pixels, ties then broken by that order."""
    k, scores = mask.sum(), []
    for order in permutations(range(len(mask))):
        top = sorted(order, key=lambda i: -relevance[i])[:k]
        scores.append(mask[top].mean())
    return np.mean(scores)


def slow_pointing(mask, relevance):
    best = [i for i, v in enumerate(relevance) if v == max(relevance)]
    return sum(bool(mask[i]) for i in best) / len(best)


def slow_aupro(mask, relevance, max_fpr):
    labelled = [ndimage.label(m, structure=np.ones((3, 3))) for m in mask]
    points = [(0.0, 0.0)]
    for t in sorted(set(relevance.ravel()), reverse=True):
        overlaps = [
            (relevance[i][lab == j] >= t).mean()
            for i, (lab, n) in enumerate(labelled)
            for j in range(1, n + 1)
        ]
        points.append(((relevance[~mask] >= t).mean(), np.mean(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < max_fpr and x1 > x0:
            end = min(x1, max_fpr)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / max_fpr


SLOW = {
    cosine_similarity_score: slow_cosine,
    pixel_roc_auc_score: slow_auc,
    relevance_mass_score: slow_mass,
    pointing_game_score: slow_pointing,
}


@pytest.mark.parametrize("metric", SLOW, ids=lambda f: f.__name__)
@settings(max_examples=60, deadline=None)
@given(maps())
def test_per_row_metrics_follow_their_definition(metric, data):
    mask, relevance = data
    expected = [
        SLOW[metric](m.ravel(), r.ravel()) if m.any() else np.nan
        for m, r in zip(mask, relevance, strict=True)
    ]
    got = metric(mask, relevance, average=None)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(bool, 5), hnp.arrays(int, 5, elements=st.integers(0, 2)))
def test_rank_score_breaks_ties_by_expectation(mask, relevance):
    got = relevance_rank_score([mask], [relevance], average=None)
    expected = slow_rank(mask, relevance) if mask.any() else np.nan
    np.testing.assert_allclose(got, [expected])


@settings(max_examples=60, deadline=None)
@given(maps(), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_aupro_follows_its_definition(data, max_fpr):
    mask, relevance = data
    if mask.any() and not mask.all():
        expected = slow_aupro(mask, relevance, max_fpr)
        got = aupro_score(mask, relevance, max_fpr=max_fpr)
        np.testing.assert_allclose(got, expected, atol=1e-12)


# ---- closed forms


def test_constant_maps_score_the_baselines_of_the_docstrings(rng):
    mask = np.zeros((4, 10, 10), dtype=bool)
    mask[:, 2:5, 1:3] = True
    area, constant = 0.06, np.full(mask.shape, 7.0)
    assert cosine_similarity_score(mask, constant) == pytest.approx(area**0.5)
    assert relevance_mass_score(mask, constant) == pytest.approx(area)
    assert relevance_rank_score(mask, constant) == pytest.approx(area)
    assert pointing_game_score(mask, constant) == pytest.approx(area)
    assert pixel_roc_auc_score(mask, constant) == 0.5
    assert pixel_roc_auc_score(mask, constant, average="micro") == 0.5
    assert aupro_score(mask, constant) == pytest.approx(0.15)
    assert aupro_score(mask, constant, max_fpr=0.8) == pytest.approx(0.4)


@pytest.mark.parametrize("metric", LOCALIZATION, ids=lambda f: f.__name__)
def test_perfect_maps_score_one_and_inverse_maps_zero(metric, rng):
    mask = np.zeros((3, 8, 8), dtype=bool)
    mask[:2, 1:4, 2:5] = mask[0, 6, 6] = True
    assert metric(mask, 3.0 * mask) == pytest.approx(1)
    assert metric(mask, 1.0 - mask) == pytest.approx(0)


def test_pixel_auc_agrees_with_scikit_learn(rng):
    mask, relevance = rng.random((5, 60)) < 0.2, rng.normal(size=(5, 60)).round(1)
    mask[2] = False
    micro = roc_auc_score(mask.ravel(), relevance.ravel())
    rows = [roc_auc_score(mask[i], relevance[i]) for i in (0, 1, 3, 4)]
    assert pixel_roc_auc_score(mask, relevance, average="micro") == pytest.approx(micro)
    assert pixel_roc_auc_score(mask, relevance) == pytest.approx(np.mean(rows))


def test_aupro_of_one_region_is_the_pixel_auc(rng):
    mask = np.zeros((3, 6, 6), dtype=bool)
    mask[1, 1:3, 2:6] = True
    relevance = rng.normal(size=mask.shape).round(1)
    expected = roc_auc_score(mask.ravel(), relevance.ravel())
    assert aupro_score(mask, relevance, max_fpr=1) == pytest.approx(expected)


def test_aupro_weighs_regions_alike_and_joins_diagonal_neighbours():
    mask = np.zeros((1, 8, 8), dtype=bool)
    mask[0, :4, :4] = mask[0, 7, 7] = True
    found = np.zeros(mask.shape)
    found[0, 7, 7] = 1
    # FPR 0 at overlap 1/2, then a straight line to (1, 1).
    assert aupro_score(mask, found, max_fpr=1) == pytest.approx(0.75)
    mask[0, :4, :4] = False
    mask[0, 6, 6] = True
    assert aupro_score(mask, found, max_fpr=1) == pytest.approx(0.75)
    # Regions never reach from one image of the stack into the next.
    two = np.zeros((2, 3, 3), dtype=bool)
    two[:, 1, 1] = two[1, 1, 2] = True
    only_first = np.zeros(two.shape)
    only_first[0] = two[0]
    assert aupro_score(two, only_first, max_fpr=1) == pytest.approx(0.75)


def test_cosine_takes_soft_masks_and_extreme_scales():
    soft = [[0.0, 0.5, 2.0]]
    assert cosine_similarity_score(soft, [[-9, 1, 4]]) == pytest.approx(1)
    for scale in (1e-300, 1e300):
        got = cosine_similarity_score([[1, 1, 0]], [[scale, 0, scale]])
        assert got == pytest.approx(0.5)
        got = relevance_mass_score([[1, 1, 0]], [[scale, 0, scale]])
        assert got == pytest.approx(0.5)


# ---- conventions


@pytest.mark.parametrize("metric", LOCALIZATION, ids=lambda f: f.__name__)
def test_channels_are_summed_before_rectifying(metric, rng):
    mask = rng.random((3, 5, 5)) < 0.3
    relevance = rng.normal(size=(3, 2, 5, 5))
    summed = np.array([r[0] + r[1] for r in relevance])
    expected = metric(mask, summed)
    by_channel = np.zeros((3, 2, 5, 5), dtype=bool)
    by_channel[:, 1] = mask
    for m in (mask, mask[:, None], by_channel, mask.astype(int)):
        assert metric(m, relevance) == expected


@pytest.mark.parametrize("metric", PER_ROW, ids=lambda f: f.__name__)
def test_empty_masks_are_left_out_of_means(metric, rng):
    mask, relevance = np.eye(3, 6), rng.normal(size=(3, 6))
    mask[1] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = metric(mask, relevance, average=None)
        mean = metric(mask, relevance)
    assert np.isnan(rows).tolist() == [False, True, False]
    assert mean == pytest.approx((rows[0] + rows[2]) / 2)
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(metric(np.zeros((3, 6)), relevance))


@pytest.mark.parametrize("fill", [False, True])
def test_one_kind_of_pixel_is_undefined(fill):
    mask = np.full((2, 3, 3), fill)
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(aupro_score(mask, np.ones((2, 3, 3))))
    for average in ("samples", "micro"):
        with pytest.warns(UndefinedMetricWarning):
            score = pixel_roc_auc_score(mask, np.ones((2, 3, 3)), average=average)
        assert np.isnan(score)


@pytest.mark.parametrize("metric", PER_ROW[:1] + BINARY[1:], ids=lambda f: f.__name__)
def test_a_full_mask_is_no_empty_mask(metric):
    assert metric([[1, 1]], [[1, 1]]) == pytest.approx(1)


@pytest.mark.parametrize("metric", PER_ROW, ids=lambda f: f.__name__)
def test_no_positive_relevance_is_finite(metric):
    assert np.isfinite(metric([[0, 1]], [[-1, -2]]))
    assert metric([[0, 1]], [[-1, -2]]) == 0


@pytest.mark.parametrize("metric", LOCALIZATION, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("mask", "relevance", "message"),
    [
        (np.ones((2, 3, 3)), np.ones((2, 3, 4)), r"\(2, 3, 3\) and \(2, 3, 4\)"),
        (np.ones((2, 2, 3, 3)), np.ones((2, 3, 3, 3)), "same shape"),
        (np.ones(3), np.ones(3), r"mask must .* got \(3,\)"),
        (np.ones((0, 3, 3)), np.ones((0, 3, 3)), "non-empty"),
        (np.ones((2, 0, 3)), np.ones((2, 0, 3)), "non-empty"),
        (np.ones((1, 2, 2)), np.full((1, 2, 2), np.nan), "relevance contains NaN"),
        (np.ones((1, 2, 2)), np.full((1, 2, 2), np.inf), "relevance contains inf"),
        (np.full((1, 2, 2), np.nan), np.ones((1, 2, 2)), "mask contains NaN"),
        (-np.ones((1, 2, 2)), np.ones((1, 2, 2)), "mask must not be negative"),
    ],
)
def test_bad_maps_are_refused(metric, mask, relevance, message):
    with pytest.raises(ValueError, match=message):
        metric(mask, relevance)


@pytest.mark.parametrize("metric", [*BINARY, aupro_score], ids=lambda f: f.__name__)
@pytest.mark.parametrize("peak", [0.7, 255])
def test_soft_masks_are_refused_with_advice(metric, peak):
    mask = np.zeros((1, 3, 3))
    mask[0, 1, 1] = peak
    with pytest.raises(ValueError, match=rf"to {peak}.*mask > 0\.1"):
        metric(mask, np.ones((1, 3, 3)))


def test_bad_options_are_refused():
    mask = np.eye(3)[None]
    for metric in PER_ROW:
        with pytest.raises(ValueError, match="average must be"):
            metric(mask, mask, average="macro")
    with pytest.raises(ValueError, match="average must be"):
        cosine_similarity_score(mask, mask, average="micro")
    for limit in (0, 1.1, np.nan):
        with pytest.raises(ValueError, match="max_fpr"):
            aupro_score(mask, mask, max_fpr=limit)
    with pytest.raises(ValueError, match="images"):
        aupro_score(mask[0], mask[0])


def test_public_names():
    assert metrics.__all__ == sorted(metrics.__all__)
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__)


# ---- Clever Hans


def test_clever_hans_score_by_hand():
    y = [1, 1, 0, -1, -1, -1]
    score = [0.0, 0.5, 99.0, 0.4, 0.9, 0.8]  # one of six pairs in the wrong order
    mask = [[1, 1], [0, 0], [1, 0], [1, 0], [1, 1], [0, 0]]
    relevance = [[np.nan, 0], [0, 0], [0, 0], [3, 4], [2, 2], [1, 0]]
    got = clever_hans_score(y, score, mask, relevance)
    assert got == pytest.approx(5 / 6 - (0.6 + 1) / 2)


def test_clever_hans_score_reaches_its_limits():
    y, mask = [1, -1], [[0, 0], [1, 0]]
    assert clever_hans_score(y, [0, 1], mask, [[0, 0], [0, 1]]) == 1
    assert clever_hans_score(y, [1, 0], mask, [[0, 0], [1, 0]]) == -1


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 1], r"np\.where\(y == 1, -1, 1\)"),
        ([False, True, True], r"np\.where\(y == 1, -1, 1\)"),
        ([1, 1, 1], "both normal"),
        ([-1, -1, 0], "both normal"),
        ([1, -1, 2], "Labels must be"),
        (["a", "b", "b"], "Labels must be"),
        ([1, -1], "inconsistent"),
    ],
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        clever_hans_score(y, [0, 1, 2], np.eye(3), np.eye(3))


class Distance:
    """Squared distance to the origin; a Clever Hans explains the wrong half."""

    def __init__(self, flip=False):
        self.flip, self.explained, self.scored = flip, [], []

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        self.scored.append(X)
        return -(np.asarray(X).reshape(len(X), -1) ** 2).sum(axis=1)

    def explain(self, X):
        self.explained.append(len(X))
        X = np.asarray(X)
        return X[:, ::-1] ** 2 if self.flip else X**2


@pytest.fixture
def anomalies(rng):
    """Six features; kind "left" plants 5 in the first, "right" in the last."""
    X, y = rng.normal(size=(60, 6)), np.repeat([1, -1, 0], [30, 20, 10])
    mask, kind = np.zeros((60, 6), dtype=bool), np.full(60, "good", dtype=object)
    X[30:40, 0] += 5
    X[40:50, 5] += 5
    mask[30:40, 0] = mask[40:49, 5] = mask[50:, 1] = True
    kind[30:40], kind[40:50] = "left", "right"
    order = rng.permutation(60)
    return X[order], y[order], mask[order], kind[order]


def test_report_follows_the_scores_by_kind(anomalies):
    pytest.importorskip("pandas")
    X, y, mask, kind = anomalies
    honest, hans = Distance(), Distance(flip=True)
    detectors = [("honest", honest), ("hans", hans)]
    report = clever_hans_report(detectors, X, y, mask=mask, kind=kind, top_k=1)
    assert report["detector"].tolist() == ["honest"] * 3 + ["hans"] * 3
    assert report["kind"].tolist() == ["left", "right", "all"] * 2
    assert report["n_anomalies"].tolist() == [10, 10, 20] * 2
    assert honest.explained == hans.explained == [19]
    assert [len(X) for X in honest.scored] == [50]

    o = (X**2).sum(axis=1)
    for _, row in report.iterrows():
        found = (y == -1) & (np.isin(kind, row["kind"]) | (row["kind"] == "all"))
        detection = roc_auc_score(found[found | (y == 1)], o[found | (y == 1)])
        relevance = X**2 if row["detector"] == "honest" else X[:, ::-1] ** 2
        rows = np.flatnonzero(found & mask.any(axis=1))
        cosine = np.mean([slow_cosine(mask[i], relevance[i]) for i in rows])
        assert row["detection"] == pytest.approx(detection)
        assert row["explanation"] == pytest.approx(cosine)
        assert row["clever_hans"] == pytest.approx(detection - cosine)
        assert row["baseline"] == pytest.approx((1 / 6) ** 0.5)

    hans_rows = report[(report["detector"] == "hans") & (report["kind"] != "all")]
    worst = max(zip(hans_rows["clever_hans"], hans_rows["kind"], strict=True))
    assert report.attrs["worst"]["hans"] == [worst[::-1]]


def test_report_fits_flat_and_image_shapes_together(anomalies):
    pytest.importorskip("pandas")
    X, y, mask, _ = anomalies
    flat = clever_hans_report({"d": Distance()}, X, y, mask=mask)
    assert flat["kind"].tolist() == ["all"]
    assert flat.attrs["worst"]["d"] == [("all", flat["clever_hans"][0])]
    images = X.reshape(60, 1, 2, 3)
    for data, m in [
        (X, mask.reshape(60, 2, 3)),
        (images, mask.reshape(60, 2, 3)),
        (images, mask),
    ]:
        report = clever_hans_report({"d": Distance()}, data, y, mask=m)
        assert report.equals(flat)


def test_report_without_masks_says_nan(anomalies):
    pytest.importorskip("pandas")
    X, y, _, _ = anomalies
    detector = Distance()
    report = clever_hans_report({"d": detector}, X, y, mask=np.zeros(X.shape))
    assert report[["explanation", "clever_hans", "baseline"]].isna().all(axis=None)
    assert report["detection"].notna().all()
    assert report.attrs["worst"] == {"d": []}
    assert detector.explained == []


def test_report_knows_the_sign_of_pyod(anomalies):
    pytest.importorskip("pandas")
    knn = pytest.importorskip("pyod.models.knn")
    X, y, mask, _ = anomalies
    foreign = Pipeline([("scale", StandardScaler()), ("knn", knn.KNN())])
    foreign.fit(X[y == 1])
    detectors = {"own": Distance(), "pyod": foreign}
    report = clever_hans_report(detectors, X, y, mask=mask * 0)
    assert (report["detection"] > 0.9).all()


def test_report_needs_detectors(anomalies):
    pytest.importorskip("pandas")
    X, y, mask, _ = anomalies
    with pytest.raises(TypeError, match="object is no detector: it has neither"):
        clever_hans_report({"o": object()}, X, y, mask=mask)
    with pytest.raises(TypeError, match="must be a dict, by name; got "):
        clever_hans_report(Distance(), X, y, mask=mask)


def test_report_refuses_bad_input(anomalies, monkeypatch):
    pytest.importorskip("pandas")
    X, y, mask, kind = anomalies
    d = Distance()
    for bad in ({}, [("d", d), ("d", d)]):
        with pytest.raises(ValueError, match="distinct names"):
            clever_hans_report(bad, X, y, mask=mask)
    with pytest.raises(ValueError, match="reserved"):
        clever_hans_report({"d": d}, X, y, mask=mask, kind=np.full(60, "all"))
    with pytest.raises(ValueError, match="inconsistent"):
        clever_hans_report({"d": d}, X, y, mask=mask, kind=kind[:-1])
    with pytest.raises(ValueError, match="inconsistent"):
        clever_hans_report({"d": d}, X[1:], y, mask=mask)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="needs pandas"):
        clever_hans_report({"d": d}, X, y, mask=mask)


# ---- pixel flipping


def test_flipping_by_hand_on_a_sum_of_squares():
    X = np.array([[3.0, 0.0, 1.0, 2.0]])
    flips = pixel_flipping_curve(Distance(), X, X**2, reference=np.zeros(4))
    np.testing.assert_allclose(flips.fractions, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(flips.curve, [np.array([14, 5, 1, 0, 0]) / 14])
    assert flips.auc == pytest.approx((14 / 2 + 5 + 1) / 14 / 4)


def test_random_order_and_constant_maps_score_one_half(rng):
    # Every order and its reverse add up to one for a sum of features.
    X = rng.normal(size=(20, 12))
    flips = pixel_flipping_curve(
        Distance(), X, np.ones(X.shape), reference=np.zeros(12), n_random=20
    )
    assert flips.random_auc == pytest.approx(0.5, abs=0.02)
    assert flips.auc == pytest.approx(0.5, abs=0.1)


def test_flipping_ranks_exact_before_random_before_reversed_order(rng):
    X, reference = rng.normal(size=(20, 30)) + 2, rng.normal(size=(20, 30)) / 5
    auc = {}
    for name, sign in (("exact", 1), ("reversed", -1)):
        relevance = sign * X**2
        flips = pixel_flipping_curve(Distance(), X, relevance, reference=reference)
        auc[name] = flips.auc
    assert auc["exact"] + 0.1 < flips.random_auc < auc["reversed"] - 0.1
    np.testing.assert_allclose(flips.curve[:, [0, -1]], [[1, 0]] * 20, atol=1e-12)


def test_flipping_explains_when_no_relevance_is_given(rng):
    X, detector = rng.normal(size=(5, 6)), Distance()
    own = pixel_flipping_curve(detector, X, reference=np.zeros(6))
    given_ = pixel_flipping_curve(detector, X, X**2, reference=np.zeros((1, 6)))
    assert detector.explained == [5]
    np.testing.assert_array_equal(own.curve, given_.curve)
    assert own.random_auc == given_.random_auc


def test_flipping_images_replaces_all_channels_of_a_pixel():
    X = np.zeros((1, 2, 1, 3))
    X[0, :, 0] = [[1, 2, 0], [3, 0, 0]]
    heat = np.array([[[5.0, 4.0, 0.0]]])
    flips = pixel_flipping_curve(
        Distance(), X, heat, reference=np.zeros((2, 1, 3)), n_random=0
    )
    np.testing.assert_allclose(flips.curve, [np.array([14, 4, 0, 0]) / 14])
    assert np.isnan(flips.random_auc)
    by_channel = np.stack([heat * 3, heat * -2], axis=1)
    again = pixel_flipping_curve(Distance(), X, by_channel, reference=X * 0)
    np.testing.assert_array_equal(again.curve, flips.curve)


def test_flipping_in_blocks_is_flipping_at_once(rng, monkeypatch):
    X = rng.normal(size=(7, 5))
    whole, parts = Distance(), Distance()
    expected = pixel_flipping_curve(whole, X, X**2, reference=np.zeros(5))
    assert len(whole.scored) == 2 + 1 + 10
    monkeypatch.setattr("skad.metrics._faithfulness._BLOCK", 40)
    got = pixel_flipping_curve(parts, X, X**2, reference=np.zeros(5))
    assert max(len(rows) for rows in parts.scored[2:]) == 8
    np.testing.assert_array_equal(got.curve, expected.curve)


def test_flipping_keeps_data_frames(rng):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(rng.normal(size=(4, 3)), columns=["a", "b", "c"])
    detector = Distance()
    pixel_flipping_curve(detector, X, X**2, reference=X.mean())
    assert all(list(rows.columns) == ["a", "b", "c"] for rows in detector.scored)


def test_flipping_puts_columns_in_order(rng):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(rng.normal(size=(9, 3)) + 1, columns=["a", "b", "c"])
    means, turned = X.mean() - 2, ["c", "a", "b"]
    expected = pixel_flipping_curve(Distance(), X, X**2, reference=means, n_random=0)
    got = pixel_flipping_curve(
        Distance(), X, (X**2)[turned], reference=means[turned], n_random=0
    )
    np.testing.assert_array_equal(got.curve, expected.curve)
    with pytest.raises(ValueError, match="reference has the names"):
        pixel_flipping_curve(Distance(), X, X**2, reference=means[["a", "b"]])


def test_flipping_leaves_out_rows_without_an_anomaly():
    X = np.array([[0.0, 0.0], [3.0, 1.0]])
    flips = pixel_flipping_curve(Distance(), X, X**2, reference=np.zeros(2))
    assert np.isnan(flips.curve[0]).all()
    np.testing.assert_allclose(flips.mean, [1, 0.1, 0])
    with pytest.warns(UndefinedMetricWarning, match="higher than its reference"):
        none = pixel_flipping_curve(Distance(), X[:1], X[:1], reference=np.zeros(2))
    assert np.isnan([none.auc, none.random_auc, *none.mean]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": np.zeros(3)}, r"reference must .*\(5, 4\).*got \(3,\)"),
        ({"reference": np.full(4, np.nan)}, "reference contains NaN"),
        ({"relevance": np.ones((5, 3))}, "relevance must have the shape of X"),
        ({"X": np.ones(4)}, "X must be"),
        ({"steps": 0}, "steps must"),
        ({"steps": 5}, "steps must"),
        ({"steps": 1.5}, "steps must"),
        ({"n_random": -1}, "n_random must"),
    ],
)
def test_flipping_refuses_bad_input(change, message):
    options = {"X": np.ones((5, 4)), "relevance": np.ones((5, 4))}
    options |= {"reference": np.zeros(4), **change}
    with pytest.raises(ValueError, match=message):
        pixel_flipping_curve(Distance(), **options)


def test_flipping_needs_a_detector():
    with pytest.raises(TypeError, match="is no detector"):
        pixel_flipping_curve(object(), np.eye(2), np.eye(2), reference=np.zeros(2))
