"""Edges of the metrics, by hand: several rows at once, ties, dtypes, defaults, messages."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import UndefinedMetricWarning

from skad import KDE
from skad.metrics import (
    ExplanationAwareScorer,
    aupro_score,
    clever_hans_report,
    clever_hans_score,
    cosine_similarity_score,
    mean_distance_agreement,
    pixel_flipping_curve,
    pixel_roc_auc_score,
    pointing_game_score,
    relevance_mass_score,
    relevance_rank_score,
)


class Squares:
    """Outlier score: the sum of squares, in the dtype of the rows."""

    def __init__(self):
        self.blocks = []

    def score_samples(self, X):
        self.blocks.append(len(X))
        return -(X**2).reshape(len(X), -1).sum(axis=1)

    def explain(self, X):
        return X**2


# ---- localisation


def test_rank_score_of_rows_with_different_masks():
    mask = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]
    relevance = [[4, 3, 2, 1], [1, 5, 2, 0], [9, 8, 7, 7], [1, 2, 3, 4]]
    # Row 0 finds both, row 1 its one; the first three of row 2 are 9, 8 and either 7.
    got = relevance_rank_score(mask, relevance, average=None)
    np.testing.assert_allclose(got, [1, 1, 2 / 3, np.nan])
    assert relevance_rank_score(mask, relevance) == pytest.approx(8 / 9)


def test_rank_score_of_a_single_pixel():
    assert relevance_rank_score([[1]], [[5]]) == 1


def test_rows_of_any_scale_beside_each_other():
    relevance = [[1e-200, 0], [1e200, 1e200]]
    got = cosine_similarity_score([[1, 0], [1, 0]], relevance, average=None)
    np.testing.assert_allclose(got, [1, np.sqrt(1 / 2)])


def test_rounding_takes_no_cosine_beyond_one():
    mask = np.random.default_rng(0).random((500, 7))
    assert cosine_similarity_score(mask, mask, average=None).max() == 1


def test_unsigned_relevance_keeps_its_order():
    mask = np.array([[[1, 0, 0], [0, 0, 0]]])
    assert aupro_score(mask, 255 * mask.astype(np.uint8)) == 1


def test_maps_have_four_axes_at_most():
    with pytest.raises(ValueError, match=r"\(n, C, H, W\), got \(1, 1, 1, 2, 2\)"):
        cosine_similarity_score(*np.ones((2, 1, 1, 1, 2, 2)))


# ---- warnings


def agree_at_equal_distances():
    kde = KDE(bandwidth=0.5).fit([[1.0, 0.0], [-1.0, 0.0]])
    return mean_distance_agreement(kde, [[2.0, 0.0], [0.0, 2.0]]).rank_correlation


EMPTY, ZEROS = np.zeros((1, 2, 2)), np.zeros((1, 2))
UNDEFINED = {
    "cosine": (lambda: cosine_similarity_score(EMPTY, EMPTY), "No row has a mask"),
    "pixel_roc_auc": (lambda: pixel_roc_auc_score(EMPTY, EMPTY), "No row has a mask"),
    "pointing_game": (lambda: pointing_game_score(EMPTY, EMPTY), "No row has a mask"),
    "relevance_mass": (lambda: relevance_mass_score(EMPTY, EMPTY), "No row has a mask"),
    "relevance_rank": (lambda: relevance_rank_score(EMPTY, EMPTY), "No row has a mask"),
    "aupro": (lambda: aupro_score(EMPTY, EMPTY), "AUPRO needs masked and mask-free"),
    "flipping": (
        lambda: pixel_flipping_curve(Squares(), ZEROS, ZEROS, reference=[0, 0]).auc,
        "No row scores higher than its reference",
    ),
    "agreement": (agree_at_equal_distances, "All rows have the same score or"),
}


@pytest.mark.parametrize(("undefined", "why"), UNDEFINED.values(), ids=UNDEFINED)
def test_warnings_say_why(undefined, why):
    with pytest.warns(UndefinedMetricWarning, match=f"^{why}"):
        assert np.isnan(undefined())


@pytest.mark.parametrize(("undefined", "why"), UNDEFINED.values(), ids=UNDEFINED)
def test_warnings_point_at_the_caller(undefined, why):
    elsewhere = eval("lambda call: call()")  # the caller's caller, in no file
    with pytest.warns(UndefinedMetricWarning) as record:
        elsewhere(undefined)
    assert [warning.filename for warning in record] == [__file__]


# ---- Clever Hans


@pytest.mark.parametrize("longer", ["score", "mask", "relevance"])
def test_lengths_must_agree(longer):
    arguments = {"score": np.arange(3), "mask": np.eye(3), "relevance": np.eye(3)}
    arguments[longer] = np.concatenate([arguments[longer]] * 2)
    with pytest.raises(ValueError, match="inconsistent"):
        clever_hans_score([1, -1, -1], *arguments.values())


@pytest.mark.parametrize("longer", ["X", "y", "mask"])
def test_lengths_of_a_report_must_agree(longer):
    pytest.importorskip("pandas")
    arguments = {"X": np.eye(3), "y": np.array([1, -1, -1]), "mask": np.eye(3)}
    arguments[longer] = np.concatenate([arguments[longer]] * 2)
    with pytest.raises(ValueError, match="inconsistent"):
        clever_hans_report({"d": Squares()}, **arguments)


def test_a_report_lists_three_kinds_and_is_silent_without_masks():
    pytest.importorskip("pandas")
    y, kind = [1, -1, -1, -1, -1], ["", "a", "b", "c", "d"]
    X, mask = np.arange(5.0)[:, None], np.ones((5, 1))
    report = clever_hans_report({"d": Squares()}, X, y, mask=mask, kind=kind)
    assert len(report.attrs["worst"]["d"]) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clever_hans_report({"d": Squares()}, X, y, mask=0 * mask, kind=kind)


def test_a_report_hands_frames_to_detectors():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [0.0, 3.0, 9.0], "b": [0.0, 4.0, 9.0]}, index=[7, 8, 9])
    seen = []

    class Detector(Squares):
        def score_samples(self, X):
            seen.append(X)
            return super().score_samples(X.to_numpy())

        def explain(self, X):
            seen.append(X)
            return super().explain(X.to_numpy())

    mask = [[0, 0], [1, 0], [0, 0]]
    report = clever_hans_report({"d": Detector()}, frame, [1, -1, 0], mask=mask)
    assert [list(rows.index) for rows in seen] == [[7, 8], [8]]
    assert report["explanation"].tolist() == pytest.approx([9 / np.hypot(9, 16)])


# ---- the scorer


def mean_score(y, weight, mask=None):
    """Score four rows whose sums of squares are 0, 4, 1 and 9."""
    X = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    kde = KDE(bandwidth=np.inf).fit([[0.0, 0.0]] * 2)  # its score is the sum of squares
    return ExplanationAwareScorer(weight=weight)(kde, X, y, mask=mask)


def test_scorer_by_hand():
    # One of four pairs is in the wrong order: 4 of a normal row above 1 of an anomaly.
    assert mean_score([1, 1, -1, -1], 0) == 0.75
    # Relevance is (1, 0) and (0, 9): the cosines with the masks are sqrt(1/2) and 0.
    mask = np.array([[0, 0], [0, 0], [1, 1], [1, 0]])
    cosine = np.sqrt(1 / 2) / 2
    assert mean_score(None, 1, mask) == pytest.approx(cosine)
    assert mean_score([1, 1, -1, -1], 0.2, mask) == pytest.approx(0.6 + 0.2 * cosine)


def test_scorer_leaves_out_what_has_no_label():
    assert mean_score([1, 0, -1, -1], 0) == 1


def test_scorer_takes_sparse_masks():
    mask = csr_array([[0, 0], [0, 0], [1, 1], [1, 0]])
    assert mean_score(None, 1, mask) == pytest.approx(np.sqrt(1 / 2) / 2)


def test_scorer_gives_flat_masks_the_shape_of_images():
    images = np.arange(8.0).reshape(2, 2, 2)
    kde = KDE(bandwidth=np.inf).fit(np.zeros((2, 2, 2)))
    mask = np.array([[0, 0, 0, 0], [0, 1, 0, 0]])
    got = ExplanationAwareScorer(weight=1)(kde, images, mask=mask)
    # Relevance is 16, 25, 36 and 49.
    assert got == pytest.approx(25 / np.sqrt(16**2 + 25**2 + 36**2 + 49**2))


# ---- pixel flipping


def test_flipping_computes_in_float64_whatever_comes():
    # In uint8 the squares 400, 900 and 256 would be 144, 132 and 0, and -1 would be 255.
    X, reference = np.array([[20, 30]], np.uint8), np.array([0, 16], np.uint8)
    relevance = np.array([[0, 1]], np.uint8)
    flips = pixel_flipping_curve(Squares(), X, relevance, reference=reference)
    np.testing.assert_allclose(flips.curve, [[1, 400 / 1044, 0]])


def test_flipping_knows_no_row_as_normal_as_its_reference():
    X = np.array([[3.0, 4.0], [3.0, 5.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flips = pixel_flipping_curve(Squares(), X, X, reference=[4, 3], n_random=0)
    assert np.isnan(flips.curve).tolist() == [[True] * 3, [False] * 3]
    np.testing.assert_allclose(flips.mean, [1, (18 - 25) / 9, 0])


def test_flipping_by_default_takes_20_steps_and_seed_0():
    X = np.arange(25.0)[None] + 1
    flips = pixel_flipping_curve(Squares(), X, X, reference=np.zeros(25))
    seeded = pixel_flipping_curve(
        Squares(), X, X, reference=np.zeros(25), steps=20, n_random=10, random_state=0
    )
    assert len(flips.fractions) == 21
    assert flips.random_auc == seeded.random_auc


def test_flipping_all_in_one_step():
    X = np.array([[1.0, 2.0]])
    flips = pixel_flipping_curve(Squares(), X, X, reference=[0, 0], steps=1)
    np.testing.assert_array_equal(flips.curve, [[1, 0]])


def test_flipping_rows_larger_than_a_block(monkeypatch):
    monkeypatch.setattr("skad.metrics._faithfulness._BLOCK", 2)
    detector, X = Squares(), np.ones((2, 3))
    pixel_flipping_curve(detector, X, X, reference=np.zeros(3), n_random=0)
    assert detector.blocks == [2, 2] + [1] * 8


def test_flipping_without_random_orders_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"relevance": ZEROS, "reference": [0, 0]}
        flips = pixel_flipping_curve(Squares(), ZEROS + 1, n_random=0, **options)
        assert np.isnan(flips.random_auc)
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        assert np.isnan(pixel_flipping_curve(Squares(), ZEROS, **options).random_auc)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": [[np.nan, 1]]}, "Input X contains NaN"),
        ({"relevance": [[np.nan, 1]]}, "Input relevance contains NaN"),
        ({"reference": [1, 2, 3]}, r"of X, \(2, 2\), or of one row, \(2,\), got \(3,\)"),
        ({"relevance": np.ones((2, 3))}, r"got \(2, 3\) for 2 rows of 2 features"),
    ],
)
def test_flipping_names_what_is_wrong(change, message):
    options = {
        "X": np.ones((2, 2)),
        "relevance": np.ones((2, 2)),
        "reference": [0, 0],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        pixel_flipping_curve(Squares(), **options)
