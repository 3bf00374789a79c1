"""The one-class losses against closed forms in float64, by value and by gradient."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from skad.detectors._fcdd._loss import MapLoss
from skad.detectors._one_class._losses import (
    ClassifierLoss,
    HypersphereLoss,
    SADLoss,
    SVDDLoss,
    log_one_minus_exp,
    pseudo_huber,
)
from skad.neural._outliers import Targets
from skad.relevance._receptive_field import ReceptiveField
from skad.relevance._upsampling import GaussianUpsampling

NORMAL, UNLABELLED, ANOMALY = 1.0, 0.0, -1.0
PHI = np.logspace(-6, 2, 33)


def labels(*values):
    return Targets(torch.tensor(values, dtype=torch.float64), None)


def value_and_gradient(loss, output, y, dtype=torch.float32):
    output = torch.tensor(output, dtype=dtype, requires_grad=True)
    value = loss(output, None, y)
    value.backward()
    return value.item(), output.grad.double().numpy()


# Plain float64, from the squared distance s: the term, and its derivative by s.


def huber(s):
    return s / (np.sqrt(s + 1) + 1), 1 / (2 * np.sqrt(s + 1))


def pole(s):
    a, slope = huber(s)
    # -log(1 - exp(-a)); its derivative by a is -1 / (exp(a) - 1).
    near = -np.log(-np.expm1(-a)) if a < 0.7 else -np.log1p(-np.exp(-a))
    return near, -slope / np.expm1(a)


def cross_entropy(logit, sign):
    """Of ``log(1 + exp(sign logit))``: the value and the derivative by the logit."""
    return np.logaddexp(0, sign * logit), sign / (1 + np.exp(-sign * logit))


def focal(logit, sign):
    right = 1 / (1 + np.exp(sign * logit))  # the probability of the right class
    slope = -sign * right * (1 - right)
    value = (1 - right) ** 2 * -np.log(right)
    return value, slope * (2 * (1 - right) * np.log(right) - (1 - right) ** 2 / right)


DISTANCES = {
    (HypersphereLoss(), NORMAL): huber,
    (HypersphereLoss(), UNLABELLED): huber,
    (HypersphereLoss(), ANOMALY): pole,
    (SADLoss(3.0), UNLABELLED): lambda s: (s, 1.0),
    (SADLoss(3.0), NORMAL): lambda s: (3 * (s + 1e-6), 3.0),
    (SADLoss(3.0), ANOMALY): lambda s: (3 / (s + 1e-6), -3 / (s + 1e-6) ** 2),
    (SVDDLoss(), UNLABELLED): lambda s: (s, 1.0),
}
by_name = partial(map, lambda case: f"{type(case[0]).__name__}{case[1]:+.0f}")


@pytest.mark.parametrize(("case", "form"), DISTANCES.items(), ids=by_name(DISTANCES))
def test_distances(case, form):
    loss, label = case
    for phi in PHI:
        point = np.array([[0.6 * phi, -0.8 * phi]])
        expected, slope = form(float(np.float32(phi)) ** 2)
        value, gradient = value_and_gradient(loss, point, labels(label))
        assert value == pytest.approx(expected, rel=1e-5)
        assert_allclose(gradient, slope * 2 * point, rtol=1e-5, atol=1e-35)


@pytest.mark.parametrize("label", [NORMAL, ANOMALY])
@pytest.mark.parametrize(("focus", "form"), [(0.0, cross_entropy), (2.0, focal)])
def test_classifiers(focus, form, label):
    for logit in np.concatenate([-PHI[PHI < 15], PHI[PHI < 15]]):
        logit = float(np.float32(logit))
        expected, slope = form(logit, label)
        value, gradient = value_and_gradient(
            ClassifierLoss(focus), [[logit]], labels(label)
        )
        assert value == pytest.approx(expected, rel=1e-5)
        assert gradient == pytest.approx(slope, rel=1e-5)
    for logit in (-1e4, -100.0, 100.0, 1e4):
        value, gradient = value_and_gradient(
            ClassifierLoss(focus), [[logit]], labels(label)
        )
        assert value == pytest.approx(max(label * logit, 0), abs=1e-30)
        assert gradient == pytest.approx(label * (label * logit > 0), abs=1e-30)


# What exact arithmetic gives for a map of 7 x 7 equal deviations of one anomaly.
PAPER_28 = {
    1.0: (1.081, 2.812e-2),
    1e-1: (5.303, 4.061e-1),
    1e-2: (9.904, 4.081),
    1e-3: (14.509, 4.082e1),
    3e-4: (16.917, 1.361e2),
    1e-5: (23.719, 4.082e3),
}


@pytest.mark.parametrize("phi", PAPER_28)
def test_the_map_loss_near_the_pole(phi):
    output = np.full((1, 1, 7, 7), phi)
    value, gradient = value_and_gradient(MapLoss(), output, labels(ANOMALY))
    assert (value, abs(gradient).max()) == pytest.approx(PAPER_28[phi], rel=5e-4)


@pytest.mark.parametrize("label", [NORMAL, ANOMALY])
def test_the_map_loss_of_equal_deviations(label):
    for phi in PHI:
        phi = float(np.float32(phi))
        expected, slope = (pole if label < 0 else huber)(phi**2)
        output = np.full((1, 1, 3, 2), phi)
        value, gradient = value_and_gradient(MapLoss(), output, labels(label))
        assert value == pytest.approx(expected, rel=1e-5)
        assert_allclose(gradient, slope * 2 * phi / 6, rtol=1e-5, atol=1e-35)


@pytest.mark.parametrize("phi", [0.0, 1e-30, 1e-20, 1e-8, 1e6, 1e15])
@pytest.mark.parametrize("label", [NORMAL, UNLABELLED, ANOMALY])
def test_everything_is_finite(phi, label):
    for loss in (HypersphereLoss(), ClassifierLoss(), ClassifierLoss(2.0), SADLoss()):
        value, gradient = value_and_gradient(loss, [[phi]], labels(label))
        assert np.isfinite(value) and np.isfinite(gradient).all()
    output = np.full((1, 1, 4, 3), phi)
    mask = torch.ones(1, 1, *IMAGE_SIZE, dtype=torch.bool) if label < 0 else None
    for loss, given in ((MapLoss(), None), (MapLoss(upsampling()), mask)):
        y = Targets(labels(label).label, given)
        value, gradient = value_and_gradient(loss, output, y)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_gradients_are_kept_right_of_where_the_loss_is_capped():
    # The gradient by phi of -log(phi^2 / 2) is -2 / phi.
    for phi in (1e-14, 1e-9, 1e-4):
        _, gradient = value_and_gradient(HypersphereLoss(), [[phi]], labels(ANOMALY))
        assert gradient == pytest.approx(-2 / phi, rel=1e-4)


def test_log_one_minus_exp_is_continuous():
    a = torch.tensor([0.69, 0.6931, 0.69315, 0.7], dtype=torch.float64)
    expected = np.log(-np.expm1(-a.numpy()))
    assert_allclose(log_one_minus_exp(a).numpy(), expected, rtol=1e-14)
    assert_allclose(pseudo_huber(a).numpy(), np.sqrt(a.numpy() + 1) - 1, rtol=1e-14)


# By pixel.

IMAGE_SIZE, MAP_SIZE = (11, 9), (4, 3)


def upsampling():
    field = ReceptiveField(low=(-1.0, -2.0), high=(3.0, 3.0), jump=(3.0, 3.0))
    return GaussianUpsampling(field, IMAGE_SIZE, MAP_SIZE, sigma=1.3, normalize="partition")


def draw(n, seed=0):
    """Deviations, and masks, the last of which is empty."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(n, 1, *MAP_SIZE, generator=generator, dtype=torch.float64)
    mask = torch.rand(n, 1, *IMAGE_SIZE, generator=generator) < 0.3
    mask[-1] = False
    return output, mask


def test_equation_3_is_its_literal_form():
    output, mask = draw(5)
    y = Targets(torch.tensor([-1.0, -1, -1, -1, 1]), mask)
    total = 0
    for phi, marked in zip(output[:, 0], mask[:, 0].numpy(), strict=True):
        up = upsampling()(torch.sqrt(phi**2 + 1) - 1).numpy()
        total += np.where(marked, 0, up).sum() / up.size
        if marked.any():
            total -= np.log(1 - np.exp(-np.where(marked, up, 0).sum() / up.size))
    loss = MapLoss(upsampling())(output, None, y)
    assert loss.item() == pytest.approx(total / 5, rel=1e-12)


@pytest.mark.parametrize("label", [UNLABELLED, ANOMALY])
def test_without_a_mask_only_the_first_term_of_equation_3_counts(label):
    output, _ = draw(1)
    empty = torch.zeros(1, 1, *IMAGE_SIZE, dtype=torch.bool)
    loss = MapLoss(upsampling())(output, None, Targets(torch.tensor([label]), empty))
    everywhere = upsampling()(pseudo_huber(output.square())).mean()
    assert loss.item() == pytest.approx(everywhere.item(), rel=1e-12)


def test_a_whole_mask_has_only_the_last_term():
    output, mask = draw(1)
    y = Targets(torch.tensor([-1.0]), torch.ones_like(mask))
    a = upsampling()(pseudo_huber(output.square())).mean().item()
    loss = MapLoss(upsampling())(output, None, y).item()
    assert loss == pytest.approx(-np.log(1 - np.exp(-a)), rel=1e-12)


# Row by row.


def random_case(loss):
    generator = torch.Generator().manual_seed(0)
    size = {MapLoss: (6, 1, *MAP_SIZE), ClassifierLoss: (6, 1)}.get(type(loss), (6, 3))
    output = torch.randn(*size, generator=generator, dtype=torch.float64)
    mask = draw(6)[1] if getattr(loss, "upsampling", None) else None
    return output, Targets(labels(1.0, 0, -1, -1, 0, 1).label, mask)


LOSSES = {
    "hypersphere": HypersphereLoss(),
    "cross-entropy": ClassifierLoss(),
    "focal": ClassifierLoss(2.0),
    "Deep SAD": SADLoss(0.5),
    "Deep SVDD": SVDDLoss(),
    "by image": MapLoss(),
    "by pixel": MapLoss(upsampling()),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_batch_is_the_mean_of_its_rows(loss):
    output, y = random_case(loss)
    rows = [
        loss(
            output[i : i + 1],
            None,
            Targets(y.label[i : i + 1], None if y.mask is None else y.mask[i : i + 1]),
        )
        for i in range(6)
    ]
    torch.testing.assert_close(loss(output, None, y), torch.stack(rows).mean())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_are_those_of_differences(loss):
    output, y = random_case(loss)
    assert torch.autograd.gradcheck(
        lambda output: loss(output, None, y), output.requires_grad_()
    )


@pytest.mark.parametrize("start", [1e-6, 1e-3])
@pytest.mark.parametrize("by_pixel", [False, True])
def test_a_batch_of_anomalies_leaves_the_centre(start, by_pixel):
    phi = nn.Parameter(torch.full((4, 1, *MAP_SIZE), start))
    mask = torch.ones(4, 1, *IMAGE_SIZE, dtype=torch.bool) if by_pixel else None
    y = Targets(torch.full((4,), -1.0), mask)
    loss, optimizer = MapLoss(upsampling()), torch.optim.Adam([phi], lr=0.01)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        losses.append(loss(phi, None, y))
        losses[-1].backward()
        optimizer.step()
    assert phi.min() > 0.05
    assert all(after < before for before, after in pairwise(losses))


# The soft boundary.


def test_the_soft_boundary():
    output = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
    loss = SVDDLoss(nu=0.25, warm_up=1)
    assert loss(output, None, None).item() == pytest.approx((1 + 4 + 9 + 16) / 4 / 0.25)
    assert loss.squared_radius == 0
    second = loss(output, None, None).item()  # now at the 3/4 quantile, 9 + 7 / 4
    assert loss.squared_radius.item() == pytest.approx(10.75)
    assert second == pytest.approx(10.75 + (16 - 10.75) / 4 / 0.25)
    loss.eval()(2 * output, None, None)
    assert loss.squared_radius.item() == pytest.approx(10.75)
