"""What GEO is made of: Dirichlet estimates, scores of views, the loss, the networks."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad_vec
from scipy.special import digamma, log_softmax, softmax
from scipy.stats import dirichlet
from torch import nn

from skad.detectors._geo._calibration import ViewCalibration
from skad.detectors._geo._dirichlet import fit_dirichlet
from skad.detectors._geo._networks import make_view_network
from skad.detectors._geo._training import ViewLoss, ViewTargets
from skad.images import View, geometric_views
from skad.relevance._class_activation import activation_relevance
from skad.relevance._path import mean_gradient
from skad.relevance._view_score import ViewHeads, ViewScore

RNG = np.random.default_rng(0)
FLIP = [View(), View(mirrored=True)]


# --- Dirichlet distributions -----------------------------------------------------------


def means_of(alpha):
    """Means of log y and of y under a Dirichlet distribution."""
    return digamma(alpha) - digamma(alpha.sum()), alpha / alpha.sum()


@pytest.mark.parametrize(
    "alpha",
    [
        (2, 3, 5),
        (1e-4, 50, 1e-3, 0.3),
        (1e-4,) * 71 + (5e3,),
        (1e5, 1, 1, 1),
        (0.5,) * 8,
        (92_928, 0.05, 0.02, 0.2, 0.1, 0.03, 0.1, 0.02),
    ],
    ids=str,
)
def test_newton_finds_the_parameters_from_their_own_means(alpha):
    alpha = np.array(alpha, dtype=float)
    found = fit_dirichlet(*means_of(alpha), max_iter=10)
    assert_allclose(found, alpha, rtol=1e-8)


def test_newton_finds_the_maximum_of_the_likelihood():
    y = dirichlet([2.0, 0.7, 4.0]).rvs(200, random_state=0)
    means = np.log(y).mean(0), y.mean(0)
    found = fit_dirichlet(*means)

    def likelihood(alpha):
        return sum(dirichlet(alpha).logpdf(row) for row in y)

    best = likelihood(found)
    for direction in RNG.standard_normal((20, 3)):
        assert likelihood(found + 1e-3 * direction) < best


def test_gaps_of_10_000_between_logits_leave_it_finite():
    z = RNG.uniform(-1, 1, size=(50, 8))
    z[:, 0] += np.geomspace(1, 1e4, 50)
    log_y = log_softmax(z, axis=1)
    alpha = fit_dirichlet(log_y.mean(0), np.exp(log_y).mean(0))
    assert np.isfinite(alpha).all() and (alpha > 0).all()
    # At the maximum the expected logarithms are the observed ones.
    assert_allclose(means_of(alpha)[0], log_y.mean(0), rtol=1e-6)
    # Where all gaps are so large, y is 0 and 1 to the last bit: there is no maximum.
    calibration = ViewCalibration(ViewHeads.of(FLIP, "joint"), FLIP)
    certain = 1e4 * np.eye(2) + RNG.uniform(size=(50, 2, 2))
    calibration.add(torch.from_numpy(certain), torch.zeros(50, 2, 1))
    alpha, n_failed = calibration.dirichlet()
    assert n_failed == 2
    assert_array_equal(alpha, 1 + np.eye(2))


def test_no_distribution_for_samples_that_are_all_alike():
    y = np.array([0.2, 0.8])
    assert fit_dirichlet(np.log(y), y) is None
    assert fit_dirichlet(np.array([-np.inf, 0.0]), np.array([0.0, 1.0])) is None
    assert fit_dirichlet(np.array([-1.0, np.nan]), np.array([0.5, 0.5])) is None


# --- heads, scores, gradients ----------------------------------------------------------

VIEWS = geometric_views((8, 8))
HEADS = {kind: ViewHeads.of(VIEWS, kind) for kind in ("joint", "separate")}


def test_heads():
    assert HEADS["joint"].widths == [72]
    assert HEADS["separate"].widths == [4, 3, 3]
    turns, up, left = HEADS["separate"].targets.T
    assert_array_equal(turns, [view.turns for view in VIEWS])
    assert_array_equal(2 * (up - 1), [view.up for view in VIEWS])
    assert_array_equal(2 * (left - 1), [view.left for view in VIEWS])
    with pytest.raises(ValueError, match="two views at least"):
        ViewHeads.of([View()], "joint")
    with pytest.raises(ValueError, match="two turns or shifts at least"):
        ViewHeads.of(FLIP, "separate")


def by_hand(kind, heads, alpha, z, view):
    """The paper's formulas for one view, head by head, in numpy."""
    total, start = 0.0, 0
    for head, width in enumerate(heads.widths):
        own = z[start : start + width]
        right = heads.targets[view, head]
        if kind == "dirichlet":
            total -= (alpha[view, start : start + width] - 1) @ log_softmax(own)
        elif kind == "simple":
            total -= softmax(own)[right]
        else:
            total -= log_softmax(own)[right]
        start += width
    return total


@pytest.mark.parametrize("kind", ["dirichlet", "simple", "log"])
@pytest.mark.parametrize("which", HEADS)
def test_scores_of_views_and_their_gradients(kind, which):
    heads = HEADS[which]
    alpha = RNG.gamma(0.5, size=(72, heads.n_logits))
    score = ViewScore(kind, heads, torch.from_numpy(alpha))
    # Two logits more, of classes, count for nothing.
    z = torch.from_numpy(3 * RNG.standard_normal((2, 72, heads.n_logits + 2)))
    expected = [
        [by_hand(kind, heads, alpha, r[i], i) for i in range(72)] for r in z.numpy()
    ]
    assert_allclose(score(z), expected, rtol=1e-10)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(score(z).sum(), z)
    assert_allclose(score.gradient(z.detach()), gradient, rtol=1e-8, atol=1e-10)
    some = ViewScore(kind, heads.subset([5, 70]), score.alpha[[5, 70]])
    assert_allclose(some(z.detach()[:, [5, 70]]), np.array(expected)[:, [5, 70]])


def test_the_mean_gradient_is_the_integral_and_makes_up_the_difference():
    heads = ViewHeads(torch.tensor([[1]]), [5], ["view"])
    alpha = torch.tensor([[0.1, 40.0, 0.3, 0.2, 0.7]], dtype=torch.float64)
    start, end = torch.from_numpy(3 * RNG.standard_normal((2, 1, 5)))
    for kind in ("dirichlet", "simple", "log"):
        score = ViewScore(kind, heads, alpha)
        mean = mean_gradient(score, start, end)
        exact, _ = quad_vec(
            lambda t, s=score: s.gradient(start + t * (end - start)).numpy(), 0, 1
        )
        assert_allclose(mean, exact, rtol=1e-6, atol=1e-8)
        far = start + 1e4 * (end - start)
        product = (mean_gradient(score, start, far) * (far - start)).sum()
        assert_allclose(product, score(far) - score(start), rtol=1e-9)
    still = mean_gradient(score, start, start)
    assert_allclose(still, score.gradient(start), rtol=1e-12)


def test_relevance_of_places_by_brute_force():
    maps, reference = RNG.standard_normal((2, 3, 4, 5, 5))
    weights, gradient = RNG.standard_normal((6, 16)), RNG.standard_normal((3, 6))
    net = make_view_network(lambda s: nn.Conv2d(1, 4, 1), (1, 5, 5), 6)
    net.pool = nn.AdaptiveAvgPool2d((2, 2))
    cells = net.cells()
    assert_allclose(cells.sum(1), 1)
    found = activation_relevance(
        *(torch.from_numpy(a) for a in (maps, reference)),
        cells,
        *(torch.from_numpy(a) for a in (weights, gradient)),
    )
    expected = np.zeros((3, 5, 5))
    for n, c, d in np.ndindex(3, 4, 4):
        share = cells[c].numpy().reshape(5, 5)
        backed = weights[:, d * 4 + c] @ gradient[n]
        expected[n] += share * (maps[n, d] - reference[n, d]) * backed
    assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    pooled = [
        nn.functional.adaptive_avg_pool2d(torch.from_numpy(a), 2) for a in (maps, reference)
    ]
    change = ((pooled[0] - pooled[1]).flatten(1).numpy() @ weights.T * gradient).sum(1)
    assert_allclose(found.sum((1, 2)), change, rtol=1e-9)


def test_the_loss_by_hand():
    heads = ViewHeads(torch.tensor([[0, 1], [2, 0]]), [3, 2], ["turns", "up"])
    z = torch.from_numpy(RNG.standard_normal((4, 7))).float()
    view = torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0]])
    label = torch.tensor([0.0, 1.0, -1.0, 1.0])
    loss = ViewLoss(heads, n_classes=2)(z, None, ViewTargets(view, label))
    terms = []
    for row, right, own in zip(
        z.double().numpy(), view.numpy(), label.numpy(), strict=True
    ):
        parts = [log_softmax(row[:3]), log_softmax(row[3:5])]
        if own == -1:
            terms.append(-0.5 * np.mean([p.mean() for p in parts]))
            continue
        told = -np.mean([p[r] for p, r in zip(parts, right, strict=True)])
        terms.append(told - log_softmax(row[5:])[int(own)])
    assert_allclose(loss, np.mean(terms), rtol=1e-5)


# --- the networks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "n_weights", "features"),
    [
        ("wrn-10-4", (1, 32, 32), 1_214_456, 256),
        ("wrn-10-4", (3, 32, 32), 1_214_744, 256),
        ("wrn-16-8", (3, 64, 64), 11_103_768, 2048),
    ],
)
def test_the_paper_s_networks_have_the_paper_s_sizes(name, shape, n_weights, features):
    net = make_view_network(name, shape, 72)
    assert sum(p.numel() for p in net.parameters()) == n_weights
    assert net.heads.in_features == features
    assert net(torch.zeros(2, *shape)).shape == (2, 72)


@pytest.mark.parametrize(
    "shape", [(1, 1, 2), (1, 1, 9), (1, 3, 4), (2, 16, 40), (3, 96, 96)]
)
def test_the_small_network_takes_any_size(shape):
    net = make_view_network("auto", shape, 6)
    assert net(torch.zeros(2, *shape)).shape == (2, 6)
    assert all(n <= side for n, side in zip(net.field.size, shape[1:], strict=True))
