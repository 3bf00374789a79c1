"""Every estimator under scikit-learn's checks and under skad's own."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from pyod.models.abod import ABOD
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.inne import INNE
from pyod.models.knn import KNN
from pyod.models.loda import LODA
from pyod.models.lof import LOF
from pyod.models.ocsvm import OCSVM
from pyod.models.pca import PCA
from sklearn import __version__ as sklearn_version
from sklearn import config_context, set_config
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from sklearn.utils.fixes import parse_version
from torch import nn

from skad import (
    FCDD,
    GEO,
    HSC,
    IOCN,
    KDE,
    AutoEncoder,
    Bag,
    ConformalDetector,
    DeepOneClass,
    DeepSAD,
    DeepSVDD,
    InlierTraining,
    NormalizingFlow,
    PyODDetector,
)
from skad.neural import EarlyStopping, ExpectedGradients, fit_features
from skad.testing import check_detector

FOREST = IsolationForest(n_estimators=10, random_state=0)
ROWS = np.random.default_rng(0).standard_normal((200, 4))


def signed_parts(row_shape=None):
    """Make a network of rows of any length: each entry's positive and negative part."""
    parts = nn.Conv1d(1, 2, 1, bias=False)
    parts.weight = nn.Parameter(torch.tensor([[[1.0]], [[-1.0]]]))
    return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, -1)), parts, nn.ReLU())


TRAINED = fit_features(ROWS, ROWS[:, 0] > 0, network=signed_parts, random_state=0)
FEW_VIEWS = {"max_epochs": 2, "transforms": "dihedral"}
SMALL = {"max_epochs": 5, "n_blocks": 2, "hidden": 8, "n_members": 2}
# Each detector, and what of it takes another path: kernels, networks, losses, explanations,
# thresholds. One network of each kind of training finds its threshold out of sample.
DETECTORS = [
    KDE(),
    KDE(rule="conserving", bandwidth="scott", false_alarm_rate=0.1),
    KDE(kernel="student", rule="conserving", power=1, bandwidth=1.0),
    KDE(bandwidth=np.inf),
    KDE(kernel="student", dtype="float32"),
    Bag([("kde", KDE()), ("knn", KNN()), ("forest", FOREST)]),
    Bag([("kde", KDE()), ("wide", KDE(bandwidth=np.inf))], false_alarm_rate=0.1),
    AutoEncoder(max_epochs=5, lr=0.01, network="convolutional", hidden=(16,)),
    AutoEncoder(max_epochs=5, lr=0.01, hidden=(), early_stopping=EarlyStopping()),
    DeepOneClass(features=signed_parts, false_alarm_rate=0.1),
    DeepOneClass(features=TRAINED),
    DeepSVDD(max_epochs=2, objective="soft-boundary", false_alarm_rate=0.1),
    DeepSVDD(max_epochs=5, explanation="gradient"),
    DeepSAD(max_epochs=5, outliers="uniform"),
    HSC(max_epochs=5),
    HSC(max_epochs=5, loss="focal"),
    FCDD(max_epochs=5),
    FCDD(max_epochs=5, objective="image", pooling="max"),
    GEO(**FEW_VIEWS, held_out=0.2),
    GEO(**FEW_VIEWS, explanation=ExpectedGradients(n_references=2)),
    GEO(**FEW_VIEWS, heads="separate", outliers="uniform"),
    IOCN(**SMALL),
    IOCN(**SMALL, distance="data", held_out=0.0),
    IOCN(**SMALL, preprocessing="sphere", pull="p_norm"),
    NormalizingFlow(**SMALL, early_stopping=EarlyStopping()),
    InlierTraining(KDE()),
    InlierTraining(FOREST),
    InlierTraining(make_pipeline(StandardScaler(), KNN())),
    ConformalDetector(KDE(), random_state=0),
    ConformalDetector(FOREST, calibration="cross", n_folds=2, random_state=0),
]
# By exact rules, some of them scaled to the score; by sampling; seeded; of odd signatures.
WRAPPED = [KNN(), OCSVM(), HBOS(n_bins=10), LODA(), ABOD(), INNE(n_estimators=10)]
ALL = [*DETECTORS, *map(PyODDetector, WRAPPED)]
# Their scores rank a row within the batch it comes with.
BATCH_DEPENDENT = [PyODDetector(ECOD()), PyODDetector(COPOD())]


def short(detector):
    """Name a detector in one line, without addresses, which change by the process."""
    return re.sub(r" at 0x\w+", "", " ".join(repr(detector).split()))[:70]


def sklearn_checks(detector):
    return [
        (getattr(check, "func", check).__name__, check)
        for _, check in estimator_checks_generator(detector)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("detector", ALL, ids=short)
def test_sklearn_checks(detector):
    results = check_estimator(detector, on_skip=None, on_fail=None)
    if parse_version(sklearn_version) < parse_version("1.7"):
        # It skips a check where array_api_compat is not installed.
        results = [r for r in results if r["status"] != "skipped"]
    assert len(results) > 40
    assert [r for r in results if r["status"] != "passed"] == []


@pytest.mark.parametrize("detector", DETECTORS, ids=short)
def test_explanation_checks(detector):
    check_detector(detector)


@pytest.mark.parametrize(
    "detector", [PyODDetector(d) for d in (KNN(), PCA(), LOF(), OCSVM())], ids=str
)
def test_explanation_checks_of_pyod(detector):
    check_detector(detector)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("detector", BATCH_DEPENDENT, ids=str)
def test_only_the_batch_matters_to_ecod_and_copod(detector):
    failed = set()
    for name, check in sklearn_checks(detector):
        try:
            check(detector)
        except AssertionError:
            failed.add(name)
    assert failed == {"check_methods_subset_invariance"}


def test_the_checks_find_what_they_look_for():
    class Shuffled(KDE):
        def _decompose(self, X, space=None):
            parts = super()._decompose(X, space)
            return replace(parts, relevance=parts.relevance[:, ::-1])

    class Forgetful(KDE):
        def _decompose(self, X, space=None):
            return replace(super()._decompose(X, space), unattributed=np.zeros(len(X)))

    class Batched(KDE):
        def _decompose(self, X, space=None):
            parts = super()._decompose(X, space)
            return replace(parts, relevance=parts.relevance - X.mean(axis=0))

    for broken in (Shuffled(), Forgetful(), Batched()):
        with pytest.raises(AssertionError):
            check_detector(broken)


@pytest.mark.parametrize(
    "detector", [KDE(), IOCN(**SMALL, random_state=0), PyODDetector(KNN())], ids=str
)
def test_tensors_under_dispatch_are_rows(detector):
    """numpy does the work, whatever scikit-learn would do with a tensor."""
    try:
        set_config(array_api_dispatch=True)
    except ImportError as error:  # scikit-learn 1.6
        pytest.skip(str(error))
    finally:
        set_config(array_api_dispatch=False)
    expected = detector.fit(ROWS).explain(ROWS[:5])
    with config_context(array_api_dispatch=True):
        for X in (torch.tensor(ROWS), ROWS):
            assert_allclose(detector.fit(X).explain(X[:5]), expected)
            assert isinstance(detector.predict(X), np.ndarray)
