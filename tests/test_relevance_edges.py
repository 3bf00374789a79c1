"""Edges of the rules of relevance, by hand: defaults, dtypes, arguments, guards."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from skad import KDE
from skad.images import View
from skad.relevance._class_activation import activation_relevance
from skad.relevance._distance import TemplateTiles
from skad.relevance._fold import fold_batch_norms
from skad.relevance._layers import LayerwiseRelevance
from skad.relevance._modules import close, shared_copy
from skad.relevance._path import ByAutograd, mean_gradient
from skad.relevance._pooling import Conserving, PowerMean
from skad.relevance._view_score import ViewHeads
from skad.relevance._whitening import Spectrum, best_regularization


class Function(nn.Module):
    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.function(self, x)


def first(output):
    return output[:, 0]


def neuron(*weights):
    module = nn.Linear(len(weights), 1, bias=False)
    module.weight.data = torch.tensor([weights], dtype=torch.float32)
    return module.eval()


# ---- layers


def test_relevance_is_that_of_the_difference_from_a_reference():
    reference = torch.tensor([0.5, 1.0])
    explain = LayerwiseRelevance(neuron(1, -0.25), gamma=0, reference=reference)
    relevance = explain(torch.tensor([[1.0, 3.0]]), first)
    assert_close(relevance, torch.tensor([[0.5, -0.5]]))


def test_a_square_row_is_seen_on_its_side():
    x = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Flatten())
    turned = Function(lambda m, x: m.layers(x.mT), layers=layers).eval()
    found = LayerwiseRelevance(turned, input_rule="wsquare")(x, first)
    upright = LayerwiseRelevance(layers.eval(), input_rule="wsquare")(x.mT, first)
    assert_close(found, upright.mT)


def test_a_feature_seen_twice_takes_what_both_get():
    twice = Function(lambda m, x: m.neuron(x[:, 1:].expand(-1, 2)), neuron=neuron(1, 3))
    explain = LayerwiseRelevance(twice.eval(), input_rule="wsquare")
    relevance = explain(torch.tensor([[7.0, 2.0]]), first)
    assert_close(relevance, torch.tensor([[0.0, 8.0]]))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (torch.zeros(2).double(), torch.ones(2, dtype=torch.int64)),
        (Fraction(0), Fraction(1)),
    ],
    ids=["tensors", "fractions"],
)
def test_bounds_of_any_type_keep_the_dtype_of_rows(low, high):
    explain = LayerwiseRelevance(neuron(1, -1), input_rule="zbox", low=low, high=high)
    # z = -0.6, split by 0.2 and 0.2.
    relevance = explain(torch.tensor([[0.2, 0.8]]), first)
    assert_close(relevance, torch.tensor([[-0.3, -0.3]]))


@pytest.mark.parametrize(
    ("error", "message", "bounds"),
    [
        (ValueError, r"low of shape \(2,\) does not", {"low": -torch.ones(2), "high": 1}),
        (TypeError, "low must be .* not str", {"low": "0", "high": 1}),
    ],
)
def test_bad_bounds_are_named(error, message, bounds):
    with pytest.raises(error, match=message):
        LayerwiseRelevance(neuron(1, 1, 1), input_rule="zbox", **bounds)(
            torch.rand(1, 3), first
        )


def test_a_network_that_gives_0_has_no_relevance():
    net = nn.Sequential(neuron(-1, -1), nn.ReLU()).eval()
    relevance = LayerwiseRelevance(net)(torch.ones(1, 2), first)
    assert_close(relevance, torch.zeros(1, 2))


def test_from_infinite_outputs_nothing_is_concluded():
    infinite = torch.tensor([1.0, torch.inf])
    assert close(torch.zeros(2), infinite)


def test_outputs_are_compared_in_units_of_their_own():
    small = torch.tensor([1e-6])
    assert not close(small, 2 * small)
    assert close(1e12 * small, 1e12 * small + 1)


def test_messages_name_the_module():
    training = nn.Sequential(nn.Linear(2, 2).train())
    training.training = False
    with pytest.raises(ValueError, match=r"^'0' \(Linear\) is in training mode"):
        LayerwiseRelevance(training)
    sigmoid = Function(lambda m, x: torch.sigmoid(x)).eval()
    with pytest.raises(TypeError, match=r"^Function is not made of its layers alone"):
        LayerwiseRelevance(sigmoid)(torch.ones(1, 2), first)


def test_gamma_0_takes_negative_activations_behind_an_input_rule():
    net = nn.Sequential(nn.Linear(2, 1), nn.LeakyReLU(0.1), nn.Linear(1, 1)).eval()
    net.load_state_dict(
        {
            "0.weight": torch.tensor([[-1.0, 0.5]]),
            "0.bias": torch.zeros(1),
            "2.weight": torch.tensor([[2.0]]),
            "2.bias": torch.zeros(1),
        }
    )
    explain = LayerwiseRelevance(net, gamma=0, input_rule="zbox", low=0, high=1)
    # o = 2 * 0.1 * -0.25, split by (x_1 - 1) (-1) = 0.5 to x_2 / 2 = 0.25.
    relevance = explain(torch.tensor([[0.5, 0.5]]), first)
    assert_close(relevance, torch.tensor([[-1 / 30, -1 / 60]]))


@pytest.mark.parametrize("rule", ["gamma", "wsquare"])
def test_arguments_of_layers_by_place(rule):
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(1, 2, 3, stride=2)
    padded = nn.ConvTranspose2d(1, 2, 3, stride=2, output_padding=1)
    padded.load_state_dict(up.state_dict())
    by_place = Function(lambda m, x: m.up(x, (8, 8)), up=up).eval()
    x = torch.rand(2, 1, 3, 3)

    def top(maps):
        return (maps**2).sum((1, 2, 3))

    found = LayerwiseRelevance(by_place, input_rule=rule)(x, top)
    assert_close(found, LayerwiseRelevance(padded.eval(), input_rule=rule)(x, top))


def test_a_module_that_calls_nothing_is_named_so():
    module = Function(lambda m, x: 2 * x, unused=nn.Linear(3, 3)).eval()
    with pytest.raises(ValueError, match="The first to be called is none"):
        LayerwiseRelevance(module, input_rule="wsquare")(torch.rand(2, 3), first)


def test_what_is_supported_is_listed_in_two_dimensions():
    with pytest.raises(TypeError, match="Supported are Linear, Conv2d, ConvT") as error:
        LayerwiseRelevance(nn.Sigmoid().eval())
    assert "MaxPool2d" in str(error.value)
    assert not any(end in str(error.value) for end in ("1d", "3d"))


def test_a_neuron_without_weights_gets_nothing_beside_a_negative_one():
    net = nn.Linear(2, 2, bias=False).eval()
    net.weight.data = torch.tensor([[0.0, 0.0], [-1.0, 0.0]])
    relevance = LayerwiseRelevance(net, gamma=1)(torch.ones(1, 2), lambda z: z.sum(1))
    assert_close(relevance, torch.tensor([[-1.0, 0.0]]))


def test_copies_share_memory_and_need_no_gradient():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    copied = shared_copy(net)
    for own, other in zip(
        net.state_dict().values(), copied.state_dict().values(), strict=True
    ):
        assert own.data_ptr() == other.data_ptr()
    fold_batch_norms(copied, torch.rand(1, 1, 3, 3))
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_networks_made_in_inference_mode():
    with torch.inference_mode():
        net = nn.Sequential(neuron(1, -0.25), nn.ReLU()).eval()
    relevance = LayerwiseRelevance(net, gamma=1)(torch.tensor([[1.0, 2.0]]), first)
    assert_close(relevance, torch.tensor([[2 / 3, -1 / 6]]))


# ---- places, distances and paths


def test_places_of_a_single_image():
    # One channel of weight 3, a mean over two places, a gradient of 1.
    relevance = activation_relevance(
        torch.tensor([[[1.0], [5.0]]]),
        torch.ones(1, 2, 1),
        torch.full((1, 2), 0.5).double(),
        torch.full((1, 1), 3.0).double(),
        torch.ones(1).double(),
    )
    assert_close(relevance, torch.tensor([[0.0], [6.0]]).double())


def test_templates_are_kept_in_the_dtype_that_is_asked_for():
    augmented = TemplateTiles.augment(np.array([[3.0, 4.0]]), np.float32)
    assert augmented.dtype == np.float32
    assert augmented.tolist() == [[3, 4, -25, 1]]


def test_relevance_near_a_template_that_is_far_from_the_others():
    # A product of matrices would have squares of 1.6e7 cancel down to 9e-4.
    templates = np.array([[-4000.0, 0, 0], [4000.0, 0, 0], [0, 4000.0, 4000.0]])
    relevance = KDE(bandwidth=1.0).fit(templates).explain([[-4000.0, 0.03, 0]])
    np.testing.assert_allclose(relevance, [[0, 9e-4, 0]], rtol=1e-9, atol=1e-15)


def test_distances_at_zero_or_by_rounding_below_it():
    assert PowerMean(1.0, 2.0).log_kernel(torch.tensor([1e-3])).tolist() == [0]
    assert Conserving().slope(None, torch.tensor([0.0, 2.0])).tolist() == [0, 0.5]


def test_a_later_tile_of_templates_is_nearer_by_more_than_exp_can_tell():
    # A tile holds 256 templates; those of the first are 1024 squared bandwidths farther.
    templates = np.r_[np.full(256, 40.0), 24.0][:, None]
    kde = KDE(bandwidth=np.sqrt(1 / 2)).fit(templates)
    np.testing.assert_allclose(kde.score_samples([[0.0]]), [-(576 + np.log(257))])
    np.testing.assert_allclose(kde.explain([[0.0]]), [[576.0]])


def test_rows_beyond_float32_are_refused_without_a_warning():
    kde = KDE(bandwidth=1.0, dtype="float32").fit([[0.0], [1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"distance to be a float32"):
            kde.score_samples([[1e100]])


class Kink:
    """The distance to 0."""

    def __call__(self, x):
        return x.abs().sum(-1)

    def gradient(self, x):
        return x.sign()


def test_the_mean_gradient_of_a_short_path_over_a_kink():
    start, end = torch.tensor([[-0.1], [0.2]]).double()
    gradient = mean_gradient(Kink(), start, end, n_nodes=3)
    assert_close(gradient, torch.tensor([1 / 3]).double())


def test_gradients_of_rows_of_any_shape():
    squares = ByAutograd(lambda rows: (rows**2).sum((1, 2)), row_shape=(1, 2))
    x = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]]).double()
    assert_close(squares(x), torch.tensor([[5.0, 9.0]]).double())
    assert_close(squares.gradient(x), 2 * x)


# ---- views


def test_heads_of_views_and_their_likeliest_classes():
    views = [View(turns=0), View(turns=1), View(turns=1, left=2)]
    joint = ViewHeads.of(views, "joint")
    assert (joint.names, joint.widths) == (["view"], [3])
    assert joint.targets.tolist() == [[0], [1], [2]]
    heads = ViewHeads.of(views, "separate")
    assert (heads.names, heads.widths) == (["turns", "left"], [2, 2])
    assert heads.targets.tolist() == [[0, 0], [1, 0], [1, 1]]
    right = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]])
    assert_close(heads.right(), right.double())
    # The logits of one image, and a fifth of something else.
    logits = torch.tensor([[[3.0, 1, 0, 2, 9], [0, 1, 5, 4, 9], [2, 3, 0, 1, 9]]])
    likeliest = torch.tensor([[[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]])
    assert_close(heads.predicted(logits), likeliest.double())


# ---- whitening


def test_what_is_singular_depends_on_no_unit():
    small = Spectrum(np.diag([1e-8, 2e-8]))
    np.testing.assert_allclose(np.sort(small.inverse(0)), [5e7, 1e8])
    with pytest.raises(ValueError, match="1 of the 2 eigenvalues"):
        Spectrum(np.diag([1e12, 1e-6])).inverse(0)


def test_of_equally_good_regularizations_the_nearest_to_the_default_is_taken():
    normal = np.random.default_rng(0).normal(size=(100, 2))
    assert best_regularization(normal, np.full((5, 2), 1e3)) == pytest.approx(1e-4)
