"""The paper's three families and their bag, on images and flat rows."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from torch import nn

from skad import KDE, AutoEncoder, Bag, DeepOneClass, explain
from skad.datasets import load_corrupted_digits
from skad.metrics import clever_hans_report
from skad.neural import fit_features

DIGITS = load_digits()
IMAGES = DIGITS.images[:400] / 16


@pytest.fixture(scope="module")
def members():
    features = fit_features(
        DIGITS.images[800:] / 16,
        DIGITS.target[800:],
        network=nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.LPPool2d(2, 2)),
        max_epochs=3,
        random_state=0,
    )
    return {
        "kde": KDE(bandwidth=0.5),
        "auto": AutoEncoder(max_epochs=10, random_state=0),
        "deep": DeepOneClass(features=features),
    }


def test_a_bag_of_the_three_adds_their_standardised_evidence(members):
    fitted = {name: model.fit(IMAGES[:200]) for name, model in members.items()}
    frozen = [(name, FrozenEstimator(model)) for name, model in fitted.items()]
    bag = Bag(frozen).fit(IMAGES[200:])
    fresh = np.vstack([IMAGES[200:260], 1 - IMAGES[:20]])
    held_out = {name: -model.score_samples(IMAGES[200:]) for name, model in fitted.items()}
    score = sum(
        (-model.score_samples(fresh) - held_out[name].mean()) / held_out[name].std() / 3
        for name, model in fitted.items()
    )
    assert_allclose(-bag.score_samples(fresh), score, rtol=1e-9)
    relevance = sum(
        model.explain(fresh) / held_out[name].std() / 3 for name, model in fitted.items()
    )
    assert_allclose(bag.explain(fresh), relevance, rtol=1e-6, atol=1e-9)
    total = bag.explain(fresh).sum(axis=(1, 2)) + bag.unattributed(fresh)
    assert_allclose(total, score, rtol=1e-6)
    for name, model in fitted.items():
        assert bag.detectors_[list(fitted).index(name)].estimator is model


def test_a_bag_fits_the_three_itself(members):
    bag = Bag(list(members.items())).fit(IMAGES[:150])
    assert bag.detectors_[1].image_shape_ == (8, 8)
    assert set(bag.predict(IMAGES)) == {-1, 1}


def test_a_frozen_detector_is_explained_by_its_own_rule(members):
    kde = members["kde"].fit(IMAGES)
    assert_allclose(explain(FrozenEstimator(kde), IMAGES[:3]), kde.explain(IMAGES[:3]))


def test_the_report_of_the_three(members):
    X, y, mask = load_corrupted_digits("stripe", return_X_y_mask=True)
    models = {n: m.set_params(image_shape=(8, 8)) for n, m in members.items()}
    fitted = {name: model.fit(X[y == 1][:300]) for name, model in models.items()}
    report = clever_hans_report(fitted, X[-200:], y[-200:], mask=mask[-200:])
    assert list(report["detector"]) == ["kde", "auto", "deep"]
    assert (report["detection"] > 0.9).all()
    assert report["explanation"].between(0, 1).all()
