"""The explanation-aware scorer in searches, with masks sliced along."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skad import KDE, InlierTraining, explain
from skad.datasets import load_corrupted_digits
from skad.metrics import ExplanationAwareScorer, cosine_similarity_score

GRID = {"estimator__kde__bandwidth": [0.5, 20.0]}


@pytest.fixture(autouse=True)
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def digits():
    X, y, mask = load_corrupted_digits("all", return_X_y_mask=True)
    return X[:400], y[:400], mask[:400]


def model():
    return InlierTraining(make_pipeline(StandardScaler(), KDE()))


def folds():
    return StratifiedKFold(3, shuffle=True, random_state=0)


class Recorder(ExplanationAwareScorer):
    __metadata_request__score = {"mask": True}
    seen = []

    def score(self, estimator, X, y=None, *, mask=None):
        self.seen.append((X, y, mask))
        return super().score(estimator, X, y, mask=mask)

    __call__ = score


def test_masks_are_sliced_with_their_rows(digits):
    X, y, mask = digits
    Recorder.seen.clear()
    cross_validate(model(), X, y, scoring=Recorder(), cv=folds(), params={"mask": mask})
    where = {x.tobytes(): i for i, x in enumerate(X)}
    for X_test, y_test, mask_test in Recorder.seen:
        rows = [where[x.tobytes()] for x in X_test]
        assert (y[rows] == y_test).all() and (mask[rows] == mask_test).all()
    assert sum(len(X_test) for X_test, _, _ in Recorder.seen) == len(X)


def test_the_score_is_the_weighted_mean(digits):
    X, y, mask = digits
    fitted = model().fit(X, y)
    detection = ExplanationAwareScorer(weight=0)(fitted, X, y)
    explanation = ExplanationAwareScorer(weight=1)(fitted, X, mask=mask)
    rows = mask.any(axis=1)
    assert detection == sklearn.metrics.roc_auc_score(y, fitted.score_samples(X))
    assert_allclose(
        explanation, cosine_similarity_score(mask[rows], explain(fitted, X[rows]))
    )
    both = ExplanationAwareScorer(weight=0.3)(fitted, X, y, mask=mask)
    assert_allclose(both, 0.7 * detection + 0.3 * explanation)


def test_only_rows_with_a_mask_are_explained(digits):
    X, y, mask = digits

    class Counting(KDE):
        counts = []

        def explain(self, X):
            self.counts.append(len(X))
            return super().explain(X)

    ExplanationAwareScorer()(Counting(bandwidth=1.0).fit(X[y == 1]), X, y, mask=mask)
    assert Counting.counts == [mask.any(axis=1).sum()]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search_over_several_metrics(digits, n_jobs):
    X, y, mask = digits
    scoring = {
        "detection": "roc_auc",
        "explanation": ExplanationAwareScorer(weight=1),
        "both": ExplanationAwareScorer("relevance_mass", weight=0.5),
    }
    search = GridSearchCV(
        model(), GRID, scoring=scoring, refit="both", cv=folds(), n_jobs=n_jobs
    )
    results = search.fit(X, y, mask=mask).cv_results_
    for name in scoring:
        assert np.isfinite(results[f"mean_test_{name}"]).all()
    assert search.best_index_ == np.argmax(results["mean_test_both"])
    assert np.isfinite(search.score(X, y, mask=mask))


def test_randomised_search(digits):
    X, y, mask = digits
    search = RandomizedSearchCV(
        model(),
        GRID,
        n_iter=2,
        scoring=ExplanationAwareScorer(),
        cv=folds(),
        random_state=0,
    ).fit(X, y, mask=mask)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_another_name_for_the_masks(digits):
    X, y, mask = digits
    scorer = clone(ExplanationAwareScorer().set_score_request(mask="pixels"))
    search = GridSearchCV(model(), GRID, scoring=scorer, cv=folds(), error_score="raise")
    assert np.isfinite(search.fit(X, y, pixels=mask).best_score_)


def test_images_and_own_metrics(digits):
    X, y, mask = digits
    images, masks = X.reshape(-1, 8, 8), mask.reshape(-1, 8, 8)
    fitted = KDE(bandwidth=1.0).fit(images[y == 1])
    scorer = ExplanationAwareScorer(lambda mask, relevance: 0.25, weight=1)
    assert scorer(fitted, images, y, mask=masks) == 0.25
    flat = ExplanationAwareScorer()(fitted, X, y, mask=mask)
    assert_allclose(ExplanationAwareScorer()(fitted, images, y, mask=masks), flat)


@pytest.mark.parametrize(
    ("scorer", "given", "message"),
    [
        (ExplanationAwareScorer(), {}, "enable_metadata_routing=True"),
        (ExplanationAwareScorer(), {"mask": "empty"}, "No row of this fold has a mask"),
        (ExplanationAwareScorer(), {"mask": "short"}, "399 rows, X has 400"),
        (ExplanationAwareScorer(), {"mask": "narrow"}, r"\(\d+, 63\) and \(\d+, 64\)"),
        (ExplanationAwareScorer(weight=2), {"mask": "right"}, "weight must be in"),
        (ExplanationAwareScorer("dice"), {"mask": "right"}, "'cosine'"),
        (ExplanationAwareScorer(), {"mask": "right", "y": "01"}, r"np\.where"),
        (ExplanationAwareScorer(), {"mask": "right", "y": None}, "give y"),
        (ExplanationAwareScorer(weight=0), {"y": "normal"}, r"labelled \[1\] only"),
    ],
)
def test_bad_input(digits, scorer, given, message):
    X, y, mask = digits
    fitted = KDE(bandwidth=1.0).fit(X)
    masks = {
        "empty": np.zeros_like(mask),
        "short": mask[1:],
        "narrow": mask[:, 1:],
        "right": mask,
    }
    labels = {"01": (y == -1).astype(int), None: None, "normal": np.ones(len(y))}
    y = labels[given["y"]] if "y" in given else y
    with pytest.raises(ValueError, match=message):
        scorer(fitted, X, y, mask=masks.get(given.get("mask")))


def test_masks_without_routing_say_so(digits):
    X, y, mask = digits
    search = GridSearchCV(model(), GRID, scoring="roc_auc", cv=2, error_score="raise")
    with (
        sklearn.config_context(enable_metadata_routing=False),
        pytest.raises(TypeError, match="enable_metadata_routing=True"),
    ):
        search.fit(X, y, mask=mask)


def test_a_search_without_masks_says_so(digits):
    X, y, _ = digits
    search = GridSearchCV(
        model(), GRID, scoring=ExplanationAwareScorer(), cv=2, error_score="raise"
    )
    with pytest.raises(ValueError, match=r"GridSearchCV\(\.\.\.\)\.fit\(X, y, mask=mask\)"):
        search.fit(X, y)
