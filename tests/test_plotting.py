"""Displays: scales computed by hand, what is drawn where, and refusals."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytest.importorskip("matplotlib")

from skad import GEO, IOCN, KDE, ConformalDetector, InlierTraining
from skad.images import View, Views, geometric_views
from skad.metrics import clever_hans_report
from skad.plotting import (
    CleverHansDisplay,
    CounterfactualDisplay,
    ExplanationDisplay,
    ViewsDisplay,
)

from_predictions = ExplanationDisplay.from_predictions


@pytest.fixture(autouse=True)
def plt():
    """Draw to memory only, find no figure of other tests, and leave none behind."""
    import matplotlib.pyplot as plt

    plt.close("all")
    before = plt.get_backend()
    plt.switch_backend("Agg")
    yield plt
    plt.close("all")
    plt.switch_backend(before)


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(30, 4, 6))


@pytest.fixture
def pd():
    return pytest.importorskip("pandas")


def climbing(first=0):
    """One map of the 101 values ``first``, ``first + 1``, ..., ``first + 100``."""
    return np.arange(first, first + 101.0).reshape(1, 1, 101)


def rgba(artist):
    """Colours of an image as drawn."""
    return artist.cmap(artist.norm(artist.get_array()))


# The scale of the heat maps ----------------------------------------------------------


def test_scale_is_the_least_value_and_the_quantile_above_it():
    # 101 equally spaced values: the 90 % quantile of R - min is 90.
    display = from_predictions(climbing(), climbing(5), quantile=0.9)
    assert_allclose(display.maps_[0].get_clim(), (5, 95))
    normed = display.maps_[0].norm(display.maps_[0].get_array())[0]
    assert_allclose(normed[[0, 45, 90]], [0, 0.5, 1])
    # What lies beyond is clipped to the last colour.
    assert_array_equal(
        rgba(display.maps_[0])[0, [90, 100]], [display.maps_[0].cmap(1.0)] * 2
    )


def test_default_quantile_is_99_percent():
    display = from_predictions(climbing(), climbing())
    assert_allclose(display.maps_[0].get_clim(), (0, 99))
    assert display.colorbar_.extend == "max"


def test_all_maps_share_one_scale():
    relevance = np.stack([np.full((2, 2), 1.0), [[0, 0], [0, 8.0]], np.zeros((2, 2))])
    display = from_predictions(np.zeros((3, 2, 2)), relevance, quantile=1)
    assert [m.get_clim() for m in display.maps_] == [(0, 8)] * 3
    assert display.colorbar_.extend == "neither"


def test_reference_maps_set_the_scale():
    display = from_predictions(
        climbing(), climbing(), reference_maps=np.repeat([[3.0], [20.0]], 101, axis=1)
    )
    # 101 pixels of 3 and 101 of 20: the 99 % quantile of R - 3 is 17.
    assert_allclose(display.maps_[0].get_clim(), (3, 20))
    assert display.colorbar_.extend == "both"


@pytest.mark.parametrize("value", [-2.0, 0.0, 7.0])
def test_constant_maps_are_dark_not_divided_by_zero(value):
    relevance = np.full((2, 3, 3), value)
    with np.errstate(all="raise"):
        display = from_predictions(np.zeros((2, 3, 3)), relevance)
        display.figure_.canvas.draw()
    for artist in display.maps_:
        assert_array_equal(rgba(artist), np.broadcast_to(artist.cmap(0.0), (3, 3, 4)))


def test_a_single_hot_pixel_is_not_lost_to_a_quantile_of_zero():
    relevance = np.zeros((1, 20, 20))
    relevance[0, 4, 5] = 6.0
    display = from_predictions(np.zeros((1, 20, 20)), relevance)
    assert display.maps_[0].get_clim() == (0, 6)


def test_heat_map_is_the_sum_over_channels_rectified():
    relevance = np.array([[[[1.0, 2.0]], [[3.0, -4.0]]]])
    display = from_predictions(np.zeros((1, 2, 1, 2)), relevance)
    assert_array_equal(display.maps_[0].get_array(), [[4, 0]])


# Images ------------------------------------------------------------------------------


def test_grid_titles_and_labels(images, plt):
    mask = images > 0.5
    display = from_predictions(
        images[:3],
        images[:3],
        mask=mask[:3],
        scores=[12.34, -0.5, 1234.4],
        labels=["a", "b", "c"],
    )
    assert display.axes_.shape == (3, 3) and isinstance(display.figure_, plt.Figure)
    assert [ax.get_title() for ax in display.axes_[0]] == ["input", "mask", "relevance"]
    beside = [ax.get_ylabel() for ax in display.axes_[:, 0]]
    assert beside == ["a\no = 12.3", "b\no = -0.5", "c\no = 1234"]
    assert_array_equal(display.axes_[1, 1].images[0].get_array(), mask[1])
    assert display.maps_[2] is display.axes_[2, 2].images[0]


def test_without_mask_there_is_no_column_for_it(images):
    display = from_predictions(images[:2], images[:2])
    assert display.axes_.shape == (2, 2)
    assert [ax.get_ylabel() for ax in display.axes_[:, 0]] == ["", ""]


def test_flat_rows_with_an_image_shape_are_the_same_picture(images):
    whole = from_predictions(images[:2], images[:2], mask=images[:2] > 0.5)
    flat = images[:2].reshape(2, 24)
    from_flat = from_predictions(flat, flat, mask=flat > 0.5, image_shape=(4, 6))
    for one, other in zip(whole.axes_.flat, from_flat.axes_.flat, strict=True):
        assert_array_equal(one.images[0].get_array(), other.images[0].get_array())


def test_three_channels_are_a_colour_picture_on_the_inputs_scale():
    X = np.random.default_rng(0).uniform(size=(2, 3, 4, 6))
    display = from_predictions(X, X, mask=np.ones((2, 4, 6), bool))
    assert_allclose(display.axes_[1, 0].images[0].get_array(), X[1].transpose(1, 2, 0))
    bytes_ = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1)
    shown = from_predictions(bytes_, np.ones((1, 3, 1, 1))).axes_[0, 0].images[0]
    assert_allclose(np.ravel(shown.get_array()), [0, 0.2, 1])


def test_standardised_inputs_share_one_scale():
    X = np.array([[[-2.0, 0.0]], [[2.0, 6.0]]])
    display = from_predictions(X, np.ones(X.shape))
    shown = [ax.images[0].get_array() for ax in display.axes_[:, 0]]
    assert_allclose(np.ravel(shown), [0, 0.25, 0.5, 1])


def test_figure_grows_with_the_rows(images):
    heights = [
        from_predictions(images[:n], images[:n]).figure_.get_size_inches()[1]
        for n in (1, 3, 9)
    ]
    assert heights[0] < heights[1] < heights[2]


def test_draws_into_a_given_figure_or_subfigure(images, plt):
    figure = plt.figure(layout="constrained")
    left, right = figure.subfigures(1, 2)
    display = from_predictions(images[:2], images[:2], figure=left)
    from_predictions(np.eye(3), np.eye(3), mask=np.eye(3), figure=right)
    assert display.figure_ is left and len(left.axes) == 5 and len(right.axes) == 3
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_image_shape_is_found_behind_a_calibration(images, calibration):
    flat = images.reshape(30, 24)
    kde = KDE(bandwidth=1.0, image_shape=(4, 6))
    model = ConformalDetector(kde, calibration=calibration, random_state=0).fit(flat)
    display = ExplanationDisplay.from_estimator(model, flat[:2])
    assert display.maps_[0].get_array().shape == (4, 6)


@pytest.mark.parametrize("wrap", ["bare", "pipeline", "inlier", "search"])
def test_image_shape_is_found_in_the_estimator(images, wrap):
    flat = images.reshape(30, 24)
    estimator = KDE(bandwidth=1.0, image_shape=(4, 6))
    if wrap != "bare":
        estimator = make_pipeline(StandardScaler(), estimator)
    if wrap in ("inlier", "search"):
        estimator = InlierTraining(estimator)
    if wrap == "search":
        grid = {"estimator__kde__bandwidth": [1.0]}
        estimator = GridSearchCV(estimator, grid, cv=2, scoring=lambda *_: 0.0)
    display = ExplanationDisplay.from_estimator(estimator.fit(flat), flat[:2])
    assert display.maps_[0].get_array().shape == (4, 6)
    assert_allclose(display.axes_[1, 0].images[0].get_array(), images[1])


def test_from_estimator_shows_score_and_relevance_of_the_detector(images):
    kde = KDE(bandwidth=1.0).fit(images)
    X = images[:2] + 1
    display = ExplanationDisplay.from_estimator(kde, X, quantile=1)
    for i in range(2):
        assert_array_equal(display.maps_[i].get_array(), kde.explain(X)[i].clip(0))
    assert_array_equal(display.scores, -kde.score_samples(X))


# Tabular rows ------------------------------------------------------------------------


def tick_texts(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


def test_bars_are_the_largest_relevances_with_names_and_values():
    X, relevance = [[3.2, 0.5, 41.0], [1.0, 2.0, 3.0]], [[0.1, -5.0, 2.0], [9.0, 0.0, -1.0]]
    display = from_predictions(X, relevance, max_features=2, scores=[1, 2])
    assert display.axes_.shape == (2,)
    assert tick_texts(display.axes_[0]) == ["x1 = 0.5", "x2 = 41"]
    assert [bar.get_width() for bar in display.bars_[0]] == [-5, 2]
    assert [bar.get_width() for bar in display.bars_[1]] == [9, -1]
    assert display.axes_[1].get_title(loc="left") == "o = 2"
    assert display.legend_ is None


def test_bars_share_one_scale_and_colour_tells_the_sign():
    display = from_predictions(np.zeros((2, 2)), [[-4.0, 1.0], [0.5, 10.0]])
    assert display.axes_[0].get_xlim() == display.axes_[1].get_xlim()
    low, high = display.axes_[0].get_xlim()
    assert -5 < low < -4 and 10 < high < 11
    against, evidence = (bar.get_facecolor() for bar in display.bars_[0])
    assert against != evidence == display.bars_[1][0].get_facecolor()


def test_features_in_the_mask_are_hatched_and_explained():
    display = from_predictions([[1.0, 2.0]], [[3.0, 4.0]], mask=[[1, 0]])
    assert tick_texts(display.axes_[0]) == ["x1 = 2", "x0 = 1"]
    first, second = display.bars_[0]
    assert not first.get_hatch() and second.get_hatch()
    assert [t.get_text() for t in display.legend_.get_texts()] == ["in the mask"]


def test_names_of_a_data_frame_and_values_that_are_no_numbers(pd):
    X = pd.DataFrame({"city": ["Ulm"], "age": [30.0]})
    display = from_predictions(X, [[1.0, 2.0]])
    assert tick_texts(display.axes_[0]) == ["age = 30", "city = Ulm"]
    display = from_predictions(X, [[1.0, 2.0]], feature_names=["a", "b"])
    assert tick_texts(display.axes_[0]) == ["b = 30", "a = Ulm"]


def test_text_that_looks_like_a_number_stays(pd):
    X = pd.DataFrame({"zip": ["02139"], "h": ["1e3"], "on": [True]})
    display = from_predictions(X, [[1.0, 2.0, 3.0]])
    assert tick_texts(display.axes_[0]) == ["on = True", "h = 1e3", "zip = 02139"]


def test_labels_may_be_pairs(pd):
    index = pd.MultiIndex.from_product([["a"], [1, 2]])
    X = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]}, index=index)
    first, second = from_predictions(X, X).axes_
    assert "('a', 1)" in first.get_title(loc="left")
    assert "('a', 2)" in second.get_title(loc="left")


def test_names_that_only_the_detector_knows(pd):
    X = pd.DataFrame(np.random.default_rng(0).random((20, 2)), columns=["age", "size"])
    display = ExplanationDisplay.from_estimator(KDE().fit(X), X.to_numpy()[:1])
    assert {text.split()[0] for text in tick_texts(display.axes_[0])} == {"age", "size"}


def test_model_space_shows_what_the_last_step_sees(pd):
    X = pd.DataFrame({"a": [0.0, 2.0, 4.0], "b": [10.0, 10.0, 40.0]})
    model = make_pipeline(StandardScaler(), KDE(bandwidth=1.0)).fit(X)
    X_new = pd.DataFrame({"a": [2.0], "b": [100.0]})
    outside = ExplanationDisplay.from_estimator(model, X_new)
    assert tick_texts(outside.axes_[0]) == ["b = 100", "a = 2"]
    # Mean 20 and standard deviation sqrt(200) of b: (100 - 20) / 14.14 = 5.66.
    inside = ExplanationDisplay.from_estimator(model, X_new, space="model")
    assert tick_texts(inside.axes_[0]) == ["b = 5.66", "a = 0"]


def wrapped_pipelines():
    """Make the same fitted pipeline, wrapped in several ways."""
    pipeline = make_pipeline(StandardScaler(), PCA(2), KDE(bandwidth=1.0))
    X = np.random.default_rng(0).normal(size=(60, 3))
    fitted = FrozenEstimator(pipeline.fit(X))
    yield pipeline
    yield fitted
    inlier = FrozenEstimator(InlierTraining(fitted).fit(X))
    yield inlier
    yield ConformalDetector(fitted).fit(X + 1)
    yield InlierTraining(fitted).fit(X)
    yield ConformalDetector(InlierTraining(inlier)).fit(X)


def test_model_space_shows_what_the_last_step_sees_however_wrapped():
    X = np.array([[0.0, 9.0, 0.0], [3.0, 0.0, 1.0]])
    pipeline, *models = wrapped_pipelines()
    seen = pipeline[:-1].transform(X)
    for model in (pipeline, *models):
        display = ExplanationDisplay.from_estimator(model, X, space="model")
        assert_allclose(display.inputs, seen)
        assert_allclose(display.relevance, pipeline[-1].explain(seen))
        names = {text.split()[0] for text in tick_texts(display.axes_[0])}
        assert names == {"pca0", "pca1"}


def test_references_explain_a_detector_that_cannot():
    X = np.random.default_rng(0).normal(size=(60, 3))
    forest = IsolationForest(n_estimators=20, random_state=0).fit(X)
    odd = [[0.0, 9.0, 0.0]]
    display = ExplanationDisplay.from_estimator(forest, odd, references=X[:20])
    assert tick_texts(display.axes_[0])[0] == "x1 = 9"


def test_zero_relevance_draws():
    from_predictions(np.ones((1, 2)), np.zeros((1, 2))).figure_.canvas.draw()


# Refusals ----------------------------------------------------------------------------

X4 = np.zeros((4, 6))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((X4, X4[:3]), {}, r"relevance has shape \(3, 6\), but X has shape \(4, 6\)"),
        ((X4, X4), {"mask": X4[:, :5]}, r"mask has shape \(4, 5\), .* \(4, 6\)"),
        (
            (X4, X4[:, :4]),
            {"image_shape": (2, 3)},
            r"relevance has shape \(4, 4\), but X has shape \(4, 6\)",
        ),
        (
            (X4.reshape(4, 2, 3), X4.reshape(4, 3, 2)),
            {},
            r"relevance has shape \(4, 3, 2\), but X has shape \(4, 2, 3\)",
        ),
        ((X4, X4), {"image_shape": (2, 4)}, r"image_shape=\(2, 4\) .* \(4, 6\)"),
        ((X4, X4), {"image_shape": (6,)}, "image_shape"),
        ((X4.reshape(4, 2, 3), X4), {"image_shape": (3, 2)}, "image_shape"),
        ((np.zeros((21, 6)), np.zeros((21, 6))), {}, "21 rows.*max_rows=20.*choose"),
        ((X4, X4), {"max_rows": 3}, "4 rows.*max_rows=3"),
        ((X4[:0], X4[:0]), {}, "no rows"),
        ((X4[:, :0], X4[:, :0]), {}, "non-empty"),
        ((X4[0], X4[0]), {}, r"\(6,\)"),
        ((X4, np.full((4, 6), np.nan)), {}, "NaN"),
        ((X4, X4), {"scores": [1.0]}, "scores has 1 .*4 rows"),
        ((X4, X4), {"labels": ["a"] * 5}, "labels has 5 .*4 rows"),
        ((X4, X4), {"feature_names": ["a"]}, "feature_names has 1 .*6 features"),
        ((X4, X4), {"quantile": 0}, "quantile"),
        ((X4, X4), {"quantile": 1.1}, "quantile"),
        ((X4, X4), {"max_features": 0}, "max_features"),
        ((X4, X4), {"image_shape": (2, 3), "reference_maps": X4[:, :3]}, "reference_maps"),
    ],
)
def test_refusals(args, options, message, plt):
    with pytest.raises(ValueError, match=message):
        from_predictions(*args, **options)
    assert plt.get_fignums() == []  # a refused call leaves no empty figure


def test_too_many_rows_are_refused_before_they_are_explained():
    class Detector:
        def explain(self, X):
            raise AssertionError("explained")

    with pytest.raises(ValueError, match="choose the rows"):
        ExplanationDisplay.from_estimator(Detector(), np.zeros((21, 2)))


def test_constructor_stores_and_draws_nothing(plt):
    X = object()
    assert ExplanationDisplay(X, None, labels="ab").inputs is X
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda: from_predictions(X4, X4),
        lambda: ExplanationDisplay.from_estimator(None, X4),
        lambda: CleverHansDisplay.from_predictions([1.0], [1.0]),
    ],
)
def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install skad\[plot\]"):
        draw()


def test_import_loads_no_matplotlib():
    code = "import sys, skad.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The Clever Hans plane ---------------------------------------------------------------


def legend_texts(display):
    return [text.get_text() for text in display.legend_.get_texts()]


def test_points_lie_at_detection_and_explanation():
    display = CleverHansDisplay.from_predictions(
        {"A": 0.9, "B": 0.8}, {"B": 0.2, "A": 0.5}, baseline=0.3
    )
    assert {n: p.get_xydata()[0].tolist() for n, p in display.points_.items()} == {
        "A": [0.9, 0.5],
        "B": [0.8, 0.2],
    }
    assert_array_equal(display.baseline_.get_ydata(), [0.3, 0.3])
    assert legend_texts(display)[:2] == ["B (0.60)", "A (0.40)"]
    assert legend_texts(display)[-1] == "constant map"


def test_many_detectors_have_distinct_markers_in_view():
    x, y = np.linspace(0.4, 1, 12), np.linspace(0, 1, 12)
    display = CleverHansDisplay.from_predictions(x, y)
    looks = {(p.get_marker(), p.get_color()) for p in display.points_.values()}
    assert len(looks) == 12
    (left, right), (bottom, top) = display.ax_.get_xlim(), display.ax_.get_ylim()
    assert left <= 0.4 and right >= 1 and bottom <= 0 and top >= 1
    assert display.baseline_ is None and "constant map" not in legend_texts(display)


def test_diagonals_have_the_score_written_on_them(plt):
    display = CleverHansDisplay.from_predictions([0.6, 0.95], [0.1, 0.9])
    display.figure_.canvas.draw()
    assert len(display.diagonals_) == len(display.ax_.texts) >= 3
    for line, text in zip(display.diagonals_, display.ax_.texts, strict=True):
        x, y = text.get_position()
        assert line.get_slope() == 1
        assert x - y == pytest.approx(float(text.get_text()))
        assert line.get_xy1()[0] - line.get_xy1()[1] == pytest.approx(x - y)


def test_legend_lies_beside_the_axes():
    display = CleverHansDisplay.from_predictions([0.9, 1.0], [0.9, 1.0])
    display.figure_.canvas.draw()
    assert display.legend_.get_window_extent().x0 > display.ax_.get_window_extent().x1


def test_draws_into_given_axes(plt):
    figure, ax = plt.subplots()
    display = CleverHansDisplay.from_predictions([0.9], [0.5], names=["A"], ax=ax)
    assert display.ax_ is ax and display.figure_ is figure
    assert plt.get_fignums() == [figure.number]


def test_from_report_shows_one_kind(pd):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    X[40:50, 0] += 6
    X[50:, 1] += 6
    y, kind = np.repeat([1, -1], [40, 20]), np.repeat(["-", "a", "b"], [40, 10, 10])
    mask = np.zeros((60, 3), bool)
    mask[40:50, 0] = mask[50:, 1] = True
    detectors = {f"h{h}": KDE(bandwidth=h).fit(X[:40]) for h in (0.5, 2.0)}
    report = clever_hans_report(detectors, X, y, mask=mask, kind=kind)
    display = CleverHansDisplay.from_report(report, kind="b")
    row = report[(report["detector"] == "h2.0") & (report["kind"] == "b")].iloc[0]
    assert_allclose(
        display.points_["h2.0"].get_xydata(), [[row.detection, row.explanation]]
    )
    # One feature of three: a constant map has cosine 1 / sqrt(3).
    assert_allclose(display.baseline_.get_ydata(), 1 / np.sqrt(3))
    with pytest.raises(ValueError, match=r"no kind 'c'.*'a', 'all', 'b'"):
        CleverHansDisplay.from_report(report, kind="c")


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (({"A": 1.0}, {"B": 1.0}), {}, r"same keys.*'A'.*'B'"),
        (({"A": 1.0}, [1.0]), {}, "both be dicts"),
        (([1.0, 0.5], [1.0]), {}, r"one length.*\(2,\), \(1,\)"),
        (([1.0], [1.0]), {"names": ["a", "b"]}, "one length"),
        (([], []), {}, "at least 1"),
        (([1.0, 1.0], [0.1, 0.2]), {"names": ["a", "a"]}, "same name"),
        (([1.0], [np.nan]), {"names": ["KDE"]}, r"\['KDE'\].*no anomaly has a mask"),
    ],
)
def test_clever_hans_refusals(args, options, message, plt):
    with pytest.raises(ValueError, match=message):
        CleverHansDisplay.from_predictions(*args, **options)
    assert plt.get_fignums() == []


# Views -------------------------------------------------------------------------------


def test_views_have_a_square_each_by_shift_and_turn():
    images = np.random.default_rng(0).uniform(size=(3, 8, 8))
    views = geometric_views((8, 8))
    contributions = np.random.default_rng(1).standard_normal((3, 72))
    display = ViewsDisplay.from_predictions(images, contributions, views=views)
    assert display.axes_.shape == (3, 3)
    for shown, row in zip(display.squares_, contributions, strict=True):
        squares = shown.get_array()
        # The paper's order: mirrored, up, left, turns, the last fastest.
        expected = row.reshape(2, 9, 4).transpose(1, 0, 2).reshape(9, 8)
        assert_array_equal(squares, expected)
        assert shown.get_clim() == (-abs(contributions).max(), abs(contributions).max())
    rows = [tick.get_text() for tick in display.axes_[0, -1].get_yticklabels()]
    assert rows[:4] == ["0", "→2", "←2", "↓2"]
    worst = contributions[1].argmax()
    seen = display.axes_[1, 1].images[0].get_array()
    assert_allclose(seen, Views([views[worst]], (8, 8))(images[1:2])[0, 0])


def test_views_of_a_list_leave_squares_empty():
    views = [View(), View(left=1, turns=1), View(mirrored=True)]
    display = ViewsDisplay.from_predictions(
        np.zeros((1, 3, 4, 4)), [[1.0, 2.0, 3.0]], views=views, labels=["odd"]
    )
    squares = display.squares_[0].get_array()
    assert squares.shape == (2, 3)
    assert squares.mask.sum() == 3
    assert display.axes_[0, 0].get_ylabel() == "odd"


@pytest.mark.filterwarnings("ignore")
def test_views_of_a_detector():
    images = np.random.default_rng(0).uniform(size=(30, 8, 8))
    geo = GEO(transforms="dihedral", max_epochs=5, views=4, random_state=0).fit(images)
    display = ViewsDisplay.from_estimator(geo, images[:2])
    assert display.axes_.shape == (2, 4)
    assert display.squares_[0].get_array().compressed().tolist() == pytest.approx(
        geo.explain_views(images[:1])[0].tolist()
    )
    flat = ViewsDisplay.from_estimator(geo, images[:2].reshape(2, -1))
    assert flat.axes_.shape == (2, 4)


def test_views_refuse():
    images, views = np.zeros((2, 4, 4)), [View(), View(mirrored=True)]
    with pytest.raises(ValueError, match=r"must have shape \(2, 2\)"):
        ViewsDisplay.from_predictions(images, np.zeros((2, 3)), views=views)
    with pytest.raises(ValueError, match="Views are of images"):
        ViewsDisplay.from_predictions(np.zeros((2, 16)), np.zeros((2, 2)), views=views)
    with pytest.raises(ValueError, match="NaN"):
        ViewsDisplay.from_predictions(images, np.full((2, 2), np.nan), views=views)
    with pytest.raises(TypeError, match=r"skad.images.View"):
        ViewsDisplay.from_predictions(images, np.zeros((2, 2)), views=[0, 1])
    with pytest.raises(TypeError, match="explain_views is needed"):
        ViewsDisplay.from_estimator(KDE(), images)
    with pytest.raises(ValueError, match="max_rows=1"):
        ViewsDisplay.from_predictions(images, np.zeros((2, 2)), views=views, max_rows=1)


# Counterfactuals ---------------------------------------------------------------------


def test_values_and_normal_values_by_size_of_the_change(pd):
    X = pd.DataFrame([[1.0, 20.0, 5.0], [0.0, 0.0, 0.0]], columns=list("abc"))
    normal = np.array([[1.5, 10.0, 5.0], [0.0, -40.0, 4.0]])
    display = CounterfactualDisplay.from_predictions(
        X, normal, scale=[0.1, 20.0, 1.0], scores=[3.0, 4.0], max_features=2
    )
    texts = [[t.get_text() for t in ax.get_yticklabels()] for ax in display.axes_]
    assert texts == [["a: 1 → 1.5", "b: 20 → 10"], ["c: 0 → 4", "b: 0 → -40"]]
    # An arrow goes from the value, in units of the scale, to the normal one at 0.
    starts = [[arrow.xyann[0] for arrow in row] for row in display.arrows_]
    assert_allclose(starts, [[-5.0, 0.5], [-4.0, 2.0]])
    assert all(arrow.xy[0] == 0 for row in display.arrows_ for arrow in row)
    assert [ax.get_title(loc="left") for ax in display.axes_] == ["0, o = 3", "1, o = 4"]


@pytest.mark.filterwarnings("ignore")
def test_counterfactuals_of_a_detector():
    images = np.random.default_rng(0).uniform(size=(40, 4, 4))
    small = {"n_blocks": 2, "hidden": 8, "n_members": 2, "max_epochs": 5, "random_state": 0}
    iocn = IOCN(**small).fit(images)
    display = CounterfactualDisplay.from_estimator(iocn, 3 * images[:2])
    assert display.axes_.shape == (2, 3)
    change = iocn.counterfactual(3 * images[:2]) - 3 * images[:2]
    for ax, expected in zip(display.axes_[:, 2], change, strict=True):
        assert_allclose(ax.images[0].get_array(), expected)
    table = images.reshape(40, 16)
    rows = CounterfactualDisplay.from_estimator(IOCN(**small).fit(table), table[:3] + 2)
    assert [len(row) for row in rows.arrows_] == [10, 10, 10]


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 2))), {}, ValueError, "normal has shape"),
        ((np.ones((2, 3)), np.full((2, 3), np.nan)), {}, ValueError, "normal has NaN"),
        ((np.ones((2, 3)), np.ones((2, 3))), {"scale": [1, 0, 1]}, ValueError, "positive"),
        ((np.ones((2, 3)), np.ones((2, 3))), {"scale": [1, 1]}, ValueError, "3 positive"),
        ((np.ones((2, 3)), np.ones((2, 3))), {"max_features": 0}, ValueError, "1 or more"),
        ((np.ones((30, 3)), np.ones((30, 3))), {}, ValueError, "max_rows=20"),
    ],
)
def test_counterfactual_refusals(args, options, error, message, plt):
    with pytest.raises(error, match=message):
        CounterfactualDisplay.from_predictions(*args, **options)
    assert plt.get_fignums() == []


def test_counterfactuals_of_a_detector_without_them():
    with pytest.raises(TypeError, match="A detector with counterfactual is needed"):
        CounterfactualDisplay.from_estimator(KDE().fit(np.eye(3)), np.eye(3))
