"""GEO: scores, explanations, training, and its edges; its parts: test_geo_parts.py."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import digamma, log_softmax, softmax
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from torch import nn

from skad import GEO
from skad.datasets import make_textures
from skad.images import View, Views
from skad.metrics import pixel_roc_auc_score
from skad.neural import ActivationMap, ExpectedGradients, OutlierExposure

RNG = np.random.default_rng(0)
DIGITS = load_digits()
THREES = DIGITS.images[DIGITS.target == 3] / 16
EIGHTS = DIGITS.images[DIGITS.target == 8] / 16
QUICK = {"max_epochs": 20, "random_state": 0}
FLIP = [View(), View(mirrored=True)]

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning"  # of networks that train shortly
)


@pytest.fixture(scope="module")
def geo():
    return GEO(max_epochs=72, random_state=0).fit(THREES[:120])


# --- the detector ----------------------------------------------------------------------


def logits_of(detector, images):
    """All views of the images through the network, one by one, by numpy."""
    views = Views(detector.views_, images.shape[-2:])(images)
    rows = torch.from_numpy(views).float().flatten(0, 1)[:, None]
    with torch.no_grad():
        z = detector.net_.module_(rows)
    return z.double().view(len(images), len(detector.views_), -1).numpy()


@pytest.mark.parametrize("normality", ["dirichlet", "simple", "log"])
def test_the_score_is_the_paper_s(geo, normality):
    images = THREES[120:125]
    z = logits_of(geo, images)
    log_y = log_softmax(z, axis=-1)
    alpha = geo.alpha_
    expected = {
        "dirichlet": [np.sum((alpha - 1) * row) / 72 for row in log_y],
        "simple": [np.mean(np.diagonal(np.exp(row))) for row in log_y],
        "log": [np.mean(np.diagonal(row)) for row in log_y],
    }
    scores = geo.set_params(normality=normality).score_samples(images)
    geo.set_params(normality="dirichlet")
    assert_allclose(scores, expected[normality], rtol=1e-5)


def test_the_dirichlet_parameters_are_the_maximum_for_the_training_images(geo):
    log_y = log_softmax(logits_of(geo, THREES[:120]), axis=-1)
    for view in (0, 17, 71):
        alpha = geo.alpha_[view]
        expected = digamma(alpha) - digamma(alpha.sum())
        assert_allclose(expected, log_y[:, view].mean(0), rtol=1e-4, atol=1e-4)
    right = np.argmax(log_y, axis=-1) == np.arange(72)
    assert_allclose(geo.view_accuracy_["view"], right.mean(), atol=1e-3)
    turns = np.arange(72) % 4
    told = turns[np.argmax(log_y, axis=-1)] == turns
    assert_allclose(geo.view_accuracy_["turns"], told.mean(), atol=1e-3)


@pytest.mark.parametrize(
    "explanation", [None, ActivationMap(sigma=1.5), ExpectedGradients()]
)
@pytest.mark.parametrize("normality", ["dirichlet", "simple"])
def test_relevance_sums_to_the_score_less_the_reference(geo, explanation, normality):
    images = np.concatenate([EIGHTS[:3], THREES[120:122], 1 - THREES[:1]])
    detector = pickle.loads(pickle.dumps(geo))
    detector.set_params(explanation=explanation, normality=normality, views=9)
    scores = -detector.score_samples(images)
    above = scores - detector.reference_score_
    tolerance = 1e-5 * abs(scores).max()
    assert_allclose(detector.explain(images).sum((1, 2)), above, atol=tolerance)
    assert_allclose(detector.explain_views(images).sum(1), above, atol=tolerance)
    assert detector.explain_views(images).shape == (6, 9)
    assert_allclose(detector.unattributed(images), detector.reference_score_)


def test_the_reference_of_expected_gradients_is_the_mean_of_normal_images(geo):
    detector = clone(geo).set_params(explanation=ExpectedGradients(n_references=5))
    detector.set_params(max_epochs=5).fit(THREES[:60])
    references = detector.references_.reshape(-1, 8, 8)
    assert len(references) == 5 and len(geo.references_) == 8
    assert all((THREES[:60] == image).all((1, 2)).any() for image in references)
    mean = -detector.score_samples(references).mean()
    assert_allclose(detector.reference_score_, mean, rtol=1e-6)


def test_maps_of_views_are_mirrored_and_turned_back():
    """A net that sees brightness only puts relevance where the light is, in any view."""

    def bright(row_shape):
        layer = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(layer.weight)
        return nn.Sequential(layer, nn.ReLU())

    detector = GEO(network=bright, normality="log", **QUICK)
    detector.set_params(explanation=ActivationMap(sigma=0.1))
    detector.fit(RNG.uniform(0, 0.1, size=(30, 8, 8)) + 0.5)
    dark = np.full((1, 8, 8), 0.5)
    lit = dark.copy()
    lit[0, 1, 2] = 1.0
    change = (detector.explain(lit) - detector.explain(dark))[0]
    assert np.unravel_index(abs(change).argmax(), (8, 8)) == (1, 2)


def test_planted_patches_are_found_and_by_chance_without_learning():
    kind = {"texture": "stripes", "defect": "patch", "size": 24}
    normal = make_textures(200, anomaly_share=0, random_state=0, **kind)
    test = make_textures(24, anomaly_share=1, random_state=1, **kind)
    detector = GEO(transforms="dihedral", max_epochs=60, random_state=0)
    mask = test.mask.reshape(test.images.shape)
    found = detector.fit(normal.images).explain(test.images)
    difference = abs(test.images - normal.images.mean(0))
    assert pixel_roc_auc_score(mask, difference) < 0.6
    assert pixel_roc_auc_score(mask, found) > 0.85
    detector.set_params(explanation=ExpectedGradients())
    assert pixel_roc_auc_score(mask[:8], detector.explain(test.images[:8])) > 0.85


def test_expected_gradients_ignore_constant_pixels_without_smoothing():
    X = np.random.default_rng(0).standard_normal((60, 12))
    X[:, 3] = 2.0
    detector = GEO(explanation=ExpectedGradients(), **QUICK)
    relevance = detector.fit(X).explain(X[:5])
    assert_array_equal(relevance[:, 3], 0)


# --- parameters ------------------------------------------------------------------------


class Odd(nn.Module):
    """A convolution in a forward that no rule can read; it may give two things."""

    def __init__(self, give_two=False):
        super().__init__()
        self.layer, self.give_two = nn.Conv2d(1, 8, 3, stride=2, padding=1), give_two

    def forward(self, x):
        maps = torch.relu(self.layer(x if x.ndim == 4 else x[None]))
        return (maps, x) if self.give_two else maps


def test_views_that_can_t_be_told_apart_are_named():
    symmetric = (EIGHTS + EIGHTS[:, :, ::-1]) / 2
    with pytest.warns(
        ConvergenceWarning, match="can't tell mirrored images from others"
    ) as w:
        detector = GEO(transforms=FLIP, **QUICK).fit(symmetric)
    assert "no views can be told apart" in str(w[0].message)
    assert detector.view_accuracy_["mirrored"] < 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        detector = GEO(transforms=FLIP, **QUICK).fit(THREES)
    assert detector.view_accuracy_["mirrored"] > 0.9
    assert detector.view_accuracy_["mirrored"] == detector.view_accuracy_["view"]


def test_identical_images_are_scored_by_the_log():
    same = np.repeat(THREES[:1], 20, axis=0)
    with pytest.warns(
        ConvergenceWarning, match="no Dirichlet distribution for 8 of 8 views"
    ):
        detector = GEO(transforms="dihedral", **QUICK).fit(same)
    assert_array_equal(detector.alpha_, 1 + np.eye(8))
    log = clone(detector).set_params(normality="log").fit(same)
    images = np.concatenate([THREES[:5], EIGHTS[:5]])
    assert_allclose(detector.score_samples(images), log.score_samples(images), rtol=1e-6)
    with pytest.warns(ConvergenceWarning, match="can't tell"):
        detector = GEO(**QUICK).fit(np.zeros((10, 8, 8)))
    assert np.isfinite(detector.score_samples(images)).all()


def test_the_paper_s_budget():
    for views, passes in ((FLIP, 200), ("upright", 216)):
        detector = GEO(transforms=views, random_state=0, batch_size=64)
        detector.fit(THREES[:10])
        assert len(detector.history_["train_loss"]) == passes


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"transforms": [View()]}, "two views at least"),
        ({"transforms": [View(), View()]}, "Views 0 and 1 are the same"),
        ({"transforms": FLIP, "heads": "separate"}, "two turns or shifts"),
        ({"views": 73}, "views=73, but there are 72"),
        ({"views": [0, 0]}, "different positions"),
        ({"views": [72]}, "different positions"),
        ({"views": [0.5]}, "different positions"),
        ({"held_out": 0.001}, "holds 0 of 30 rows out"),
        ({"network": lambda s: nn.Flatten()}, "must give feature maps"),
        ({"network": lambda s: nn.Conv2d(3, 1, 1)}, "fails on rows of shape"),
        (
            {"network": lambda s: nn.LSTM(8, 8)},
            "fails on rows of shape|must give feature maps",
        ),
        ({"network": lambda s: Odd(give_two=True)}, "it gives tuple"),
        ({"normality": "mean"}, "normality"),
        ({"explanation": ActivationMap(sigma=0.0)}, "sigma"),
        ({"explanation": ExpectedGradients(n_references=0)}, "n_references"),
        ({"explanation": "cam"}, "explanation"),
        ({"views": True}, "different positions"),
    ],
)
def test_bad_parameters(params, message):
    detector = GEO(**QUICK).set_params(**params)
    with pytest.raises((ValueError, TypeError), match=message):
        detector.fit(THREES[:30])
    assert not hasattr(detector, "net_")


@pytest.mark.parametrize(
    ("params", "method"),
    [
        ({"views": 0}, "score_samples"),
        ({"views": -3}, "score_samples"),
        ({"views": 73}, "predict"),
        ({"normality": "Dirichlet"}, "score_samples"),
        ({"explanation": "ig"}, "explain"),
        ({"explanation__sigma": "a"}, "explain_views"),
    ],
)
def test_parameters_that_are_set_later_are_checked_then(geo, params, method):
    detector = pickle.loads(pickle.dumps(geo)).set_params(explanation=ActivationMap())
    detector.set_params(**params)
    with pytest.raises(ValueError, match=next(iter(params)).removeprefix("explanation__")):
        getattr(detector, method)(THREES[:20])


def test_a_network_goes_on_with_its_own_views_only(tmp_path):
    detector = GEO(transforms=FLIP, **QUICK).fit(THREES[:40])
    path = tmp_path / "geo.pt"
    detector.save_weights(path)
    other = {"transforms": [View(), View(turns=2)]}
    with pytest.raises(ValueError, match="tells 2 views apart"):
        GEO(**other).load_weights(path)
    detector.set_params(**other)
    with pytest.raises(ValueError, match="tells 2 views apart"):
        detector.partial_fit(THREES[:40])
    with pytest.raises(ValueError, match="tells 2 views apart"):
        detector.set_params(warm_start=True).fit(THREES[:40])
    assert detector.views_ == FLIP


def test_a_network_goes_on_with_some_of_its_classes():
    y = np.repeat(["a", "b", "c"], 10)
    detector = GEO(labels="classes", transforms=FLIP, **QUICK).fit(THREES[:30], y)
    detector.partial_fit(THREES[:20], y[10:])
    assert detector.classes_ == ("a", "b", "c")
    for unknown in (None, np.repeat(["a", "d"], 15)):
        with pytest.raises(ValueError, match=r"goes on with the classes \('a', 'b', 'c'\)"):
            detector.partial_fit(THREES[:30], unknown)
    for bad in (np.array(["a", 1] * 15, dtype=object), np.arange(30).astype("M8[D]")):
        with pytest.raises(ValueError, match="classes"):
            clone(detector).fit(THREES[:30], bad)


def test_a_list_of_views_is_judged_by_those_that_differ_in_one_thing():
    symmetric = (EIGHTS + EIGHTS[:, :, ::-1]) / 2
    views = [View(), View(turns=1), View(mirrored=True)]
    with pytest.warns(ConvergenceWarning, match="can't tell mirrored images"):
        detector = GEO(transforms=views, max_epochs=40, random_state=0).fit(symmetric)
    assert detector.view_accuracy_["turns"] > 0.9


def test_thresholds_of_repeated_images_are_finite():
    X = np.concatenate([np.repeat(THREES[23:24], 10, axis=0), EIGHTS[23:24]])
    for seed in range(3):
        detector = GEO(transforms="dihedral", false_alarm_rate=0.05, max_epochs=2)
        detector.set_params(random_state=seed).fit(X)
        assert abs(detector.offset_) < 10 * abs(detector.score_samples(X)).max()


def test_torch_may_have_another_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        scores = GEO(transforms=FLIP, **QUICK).fit(THREES[:20]).score_samples(THREES[:2])
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.isfinite(scores).all()


def test_one_sample_and_rows_of_one_feature():
    with pytest.raises(ValueError, match="minimum of 2"):
        GEO().fit(THREES[:1])
    with pytest.raises(
        ValueError, match=r"seen by two views at least; X has 1 feature\(s\)"
    ):
        GEO().fit(np.zeros((5, 1)))


def test_images_that_are_not_square():
    images = RNG.random((20, 6, 9))
    detector = GEO(**QUICK).fit(images)
    assert len(detector.views_) == 36
    assert {view.turns for view in detector.views_} == {0, 2}
    assert detector.explain(images).shape == images.shape
    with pytest.raises(ValueError, match="Only square images can be turned by 90 degrees"):
        GEO(transforms=[View(), View(turns=1)], **QUICK).fit(images)


def test_views_scored():
    detector = GEO(transforms="dihedral", views=4, **QUICK).fit(THREES[:40])
    scored = detector.scored_views_
    assert {view.turns for view in scored} == {0, 1, 2, 3}
    assert [view.mirrored for view in scored].count(True) == 2
    z = logits_of(detector, THREES[:2])
    expected = np.mean([(detector.alpha_[i] - 1) @ log_softmax(z[0, i]) for i in (1, 6)])
    some = detector.set_params(views=np.array([1, 6], np.uint8))
    assert some.scored_views_ == [detector.views_[1], detector.views_[6]]
    assert_allclose(some.score_samples(THREES[:2])[0], expected, rtol=1e-5)


def test_separate_heads_score_images_that_are_not_mirrored():
    detector = GEO(heads="separate", normality="simple", **QUICK).fit(THREES[:60])
    assert len(detector.views_) == 72 and len(detector.scored_views_) == 36
    assert not any(view.mirrored for view in detector.scored_views_)
    z = logits_of(detector, EIGHTS[:2])[:, [not v.mirrored for v in detector.views_]]
    turns, up, left = z[..., :4], z[..., 4:7], z[..., 7:]
    shifts = np.sort([-2, 0, 2])
    expected = 0.0
    for i, view in enumerate(detector.scored_views_):
        expected -= softmax(turns[0, i])[view.turns]
        expected -= softmax(up[0, i])[np.searchsorted(shifts, view.up)]
        expected -= softmax(left[0, i])[np.searchsorted(shifts, view.left)]
    assert_allclose(-detector.score_samples(EIGHTS[:2])[0], expected / 36, rtol=1e-5)
    assert set(detector.view_accuracy_) == {"turns", "up", "left"}


def test_outliers_are_told_less_of():
    letters = RNG.permuted(EIGHTS, axis=2)  # rows of pixels in any order
    detector = GEO(transforms="dihedral", normality="log", max_epochs=60, random_state=0)
    test = np.concatenate([THREES[120:180], letters[80:140]])

    def auc(X, y=None, **params):
        scores = clone(detector).set_params(**params).fit(X, y).score_samples(test)
        return roc_auc_score(np.repeat([1, 0], 60), scores)

    normal = THREES[:120]
    least = max(auc(normal), 0.95)
    assert auc(normal, outliers=OutlierExposure(letters[:80], share=0.3)) > least
    both, y = np.concatenate([normal, letters[:80]]), np.repeat([1, -1], [120, 80])
    assert auc(both, y) > least


def test_the_sources_of_outliers_are_named():
    images, y = THREES[:20], np.repeat([1, -1], [15, 5])
    named = [
        GEO(transforms=FLIP, outliers=outliers, **QUICK).fit(images, labels).outliers_
        for outliers, labels in (
            *((None, None), (EIGHTS[:5], None), ("auto", None)),
            *((None, y), ("auto", y), ("uniform", y)),
        )
    ]
    assert named == [
        *((), ("array",), ("confetti",)),
        *(("labelled",), ("labelled",), ("labelled", "uniform")),
    ]


def test_classes_in_y_train_a_head_of_their_own():
    known = DIGITS.target < 4
    images, names = DIGITS.images[known] / 16, np.array(list("abcd"))[DIGITS.target[known]]
    detector = GEO(labels="classes", transforms="dihedral", **QUICK).fit(
        images[:300], names[:300]
    )
    assert detector.classes_ == ("a", "b", "c", "d")
    z = logits_of(detector, images[300:])[:, 0]
    assert z.shape[1] == 8 + 4
    told = np.array(detector.classes_)[z[:, 8:].argmax(1)] == names[300:]
    assert told.mean() > 0.8
    # The classes are not scored, and a fit without them is one without that head.
    scores = (detector.alpha_[0] - 1) @ log_softmax(z[0, :8])
    assert_allclose(
        detector.set_params(views=[0]).score_samples(images[300:301]), scores, rtol=1e-5
    )
    without = clone(detector).fit(images[:300])
    assert without.classes_ is None and without.net_.module_.heads.out_features == 8
    for y in (np.zeros(300), names[:200]):
        with pytest.raises(ValueError, match="classes of 300 rows, two at least"):
            clone(detector).fit(images[:300], y)


@pytest.mark.parametrize(
    ("net_params", "decay"),
    [
        (None, 5e-4),
        ({"optimizer": torch.optim.SGD}, 5e-4),
        ({"optimizer__weight_decay": 0.1}, 0.1),
        ({"optimizer": torch.optim.Rprop}, None),  # which has none
    ],
)
def test_weight_decay_is_the_paper_s_unless_it_is_set(net_params, decay):
    detector = GEO(net_params=net_params, transforms=FLIP, max_epochs=1, random_state=0)
    (group,) = detector.fit(THREES[:20]).net_.optimizer_.param_groups
    assert group.get("weight_decay") == decay


def test_images_in_a_file_are_explained_by_either_way(tmp_path):
    np.save(tmp_path / "images.npy", THREES[:20])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    explanation = ExpectedGradients(n_references=2)
    detector = GEO(transforms=FLIP, explanation=explanation, **QUICK).fit(mapped)
    for changed in (detector, detector.set_params(explanation=None)):
        assert_array_equal(changed.explain(mapped[:3]), changed.explain(THREES[:3]))


def test_held_out_rows_do_not_train():
    rows = []

    def watch(X, mask):
        rows.append(X.clone())
        return X, mask

    detector = GEO(held_out=0.25, augment=watch, **QUICK).fit(THREES[:40])
    seen = np.unique(torch.cat(rows).flatten(1).numpy().round(4), axis=0)
    assert len(seen) == 30
    assert np.isfinite(detector.alpha_).all()


def test_false_alarms_of_fresh_rows():
    order = np.random.default_rng(0).permutation(len(DIGITS.images))
    images = DIGITS.images[order] / 16
    detector = GEO(false_alarm_rate=0.1, transforms="dihedral", **QUICK).fit(images[:150])
    rate = (detector.predict(images[150:750]) == -1).mean()
    assert 0.04 < rate < 0.18


def test_classes_that_a_fold_may_lack():
    """The fold without the one row of class "b" fits its copy without classes."""
    y = np.repeat(["a", "b"], [39, 1])
    params = {"labels": "classes", "transforms": "dihedral", "false_alarm_rate": 0.1}
    detector = GEO(**params, **QUICK).fit(THREES[:40], y)
    assert detector.classes_ == ("a", "b")
    scores = detector.score_samples(THREES[:40])
    assert scores.min() - np.ptp(scores) < detector.offset_ < scores.max()


def test_weights_in_a_file(tmp_path, geo):
    path = tmp_path / "geo.pt"
    geo.save_weights(path)
    loaded = GEO(random_state=0).load_weights(path)
    images = np.concatenate([THREES[:3], EIGHTS[:3]])
    assert_array_equal(loaded.score_samples(images), geo.score_samples(images))
    assert_array_equal(loaded.explain(images), geo.explain(images))
    assert loaded.view_accuracy_ == geo.view_accuracy_
    assert loaded.views_ == geo.views_


def test_a_row_has_its_score_alone_and_in_any_batch(geo):
    scores = geo.score_samples(THREES)
    assert_array_equal(geo.score_samples(THREES[7:8]), scores[7:8])
    assert_array_equal(geo.score_samples(THREES[::-1]), scores[::-1])


def test_a_network_whose_fields_are_unknown_is_explained_on_a_grid():
    detector = GEO(network=Odd(), **QUICK).fit(THREES[:40])
    relevance = detector.explain(EIGHTS[:3])
    above = -detector.score_samples(EIGHTS[:3]) - detector.reference_score_
    assert_allclose(relevance.sum((1, 2)), above, rtol=1e-4)


def test_digits(geo):
    y = np.repeat([0, 1], [60, 100])
    scores = geo.score_samples(np.concatenate([THREES[120:180], EIGHTS[:100]]))
    assert roc_auc_score(y, -scores) > 0.8
