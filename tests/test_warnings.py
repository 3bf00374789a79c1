"""Warnings name the line of the user, not one of skad's or scikit-learn's."""

import warnings

import numpy as np
import pytest
from pyod.models.knn import KNN
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skad import (
    FCDD,
    KDE,
    AutoEncoder,
    Bag,
    ConformalDetector,
    DeepSAD,
    InlierTraining,
    PyODDetector,
)
from skad.metrics import pixel_roc_auc_score

RNG = np.random.default_rng(0)
ROWS, IMAGES = RNG.standard_normal((30, 5)), RNG.random((30, 8, 8, 3))
LABELS = np.arange(30) % 2
SHORT = {"max_epochs": 1, "random_state": 0}
CALLS = {
    "channels": lambda: AutoEncoder(**SHORT).fit(IMAGES),
    "channels, wrapped": lambda: InlierTraining(KDE()).fit(IMAGES),
    "channels, in a bag": lambda: Bag([("kde", KDE())]).fit(IMAGES),
    "no better than the mean": lambda: AutoEncoder(**SHORT).fit(ROWS),
    "the same, in a pipeline": lambda: make_pipeline(
        StandardScaler(), AutoEncoder(**SHORT)
    ).fit(ROWS),
    "labels": lambda: DeepSAD(**SHORT).fit(ROWS, LABELS),
    "labels of images": lambda: FCDD(**SHORT).fit(IMAGES[..., 0], LABELS),
    "labels, wrapped": lambda: InlierTraining(KDE()).fit(ROWS, LABELS),
    "too few for a rate": lambda: PyODDetector(KNN(), false_alarm_rate=0.01).fit(ROWS),
    "too few to calibrate": lambda: ConformalDetector(
        KDE(), max_false_positive_rate=0.01
    ).fit(ROWS),
    "threshold": lambda: KDE().fit(RNG.random((60, 30))).predict(RNG.random((1, 30))),
    "no mask": lambda: pixel_roc_auc_score(np.zeros((2, 3)), np.ones((2, 3))),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_warning_is_at_the_line_of_the_user(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert caught
    assert {warning.filename for warning in caught} == {__file__}
