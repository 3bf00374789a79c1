"""IOCN and NormalizingFlow: scores, explanations, counterfactuals, health, edges."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from skorch.callbacks import Callback

from skad import IOCN, NormalizingFlow
from skad.relevance._path import ByAutograd, expected_gradients

RNG = np.random.default_rng(0)
SMALL = {"n_blocks": 3, "hidden": 16, "n_members": 2, "random_state": 0}
QUICK = {**SMALL, "max_epochs": 40}
CORRELATED = RNG.standard_normal((400, 2)) @ RNG.standard_normal((2, 4))
CORRELATED += 0.2 * RNG.standard_normal((400, 4))
FRESH = 2 * RNG.standard_normal((30, 4))


@pytest.fixture(scope="module")
def iocn():
    return IOCN(**QUICK).fit(CORRELATED)


@pytest.fixture(scope="module")
def flow():
    return NormalizingFlow(**QUICK).fit(CORRELATED)


def standardized(X, train=CORRELATED):
    return (X - train.mean(axis=0)) / train.std(axis=0)


def z_of(detector, X):
    """Map standardised rows in float64, by the network itself."""
    with torch.no_grad():
        return detector.net_.module_.net(torch.from_numpy(standardized(X))).numpy()


def distance_of(z):
    """Equations 2 to 4, entry by entry."""
    scores = np.zeros(z.shape[:-1])
    for at in np.ndindex(scores.shape):
        beyond = [max(abs(v) - 1, 0) for v in z[at]]
        scores[at] = sum(beyond) + min(max(abs(v) for v in z[at]) - 1, 0)
    return scores


# --- scores ----------------------------------------------------------------------------


def test_score_is_the_papers(iocn):
    by_member = distance_of(z_of(iocn, FRESH))
    assert (by_member > 0).any() and (by_member < 0).any()
    assert_allclose(iocn.member_scores(FRESH), by_member.T, rtol=1e-4, atol=1e-5)
    pooled = np.sqrt((1 + by_member).prod(axis=0)) - 1
    assert_allclose(-iocn.score_samples(FRESH), pooled, rtol=1e-4, atol=1e-5)
    alone = IOCN(**{**QUICK, "n_members": 1}).fit(CORRELATED)
    own = distance_of(z_of(alone, FRESH))[0]
    assert_allclose(-alone.score_samples(FRESH), own, rtol=1e-4, atol=1e-5)


def test_distance_in_data(iocn):
    z = torch.from_numpy(z_of(iocn, FRESH))
    with torch.no_grad():
        normal = iocn.net_.module_.net.inverse(z.clamp(-1, 1)).numpy()
    away = np.sqrt(((normal - standardized(FRESH)) ** 2).sum(axis=2))
    by_member = np.where(abs(z.numpy()).max(axis=2) > 1, away, distance_of(z.numpy()))
    detector = pickle.loads(pickle.dumps(iocn)).set_params(distance="data")
    assert_allclose(detector.member_scores(FRESH), by_member.T, rtol=1e-4, atol=1e-5)
    assert_array_equal(detector.member_scores(FRESH) > 0, iocn.member_scores(FRESH) > 0)


def test_density_of_a_flow_integrates_to_one():
    X = np.concatenate([RNG.normal(-1, 0.3, (200, 2)), RNG.normal(1, 0.3, (200, 2))])
    flow = NormalizingFlow(**{**QUICK, "n_members": 1}).fit(X)
    side = np.linspace(-6, 6, 400)  # standard deviations
    units = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    density = np.exp(flow.score_samples(units * X.std(axis=0) + X.mean(axis=0)))
    assert density.sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=0.01)


def test_flow_of_one_feature_is_the_normal_density():
    X = RNG.normal(5, 3, (500, 1))
    flow = NormalizingFlow(noise=0.0, random_state=0, lr=0.01, max_epochs=200).fit(X)
    fresh = np.linspace(-2, 12, 9)[:, None]
    expected = -norm.logpdf(standardized(fresh, X)).ravel()
    assert_allclose(-flow.score_samples(fresh), expected, atol=0.02)


def test_clusters_are_covered_and_what_is_between_is_not():
    X = np.concatenate([RNG.normal(-2, 0.5, (300, 2)), RNG.normal(2, 0.5, (300, 2))])
    iocn = IOCN(n_members=2, max_epochs=150, random_state=0).fit(X)
    background = RNG.uniform(-4, 4, (1000, 2))
    near = [np.linalg.norm(background - c, axis=1) < 1.5 for c in (-2, 2)]
    background = background[~(near[0] | near[1])]
    fresh = np.concatenate([RNG.normal(-2, 0.5, (300, 2)), RNG.normal(2, 0.5, (300, 2))])
    scores = -iocn.score_samples(np.concatenate([fresh, background]))
    assert roc_auc_score(np.arange(len(scores)) >= 600, scores) > 0.97
    inside = scores[:600] <= 0
    assert min(inside[:300].mean(), inside[300:].mean()) > 0.4
    assert iocn.diagnostics_["round_trip"].max() < 1e-3


def test_sphere_forgets_lengths():
    X = RNG.standard_normal((200, 3)) + 3
    for kind in (IOCN, NormalizingFlow):
        detector = kind(**QUICK, preprocessing="sphere").fit(X)
        scores = detector.score_samples(X)
        assert_allclose(detector.score_samples(7 * X), scores, rtol=1e-3, atol=1e-4)
        assert detector.score_samples([[0.0, 0.0, 0.0]]).shape == (1,)


# --- explanations ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iocn", "flow"])
def test_relevance_is_complete_without_its_correction(kind, request):
    detector = request.getfixturevalue(kind)
    references = detector.references_
    units, rows = standardized(references), standardized(FRESH)
    order = ((rows[:, None] - units) ** 2).sum(axis=2).argsort(axis=1)[:, :8]
    relevance = np.zeros_like(rows)
    score = ByAutograd(detector._scoring(detector._trained).score, (4,))
    times = (torch.arange(200) + 0.5) / 200  # the midpoint rule
    for j in range(8):
        start, end = torch.from_numpy(units[order[:, j]]), torch.from_numpy(rows)
        mean = sum(score.gradient(start + t * (end - start)) for t in times) / 200
        relevance += (mean * (end - start)).numpy() / 8
    scale = abs(relevance).max()
    assert_allclose(detector.explain(FRESH) / scale, relevance / scale, atol=0.01)
    expected = -detector.score_samples(references)[order].mean(axis=1)
    assert_allclose(detector.unattributed(FRESH), expected, rtol=1e-4, atol=1e-5)
    total = detector.explain(FRESH).sum(axis=1) + detector.unattributed(FRESH)
    assert_allclose(total, -detector.score_samples(FRESH), rtol=1e-3)
    # Alone the quadrature misses little, and it is this that is spread over the features.
    missed = relevance.sum(axis=1) - (-detector.score_samples(FRESH) - expected)
    assert np.median(abs(missed) / abs(detector.score_samples(FRESH))) < 0.01


def test_expected_gradients_of_a_product():
    class Product:
        def __call__(self, x):
            return x.prod(dim=-1)

        def gradient(self, x):
            return x.flip(-1)

    rows = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    references = torch.tensor([[[0.0, 0.0], [2.0, 1.0]]], dtype=torch.float64)
    # From (0, 0) each gets half of 6; from (2, 1) the second gets the gain of 4.
    relevance = expected_gradients(Product(), rows, references)
    assert_allclose(relevance, [[1.5, 3.5]], rtol=1e-10)


def test_a_swapped_feature_ranks_first(iocn, flow):
    normal = CORRELATED[:50]
    swapped = normal.copy()
    swapped[:, 2] += 3 * CORRELATED.std(axis=0)[2]
    for detector in (iocn, flow):
        assert (detector.explain(swapped).argmax(axis=1) == 2).mean() > 0.8


def test_references_score_low(iocn):
    scores = -iocn.score_samples(CORRELATED)
    assert (-iocn.score_samples(iocn.references_) <= np.median(scores)).all()
    assert len(iocn.references_) == 200


# --- counterfactuals -------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"preprocessing": "sphere"}, {"distance": "data"}])
def test_counterfactuals_are_normal(params):
    iocn = IOCN(**QUICK, **params).fit(CORRELATED)
    scores, normal = -iocn.score_samples(FRESH), iocn.counterfactual(FRESH)
    assert (-iocn.score_samples(normal) <= 1e-6).all()
    assert_array_equal(normal[scores <= 0], FRESH[scores <= 0])
    assert (abs(normal - FRESH)[scores > 0].max(axis=1) > 0).all()


def test_counterfactual_of_one_network_is_clipped_z():
    iocn = IOCN(**{**QUICK, "n_members": 1}).fit(CORRELATED)
    net = iocn.net_.module_.net
    with torch.no_grad():
        z = torch.from_numpy(z_of(iocn, FRESH)).clamp(-1, 1)
        clipped = net.inverse(z)[0].numpy()
    clipped = clipped * CORRELATED.std(axis=0) + CORRELATED.mean(axis=0)
    assert_allclose(iocn.counterfactual(FRESH), clipped, atol=0.01)


def test_counterfactual_of_far_rows_and_of_images():
    images = RNG.random((60, 3, 4))
    iocn = IOCN(**QUICK).fit(images)
    far = 1e5 * images[:5]
    normal = iocn.counterfactual(far)
    assert normal.shape == (5, 3, 4)
    assert (-iocn.score_samples(normal) <= 1e-6).all()
    assert abs(normal).max() < 10


def test_no_counterfactual_without_a_normal_row(iocn):
    apart = pickle.loads(pickle.dumps(iocn))
    apart.net_.module_.net.scale *= 1e6
    with pytest.raises(ValueError, match="None of 200 training rows that score low lies"):
        apart.counterfactual(FRESH)


def test_counterfactual_goes_back_to_where_all_networks_agree():
    digits = load_digits()
    threes, eights = (digits.data[digits.target == k] / 16 for k in (3, 8))
    iocn = IOCN(**{**QUICK, "max_epochs": 200}).fit(threes)
    normal = iocn.counterfactual(eights[:20])
    assert (-iocn.score_samples(normal) <= 1e-5).all()
    # By itself, what one network clips to is far out for the other.
    net, mean, scale = iocn.net_.module_.net, threes.mean(axis=0), threes.std(axis=0)
    scale[scale == 0] = 1
    with torch.no_grad():
        z = net(torch.from_numpy((eights[:20] - mean) / scale))
        clipped = net.inverse(z.clamp(-1, 1))[0].numpy() * scale + mean
    assert np.median(-iocn.score_samples(clipped)) > 0.1


def test_counterfactual_keeps_columns_that_never_vary():
    X = np.column_stack([CORRELATED, np.full(400, 1e-6)])
    iocn = IOCN(**QUICK).fit(X)
    normal = iocn.counterfactual(np.column_stack([FRESH, np.full(30, 1e-6)]))
    assert_array_equal(normal[:, 4], 1e-6)
    assert (-iocn.score_samples(normal) <= 1e-5).all()


def test_counterfactual_on_a_sphere_with_rows_of_zeros():
    X = CORRELATED + 1
    X[:240] = 0
    iocn = IOCN(**QUICK, preprocessing="sphere").fit(X)
    normal = iocn.counterfactual(FRESH)
    assert (-iocn.score_samples(normal) <= 1e-5).all()


# --- health ----------------------------------------------------------------------------


def test_diagnostics(iocn):
    found = iocn.diagnostics_
    inside = (abs(z_of(iocn, CORRELATED)).max(axis=2) <= 1).mean(axis=1)
    mixed = 0.9 * found["inside"] + 0.1 * found["inside_held_out"]
    assert_allclose(mixed, inside, atol=1e-6)
    assert found["refitted"] == 0
    assert (found["round_trip"] < 1e-4).all()
    assert ((found["gradient_norm"] > 0.01) & (found["gradient_norm"] < 50)).all()


def test_networks_that_fail_are_trained_again():
    wild = {**QUICK, "lr": 2.0, "lr_schedule": None, "held_out": 0.0}
    wild["net_params"] = {"optimizer__eps": 1e-8}
    with pytest.warns(ConvergenceWarning, match="of 2 networks were fitted badly: samples"):
        bad = IOCN(**wild, max_refits=0).fit(CORRELATED)
    assert np.isfinite(bad.score_samples(FRESH)).all()
    assert np.isfinite(bad.explain(FRESH)).all()
    with pytest.warns(
        ConvergenceWarning, match="trained again, at last with lr="
    ) as caught:
        mended = IOCN(**wild, max_refits=6).fit(CORRELATED)
    assert "now all is well" in str(caught[0].message)
    assert mended.diagnostics_["refitted"] > 0
    assert (mended.diagnostics_["round_trip"] < 1e-3).all()


def spoil_first():
    """Make a callback that spoils the first network of the first training."""

    class Spoil(Callback):
        n_fits = 0
        noise: list = []  # of the last column, in each batch

        def on_batch_begin(self, net, batch=None, training=None, **kwargs):
            Spoil.noise.append(batch[0][:, -1].std().item())

        def on_train_end(self, net, **kwargs):
            Spoil.n_fits += 1
            if Spoil.n_fits == 1:
                with torch.no_grad():
                    net.module_.net.o[0] = 1e6

    return Spoil()


def test_good_networks_are_kept_when_others_are_trained_again():
    spoil = spoil_first()
    with pytest.warns(ConvergenceWarning, match="1 of 2 networks") as caught:
        mended = IOCN(**QUICK, callbacks=[spoil]).fit(CORRELATED)
    assert "now all is well" in str(caught[0].message)
    assert spoil.n_fits == 2
    plain = IOCN(**QUICK).fit(CORRELATED)
    own, others = mended.member_scores(FRESH), plain.member_scores(FRESH)
    assert_allclose(own[:, 1], others[:, 1], rtol=1e-3, atol=1e-4)
    assert (abs(own[:, 0] - others[:, 0]) > 0.01).any()


def test_networks_that_are_trained_again_see_the_same_noise():
    spoil, X = spoil_first(), np.column_stack([CORRELATED, np.ones(400)])
    with pytest.warns(ConvergenceWarning, match="1 of 2 networks"):
        IOCN(**QUICK, noise=0.3, callbacks=[spoil]).fit(X)
    assert spoil.n_fits == 2
    assert len(spoil.noise) == 2 * 40 * 2  # trainings, epochs, batches
    assert 0.2 < min(spoil.noise) < max(spoil.noise) < 0.4


def test_a_cube_without_fresh_rows_is_told():
    X = RNG.standard_normal((40, 60))
    with pytest.warns(ConvergenceWarning, match="held-out rows, 0% lie within the cube"):
        IOCN(**{**QUICK, "max_epochs": 300, "lr": 0.01, "noise": 0.0}).fit(X)


def test_no_refit_after_an_interrupt():
    class Interrupt(Callback):
        n_fits = 0

        def on_train_begin(self, net, **kwargs):
            Interrupt.n_fits += 1

        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                raise KeyboardInterrupt

    wild = {**QUICK, "lr": 2.0, "lr_schedule": None, "max_refits": 3}
    with pytest.warns(ConvergenceWarning):
        stopped = IOCN(**wild, callbacks=[Interrupt()]).fit(CORRELATED)
    assert Interrupt.n_fits == 1
    assert np.isfinite(stopped.score_samples(FRESH)).all()


def test_rows_that_are_mostly_one():
    some = RNG.standard_normal((40, 2))
    inflated = RNG.permutation(np.concatenate([np.zeros((120, 2)), some, -some]))
    iocn = IOCN(**QUICK).fit(inflated)
    assert (iocn.diagnostics_["round_trip"] < 1e-3).all()
    assert -iocn.score_samples([[0.0, 0.0]]) < 0 < -iocn.score_samples([[5.0, -5.0]])
    same = IOCN(**QUICK).fit(np.full((50, 3), 1 / 3))
    assert -same.score_samples([[1 / 3] * 3]) < 0


def test_a_training_that_diverges_leaves_nothing():
    fitted = IOCN(**QUICK, warm_start=True).fit(CORRELATED)
    scores = fitted.score_samples(FRESH)
    with pytest.raises(ValueError, match="The training diverged"):
        fitted.set_params(lr=1e30, lr_schedule=None).fit(CORRELATED)
    assert_array_equal(fitted.score_samples(FRESH), scores)


def test_adam_of_torch_can_be_chosen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        iocn = IOCN(**QUICK, net_params={"optimizer": torch.optim.Adam}).fit(CORRELATED)
    assert np.isnan(iocn.diagnostics_["gradient_norm"]).all()


# --- edges -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [IOCN, NormalizingFlow])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_few_features(kind, d):
    X, fresh = RNG.standard_normal((100, d)), 3 * RNG.standard_normal((20, d))
    detector = kind(**QUICK).fit(X)
    total = detector.explain(fresh).sum(axis=1) + detector.unattributed(fresh)
    assert_allclose(total, -detector.score_samples(fresh), rtol=1e-4, atol=1e-4)
    far = detector.score_samples(np.full((1, d), 50.0))
    assert far < detector.score_samples(X).min()
    if kind is IOCN:
        assert (-detector.score_samples(detector.counterfactual(fresh)) <= 1e-6).all()


@pytest.mark.parametrize("kind", [IOCN, NormalizingFlow])
def test_constant_and_doubled_columns_and_rows(kind):
    X = np.column_stack([CORRELATED, np.full(400, 7.0), CORRELATED[:, 0]])
    X = np.concatenate([X, X[:100], X[:100]])
    detector = kind(**QUICK).fit(X)
    assert np.isfinite(detector.score_samples(X)).all()
    relevance = detector.explain(X[:10])
    assert_allclose(relevance[:, 4], 0, atol=1e-9)
    constant = np.ones((20, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        same = kind(**QUICK).fit(constant)
    assert np.isfinite(same.score_samples(RNG.standard_normal((5, 3)))).all()
    assert_array_equal(same.explain(constant), 0)


@pytest.mark.parametrize("kind", [IOCN, NormalizingFlow])
def test_files_of_weights_and_going_on(kind, tmp_path):
    fitted = kind(**QUICK).fit(CORRELATED)
    scores = fitted.score_samples(FRESH)
    for name in ("weights.pt", "weights.safetensors"):
        fitted.save_weights(tmp_path / name)
        loaded = kind(**QUICK).load_weights(tmp_path / name)
        assert_array_equal(loaded.score_samples(FRESH), scores)
        assert_array_equal(loaded.explain(FRESH), fitted.explain(FRESH))
        if kind is IOCN:
            assert_array_equal(loaded.diagnostics_["inside"], fitted.diagnostics_["inside"])
    other = clone(fitted).set_params(n_members=3)
    with pytest.raises(ValueError, match="shape"):
        other.load_weights(tmp_path / "weights.pt")
    fitted.set_params(warm_start=True, max_epochs=1).fit(CORRELATED)
    assert len(fitted.history_["train_loss"]) == 41
    fitted.partial_fit(CORRELATED[:100])
    assert len(fitted.history_["train_loss"]) == 42
    assert np.isfinite(fitted.score_samples(FRESH)).all()


def test_auto_is_a_thousand_steps():
    for n, epochs, rows in ((100, 1000, 90), (700, 334, 210)):
        iocn = IOCN(**SMALL)
        iocn.set_params(n_blocks=1, hidden=1, n_members=1).fit(RNG.standard_normal((n, 2)))
        assert len(iocn.history_["train_loss"]) == epochs
        assert iocn.net_.batch_size == rows


def test_parameters_of_a_fit_stay_those_of_the_fit(iocn):
    changed = pickle.loads(pickle.dumps(iocn))
    changed.set_params(preprocessing="sphere", n_members=3, clamp=0.1, hidden=2)
    assert_array_equal(changed.score_samples(FRESH), iocn.score_samples(FRESH))
    assert_array_equal(changed.counterfactual(FRESH), iocn.counterfactual(FRESH))
    with pytest.raises(ValueError, match="'n_references' parameter"):
        changed.set_params(n_references=0).unattributed(FRESH)


def test_the_net_goes_on_after_pickling(iocn):
    again = pickle.loads(pickle.dumps(iocn))
    again.net_.partial_fit(torch.randn(30, 4), None)
    again.partial_fit(CORRELATED[:1])


def test_weights_are_not_taken_for_those_of_the_other_kind(iocn, flow, tmp_path):
    for i, detector in enumerate((iocn, flow)):
        detector.save_weights(tmp_path / f"{i}.pt")
    for i, kind in enumerate((NormalizingFlow, IOCN)):
        with pytest.raises(ValueError, match="saved by a detector of another kind"):
            kind(**QUICK).load_weights(tmp_path / f"{i}.pt")


@pytest.mark.parametrize("size", [1e160, 1e-170])
def test_values_whose_squares_float64_has_no_room_for(size):
    with pytest.raises(ValueError, match="too large or too small"):
        IOCN(**QUICK).fit(size * CORRELATED)


@pytest.mark.filterwarnings("ignore")
def test_a_sphere_takes_any_values():
    huge = 1e305 * CORRELATED
    iocn = IOCN(**QUICK, preprocessing="sphere").fit(huge)
    own = IOCN(**QUICK, preprocessing="sphere").fit(CORRELATED)
    assert_allclose(iocn.score_samples(huge), own.score_samples(CORRELATED), atol=1e-3)


@pytest.mark.parametrize(
    ("pull", "match"),
    [
        (lambda z: z.abs(), "a number for each z"),
        (lambda z: z.abs().sum(), "a number for each z"),
        (lambda z: z.detach().numpy().max(axis=-1), "it gave ndarray"),
        (lambda z: z.detach().amax(dim=-1), "must have a gradient"),
        (lambda z: z.abs().amax(dim=-1) * np.nan, "The training diverged"),
    ],
)
def test_bad_pulls(pull, match):
    with pytest.raises(ValueError, match=match):
        IOCN(**QUICK, pull=pull).fit(CORRELATED)


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"pull": "min"}, ValueError, "'pull' parameter"),
        ({"n_members": 0}, ValueError, "'n_members' parameter"),
        ({"preprocessing": "whiten"}, ValueError, "'preprocessing' parameter"),
        ({"distance": "pixel"}, ValueError, "'distance' parameter"),
        ({"held_out": 0.999}, ValueError, "two at least must train"),
        ({"max_epochs": "paper"}, ValueError, "'max_epochs' parameter"),
        ({"net_params": {"lr": 1}}, ValueError, "which IOCN sets by parameters"),
        (
            {"net_params": {"optimizer__max_norm": 0}},
            ValueError,
            "max_norm must be positive",
        ),
    ],
)
def test_bad_parameters(params, error, match):
    detector = IOCN(**{**QUICK, **params})
    with pytest.raises(error, match=match):
        detector.fit(CORRELATED)
    assert not hasattr(detector, "net_")


def test_a_pull_of_ones_own():
    iocn = IOCN(**QUICK, pull=lambda z: z.abs().amax(dim=-1)).fit(CORRELATED)
    paper = IOCN(**QUICK).fit(CORRELATED)
    assert_array_equal(iocn.score_samples(FRESH), paper.score_samples(FRESH))
