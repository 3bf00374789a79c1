"""PyODDetector, Bag and InlierTraining."""

import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.deep_svdd import DeepSVDD
from pyod.models.iforest import IForest
from pyod.models.kde import KDE as PyODKDE
from pyod.models.knn import KNN
from pyod.models.ocsvm import OCSVM
from pyod.models.sampling import Sampling
from pyod.models.vae import VAE
from pyod.version import __version__
from scipy.sparse import bsr_array, coo_array
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM

from skad import KDE, Bag, ConformalDetector, DeepSAD, InlierTraining, PyODDetector


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    y = np.where(np.arange(200) < 30, -1, 1)
    X[:30] += rng.choice([-2.5, 2.5], (30, 3))
    return X, y


def global_states():
    hash_seed = os.environ.get("PYTHONHASHSEED")
    return (
        str(np.random.get_state()),
        random.getstate(),
        hash_seed,
        torch.get_rng_state().tolist(),
    )


def folds():
    return StratifiedKFold(3, shuffle=True, random_state=0)


def test_pyod_signs_labels_and_thresholds(data):
    X, y = data
    raw, wrapped = (
        KNN(contamination=0.15).fit(X),
        PyODDetector(KNN(contamination=0.15)).fit(X),
    )
    assert_allclose(wrapped.score_samples(X), -raw.decision_function(X))
    assert np.mean(wrapped.predict(X) == -1) == 0.15
    assert roc_auc_score(y, wrapped.decision_function(X)) > 0.9


def test_every_parameter_acts_in_a_search(data):
    X, y = data
    bandwidths = [0.01, 0.3, 1.0, 10.0]
    search = GridSearchCV(
        PyODDetector(PyODKDE()),
        {"detector__bandwidth": bandwidths},
        scoring="roc_auc",
        cv=folds(),
    ).fit(X, y)
    by_hand = [
        cross_val_score(
            PyODDetector(PyODKDE(bandwidth=b)), X, y, scoring="roc_auc", cv=folds()
        )
        for b in bandwidths
    ]
    assert_allclose(search.cv_results_["mean_test_score"], np.mean(by_hand, axis=1))
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    wrapped = PyODDetector(KNN()).set_params(detector__metric="manhattan", detector__p=1)
    direct = KNN(metric="manhattan", p=1).fit(X).decision_function(X)
    assert_allclose(wrapped.fit(X).score_samples(X), -direct)


def test_n_features_and_batch_size_are_filled_in(data):
    X = data[0][:20]
    wide = make_pipeline(PCA(2), PyODDetector(DeepSVDD(n_features=99, epochs=1)))
    assert np.isfinite(wide.fit(X).score_samples(X)).all()
    small = PyODDetector(AutoEncoder(epoch_num=1, verbose=0)).fit(X)
    assert small.detector_.batch_size == 20 and np.isfinite(small.score_samples(X)).all()


def test_seeds_are_honoured_and_global_states_kept(data):
    X, _ = data
    states = global_states()
    detectors = [IForest(n_estimators=5), Sampling()]
    if int(__version__.split(".")[2]) >= 6:  # before, PyOD's VAE can't be cloned
        detectors.append(VAE(epoch_num=1, verbose=0))
    for detector in detectors:
        one, two, other = (
            PyODDetector(detector, random_state=seed).fit(X).score_samples(X)
            for seed in (0, 0, 1)
        )
        assert_allclose(one, two)
        assert not np.allclose(one, other)
    assert global_states() == states


@pytest.mark.parametrize(
    "wrap",
    [
        lambda detector: PyODDetector(detector, false_alarm_rate=0.1),
        lambda detector: Bag([("raw", detector), ("kde", KDE())]),
        lambda detector: InlierTraining(make_pipeline(StandardScaler(), detector)),
    ],
)
def test_global_states_are_kept_where_constructors_seed(data, wrap):
    model = wrap(AutoEncoder(epoch_num=1, verbose=0, batch_size=16))  # this seeds already
    states = global_states()
    model.fit(data[0][:40])
    assert global_states() == states


def test_pyod_threshold_on_fresh_rows():
    rng = np.random.default_rng(0)
    X, fresh = rng.standard_normal((500, 6)), rng.standard_normal((4000, 6))
    pyod = PyODKDE(bandwidth=0.37)
    with_itself = PyODDetector(pyod).fit(X)
    honest = PyODDetector(pyod, false_alarm_rate=0.1).fit(X)
    assert np.mean(with_itself.predict(fresh) == -1) > 0.9
    assert 0.05 < np.mean(honest.predict(fresh) == -1) < 0.15


def test_only_pyod_is_wrapped(data):
    with pytest.raises(TypeError, match=r"detector of PyOD, got IsolationForest\(\)"):
        PyODDetector(IsolationForest()).fit(data[0])


def members():
    forest = IsolationForest(n_estimators=10, random_state=0)
    scaled = make_pipeline(StandardScaler(), KDE(bandwidth=0.5))
    return [
        ("kde", KDE(bandwidth=0.7)),
        ("forest", forest),
        ("knn", KNN()),
        ("pipe", scaled),
    ]


def test_bag_is_the_mean_of_standardised_scores(data):
    X, fresh = data[0][:150], data[0][150:]
    bag = Bag(
        [("one", KDE(bandwidth=0.7)), ("two", KDE(bandwidth=3.0))], weights=[1, 3]
    ).fit(X)
    total, relevance = 0, 0
    for weight, bandwidth in ((0.25, 0.7), (0.75, 3.0)):
        kde = KDE(bandwidth=bandwidth)
        left_out = [
            -kde.fit(np.delete(X, i, 0)).score_samples(X[[i]])[0] for i in range(len(X))
        ]
        kde.fit(X)
        total = total + weight * (-kde.score_samples(fresh) - np.mean(left_out)) / np.std(
            left_out
        )
        relevance = relevance + weight * kde.explain(fresh) / np.std(left_out)
    assert_allclose(-bag.score_samples(fresh), total, rtol=1e-8)
    assert_allclose(bag.explain(fresh), relevance, rtol=1e-8)


def test_bag_of_everything_keeps_the_sum_law(data):
    X, y = data
    bag = Bag(members()).fit(X[y == 1])
    law = bag.explain(X).sum(axis=1) + bag.unattributed(X)
    assert_allclose(law, -bag.score_samples(X), rtol=1e-9)
    assert roc_auc_score(y, bag.score_samples(X)) > 0.9
    assert_allclose(
        Bag(members(), n_jobs=2).fit(X[y == 1]).score_samples(X), bag.score_samples(X)
    )


@pytest.mark.parametrize(
    "detector",
    [
        OneClassSVM(),
        make_pipeline(StandardScaler(), OneClassSVM(nu=0.2)),
        InlierTraining(OneClassSVM(kernel="poly", coef0=1)),
        OCSVM(),
        GridSearchCV(OneClassSVM(), {"nu": [0.3]}, scoring=lambda *_: 0.0),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_scores_that_grow_with_the_rows_have_one_unit(detector):
    """Copies on four fifths of the rows score .8 times as high."""
    rng = np.random.default_rng(0)
    X, fresh = rng.standard_normal((1000, 3)), rng.standard_normal((4000, 3))
    flagged = Bag([("svm", detector)], false_alarm_rate=0.1).fit(X).predict(fresh) == -1
    assert 0.07 < flagged.mean() < 0.13
    twice, once = (OneClassSVM().fit(rows) for rows in (np.vstack([X, X]), X))
    assert_allclose(twice.score_samples(fresh), 2 * once.score_samples(fresh), rtol=1e-3)


@pytest.mark.parametrize(
    "member",
    [KDE(bandwidth=-1.0), make_pipeline(StandardScaler(), KDE(rule="no"))],
    ids=["bare", "in a pipeline"],
)
def test_parameters_of_members_are_checked(data, member):
    with pytest.raises(ValueError, match="parameter of KDE must be"):
        Bag([("kde", member)]).fit(data[0])


def test_frozen_detector_of_pyod_keeps_its_sign(data):
    X, y = data
    frozen = FrozenEstimator(KNN().fit(X[y == 1][:100]))
    assert roc_auc_score(y, Bag([("knn", frozen)]).fit(X).score_samples(X)) > 0.9


@pytest.mark.parametrize(
    "detector",
    [
        InlierTraining(KDE(false_alarm_rate=0.05)),
        ConformalDetector(KDE(), random_state=0),
        DeepSAD(max_epochs=5, random_state=0),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_fit_predict_reads_the_labels(data, detector):
    X, y = data
    labels = detector.fit(X, y).predict(X)
    assert (labels != detector.fit(X).predict(X)).any()
    np.testing.assert_array_equal(detector.fit_predict(X, y), labels)
    np.testing.assert_array_equal(make_pipeline(detector).fit_predict(X, y), labels)


def test_workers_get_the_settings_of_scikit_learn(data):
    X, y = data

    def by_name(frame):
        return frame[["x0", "x1"]]

    pipeline = make_pipeline(StandardScaler(), FunctionTransformer(by_name), KDE())
    bag = Bag([("named", pipeline), ("kde", KDE())], n_jobs=2)
    with config_context(transform_output="pandas"):
        scores = bag.fit(X[y == 1]).score_samples(X)
    assert roc_auc_score(y, scores) > 0.9


def test_bag_of_equals_ranks_as_its_member(data):
    X, _ = data
    kde = KDE().fit(X)
    bag = Bag([("a", KDE()), ("b", KDE())]).fit(X)
    a, b = kde.explain(X), bag.explain(X)
    assert_allclose(b, a * np.ptp(b) / np.ptp(a), atol=1e-9)
    assert (np.argsort(bag.score_samples(X)) == np.argsort(kde.score_samples(X))).all()


def test_units_of_a_member_do_not_matter(data):
    X, _ = data

    class Scaled(KDE):
        def _outlier_score(self, X):
            return 1000 * super()._outlier_score(X) + 7

        def _decompose(self, X, space=None):
            parts = super()._decompose(X, space)
            scaled = 1000 * parts.relevance, 1000 * parts.unattributed + 7
            return replace(parts, relevance=scaled[0], unattributed=scaled[1])

        def _out_of_sample_score(self, X, rows):
            return 1000 * super()._out_of_sample_score(X, rows) + 7

    plain = Bag([("a", KDE()), ("b", KDE(bandwidth=2.0))]).fit(X)
    scaled = Bag([("a", Scaled()), ("b", KDE(bandwidth=2.0))]).fit(X)
    assert_allclose(scaled.score_samples(X), plain.score_samples(X), rtol=1e-8)
    assert_allclose(scaled.explain(X), plain.explain(X), rtol=1e-8)


def test_a_bag_explains_each_member_once(data, monkeypatch):
    X, _ = data
    bag = Bag(members()).fit(X)
    expected = bag.explain(X[:9]), -bag.score_samples(X[:9])
    passes = []

    def counted(parts_of):
        def decompose(self, X, space=None):
            passes.append(self)
            return parts_of(self, X, space)

        return decompose

    for kind in (KDE, PyODDetector):
        monkeypatch.setattr(kind, "_decompose", counted(kind._decompose))
    relevance, passes[:] = bag.explain(X[:9]), []
    rest = bag.unattributed(X[:9])
    assert passes == [bag.detectors_[0], bag.detectors_[2], bag.detectors_[3][-1]]
    assert_allclose(relevance, expected[0])
    assert_allclose(relevance.sum(axis=1) + rest, expected[1], rtol=1e-9)


def test_inlier_training_shows_a_frozen_detector_of_pyod_with_its_sign(data):
    X, y = data
    frozen = FrozenEstimator(KNN().fit(X[y == 1]))
    bag = Bag([("knn", FrozenEstimator(InlierTraining(frozen).fit(X, y)))]).fit(X)
    assert roc_auc_score(y, bag.score_samples(X)) > 0.9


def test_bag_false_alarms():
    rng = np.random.default_rng(0)
    X, fresh = rng.standard_normal((400, 5)), rng.standard_normal((3000, 5))
    bag = Bag([("narrow", KDE(bandwidth=0.3)), ("knn", KNN())], false_alarm_rate=0.1).fit(X)
    assert 0.05 < np.mean(bag.predict(fresh) == -1) < 0.15


def test_bag_parameters_are_nested(data):
    X, y = data
    bag = Bag(members()).set_params(kde__bandwidth=5.0, forest=KDE(), knn__n_neighbors=3)
    assert bag.get_params()["kde__bandwidth"] == 5.0 and bag.get_params()["forest__kernel"]
    search = GridSearchCV(
        Bag([("a", KDE()), ("b", KDE(bandwidth=9.0))]),
        {"a__bandwidth": [0.1, 1.0], "weights": [None, (1, 0)], "b": [KNN(), KDE()]},
        scoring="roc_auc",
        cv=folds(),
        error_score="raise",
    ).fit(X, y)
    assert len(set(search.cv_results_["mean_test_score"].round(9))) >= 4


def test_bag_hands_the_image_shape_down():
    images = np.random.default_rng(0).random((30, 4, 5))
    inner = Bag([("c", KDE()), ("knn", KNN())])
    projected = make_pipeline(PCA(2), KDE())
    bag = Bag([("a", KDE()), ("inner", inner), ("projected", projected)]).fit(images)
    assert bag.detectors_[0].image_shape_ == (4, 5)
    assert bag.detectors_[1].detectors_[0].image_shape_ == (4, 5)
    assert bag.explain(images).shape == images.shape
    law = bag.explain(images).sum(axis=(1, 2)) + bag.unattributed(images)
    assert_allclose(law, -bag.score_samples(images), rtol=1e-9)


class Constant(KDE):
    def _outlier_score(self, X):
        return np.full(len(X), 3.0)

    def _out_of_sample_score(self, X, rows):
        return np.full(len(rows), 3.0)


@pytest.mark.parametrize(
    ("bag", "error", "message"),
    [
        (Bag([]), ValueError, "list of"),
        (Bag([KDE()]), ValueError, "list of"),
        (Bag([("a", KDE()), ("a", KDE())]), ValueError, "not unique"),
        (Bag([("a__b", KDE())]), ValueError, "__"),
        (Bag([("a", StandardScaler())]), TypeError, "'a' is no detector"),
        (Bag([("a", KDE())], weights=[1, 2]), ValueError, "1 finite numbers"),
        (Bag([("a", KDE())], weights=[-1]), ValueError, "not negative"),
        (Bag([("a", KDE()), ("b", KDE())], weights=[0, 0]), ValueError, "not all zero"),
        (
            Bag([("a", Constant())]),
            ValueError,
            "'a' gives all training rows the same score",
        ),
    ],
)
def test_bad_bags(data, bag, error, message):
    with pytest.raises(error, match=message):
        bag.fit(data[0])
    assert not [name for name in vars(bag) if name.endswith("_")]


def test_inlier_training_leaves_anomalies_out(data):
    X, y = data
    model = InlierTraining(KDE(bandwidth=0.5)).fit(X, y)
    assert_allclose(
        model.score_samples(X), KDE(bandwidth=0.5).fit(X[y != -1]).score_samples(X)
    )
    assert model.offset_ == model.estimator_.offset_
    unlabelled = np.where(y == 1, 0, -1)
    assert_allclose(
        InlierTraining(KDE(bandwidth=0.5)).fit(X, unlabelled).offset_, model.offset_
    )


def test_inlier_training_in_a_search_refits_on_normal_rows(data):
    X, y = data
    model = InlierTraining(make_pipeline(StandardScaler(), KDE()))
    grid = [{"estimator__kde__bandwidth": [0.1, 0.5]}, {"estimator__kde": [KNN(), KDE()]}]
    search = GridSearchCV(
        model, grid, scoring="roc_auc", cv=folds(), error_score="raise"
    ).fit(X, y)
    scaler = search.best_estimator_.estimator_[0]
    assert_allclose(scaler.mean_, X[y == 1].mean(axis=0))
    assert (search.cv_results_["mean_test_score"] > 0.9).all()  # PyOD's sign too


def test_inlier_training_has_no_threshold_where_the_detector_has_none(data):
    X, y = data
    mixture = InlierTraining(GaussianMixture(2, random_state=0)).fit(X, y)
    assert roc_auc_score(y, mixture.score_samples(X)) > 0.9
    # GaussianMixture.predict gives numbers of components.
    assert not hasattr(mixture, "decision_function") and not hasattr(mixture, "predict")
    calibrated = ConformalDetector(GaussianMixture(2, random_state=0), random_state=0)
    scores = cross_val_score(calibrated, X, y, scoring="roc_auc", cv=folds())
    assert scores.min() > 0.9


def test_inlier_training_of_images_and_lists(data):
    X, y = data
    images = np.random.default_rng(0).random((40, 3, 3))
    model = InlierTraining(KDE()).fit(images, np.r_[-np.ones(5), np.ones(35)])
    assert model.explain(images).shape == images.shape
    assert_allclose(
        InlierTraining(KDE()).fit(X.tolist(), y.tolist()).score_samples(X),
        InlierTraining(KDE()).fit(X, y).score_samples(X),
    )


def test_inlier_training_refuses(data):
    X, y = data
    with pytest.raises(ValueError, match="All 200 rows are labelled -1"):
        InlierTraining(KDE()).fit(X, -np.ones(200))
    for wrong in (y[:50], np.ones(50)):
        with pytest.raises(ValueError, match="y has 50 labels, but X has 200 rows"):
            InlierTraining(KDE()).fit(X, wrong)
    with pytest.raises(ValueError, match=r"\(200, 3\)"):
        InlierTraining(KDE()).fit(X, X)
    with pytest.raises(ValueError, match="got 'anomaly'"):
        InlierTraining(KDE()).fit(X, np.where(y == 1, "normal", "anomaly"))
    with pytest.warns(UserWarning, match=r"np\.where\(y == 1, -1, 1\)"):
        InlierTraining(KDE()).fit(X, y == -1)
    with pytest.warns(UserWarning, match="labels other than"):
        InlierTraining(KDE()).fit(X, y.astype(np.uint8))
    for estimator in (StandardScaler(), LocalOutlierFactor()):
        with pytest.raises(TypeError, match="must be a detector"):
            InlierTraining(estimator).fit(X)


def test_inlier_training_around_a_search_and_sparse_rows(data):
    X, y = data
    search = GridSearchCV(
        KDE(),
        {"bandwidth": [0.5, 1.0]},
        scoring=lambda kde, X, y=None: kde.score_samples(X).mean(),
    )
    model = InlierTraining(search).fit(X, y)
    assert model.offset_ == model.estimator_.best_estimator_.offset_
    many = np.vstack([X, X])
    for sparse in (coo_array, bsr_array):
        forest = InlierTraining(IsolationForest(n_estimators=5))
        assert forest.fit(sparse(X), y).score_samples(X).shape == (200,)
        assert forest.fit(sparse(many)).score_samples(X).shape == (200,)
