"""Exact decompositions, against closed forms, loops and the estimators' own scores."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pyod.models import (
    auto_encoder,
    copod,
    ecod,
    gmm,
    hbos,
    iforest,
    kde,
    knn,
    loda,
    lof,
    mcd,
    ocsvm,
    pca,
)
from scipy.sparse import csr_array
from scipy.stats import gaussian_kde, multivariate_normal, rankdata, skew
from sklearn.base import clone
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis, FastICA, TruncatedSVD
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.svm import OneClassSVM

from skad import KDE, Bag, InlierTraining, PyODDetector, explain
from skad.explanation import (
    Exponential,
    Identity,
    LinearMap,
    NoDecompositionError,
    decompose,
    linear_map,
    refuse_space,
    shapley_values,
)
from skad.relevance._template_pool import TemplatePool

COVARIANCES = ("full", "tied", "diag", "spherical")
SKLEARN = [
    OneClassSVM(nu=0.2),
    OneClassSVM(kernel="linear", nu=0.2),
    OneClassSVM(kernel="poly", degree=3, coef0=1.5, nu=0.2),
    SGDOneClassSVM(random_state=0),
    *(GaussianMixture(3, covariance_type=c, random_state=0) for c in COVARIANCES),
    *(
        BayesianGaussianMixture(
            n_components=3,
            covariance_type=c,
            max_iter=1000,
            weight_concentration_prior_type=prior,
            random_state=0,
        )
        for c in COVARIANCES
        for prior in ("dirichlet_process", "dirichlet_distribution")
    ),
    EllipticEnvelope(random_state=0),
    PCA(2),
    FactorAnalysis(2),
    LocalOutlierFactor(novelty=True),
    LocalOutlierFactor(n_neighbors=5, novelty=True, p=1, contamination=0.1),
    LocalOutlierFactor(novelty=True, metric="minkowski", p=3),
    IsolationForest(random_state=0),
    IsolationForest(
        n_estimators=50, max_features=0.6, bootstrap=True, contamination=0.1, random_state=0
    ),
]
PYOD = [
    knn.KNN(),
    knn.KNN(method="mean", metric="manhattan"),
    knn.KNN(method="median", n_neighbors=4),
    lof.LOF(),
    ocsvm.OCSVM(),
    pca.PCA(),
    pca.PCA(standardization=False, weighted=False, n_selected_components=2),
    gmm.GMM(2, random_state=0),
    mcd.MCD(random_state=0),
    iforest.IForest(random_state=0),
    hbos.HBOS(),
    hbos.HBOS(n_bins="auto"),
    ecod.ECOD(),
    copod.COPOD(),
    loda.LODA(random_state=0),
    loda.LODA(n_bins="auto", random_state=0),
]


def random_rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 5)) + 3
    X[:10] = X[10:20]  # doubled
    return X


def standardized(load):
    return StandardScaler().fit_transform(load(return_X_y=True)[0][:, :8])


DATA = {
    "random": random_rows(),
    "wine": standardized(load_wine),
    "cancer": standardized(load_breast_cancer),
}


@pytest.fixture(params=DATA)
def rows(request):
    """Training rows; rows to explain: some of them, fresh ones, far ones."""
    X = DATA[request.param]
    rng = np.random.default_rng(1)
    fresh = rng.standard_normal((20, X.shape[1])) * X.std(axis=0) + X.mean(axis=0)
    return X, np.vstack([X[:20], fresh, fresh[:5] * 7])


def name(detector):
    return " ".join(str(detector).split())


@pytest.mark.parametrize("detector", SKLEARN, ids=name)
def test_law_ranking_and_threshold(detector, rows):
    X, fresh = rows
    detector.fit(X)
    parts = decompose(detector, fresh)
    expected = -detector.score_samples(fresh)
    check_scores(parts, expected, fresh)
    if hasattr(detector, "offset_"):
        assert_array_equal(parts.score > parts.threshold, detector.predict(fresh) == -1)
    else:
        assert parts.threshold is None


@pytest.mark.parametrize("detector", PYOD, ids=name)
def test_law_ranking_and_threshold_of_pyod(detector, rows):
    X, fresh = rows
    detector = clone(detector).fit(X)  # a second fit of some fails
    parts = decompose(detector, fresh)
    check_scores(parts, detector.decision_function(fresh), fresh)
    assert_array_equal(parts.score > parts.threshold, detector.predict(fresh) == 1)


def check_scores(parts, expected, fresh):
    scale = abs(expected).max()
    assert parts.relevance.shape == fresh.shape
    assert_allclose(parts.outlier_score / scale, expected / scale, rtol=0, atol=1e-9)
    apart = np.diff(np.sort(expected)) > 1e-9 * scale  # rounding may swap equals
    order = np.argsort(expected)
    assert (np.diff(parts.score[order])[apart] > 0).all()
    assert_allclose(parts.relevance.sum(axis=1) + parts.unattributed, parts.score)


def test_autoencoder_of_pyod(rows):
    X, fresh = rows
    detector = auto_encoder.AutoEncoder(epoch_num=2, verbose=0)
    detector.fit(X)
    parts = decompose(detector, fresh)
    assert_allclose(parts.outlier_score, detector.decision_function(fresh), rtol=1e-5)
    z = (fresh - X.mean(axis=0)) / X.std(axis=0)
    import torch

    with torch.no_grad():
        residual = z - detector.model(torch.tensor(z, dtype=torch.float32)).numpy()
    expected = residual**2 / np.linalg.norm(residual, axis=1, keepdims=True)
    assert_allclose(parts.relevance, expected, atol=1e-5)


# Each rule by loops.


def soft_minimum_by_loops(x, templates, weights, energy):
    """Sum over templates: R without the unit, and KL(p || w)."""
    kernels = [w * np.exp(-energy(x - t)) for t, w in zip(templates, weights, strict=True)]
    p = np.array(kernels) / sum(kernels)
    relevance = np.zeros(len(x))
    for t, share in zip(templates, p, strict=True):
        delta = x - t
        if delta.any():
            relevance += share * energy(delta) * delta**2 / (delta @ delta)
    return relevance, (p * np.log(p / weights)).sum()


def test_kernel_density():
    X = DATA["wine"]
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    for kernel, h in (("gaussian", 1.3), ("exponential", 0.7)):
        energy = {
            "gaussian": lambda delta, h=h: delta @ delta / (2 * h**2),
            "exponential": lambda delta, h=h: np.sqrt(delta @ delta) / h,
        }[kernel]
        detector = KernelDensity(bandwidth=h, kernel=kernel).fit(X, sample_weight=weights)
        fresh = X[:5] + 0.3
        parts = decompose(detector, fresh)
        for x, relevance in zip(fresh, parts.relevance, strict=True):
            expected, _ = soft_minimum_by_loops(x, X, weights / weights.sum(), energy)
            assert_allclose(relevance, expected, rtol=1e-9)
        assert_allclose(parts.score, -detector.score_samples(fresh), rtol=1e-9)


def test_kernel_density_of_far_rows():
    """scikit-learn's trees lose the density of far rows; the sum is the true one."""
    X = DATA["random"]
    far = X[:10] + 30
    detector = KernelDensity(bandwidth=0.7).fit(X)
    pyod = kde.KDE(bandwidth=0.7).fit(X)
    truth = gaussian_kde(X.T, bw_method=1.0)
    truth.covariance = 0.49 * np.eye(5)
    truth.cho_cov = 0.7 * np.eye(5)
    truth.log_det = 2 * 5 * np.log(0.7 * np.sqrt(2 * np.pi))
    for model in (detector, pyod):
        assert_allclose(decompose(model, far).score, -truth.logpdf(far.T), rtol=1e-9)
    near = X[::10] + 0.1
    assert_allclose(decompose(detector, near).score, -detector.score_samples(near))
    assert_allclose(decompose(pyod, near).score, pyod.decision_function(near))
    flagged = decompose(pyod, near).score > decompose(pyod, near).threshold
    assert_array_equal(flagged, pyod.predict(near) == 1)


def test_one_class_svm():
    X = DATA["wine"]
    machine = OneClassSVM(nu=0.3, gamma=0.2).fit(X)
    alpha = machine.dual_coef_[0]
    weights = alpha / alpha.sum()
    parts = decompose(machine, X[:5] + 0.5)
    for x, relevance, rest in zip(
        X[:5] + 0.5, parts.relevance, parts.unattributed, strict=True
    ):
        expected, divergence = soft_minimum_by_loops(
            x, machine.support_vectors_, weights, lambda delta: 0.2 * delta @ delta
        )
        assert_allclose(relevance, expected / 0.2)
        assert_allclose(rest, divergence / 0.2)
    far = np.full((1, 8), 300.0)  # where the score itself underflows
    assert machine.score_samples(far) == 0
    assert_allclose(decompose(machine, far).relevance.sum(), 8 * 300**2, rtol=0.02)


def test_one_class_svm_that_flags_nothing():
    machine = OneClassSVM(nu=0.3).fit(DATA["wine"])
    machine.offset_ = np.array([-1.0])
    assert decompose(machine, DATA["wine"]).threshold == np.inf


def test_homogeneous_kernels():
    X = DATA["wine"]
    for kernel, degree, constant in (
        ("linear", 1, 0.0),
        ("poly", 2, 0.0),
        ("poly", 3, 2.0),
    ):
        machine = OneClassSVM(
            kernel=kernel, degree=degree, coef0=constant, gamma=0.3, nu=0.3
        ).fit(X)
        gamma = 1.0 if kernel == "linear" else 0.3
        x, expected, rest = X[7], np.zeros(8), 0.0
        for vector, alpha in zip(
            machine.support_vectors_, machine.dual_coef_[0], strict=True
        ):
            inner = gamma * (x @ vector) + constant
            expected -= alpha * inner ** (degree - 1) * gamma * x * vector
            rest -= alpha * inner ** (degree - 1) * constant
        parts = decompose(machine, X[7:8])
        assert_allclose(parts.relevance[0], expected)
        assert_allclose(parts.unattributed, rest, atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gaussian_mixture(covariance):
    X = DATA["wine"]
    mixture = GaussianMixture(2, covariance_type=covariance, random_state=0).fit(X)
    fresh = X[::20] * 1.5
    parts = decompose(mixture, fresh)
    r, expected, rest = mixture.predict_proba(fresh), np.zeros(fresh.shape), 0
    for k in range(2):
        S = {
            "full": lambda k=k: mixture.covariances_[k],
            "tied": lambda: mixture.covariances_,
            "diag": lambda k=k: np.diag(mixture.covariances_[k]),
            "spherical": lambda k=k: mixture.covariances_[k] * np.eye(8),
        }[covariance]()
        delta = fresh - mixture.means_[k]
        expected += 0.5 * r[:, [k]] * delta * np.linalg.solve(S, delta.T).T
        at_mean = multivariate_normal.logpdf(np.zeros(8), np.zeros(8), S)
        rest = rest - r[:, k] * (np.log(mixture.weights_[k]) + at_mean - np.log(r[:, k]))
    assert_allclose(parts.relevance, expected, atol=1e-9)
    assert_allclose(parts.unattributed, rest, atol=1e-9)
    if covariance in ("diag", "spherical"):
        assert (parts.relevance >= 0).all()


def test_single_gaussians_are_alike():
    X = DATA["wine"]
    whole = decompose(GaussianMixture(1, reg_covar=0).fit(X), X).relevance
    n = len(X)
    covariance = np.cov(X.T, bias=True)
    by_hand = 0.5 * X * np.linalg.solve(covariance, X.T).T
    assert_allclose(whole, by_hand, atol=1e-9)
    for envelope, inner in (
        (EllipticEnvelope(random_state=0).fit(X), None),
        (mcd.MCD(random_state=0).fit(X), "detector_"),
    ):
        estimate = getattr(envelope, inner) if inner else envelope
        delta = X - estimate.location_
        robust = delta * np.linalg.solve(estimate.covariance_, delta.T).T
        assert_allclose(decompose(envelope, X).relevance, robust, atol=1e-8)
    probabilistic = decompose(PCA(8).fit(X), X).relevance
    assert_allclose(probabilistic, by_hand * (n - 1) / n, atol=1e-9)


def test_local_outlier_factor():
    X, k = DATA["wine"], 6
    detector = LocalOutlierFactor(n_neighbors=k, novelty=True).fit(X)
    distances = np.linalg.norm(X[:, None] - X, axis=2)
    np.fill_diagonal(distances, np.inf)
    kth = np.sort(distances, axis=1)[:, k - 1]
    nearest = np.argsort(distances, axis=1)[:, :k]
    density = [
        1 / (np.mean([max(kth[j], distances[i, j]) for j in nearest[i]]) + 1e-10)
        for i in range(len(X))
    ]
    x = X[3] + 0.8
    own = np.linalg.norm(X - x, axis=1)
    around = np.argsort(own)[:k]
    level = np.mean([density[j] for j in around])
    expected, rest = np.zeros(8), 1e-10 * level
    for j in around:
        if own[j] > kth[j]:
            expected += level / k * (x - X[j]) ** 2 / own[j]
        else:
            rest += level / k * kth[j]
    parts = decompose(detector, x[None])
    assert_allclose(parts.relevance[0], expected)
    assert_allclose(parts.unattributed, rest)


def test_nearest_neighbours():
    X, fresh = DATA["wine"][::2], DATA["wine"][1::2] * 1.3
    for method, places in (("largest", [4]), ("mean", range(5)), ("median", [2])):
        detector = knn.KNN(n_neighbors=5, method=method).fit(X)
        relevance = decompose(detector, fresh).relevance
        for x, r in zip(fresh, relevance, strict=True):
            delta = x - X[np.argsort(np.linalg.norm(x - X, axis=1))[list(places)]]
            split = delta**2 / np.linalg.norm(delta, axis=1, keepdims=True)
            assert_allclose(r, split.mean(axis=0))
    cubic = knn.KNN(n_neighbors=1, p=3).fit(X)
    delta = abs(fresh[:, None] - X)
    nearest = delta[np.arange(len(fresh)), (delta**3).sum(axis=2).argmin(axis=1)]
    expected = nearest**3 / (nearest**3).sum(axis=1, keepdims=True) ** (2 / 3)
    assert_allclose(decompose(cubic, fresh).relevance, expected)
    assert (decompose(cubic, X).relevance == 0).all()  # each its own neighbour


def random_path(n):
    if n <= 2:
        return n // 2
    return 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n


def test_isolation_forests_of_one_column_and_of_few_rows():
    X = DATA["wine"]
    for rows, params in ((X[:, :1], {}), (X, {"max_samples": 2}), (X, {"max_features": 1})):
        forest = IsolationForest(n_estimators=5, random_state=0, **params).fit(rows)
        assert_allclose(decompose(forest, rows).outlier_score, -forest.score_samples(rows))
    holes = np.where(X > 1, np.nan, X)
    forest = IsolationForest(n_estimators=5, random_state=0).fit(holes)
    parts = decompose(forest, holes)
    assert_allclose(parts.outlier_score, -forest.score_samples(holes))


@pytest.mark.parametrize("params", [{}, {"max_features": 3, "max_samples": 40}])
def test_isolation_forest_by_walking_the_paths(params):
    X = DATA["wine"]
    forest = IsolationForest(n_estimators=20, random_state=0, **params).fit(X)
    fresh = X[::30] * 2
    unit = random_path(forest.max_samples_) * 20
    expected, path = np.zeros(fresh.shape), np.zeros(len(fresh))
    for tree, features in zip(forest.estimators_, forest.estimators_features_, strict=True):
        t = tree.tree_
        for row, x in enumerate(fresh[:, features].astype(np.float32)):
            node = 0
            while t.children_left[node] >= 0:
                feature, before = t.feature[node], t.n_node_samples[node]
                below = x[feature] <= t.threshold[node]
                node = t.children_left[node] if below else t.children_right[node]
                gain = random_path(before) - 1 - random_path(t.n_node_samples[node])
                expected[row, features[feature]] += gain / unit
                path[row] += 1
            path[row] += random_path(t.n_node_samples[node])
    parts = decompose(forest, fresh)
    assert_allclose(parts.relevance, expected, atol=1e-12)
    assert_allclose(parts.unattributed, -1)
    assert_allclose(parts.score, -path / unit)


def test_sums_over_features_of_pyod():
    X, x = DATA["wine"], DATA["wine"][:1] * 1.7
    stacked = np.vstack([X, x])
    left, right = (
        -np.log(np.apply_along_axis(rankdata, 0, side, method="max")[-1] / len(stacked))
        for side in (stacked, -stacked)
    )
    signs = np.sign(skew(stacked, axis=0))
    tail = np.where(signs < 0, left, np.where(signs > 0, right, left + right))
    detector = ecod.ECOD().fit(X)
    table = detector.O.copy()
    parts = decompose(detector, x)
    assert_allclose(parts.relevance[0], np.maximum(np.maximum(left, right), tail))
    assert_array_equal(detector.O, table)  # scoring overwrites it, explaining must not
    assert_allclose(
        decompose(copod.COPOD().fit(X), x).relevance[0],
        np.maximum(tail, (left + right) / 2),
    )
    for i in range(8):
        heights, edges = np.histogram(X[:, i], bins=10, density=True)
        place = int(np.clip(np.searchsorted(edges, x[0, i]) - 1, 0, 9))
        outside = x[0, i] > edges[-1] + 0.5 * (edges[1] - edges[0])
        outside |= x[0, i] < edges[0] - 0.5 * (edges[1] - edges[0])
        height = heights.min() if outside else heights[place]
        own = decompose(hbos.HBOS(n_bins=10).fit(X), x).relevance[0, i]
        assert_allclose(own, np.log2(heights.max() + 0.1) - np.log2(height + 0.1))


def test_projections_of_pyod():
    X, x = DATA["wine"], DATA["wine"][0] * 1.7
    detector = loda.LODA(n_random_cuts=7, random_state=0).fit(X)
    expected, rest = np.zeros(8), 0
    for w in detector.projections_:
        counts, edges = np.histogram(X @ w, bins=10)
        scores = -np.log(counts / len(X) + 1e-12) / 49
        bin_of_pyod = (edges[:9] < x @ w).sum()  # one too high, but for the last
        excess = scores[bin_of_pyod] - scores.min()
        expected += excess * w**2 / (w @ w)
        rest += scores.min()
    parts = decompose(detector, x[None])
    assert_allclose(parts.relevance[0], expected, atol=1e-9)
    assert_allclose(parts.unattributed, rest)
    detector = pca.PCA().fit(X)
    z = (x - X.mean(axis=0)) / X.std(axis=0)
    vectors, shares = PCA().fit(X).components_, PCA().fit(X).explained_variance_ratio_
    expected = np.zeros(8)
    for v, share in zip(detector.components_, shares, strict=True):
        growth = z**2 - 2 * z * v  # of the squared distance, on the way from the mean
        expected += growth / (np.linalg.norm(z - v) + np.linalg.norm(v)) / share
    assert_allclose(abs(detector.components_), abs(vectors), atol=1e-9)
    assert_allclose(decompose(detector, x[None]).relevance[0], expected)


# Through linear transformers.

DISTANCES = [
    KDE(bandwidth=1.0),
    KDE(bandwidth=1.0, rule="conserving"),
    KDE(bandwidth=1.0, kernel="student"),
    KernelDensity(),
    OneClassSVM(gamma=0.1),
    LocalOutlierFactor(n_neighbors=5, novelty=True),
    GaussianMixture(2, covariance_type="spherical", random_state=0),
    PyODDetector(knn.KNN()),
    knn.KNN(method="mean"),
]


@pytest.mark.parametrize("detector", DISTANCES, ids=name)
def test_a_rotation_changes_no_explanation(detector):
    X = DATA["wine"]
    X = X - X.mean(axis=0)
    plain = detector.fit(X)
    direct = explain(plain, X * 1.2)
    for rotated in (PCA(), make_pipeline(PCA(), PCA(svd_solver="full"))):
        model = make_pipeline(rotated, detector).fit(X)
        scale = abs(direct).max()
        assert_allclose(explain(model, X * 1.2) / scale, direct / scale, atol=1e-7)


@pytest.mark.parametrize("mixing", [PCA(whiten=True), FastICA(random_state=0)], ids=name)
def test_mahalanobis_distances_know_no_linear_map(mixing):
    X = DATA["wine"]
    detector = EllipticEnvelope(support_fraction=1.0)
    direct = explain(detector.fit(X), X)
    model = make_pipeline(StandardScaler(), mixing, MinMaxScaler(), detector).fit(X)
    assert_allclose(explain(model, X), direct, atol=1e-6)


@pytest.mark.parametrize("detector", DISTANCES, ids=name)
@pytest.mark.parametrize(
    "mixing",
    [PCA(3), PCA(3, whiten=True), TruncatedSVD(3, random_state=0), FactorAnalysis(2)],
    ids=name,
)
def test_sums_hold_through_fewer_dimensions(detector, mixing):
    X = DATA["wine"] * np.arange(1, 9)
    model = make_pipeline(PowerTransformer(), VarianceThreshold(), mixing, detector).fit(X)
    inner = explain(model, X, space="model").sum(axis=1)
    outer = explain(model, X)
    assert outer.shape == X.shape
    assert_allclose(outer.sum(axis=1), inner, rtol=1e-8, atol=1e-9 * abs(inner).max())


def test_through_a_projection_by_loops():
    X = DATA["wine"]
    model = make_pipeline(PCA(3, whiten=True), KDE(bandwidth=0.8)).fit(X)
    W = model[0].components_ / np.sqrt(model[0].explained_variance_)[:, None]
    assert_allclose(linear_map(model[0], X).matrix, W, atol=1e-12)
    x, expected = X[5] * 1.5, np.zeros(8)
    Z, z = model[0].transform(X), model[0].transform(x[None])[0]
    p = np.exp(-((Z - z) ** 2).sum(axis=1) / (2 * 0.8**2))
    for template, share in zip(Z, p / p.sum(), strict=True):
        delta = z - template
        expected += share * (np.linalg.pinv(W) @ delta) * (W.T @ delta)
    assert_allclose(explain(model, x[None])[0], expected, atol=1e-10)
    parts = decompose(model, x[None])
    assert_allclose(parts.score, -model.score_samples(x[None]))


@pytest.mark.parametrize("mixing", [PCA(3), "passthrough"], ids=name)
def test_one_sweep_over_the_templates_explains_a_pipeline(mixing, monkeypatch):
    X = DATA["wine"]
    model = make_pipeline(StandardScaler(), mixing, KDE()).fit(X)
    sweeps, sweep = [], TemplatePool._sweep

    def counted(self, *args, **kwargs):
        sweeps.append(len(args[0]))
        return sweep(self, *args, **kwargs)

    monkeypatch.setattr(TemplatePool, "_sweep", counted)
    explain(model, X[:7])
    assert sweeps == [7]
    decompose(model, X[:7])
    assert sweeps == [7, 7]


def test_rows_of_float32_are_explained_through_a_projection():
    X = DATA["wine"]
    single, double = (
        make_pipeline(PCA(3, whiten=True), KDE(dtype=dtype)).fit(X)
        for dtype in ("float32", "float64")
    )
    expected = explain(double, X * 1.2)
    assert_allclose(explain(single, X * 1.2), expected, atol=1e-5 * abs(expected).max())


def test_what_cannot_be_pulled_back_is_refused():
    X = DATA["wine"]
    forest, clipped = (
        IsolationForest(n_estimators=10, random_state=0),
        MinMaxScaler(clip=True),
    )
    for steps in (
        (PCA(3), forest),
        (PCA(3), KDE(bandwidth=np.inf)),
        (PCA(3), clipped, KDE()),
        (PCA(3), QuantileTransformer(n_quantiles=50), KDE()),
        (PCA(3), LocalOutlierFactor(p=1, novelty=True)),
        (PCA(3), hbos.HBOS()),
    ):
        model = make_pipeline(*steps).fit(X)
        with pytest.raises(TypeError, match=r"pulled back through PCA.*references="):
            explain(model, X)
        assert explain(model, X[:2], references=X).shape == (2, 8)
        assert explain(model, X[:2], space="model").shape == (2, 3)


# What has no rule, and units.


def test_parameters_without_a_rule_say_so():
    X = DATA["wine"]
    for detector, words in (
        (KernelDensity(kernel="tophat"), "tophat"),
        (KernelDensity(metric="manhattan"), "manhattan"),
        (OneClassSVM(kernel="sigmoid"), "sigmoid"),
        (OneClassSVM(kernel="poly", degree=0), "degree=0"),
        (LocalOutlierFactor(novelty=True, metric="cosine"), "cosine"),
        (knn.KNN(metric="chebyshev"), "chebyshev"),
    ):
        detector.fit(X)
        with pytest.raises(NoDecompositionError, match=words):
            explain(detector, X)
        assert explain(detector, X[:3], references=X[:50]).shape == (3, 8)
    with pytest.raises(NoDecompositionError, match="novelty=True"):
        explain(LocalOutlierFactor().fit(X), X)
    with pytest.raises(NoDecompositionError, match="StandardScaler has no exact"):
        decompose(StandardScaler().fit(X), X)
    assert PyODDetector(knn.KNN(metric="chebyshev")).fit(X).explain(X[:3]).shape == (3, 8)


@pytest.mark.parametrize(
    "detector", [OneClassSVM(), IsolationForest(), KernelDensity(), knn.KNN(), hbos.HBOS()]
)
def test_bad_rows_are_refused(detector):
    X = DATA["wine"]
    with pytest.raises(NotFittedError):
        explain(detector, X)
    detector.fit(X)
    with pytest.raises(ValueError, match="features"):
        explain(detector, X[:, :7])
    with pytest.raises(ValueError, match=r"1D array|dimension"):
        explain(detector, X[0])
    with pytest.raises((ValueError, TypeError), match=r"infinity|NaN|inf"):
        explain(detector, np.where(X == X[0], np.inf, X))


def slopes_of_svm(machine, X):
    """What turns -log(f / A) / gamma into -f: a chord from f = A."""
    f, total = machine.score_samples(X)[:, None], machine.dual_coef_.sum()
    gamma = 1 / (machine.n_features_in_ * DATA["wine"].var())  # "scale", or "auto"
    if machine.gamma == "auto":
        gamma = 1 / machine.n_features_in_
    return (total - f) / (-np.log(f / total) / gamma)


def test_units_of_the_outlier_score():
    X, fresh = DATA["wine"], DATA["wine"] * 1.5
    machine = PyODDetector(ocsvm.OCSVM()).fit(X)
    slopes = slopes_of_svm(machine.detector_.detector_, fresh)
    parts = decompose(machine.detector_, fresh)
    assert_allclose(machine.explain(fresh), parts.relevance * slopes)
    forest = PyODDetector(iforest.IForest(random_state=0)).fit(X)
    score = -forest.detector_.detector_.score_samples(fresh)[:, None]
    slopes = (score - 0.5) / (np.log2(score) + 1)  # from the row that nothing speaks of
    parts = decompose(forest.detector_, fresh)
    assert_allclose(forest.explain(fresh), parts.relevance * slopes)
    # What is over is the score of that row, less the threshold that PyOD takes off.
    assert_allclose(forest.unattributed(fresh), 0.5 + forest.detector_.detector_.offset_)
    bag = Bag([("svm", OneClassSVM()), ("kde", KDE())]).fit(X)
    total = bag.explain(fresh).sum(axis=1) + bag.unattributed(fresh)
    assert_allclose(total, -bag.score_samples(fresh))
    slopes = slopes_of_svm(bag.detectors_[0], fresh)
    own = explain(bag.detectors_[0], fresh) * slopes / bag.scales_[0]
    both = 0.5 * own + 0.5 * bag.detectors_[1].explain(fresh) / bag.scales_[1]
    assert_allclose(bag.explain(fresh), both)


# Edges: wrappers, scales, shapes, subclasses.


def test_bags_of_members_explained_from_outside():
    X = DATA["wine"]
    member = make_pipeline(PCA(3), IsolationForest(n_estimators=10, random_state=0))
    bag = Bag([("forest", member), ("kde", KDE())], weights=[1, 0]).fit(X)
    shapley = shapley_values(bag.detectors_[0], X[:4], X).relevance
    assert_allclose(bag.explain(X[:4]), shapley / bag.scales_[0])
    inside = Bag([("a", InlierTraining(OneClassSVM())), ("b", KDE())], weights=[1, 0]).fit(
        X
    )
    machine = inside.detectors_[0].estimator_
    expected = explain(machine, X * 2) * slopes_of_svm(machine, X * 2) / inside.scales_[0]
    assert_allclose(inside.explain(X * 2), expected)


@pytest.mark.parametrize("detector", [KDE(bandwidth=0.1), KernelDensity(bandwidth=0.1)])
@pytest.mark.parametrize("apart", [1e2, 1e4, 1e6])
def test_clusters_far_apart_behind_a_projection(detector, apart):
    X = DATA["wine"]
    model = make_pipeline(PCA(3), detector).fit(np.vstack([X, X + apart]))
    rows = X[1:20] + 0.01
    W = model[0].components_
    templates, nearby = np.vstack([X, X + apart]), model[0].transform(rows)
    images = model[0].transform(templates)
    unit = 1 if isinstance(detector, KDE) else 0.02
    for row, z, relevance in zip(rows, nearby, explain(model, rows), strict=True):
        p = np.exp(-((images - z) ** 2).sum(axis=1) / 0.02)
        delta = (row - templates) @ W.T @ W  # W has orthonormal rows: both maps are W
        expected = (p / p.sum()) @ delta**2 / unit
        assert_allclose(relevance, expected, rtol=1e-5 * max(1, apart / 1e4), atol=1e-9)
        assert_allclose(relevance.sum(), expected.sum(), rtol=1e-6 * max(1, apart / 1e4))


def test_matrices_without_an_accurate_inverse_are_refused():
    X = DATA["wine"]
    collinear = np.c_[X, X[:, 0] * 2, np.ones(len(X))]
    model = make_pipeline(PCA(whiten=True), KDE(bandwidth=1.0)).fit(collinear)
    with pytest.raises(TypeError, match="no accurate inverse"):
        explain(model, collinear)
    assert explain(model, collinear[:2], references=collinear).shape == (2, 10)


@pytest.mark.parametrize(
    "detector",
    [KDE(), KernelDensity(), EllipticEnvelope(), GaussianMixture(2)],
    ids=name,
)
def test_a_space_that_loses_relevance_is_refused(detector):
    X = DATA["wine"][:, :3]
    flat = LinearMap(np.array([[1.0, 0], [0, 1.0], [0, 1.0]]))  # the third is the second
    with pytest.raises(NoDecompositionError, match="no accurate inverse"):
        decompose(detector.fit(X), X + 1, space=flat)


def test_links_are_undone():
    for link in (Identity(), Exponential(2.0, 0.5, shift=1.0), Exponential(-3.0, -2.0)):
        q = np.array([-1.0, 0.0, 2.5])
        assert_allclose(link.quantity(link.outlier_score(q)), q, atol=1e-12)
        assert (np.diff(link.outlier_score(q)) > 0).all()


def test_a_space_is_refused_with_the_name_of_the_detector():
    assert refuse_space(IsolationForest(), None) is None
    with pytest.raises(NoDecompositionError, match="score of IsolationForest is no"):
        refuse_space(IsolationForest(), LinearMap(np.eye(2)))


def test_linear_maps_of_columns_with_large_means():
    X = DATA["wine"][:, :4] * 1e12 + 1e14
    step = PCA(3).fit(X)
    assert_allclose(linear_map(step, X).matrix, step.components_, rtol=1e-9, atol=1e-12)


def test_subclasses_that_score_in_their_own_way_are_not_explained_by_the_parents_rule():
    class Shifted(OneClassSVM):
        def score_samples(self, X):
            return super().score_samples(X) - 5

    class Tenfold(knn.KNN):
        def decision_function(self, X):
            return 10 * super().decision_function(X)

    class Renamed(OneClassSVM):
        pass

    X = DATA["wine"]
    for detector in (Shifted(), Tenfold()):
        detector.fit(X)
        with pytest.raises(ValueError, match="no explanation of its own"):
            explain(detector, X)
        assert explain(detector, X[:2], references=X).shape == (2, 8)
    assert_allclose(explain(Renamed().fit(X), X), explain(OneClassSVM().fit(X), X))


def test_trees_of_one_row_say_nothing():
    X = DATA["wine"]
    for forest in (
        IsolationForest(n_estimators=3).fit(np.ones((1, 8))),
        IsolationForest(n_estimators=3, max_samples=1).fit(X),
    ):
        parts = decompose(forest, X)
        assert (parts.relevance == 0).all()
        assert_allclose(parts.outlier_score, -forest.score_samples(X))
        assert_array_equal(parts.score > parts.threshold, forest.predict(X) == -1)


def test_whole_numbers():
    X = load_digits().data[:300]
    for detector in (loda.LODA(random_state=0), knn.KNN(), iforest.IForest(random_state=0)):
        detector.fit(X)
        expected = detector.decision_function(X)
        scale = abs(expected).max()
        assert_allclose(decompose(detector, X).outlier_score / scale, expected / scale)


def test_detectors_fitted_on_sparse_rows():
    X = DATA["wine"]
    for detector in (LocalOutlierFactor(novelty=True), OneClassSVM()):
        dense = explain(clone(detector).fit(X), X * 1.3)
        assert_allclose(explain(detector.fit(csr_array(X)), X * 1.3), dense, atol=1e-9)


def test_a_component_of_weight_0():
    X = DATA["wine"]
    mixture = GaussianMixture(2, random_state=0).fit(X)
    mixture.weights_ = np.array([1.0, 0.0])
    assert_allclose(decompose(mixture, X).score, -mixture.score_samples(X))


def test_what_is_wrapped_in_searches_and_frozen():
    X = DATA["wine"]
    machine = OneClassSVM(gamma=0.1).fit(X)
    direct = explain(machine, X)
    search = GridSearchCV(OneClassSVM(), {"gamma": [0.1]}, scoring=lambda *_: 1.0).fit(X)
    for model in (
        FrozenEstimator(machine),
        search,
        make_pipeline(FrozenEstimator(PCA(8).fit(X)), FrozenEstimator(machine)).fit(X),
        make_pipeline("passthrough", search).fit(X),
        InlierTraining(OneClassSVM(gamma=0.1)).fit(X),
    ):
        if isinstance(model, Pipeline) and isinstance(model[0], FrozenEstimator):
            rotated = OneClassSVM(gamma=0.1).fit(model[0].transform(X))
            model.steps[1] = ("svm", FrozenEstimator(rotated))
        assert_allclose(explain(model, X), direct, atol=1e-8)
        assert_allclose(decompose(model, X).relevance, direct, atol=1e-8)
    with pytest.raises(NotFittedError):
        decompose(GridSearchCV(KDE(), {}), X)
    with pytest.raises(NoDecompositionError, match="as a whole"):
        decompose(make_pipeline(KDE()).fit(X), X, space=linear_map(PCA().fit(X), X))


def test_images_of_skads_own_detectors_are_flat_rows():
    images = DATA["wine"].reshape(-1, 2, 4)
    parts = decompose(KDE().fit(images), images)
    assert parts.relevance.shape == (178, 8)
    assert_allclose(parts.score, -KDE().fit(images).score_samples(images))


def test_warnings_and_messages_of_pyod():
    frame = pd.DataFrame(DATA["wine"], columns=list("abcdefgh"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for detector in (lof.LOF(), ocsvm.OCSVM(), iforest.IForest()):
            assert explain(detector.fit(frame), frame).shape == (178, 8)
    for detector in (mcd.MCD(), loda.LODA(), ecod.ECOD(), hbos.HBOS()):
        detector.fit(DATA["wine"])
        with pytest.raises(ValueError, match=r"X has 7 features, but .* fitted on 8"):
            explain(detector, DATA["wine"][:, :7])
    constant = np.c_[DATA["wine"], np.zeros(178)]
    with pytest.raises(NoDecompositionError, match="variances of components"):
        zero = pca.PCA().fit(constant)
        zero.selected_w_components_ = zero.selected_w_components_ * np.r_[np.ones(8), 0]
        explain(zero, constant)
