"""KDE against brute force, closed forms, golden values and scikit-learn."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from sklearn.neighbors import KernelDensity

from skad import KDE
from skad.base import BaseDetector

LN2 = np.sqrt(1 / (2 * np.log(2)))  # sigma of gamma = ln 2
TEMPLATES, QUERY = [[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0]]


def brute_force(kde, X, templates):
    """Score, relevance and unattributed part, term by term, as the docstring has them."""
    difference = (X[:, None] - templates[None]) ** 2
    d, n = difference.sum(-1), len(templates)
    if kde.kernel == "gaussian":
        gamma = 1 / (2 * kde.bandwidth**2)
        o = -logsumexp(-gamma * d, axis=1, b=1 / n) / gamma
        p = softmax(-gamma * d, axis=1)
        c = p
        left = np.sum(p * np.log(np.maximum(p, 1e-300) * n), axis=1) / gamma
    else:
        s, q = kde.df * kde.bandwidth**2, kde.power
        log_o = logsumexp(-q * np.log(s + d), axis=1, b=1 / n) / -q
        p = softmax(-q * np.log(s + d), axis=1)
        o = np.exp(log_o)
        c = p * np.exp(log_o[:, None] - np.log(s + d))
        left = s * c.sum(axis=1)
    if kde.rule == "conserving":
        c = p * o[:, None] * np.divide(1, d, out=np.zeros_like(d), where=d > 0)
        left = np.where(d == 0, p, 0).sum(axis=1) * o
    return o, np.einsum("nm,nmd->nd", c, difference), left


def assert_matches(kde, X, templates, rtol=1e-9):
    kde.fit(templates)
    o, relevance, left = brute_force(kde, X, templates)
    size = np.abs(o).max() + np.abs(relevance).max()
    assert_allclose(-kde.score_samples(X), o, rtol=rtol, atol=rtol * size)
    assert_allclose(kde.explain(X), relevance, rtol=rtol, atol=rtol * size)
    assert_allclose(kde.unattributed(X), left, rtol=rtol, atol=rtol * size)
    law = kde.explain(X).sum(axis=1) + kde.unattributed(X)
    assert_allclose(law, o, rtol=rtol, atol=rtol * size)


@pytest.mark.parametrize(
    ("kde", "score", "relevance", "left"),
    [
        (KDE(bandwidth=LN2), 1.8300749986, [8 / 9, 4 / 9], 0.4967416653),
        (KDE(bandwidth=LN2, rule="conserving"), 1.8300749986, [1.62673333, 0.20334167], 0),
        (KDE(kernel="student", bandwidth=1, power=1), 20 / 7, [50 / 49, 32 / 49], 58 / 49),
        (KDE(bandwidth=np.inf), 2.5, [0.5, 2.0], 0),
    ],
)
def test_golden_values(kde, score, relevance, left):
    kde.fit(TEMPLATES)
    assert_allclose(-kde.score_samples(QUERY), [score], rtol=1e-9)
    assert_allclose(kde.explain(QUERY), [relevance], rtol=1e-7)
    assert_allclose(kde.unattributed(QUERY), [left], atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 700),
    d=st.integers(1, 12),
    gamma=st.floats(1e-3, 1e2),
    kernel=st.sampled_from(["gaussian", "student"]),
    rule=st.sampled_from(["taylor", "conserving"]),
    power=st.floats(0.5, 20),
    seed=st.integers(0, 99),
)
@example(n=600, d=3, gamma=100.0, kernel="gaussian", rule="conserving", power=1.0, seed=0)
@example(n=513, d=2, gamma=1.0, kernel="student", rule="conserving", power=1.0, seed=0)
def test_matches_brute_force(n, d, gamma, kernel, rule, power, seed):
    rng = np.random.default_rng(seed)
    templates = rng.standard_normal((n, d))
    templates[n // 2] = templates[0]  # a duplicate
    far = 50 * rng.standard_normal((2, d))
    X = np.vstack([rng.standard_normal((5, d)), templates[:3], templates[-1:] + 1e-5, far])
    kde = KDE(kernel=kernel, rule=rule, power=power, bandwidth=(2 * gamma) ** -0.5)
    assert_matches(kde, X, templates, rtol=1e-6 if rule == "conserving" else 1e-9)


@pytest.mark.parametrize("rule", ["taylor", "conserving"])
@pytest.mark.parametrize("kernel", ["gaussian", "student"])
def test_many_tiles_and_blocks(kernel, rule):
    rng = np.random.default_rng(0)
    # Nearer templates come later, so that the running maximum has to be followed.
    templates = rng.standard_normal((1100, 5)) * np.linspace(60, 0.1, 1100)[:, None]
    X = rng.standard_normal((1030, 5))
    assert_matches(
        KDE(kernel=kernel, rule=rule, power=3, bandwidth=0.3), X, templates, 1e-7
    )


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-1e6, 1e6), seed=st.integers(0, 99))
def test_units_and_offsets(scale, offset, seed):
    rng = np.random.default_rng(seed)
    templates, X = rng.standard_normal((40, 3)), rng.standard_normal((6, 3))
    plain = KDE().fit(templates)
    moved = KDE().fit(scale * templates + scale * offset)
    assert_allclose(moved.bandwidth_, scale * plain.bandwidth_, rtol=1e-5)
    relevance = moved.explain(scale * X + scale * offset)
    assert_allclose(relevance, scale**2 * plain.explain(X), rtol=1e-4, atol=1e-7 * scale**2)


def test_features_at_offset_of_a_million():
    rng = np.random.default_rng(0)
    templates, X = rng.standard_normal((300, 4)), rng.standard_normal((20, 4))
    for dtype, tolerance in (("float64", 1e-8), ("float32", 1e-4)):
        near = KDE(bandwidth=0.5, dtype=dtype).fit(templates).explain(X)
        far = KDE(bandwidth=0.5, dtype=dtype).fit(templates + 1e6).explain(X + 1e6)
        assert_allclose(far, near, atol=tolerance * near.max())


def test_clusters_a_million_apart():
    # Centring does not help here: the differences are taken directly.
    rng = np.random.default_rng(0)
    templates = np.vstack([rng.standard_normal((99, 3)) + s * 1e6 for s in (-1, 1)])
    X = rng.standard_normal((9, 3)) + 1e6
    for rule in ("taylor", "conserving"):
        assert_matches(KDE(bandwidth=0.5, rule=rule), X, templates, rtol=1e-7)
    assert 0.2 < KDE().fit(templates).bandwidth_ < 0.8


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kernel", ["gaussian", "student"])
def test_far_points_are_finite_and_ordered(kernel, dtype):
    templates = np.random.default_rng(0).standard_normal((600, 3))
    X = np.outer(10.0 ** np.arange(1, 15), np.ones(3))
    for rule in ("taylor", "conserving"):
        kde = KDE(kernel=kernel, rule=rule, dtype=dtype).fit(templates)
        scores = kde.score_samples(X)
        assert np.isfinite(scores).all() and (np.diff(scores) < 0).all()
        assert np.isfinite(kde.explain(X)).all()
        nearest = cdist(X, templates, "sqeuclidean").min(axis=1)
        if kernel == "gaussian":
            slack = 2 * kde.bandwidth_**2 * np.log(600)
            assert (-scores >= nearest * (1 - 1e-5)).all()
            assert (-scores <= nearest * (1 + 1e-5) + slack).all()


def test_too_far_to_square():
    kde = KDE(bandwidth=1.0).fit(TEMPLATES)
    with pytest.raises(ValueError, match="too many bandwidths away"):
        kde.score_samples([[1e200, 0.0]])


def test_rows_and_bandwidths_out_of_range():
    with pytest.raises(ValueError, match="Training rows are too many bandwidths apart"):
        KDE(bandwidth=1.0).fit(np.array(TEMPLATES) * 1e160)
    with pytest.raises(ValueError, match="square within float64"):
        KDE().fit(np.array(TEMPLATES) * 1e160)
    for bandwidth in (1e-200, 1e200):
        with pytest.raises(ValueError, match="square within float64"):
            KDE(bandwidth=bandwidth).fit(TEMPLATES)


@pytest.mark.parametrize("kernel", ["gaussian", "student"])
@pytest.mark.parametrize("bandwidth", [10.0, 1e3, 1e6, 1e9, 1e100])
def test_wide_bandwidths_keep_their_digits(kernel, bandwidth):
    rng = np.random.default_rng(0)
    templates, X = rng.standard_normal((300, 5)), rng.standard_normal((50, 5))
    to_mean = ((X - templates.mean(axis=0)) ** 2 + templates.var(axis=0)).sum(axis=1)
    kde = KDE(kernel=kernel, bandwidth=bandwidth, rule="conserving", power=3).fit(templates)
    o = -kde.score_samples(X)
    if kernel == "gaussian":  # o = mean d - var d / 2 s + ...
        assert_allclose(o, to_mean, rtol=20 / bandwidth**2 + 1e-12)
        assert_allclose(kde.explain(X).sum(axis=1), o, rtol=1e-9)
    else:
        assert_allclose(o / bandwidth**2, 1 + to_mean / bandwidth**2, rtol=1e-2)


def test_relevance_beside_a_template_among_far_ones():
    # The other templates are thousands of bandwidths away.
    templates = np.array([[-4000.0, 0, 0], [4000.0, 0, 0], [0, 4000.0, 4000.0]])
    for rule in ("taylor", "conserving"):
        relevance = (
            KDE(bandwidth=1.0, rule=rule).fit(templates).explain([[-4000.0, 1e-5, 0]])
        )
        assert relevance.argmax() == 1
    assert_allclose(
        KDE(bandwidth=1.0).fit(templates).explain([[-4000, 1e-5, 0]])[0, 1], 1e-10
    )


def test_score_is_between_nearest_and_mean_distance():
    rng = np.random.default_rng(0)
    templates, X = rng.standard_normal((50, 4)), 3 * rng.standard_normal((20, 4))
    d = cdist(X, templates, "sqeuclidean")
    for bandwidth in (1e-3, 0.1, 1.0, 10.0, 1e3, np.inf):
        o = -KDE(bandwidth=bandwidth).fit(templates).score_samples(X)
        assert (o >= d.min(1) - 1e-9).all() and (o <= d.mean(1) + 1e-9).all()


def test_limits_of_the_bandwidth():
    rng = np.random.default_rng(0)
    templates, X = rng.standard_normal((50, 4)), rng.standard_normal((20, 4))
    nearest = templates[cdist(X, templates).argmin(axis=1)]
    narrow = KDE(bandwidth=1e-3).fit(templates)
    assert_allclose(narrow.explain(X), (X - nearest) ** 2, atol=1e-9)
    to_mean = (X - templates.mean(axis=0)) ** 2 + templates.var(axis=0)
    wide, limit = (KDE(bandwidth=b).fit(templates) for b in (1e4, np.inf))
    assert_allclose(wide.explain(X), to_mean, rtol=1e-6)
    assert_allclose(limit.explain(X), to_mean, rtol=1e-12)
    assert_allclose(limit.score_samples(X), -to_mean.sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 3.0])
def test_log_density_is_that_of_scikit_learn(bandwidth):
    rng = np.random.default_rng(0)
    templates, X = rng.standard_normal((700, 6)), 2 * rng.standard_normal((50, 6))
    o = -KDE(bandwidth=bandwidth).fit(templates).score_samples(X)
    s2 = bandwidth**2
    log_density = -o / (2 * s2) - 3 * np.log(2 * np.pi * s2)
    # One leaf: between leaves, its bounds on far rows' densities lose all digits.
    peer = KernelDensity(bandwidth=bandwidth, leaf_size=700).fit(templates)
    assert_allclose(log_density, peer.score_samples(X), rtol=1e-8)


def test_float32_is_close_and_independent_of_the_batch():
    rng = np.random.default_rng(0)
    templates, X = rng.standard_normal((900, 20)), rng.standard_normal((600, 20))
    double, single = (KDE(dtype=t).fit(templates) for t in ("float64", "float32"))
    assert_allclose(single.score_samples(X), double.score_samples(X), rtol=1e-5)
    assert_allclose(single.explain(X), double.explain(X), rtol=1e-3, atol=1e-5)
    alone = np.concatenate([single.score_samples(x[None]) for x in X[:5]])
    assert np.array_equal(alone, single.score_samples(X)[:5])


def loo_log_likelihood(log_sigma, X, kernel="gaussian", df=1.0):
    d2, (n, d) = cdist(X, X, "sqeuclidean"), X.shape
    np.fill_diagonal(d2, np.inf)
    sigma2 = np.exp(2 * log_sigma)
    if kernel == "gaussian":
        logs = -d2 / (2 * sigma2)
    else:
        logs = -(df + d) / 2 * np.log1p(d2 / (df * sigma2))
    return np.mean(logsumexp(logs, axis=1)) - np.log(n - 1) - d * log_sigma


@pytest.mark.parametrize("kernel", ["gaussian", "student"])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (30, 1), (300, 2), (600, 8), (80, 30)])
def test_loo_bandwidth_maximises_the_likelihood(n, d, kernel):
    X = np.random.default_rng(n).standard_normal((n, d)) * 5
    found = np.log(KDE(kernel=kernel).fit(X).bandwidth_)
    grid = np.linspace(found - 5, found + 5, 201)
    best = grid[np.argmax([loo_log_likelihood(s, X, kernel) for s in grid])]
    exact = minimize_scalar(
        lambda s: -loo_log_likelihood(s, X, kernel),
        bounds=(best - 0.1, best + 0.1),
        method="bounded",
        options={"xatol": 1e-6},
    ).x
    assert abs(found - exact) < 2e-3


def test_loo_bandwidth_takes_equal_rows_once_and_leaves_constants_out():
    X = np.random.default_rng(0).standard_normal((100, 3))
    plain = KDE().fit(X).bandwidth_
    assert_allclose(KDE().fit(np.repeat(X, 3, axis=0)).bandwidth_, plain, rtol=1e-9)
    assert_allclose(KDE().fit(np.c_[X, np.full(100, 7)]).bandwidth_, plain, rtol=1e-9)
    assert_allclose(
        KDE(bandwidth="scott").fit(np.c_[X, np.full((100, 2), 0.1)]).bandwidth_,
        X.std(axis=0, ddof=0).__pow__(2).mean() ** 0.5 * 100 ** (-1 / 7),
    )


@pytest.mark.parametrize("kernel", ["gaussian", "student"])
@pytest.mark.parametrize(
    "data", ["jitter", "far", "scales", "integers", "lattice", "tiny", "huge"]
)
def test_loo_bandwidth_of_awkward_data(data, kernel):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 10))
    noise = 1e-12 * rng.standard_normal((200, 10))
    awkward = {
        "jitter": lambda: np.vstack([X, X[:40] + noise[:40]]),
        "far": lambda: np.vstack([X, np.full((1, 10), 1e10)]),
        "scales": lambda: X * 10.0 ** rng.uniform(-8, 8, (200, 1)),
        "integers": lambda: np.round(X),
        "lattice": lambda: np.arange(200.0)[:, None],
        "tiny": lambda: 1e-140 * X,
        "huge": lambda: 1e140 * X,
    }[data]()
    bandwidth = KDE(kernel=kernel).fit(awkward).bandwidth_
    assert np.isfinite(bandwidth) and bandwidth > 0
    plain = KDE(kernel=kernel).fit(X).bandwidth_
    factor = {"jitter": 1, "tiny": 1e-140, "huge": 1e140}.get(data)
    if factor is not None:
        # Near-copies draw a Student kernel, whose tails serve the other rows, to zero.
        slack = {"jitter": {"student": 5, "gaussian": 1.5}}.get(data, {}).get(kernel, 1.01)
        assert 1 / slack < bandwidth / (factor * plain) < slack


@pytest.mark.parametrize("bandwidth", ["loo", "scott"])
@pytest.mark.parametrize("d", [2, 6, 64])
def test_false_alarms_on_fresh_rows(d, bandwidth):
    rng = np.random.default_rng(d)
    X, fresh = rng.standard_normal((1000, d)), rng.standard_normal((4000, d))
    kde = KDE(bandwidth=bandwidth, false_alarm_rate=0.1).fit(X)
    assert 0.05 < np.mean(kde.predict(fresh) == -1) < 0.15
    assert_allclose(kde.expected_false_alarm_rate_, 0.1, atol=1e-3)


def test_leave_one_out_scores_are_those_of_refits():
    X = np.random.default_rng(0).standard_normal((40, 3))
    for kde in (
        KDE(bandwidth=0.7),
        KDE(bandwidth=np.inf),
        KDE(kernel="student", bandwidth=1.0),
    ):
        scores = kde.fit(X)._out_of_sample_score(X, np.arange(0, 40, 3))
        refits = [
            -kde.fit(np.delete(X, i, 0)).score_samples(X[[i]])[0] for i in range(0, 40, 3)
        ]
        assert_allclose(scores, refits, rtol=1e-9)


def test_a_threshold_that_will_not_hold_is_announced():
    X = np.random.default_rng(0).standard_normal((300, 20))
    with pytest.warns(UserWarning, match=r"10% of the training rows, but .* 100% of fresh"):
        KDE(bandwidth=0.5).fit(X).predict(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.mean(KDE(bandwidth=1.0).fit_predict(X) == -1) == 0.1  # of no fresh rows
    kde = KDE(bandwidth=0.5, contamination=0.2, false_alarm_rate=0.05).fit(X)
    with pytest.warns(
        UserWarning, match=r"20%.*contamination=None, false_alarm_rate=0\.05"
    ):
        # Contamination goes first; up to ties, which depend on the processor's rounding.
        assert np.mean(kde.predict(X) == -1) == pytest.approx(0.2, abs=0.01)


def test_devices(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    scores = [
        KDE(device=d).fit(TEMPLATES).score_samples(QUERY) for d in (None, "cpu", "auto")
    ]
    assert scores[0] == scores[1] == scores[2]
    with pytest.raises(ValueError, match="finds no CUDA device"):
        KDE(device="cuda").fit(TEMPLATES)


def test_many_rows_are_left_out_by_a_sample():
    X = np.random.default_rng(0).standard_normal((6000, 2))
    kde = KDE(false_alarm_rate=0.1).fit(X)
    assert abs(np.log(kde.bandwidth_ / KDE().fit(X[:5000]).bandwidth_)) < 0.1
    assert_allclose(kde.expected_false_alarm_rate_, 0.1, atol=1e-3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bandwidth": 0}, "bandwidth"),
        ({"bandwidth": -1.0}, "bandwidth"),
        ({"bandwidth": np.nan}, "bandwidth"),
        ({"bandwidth": "silverman"}, "'loo'"),
        ({"kernel": "tophat"}, "'gaussian'"),
        ({"contamination": 0.6}, "contamination"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate"),
        ({"dtype": "float16"}, "dtype"),
        ({"image_shape": (3, 3)}, "needs 9 features a row; X has 2"),
        ({"image_shape": (-1, -2)}, r"positive integers; got \(-1, -2\)"),
        ({"image_shape": (2,)}, r"must be \(H, W\) or \(C, H, W\)"),
        ({"kernel": "student", "power": 1}, r"must exceed 1\.0, got power=1"),
    ],
)
def test_bad_parameters(parameters, message):
    kde = KDE(**parameters)
    with pytest.raises(ValueError, match=message):
        kde.fit(TEMPLATES)
    assert not [name for name in vars(kde) if name.endswith("_")]


def test_equal_rows_have_no_bandwidth():
    for bandwidth in ("loo", "scott"):
        for value in (1.0, 0.1):
            with pytest.raises(ValueError, match="all rows of X are equal"):
                KDE(bandwidth=bandwidth).fit(np.full((100, 2), value))
    assert np.isfinite(KDE(bandwidth=1.0).fit(np.ones((5, 2))).score_samples([[1, 1]]))


def test_a_failed_refit_leaves_the_old_fit():
    kde = KDE(bandwidth=1.0).fit(TEMPLATES)
    before = kde.score_samples(QUERY)
    with pytest.raises(ValueError, match="NaN"):
        kde.fit([[np.nan, 0], [1, 1]])
    with pytest.raises(ValueError, match="all rows"):
        kde.set_params(bandwidth="loo").fit(np.ones((5, 3)))
    assert kde.n_features_in_ == 2 and kde.score_samples(QUERY) == before


def test_images_of_another_shape_are_refused():
    images = np.random.default_rng(0).random((20, 4, 6))
    kde = KDE().fit(images)
    assert kde.explain(images[:, None]).shape == (20, 1, 4, 6)  # a channel axis is the same
    with pytest.raises(
        ValueError, match=r"shape \(6, 4\).*fitted on images of shape \(4, 6\)"
    ):
        kde.explain(images.reshape(20, 6, 4))
    with pytest.raises(ValueError, match=r"shape \(4, 6\), but image_shape=\(6, 4\)"):
        KDE(image_shape=(6, 4)).fit(images)


def test_channels_that_come_last_are_warned_of():
    images = np.random.default_rng(0).random((20, 8, 8, 3))
    with pytest.warns(UserWarning, match=r"8 channels, 8 rows and 3 columns.*moveaxis"):
        KDE().fit(images)
    for narrow in (np.moveaxis(images, -1, 1), images[:, :4], images[:, 0]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            KDE().fit(narrow)


def test_one_image_in_colours_is_not_taken_for_three():
    images = np.random.default_rng(0).random((20, 3, 4, 6))
    message = r"one image, of shape \(3, 4, 6\); give X\[None\]"
    with pytest.raises(ValueError, match=message):
        KDE().fit(images).predict(images[0])


def test_one_image_is_not_taken_for_rows():
    images = np.random.default_rng(0).random((20, 4, 6))
    kde = KDE().fit(images)
    with pytest.raises(ValueError, match=r"one image, of shape \(4, 6\); give X\[None\]"):
        kde.predict(images[0])
    strips = images[:, :1]  # of height 1: one flat row has the shape of an image
    kde = KDE().fit(strips)
    assert_allclose(kde.score_samples(strips[0]), kde.score_samples(strips)[:1])


def test_rates_that_so_few_rows_cannot_tell():
    X = np.random.default_rng(0).standard_normal((30, 2))
    with pytest.warns(UserWarning, match=r"30 rows .* of 0\.01 .* it takes 100 at least"):
        KDE(false_alarm_rate=0.01).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KDE(false_alarm_rate=0.1).fit(X)


def test_a_detector_that_does_not_explain_says_so():
    class Scores(BaseDetector):
        def _fit(self, X, y):
            pass

        def _outlier_score(self, X):
            return X.sum(axis=1)

    X = np.array(TEMPLATES)
    detector = Scores().fit(X)
    assert_allclose(detector.score_samples(X), -X.sum(axis=1))
    with pytest.raises(NotImplementedError, match="Scores scores, but does not explain"):
        detector.explain(X)


def test_constraints_of_parameters_are_added_to_those_of_the_classes_above():
    class Lifted(KDE):
        _parameter_constraints = {"lift": [float], "bandwidth": [float]}

        def __init__(self, *, lift=0.0, bandwidth=1.0, false_alarm_rate=None):
            super().__init__(bandwidth=bandwidth, false_alarm_rate=false_alarm_rate)
            self.lift = lift

    Lifted().fit(TEMPLATES)
    for name, value in (("lift", 1), ("bandwidth", "loo"), ("false_alarm_rate", 2.0)):
        with pytest.raises(ValueError, match=f"'{name}' parameter of Lifted"):
            Lifted(**{name: value}).fit(TEMPLATES)
    assert not {"contamination", "kernel"} & set(Lifted._parameter_constraints)
