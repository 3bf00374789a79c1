"""Invertible networks: maps, determinants, losses, and the optimiser of several at once."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import norm

from skad.detectors._invertible._cube import (
    cube_distance,
    geometric_mean,
    row_distance,
)
from skad.detectors._invertible._losses import (
    PULLS,
    CubeNet,
    DensityNet,
    Likelihood,
    PullAndPush,
)
from skad.detectors._invertible._member_adam import MemberAdam
from skad.neural import InvertibleNet


def make_net(d, n_members=2, seed=0, strength=0.5, **params):
    """Make a network whose blocks bend: a new one is a rotation."""
    torch.manual_seed(seed)
    net = InvertibleNet(d, n_members=n_members, n_blocks=3, hidden=16, **params)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += strength * torch.randn_like(parameter)
        net.scale.copy_(torch.tensor([0.5, 1.5, 2.0])[:n_members, None, None])
    return net


def jacobians(function, x):
    return [torch.autograd.functional.jacobian(function, row) for row in x]


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_map_is_inverted_and_its_determinant_is_autograds(d):
    net = make_net(d)
    x = 3 * torch.randn(4, d, dtype=torch.float64)
    z, log_det = net(x, log_det=True)
    assert z.shape == (2, 4, d)
    assert_allclose(net.inverse(z).detach(), x.expand(2, 4, d), atol=1e-8)
    for member in range(2):
        by_autograd = [
            torch.linalg.slogdet(jac)[1].item()
            for jac in jacobians(lambda row, m=member: net(row[None])[m, 0], x)
        ]
        assert_allclose(log_det[member].detach(), by_autograd, atol=1e-8)


def test_a_new_network_is_a_rotation():
    net = InvertibleNet(5, n_members=3)
    x = torch.randn(20, 5, dtype=torch.float64)
    z, log_det = net(x, log_det=True)
    lengths = x.norm(dim=1).expand(3, 20)
    assert_allclose(z.norm(dim=2).detach(), lengths, rtol=1e-12)
    assert_allclose(log_det.detach(), 0, atol=1e-12)
    assert abs(z[0] - z[1]).max() > 0.1, "members have the same rotations"


def test_float32_on_the_cube_and_float64_far_away():
    net = make_net(6, strength=0.2)
    cube = 2 * torch.rand(2, 2000, 6) - 1
    assert abs(net(net.inverse(cube)) - cube).max() < 1e-4
    far = 1e4 * torch.randn(50, 6, dtype=torch.float64)
    assert abs(net.inverse(net(far)) / far - 1).max() < 1e-6
    rounded = make_net(6, strength=0.2).float()  # casts parameters, never rotations
    assert abs(rounded.inverse(rounded(far)) / far - 1).max() < 1e-6


def test_scales_are_clamped():
    net = make_net(4, n_members=1, strength=50.0, clamp=0.5)
    net.scale.fill_(1.0)
    _, log_det = net(100 * torch.randn(100, 4), log_det=True)
    n_scales = 3 * (4 + 2)  # three blocks; four features, two of them moved
    assert abs(log_det).max() <= n_scales * 0.5 + 1e-4


def test_copies():
    net = make_net(3)
    x = torch.randn(5, 3)
    again = pickle.loads(pickle.dumps(net))
    other = make_net(3, seed=1)
    other.load_state_dict(net.state_dict())
    for copied in (again, other):
        assert torch.equal(copied(x), net(x))
        assert copied.rotation.dtype == torch.float64


# --- distances -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "distance"),
    [
        ([0.0, 0.0, 0.0], -1.0),
        ([0.25, -0.75, 0.5], -0.25),
        ([1.0, -1.0, 1.0], 0.0),
        ([-3.0, 0.0, 0.5], 2.0),
        ([-3.0, 1.5, 4.25], 5.75),
        ([2.0], 1.0),
        ([-0.5], -0.5),
    ],
)
def test_distance_to_the_cube_by_hand(z, distance):
    assert cube_distance(torch.tensor(z)).item() == distance


def test_geometric_mean_by_hand():
    scores = torch.tensor([[3.0, -0.5, 0.0], [0.0, -0.5, -0.75]])
    assert_allclose(geometric_mean(scores), [1.0, -0.5, -0.5], rtol=1e-6)
    assert torch.equal(geometric_mean(scores[:1]), scores[0])
    centre = geometric_mean(torch.tensor([[-1.0], [99.0]]))
    assert centre.item() == pytest.approx(0.0, abs=1e-6), "a centre counts as radius 0.01"


def test_distance_of_rows_by_hand():
    net = InvertibleNet(3)  # a rotation keeps distances
    z = torch.tensor([[[3.0, 0.0, -5.0], [0.5, 0.25, 0.0]]], dtype=torch.float64)
    x = net.inverse(z)[0].detach().requires_grad_()
    distance = row_distance(net, x)
    assert_allclose(distance.detach(), [[20**0.5, -0.5]], rtol=1e-10)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert torch.isfinite(gradient).all()


# --- losses ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PULLS)
def test_pulls_are_near_the_largest(name):
    z = torch.randn(200, 6)
    largest = z.abs().amax(1)
    assert (abs(PULLS[name](z) - largest) <= 0.3 * largest.clamp(min=1)).all()
    assert torch.isfinite(PULLS[name](1e20 * z)).all()


def test_samples_of_the_cube_are_mapped_back_without_a_gradient():
    net = make_net(3, strength=0.2)
    output = CubeNet(net)(torch.randn(50, 3))
    assert output.shape == (2, 100, 3)
    samples = output[:, 50:].detach()
    assert samples.abs().max() < 1 + 1e-4
    assert samples.min() < -0.9 and samples.max() > 0.9
    # With a gradient through the inverse too, the samples would have none at all.
    gradients = torch.autograd.grad(output[:, 50:].square().sum(), [*net.parameters()])
    assert max(g.abs().max() for g in gradients) > 0.1


def cube_gradient(rows, scale):
    """Norm of the gradient of IOCN's loss for a rotation-free map ``scale * x``."""
    torch.manual_seed(0)
    net = InvertibleNet(3, n_blocks=1)
    net.rotation.copy_(torch.eye(3))
    net.scale.fill_(scale)
    PullAndPush()(CubeNet(net)(rows), rows, None).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return sum(g.square().sum() for g in gradients).sqrt().item()


def test_the_map_of_the_rows_onto_the_cube_is_a_fixed_point():
    # Theorem 3.1: uniform rows and the identity; 100,000 of them are exact to about 0.01.
    rows = 2 * torch.rand(100_000, 3) - 1
    assert cube_gradient(rows, 1.0) < 0.03
    assert cube_gradient(rows, 1.5) > 0.3
    assert cube_gradient(rows, 0.6) > 0.3


def test_likelihood_by_hand():
    net = make_net(1, n_members=1)
    x = torch.linspace(-2, 2, 5)[:, None].double()
    (z, log_det), at = net(x, log_det=True), net(torch.zeros(1, 1).double())
    slope = (net(torch.ones(1, 1).double()) - at).item()  # one feature: an affine map
    assert_allclose(log_det.detach()[0], np.log(abs(slope)), atol=1e-10)
    density = norm.logpdf(z.detach().numpy()).ravel() + np.log(abs(slope))
    loss = Likelihood()(DensityNet(net)(x), x, None)
    assert loss.item() == pytest.approx(-density.mean(), abs=1e-10)


def test_likelihood_is_robust_by_hand():
    z, log_det = torch.tensor([[[12.0, -1.0]]]), torch.tensor([[0.5]])
    # 12^2 / 2 is replaced by 10^2 / 2 + 10 (12 - 10).
    loss = Likelihood()((z, log_det), None, None).item()
    assert loss == pytest.approx(70 + 0.5 + np.log(2 * np.pi) - 0.5, rel=1e-6)
    far = torch.tensor([[[1e10]]], requires_grad=True)
    loss = Likelihood()((far, torch.zeros(1, 1)), None, None)
    loss.backward()
    assert loss.item() == pytest.approx(1e11, rel=1e-6)
    assert far.grad.item() == 10


def test_members_train_as_they_would_alone():
    both, x = make_net(4), torch.randn(30, 4)
    loss = Likelihood()(DensityNet(both)(x), x, None)
    loss.backward()
    losses = []
    for member in range(2):
        alone = make_net(4, n_members=1, seed=1)
        alone.load_state_dict({k: v[[member]] for k, v in both.state_dict().items()})
        own = Likelihood()(DensityNet(alone)(x), x, None)
        own.backward()
        losses.append(own.item())
        for mine, theirs in zip(alone.parameters(), both.parameters(), strict=True):
            assert_allclose(mine.grad[0], theirs.grad[member], rtol=1e-4, atol=1e-4)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_gradients_are_clipped_network_by_network():
    weights = [
        torch.nn.Parameter(torch.zeros(3, 1, 2)),
        torch.nn.Parameter(torch.zeros(3, 4, 1)),
    ]
    optimizer = MemberAdam(weights, lr=0.1)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    weights[0].grad[1], weights[1].grad[1] = 0.01, 0.0
    weights[1].grad[2] = torch.nan
    optimizer.step()
    assert_allclose(optimizer.norms[0], [6**0.5, 0.01 * 2**0.5, np.inf], rtol=1e-5)
    assert_allclose(weights[0].grad[0], 6**-0.5, rtol=1e-5)
    assert_allclose(weights[1].grad[0], 6**-0.5, rtol=1e-5)
    assert_allclose(weights[0].grad[1], 0.01, rtol=1e-5)
    # Adam's first step is g / (|g| + eps), with eps = 1 / sqrt(6) here.
    eps = 6**-0.5
    assert_allclose(weights[0].detach()[0], -0.1 * eps / (eps + eps), rtol=1e-4)
    assert_allclose(weights[0].detach()[1], -0.1 * 0.01 / (0.01 + eps), rtol=1e-4)
    assert not weights[1].detach()[2].any(), "a gradient that is no number made a step"
