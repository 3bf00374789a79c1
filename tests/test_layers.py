"""LRP through layers against dense R-propagation, golden values and invariants."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close

from skad.relevance._layers import LayerwiseRelevance

LOW, HIGH = -0.25, 1.25
BOX = {"input_rule": "zbox", "low": LOW, "high": HIGH}
RULES = [{"input_rule": "gamma"}, {"input_rule": "wsquare"}, BOX]
GAMMAS = [0, 0.25, 10]


class Function(nn.Module):
    """What a user's forward may do between layers."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Fused(nn.Sequential):
    """A linear layer and its batch norm: one linear map in the reference."""


class Residual(nn.Sequential):
    def forward(self, x):
        out = super().forward(x)
        out += x
        return out


class L2Pool(nn.Module):
    def forward(self, x):
        return F.lp_pool2d(x, 2, 2, stride=1)


class Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


MAX = (nn.MaxPool1d, nn.MaxPool2d)
AVERAGE = (nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d)
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, Fused)


def as_matrix(layer, shape):
    """W (inputs, outputs) and b of a linear layer, by what it makes of unit vectors."""
    b = layer(torch.zeros(1, *shape).double()).flatten()
    units = torch.eye(shape.numel()).double().view(-1, *shape)
    return layer(units).flatten(1) - b, b


def share(numerators, R, bias=0):
    """``R_j = sum_k n_jk / (sum_j' n_j'k + bias_k) R_k``, 0/0 = 0."""
    total = numerators.sum(0) + bias
    ratio = numerators / torch.where(total == 0, torch.inf, total)
    return (ratio * R).sum(1)


def gamma_rule(a, W, b, R, gamma):
    plus = a[:, None] * (W + gamma * W.clamp(min=0)), b + gamma * b.clamp(min=0)
    minus = a[:, None] * (W + gamma * W.clamp(max=0)), b + gamma * b.clamp(max=0)
    positive = a @ W + b > 0
    rules = zip(plus, minus, strict=True)
    numerators, bias = (torch.where(positive, p, m) for p, m in rules)
    return share(numerators, R, bias)


def input_rule(x, W, R, rule):
    if rule == "wsquare":
        return share(W**2, R)
    return share(x[:, None] * W - LOW * W.clamp(min=0) - HIGH * W.clamp(max=0), R)


def pool_rule(pool, a, R):
    inside = pool(torch.eye(a.numel()).double().view(-1, *a.shape)).flatten(1) > 0
    a = torch.where(inside, a.flatten()[:, None], 0)
    if isinstance(pool, MAX):
        return share(F.one_hot(a.argmax(0), len(a)).T * a, R)
    return share(a if isinstance(pool, AVERAGE) else a**2, R)


def reference(steps, x, R, gamma, rule):
    """R at the input of some steps, one after the other; x without batch dimension."""
    activations = [x]
    for step in steps:
        activations.append(step(activations[-1][None])[0])
    for step, a in zip(steps[::-1], activations[-2::-1], strict=True):
        # A view of x is x still.
        sees = a.data_ptr() == x.data_ptr() and rule != "gamma"
        R = step_back(step, a, R.flatten(), gamma, rule if sees else "gamma").view_as(a)
    return R


def step_back(step, a, R, gamma, rule):
    if isinstance(step, Residual):
        f = nn.Sequential(*step)(a[None])[0]
        ratio = R.view_as(a) / torch.where(f + a == 0, torch.inf, f + a)
        return a * ratio + reference([*step], a, f * ratio, gamma, rule)
    if isinstance(step, LINEAR):
        W, b = as_matrix(step, a.shape)
        gamma = gamma[step] if isinstance(gamma, dict) else gamma
        if rule != "gamma":
            return input_rule(a.flatten(), W, R, rule)
        return gamma_rule(a.flatten(), W, b, R, gamma)
    if isinstance(step, (*MAX, *AVERAGE, nn.LPPool2d, L2Pool)):
        return pool_rule(step, a, R)
    if isinstance(step, Swap):
        return R.view(*a.shape[::-1]).T
    return R  # ReLU, flatten, dropout


def make_nets():
    """Shapes of a row, and networks as steps, by name."""
    torch.manual_seed(0)
    relu, inplace, flat = Function(F.relu), nn.ReLU(inplace=True), nn.Flatten()
    conv1d = nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2)
    conv2d = nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2)
    transposed = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1)
    grouped = nn.ConvTranspose2d(4, 4, 3, groups=2, bias=False)
    same, conv = nn.Linear(6, 6), nn.Conv2d(2, 2, 3, padding=1)
    block = [Residual(conv, inplace, nn.Conv2d(2, 2, 1)), relu]
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm1d(3)
    fused = [Fused(conv2d, norms[0]), Fused(grouped, norms[1])]
    nets = {
        "signed": ((6,), [nn.Linear(6, 9), inplace, nn.Linear(9, 4)]),
        "conv1d": ((2, 9), [conv1d, inplace, nn.MaxPool1d(2), flat, nn.Linear(8, 3)]),
        "conv2d": ((2, 6, 6), [conv2d, relu, L2Pool(), nn.Conv2d(4, 2, (2, 3), (2, 1))]),
        "conv3d": ((1, 3, 3, 3), [nn.Conv3d(1, 2, 2), relu, nn.AvgPool3d(2), flat]),
        "average": ((2, 5, 5), [nn.Conv2d(2, 3, 3, padding=1), relu, nn.AvgPool2d(3, 2)]),
        "transposed": (
            (2, 3, 3),
            [transposed, relu, nn.MaxPool2d(3, 2), nn.Conv2d(3, 2, 2)],
        ),
        "reused": ((6,), [same, relu, same, inplace, nn.Dropout(), same]),
        "residual": ((2, 6, 6), [*block, nn.LPPool2d(2, 2), flat, nn.Linear(18, 3)]),
        "reused block": ((2, 6, 6), [*block, *block, conv, nn.AdaptiveAvgPool2d(2)]),
        "flattened": ((2, 3, 2), [flat, nn.Linear(12, 5), relu]),
        "swapped": ((3, 4), [Swap(), nn.Linear(3, 5), relu, flat]),
        "norms": ((2, 5, 5), [fused[0], inplace, fused[1], relu, flat]),
        "norm1d": ((6,), [Fused(nn.Linear(6, 3), norms[2]), relu]),
    }
    for norm in norms:
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)
        if norm.affine:
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.uniform_(norm.bias)
    return nets


NETS = make_nets()


def build(name, dtype=torch.float64):
    """The module and three rows in [0, 1], with black pixels."""
    shape, steps = NETS[name]
    module = copy.deepcopy(nn.Sequential(*steps)).to(dtype).eval()
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return module, x * (x > 0.2)


def squared_norm(output):
    """A top of the form of appendix A.4."""
    output = output.flatten(1)
    W = torch.linspace(-1, 2, output[0].numel() * 4).sin().view(4, -1).to(output)
    z = output @ W.T
    return (z * z.detach()).sum(1)


def assert_matches(module, x, gamma, rule, named_gamma=None):
    explain = LayerwiseRelevance(module, gamma=named_gamma or gamma, **rule)
    with torch.no_grad():
        phi = module(x)
    phi.requires_grad_()
    R = phi * torch.autograd.grad(squared_norm(phi).sum(), phi)[0]
    with torch.no_grad():
        rows = zip(x, R, strict=True)
        R = [reference([*module], a, r, gamma, rule["input_rule"]) for a, r in rows]
    assert_close(explain(x, squared_norm), torch.stack(R), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["input_rule"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", NETS)
def test_equals_dense_propagation(name, gamma, rule):
    assert_matches(*build(name), gamma, rule)


def test_a_gamma_for_each_layer():
    module, x = build("conv1d")
    gammas = {module[0]: 0.5, module[4]: 0}
    assert_matches(module, x, gammas, RULES[0], named_gamma={"0": 0.5})


def neuron(*weights):
    module = nn.Linear(len(weights), 1, bias=False)
    module.weight.data = torch.tensor([weights]).double()
    return module.eval()


def first(output):
    return output[:, 0].flatten()


@pytest.mark.parametrize(
    ("module", "options", "x", "expected"),
    [
        (neuron(1, -1 / 4), {"gamma": 1}, [1, 2], [2 / 3, -1 / 6]),
        (neuron(-1, 1 / 4), {"gamma": 1}, [1, 2], [-2 / 3, 1 / 6]),
        (
            neuron(1, -1),
            {"input_rule": "zbox", "low": 0, "high": 1},
            [0.2, 0.8],
            [-0.3, -0.3],
        ),
        (neuron(1, -1), {"input_rule": "zbox", "low": 0, "high": 1}, [0, 1], [0, 0]),
        (neuron(1, -3), {"input_rule": "wsquare"}, [-2, 1], [-0.5, -4.5]),
        (nn.LPPool1d(2, 2).eval(), {}, [[3, 4]], [[9 / 5, 16 / 5]]),
    ],
)
def test_golden_values(module, options, x, expected):
    R = LayerwiseRelevance(module, **options)(torch.tensor([x]).double(), first)
    assert_close(R, torch.tensor([expected]).double())


def bias_free():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.ReLU(), nn.LPPool2d(2, 2)]
    layers += [nn.Conv2d(6, 8, 3, bias=False), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers).double().eval()


def test_without_bias_nothing_is_lost():
    module, x = bias_free(), torch.rand(4, 1, 8, 8).double()
    score = squared_norm(module(x))
    for gamma in GAMMAS:
        for rule in RULES:
            R = LayerwiseRelevance(module, gamma=gamma, **rule)(x, squared_norm)
            assert_close(R.sum((1, 2, 3)), score, rtol=1e-9, atol=1e-9)


def test_gamma_0_is_half_of_gradient_times_input():
    for module in (build("residual")[0], nn.Sequential(nn.LeakyReLU(), nn.Flatten())):
        x = torch.randn(3, 2, 6, 6).double().requires_grad_()
        o = (module.eval()(x) ** 2).sum()
        expected = x.detach() * torch.autograd.grad(o, x)[0] / 2
        R = LayerwiseRelevance(module, gamma=0)(x, lambda z: (z * z.detach()).sum(1))
        assert_close(R, expected, rtol=1e-12, atol=1e-12)


def test_greater_gamma_leaves_less_negative_relevance():
    module, x = bias_free(), torch.rand(4, 1, 8, 8).double()
    values = [LayerwiseRelevance(module, gamma=g)(x, squared_norm).min() for g in GAMMAS]
    assert values[0] < values[1] < values[2]
    assert values[0] < 0


def test_bounds_of_channels_follow_a_view():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU()).double().eval()
    x = torch.rand(3, 2, 3, 2).double()
    scale, shift = (
        torch.tensor([2.0, 5]).view(2, 1, 1),
        torch.tensor([1.0, -3]).view(2, 1, 1),
    )
    options = {"input_rule": "zbox", "low": shift, "high": scale + shift}
    R = LayerwiseRelevance(module, **options)(x * scale + shift, squared_norm)
    flat = {key: (options[key] * torch.ones(2, 3, 2)).flatten() for key in ("low", "high")}
    explain = LayerwiseRelevance(module[1:].eval(), input_rule="zbox", **flat)
    assert_close(R.flatten(1), explain((x * scale + shift).flatten(1), squared_norm))


def test_padding_that_repeats_pixels_is_a_step_of_its_own():
    x, pad = torch.rand(2, 1, 5, 5).double(), nn.ReflectionPad2d(1)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    inner = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    inner.load_state_dict(module.state_dict())
    x.requires_grad_()
    for rule in RULES:
        R = LayerwiseRelevance(module.double().eval(), **rule)(x, squared_norm)
        inside = LayerwiseRelevance(inner.double().eval(), **rule)(pad(x), squared_norm)
        assert_close(R, torch.autograd.grad(pad(x), x, inside)[0])


class Named(nn.Module):
    """Calls its layers by names of arguments."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 2, 3, stride=2)

    def forward(self, x):
        up = F.relu(self.up(input=x, output_size=(8, 8)))
        return self.up(up[:, 1:], output_size=(18, 18))


def test_arguments_of_layers_by_name():
    module, x = Named().double().eval(), torch.rand(2, 1, 3, 3).double()
    first, second = copy.deepcopy(module.up), copy.deepcopy(module.up)
    first.output_padding = second.output_padding = (1, 1)
    plain = nn.Sequential(first, nn.ReLU(), Function(lambda up: up[:, 1:]), second).eval()
    for rule in RULES:
        expected = LayerwiseRelevance(plain, **rule)(x, squared_norm)
        assert_close(LayerwiseRelevance(module, **rule)(x, squared_norm), expected)


def state(module):
    tensors = [*module.named_parameters(), *module.named_buffers()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    return (
        hooks,
        [(name, t.data_ptr(), t._version, t.requires_grad, t.grad) for name, t in tensors],
        [(type(m), m.training, sorted(vars(m))) for m in module.modules()],
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["input_rule"])
def test_the_module_and_its_output_stay_as_they_are(rule):
    module, x = build("residual")
    before, random, outputs = state(module), torch.get_rng_state(), []

    def top(output):
        outputs.append(output.detach().clone())
        if len(outputs) == 1:
            raise KeyError("from top")
        return squared_norm(output)

    explain = LayerwiseRelevance(module, **rule)
    with pytest.raises(KeyError, match="from top"):
        explain(x, top)
    assert state(module) == before
    R = explain(x, top)
    assert state(module) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(outputs[0], module(x))
    assert torch.equal(outputs[1], module(x))
    assert torch.equal(R, explain(x, squared_norm))
    assert not R.requires_grad


def test_hooks_of_the_user_keep_working():
    module, x = build("signed")
    calls = []
    module[0].register_forward_hook(lambda layer, args, out: calls.append(1) or 2 * out)
    doubled, _ = build("signed")
    doubled.insert(1, Function(lambda out: 2 * out))
    R = LayerwiseRelevance(module)(x, squared_norm)
    assert calls
    assert_close(R, LayerwiseRelevance(doubled.eval())(x, squared_norm))


@pytest.mark.parametrize("name", ["residual", "norms", "flattened"])
def test_callers(name):
    """Rows one by one, float32, strides, gradients, modes and threads change nothing."""
    module, x = build(name)
    explain = LayerwiseRelevance(module, **BOX)
    R = explain(x, squared_norm)
    assert_close(torch.cat([explain(row[None], squared_norm) for row in x]), R)
    assert_close(explain(x[1:], squared_norm), R[1:])
    assert_close(explain(x[:1].expand_as(x), squared_norm), R[:1].expand_as(x))
    assert len(explain(x[:0], squared_norm)) == 0
    strided = (
        x.flip(0).permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0).requires_grad_()
    )
    assert_close(explain(strided, squared_norm), R.flip(0))
    single = LayerwiseRelevance(copy.deepcopy(module).float(), **BOX)(
        x.float(), squared_norm
    )
    assert single.dtype == torch.float32
    assert_close(single.double(), R, rtol=1e-5, atol=1e-5 * R.abs().max().item())
    with torch.inference_mode():
        inside = LayerwiseRelevance(module, **BOX)(x + 0, squared_norm)
        assert_close(explain(x + 0, squared_norm), R)
    with torch.no_grad():
        assert_close(explain(x, squared_norm), R)
    assert_close(inside.clone(), R)


def test_threads_share_an_object():
    module, x = build("residual")
    inputs = [x * scale for scale in np.linspace(0.1, 1, 20)]
    alone = [LayerwiseRelevance(module, **BOX)(x, squared_norm) for x in inputs]
    explain = LayerwiseRelevance(module, **BOX)
    with ThreadPoolExecutor(2) as pool:
        together = pool.map(lambda x: explain(x, squared_norm), inputs)
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)


class OwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.scale * x


class OwnLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight**2)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Sigmoid(), r"'1.0' \(Sigmoid\) is not supported. Supported are Linear, Conv2d"),
        (nn.GELU(), r"'1.0' \(GELU\)"),
        (nn.LayerNorm(3), r"'1.0' \(LayerNorm\)"),
        (nn.LSTM(3, 3), r"'1.0' \(LSTM\)"),
        (nn.MultiheadAttention(3, 1), r"'1.0' \(MultiheadAttention\)"),
        (nn.LazyLinear(3), r"'1.0' \(LazyLinear\)"),
        (nn.LeakyReLU(), r"'1.0' \(LeakyReLU\) .* needs gamma=0"),
        (parametrizations.weight_norm(nn.Linear(3, 3)), r"'1.0' .* is parametrised"),
        (
            prune.identity(nn.Linear(3, 3), "weight"),
            r"'1.0' \(Linear\) computes its weight",
        ),
        (OwnLinear(3, 3), r"'1.0' \(OwnLinear\) overrides Linear.forward"),
        (OwnParameter(), r"'1.0' \(OwnParameter\) has parameters of its own"),
        (nn.BatchNorm1d(3, track_running_stats=False), r"'1.0' .* no running statistics"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_unsupported_modules_are_named(layer, message):
    module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(layer)).eval()
    with pytest.raises(TypeError, match=message):
        LayerwiseRelevance(module)


class TwoNorms(nn.Module):
    """A layer with two norms, or the same one and itself."""

    def __init__(self, second):
        super().__init__()
        self.linear, self.first, self.second = nn.Linear(3, 3), nn.BatchNorm1d(3), second
        self.first.running_mean += 1

    def forward(self, x):
        out = self.linear(x)
        return self.first(out) + self.second(out)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.BatchNorm1d(3)), "'0' .* not come directly .* was none"),
        (
            nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.BatchNorm1d(3)),
            r"'2' \(BatchNorm1d\) does not come directly .* '0' \(Linear\)",
        ),
        (
            nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Linear(1, 3), nn.BatchNorm1d(3)),
            "'2' .* not come directly .* '1'",
        ),
        (TwoNorms(nn.BatchNorm1d(3)), "'linear' .* feeds both 'first' .* and 'second'"),
        (TwoNorms(nn.Identity()), "Folding 'first' .* changes the output"),
        (nn.Sequential(nn.Linear(3, 3), Function(torch.sigmoid)), "not made of its layers"),
        (nn.Sequential(Function(lambda x: x - 0.5), nn.Linear(3, 3)), "adds? a constant"),
        (Function(lambda x: (x, x)), "must return a tensor, not tuple"),
    ],
)
def test_what_a_forward_hides_is_found(module, message):
    with pytest.raises(TypeError, match=message):
        LayerwiseRelevance(module.eval())(torch.rand(2, 3), first)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "gamma must be finite and at least 0, but is -1", {"gamma": -1}),
        (ValueError, "gamma must be finite", {"gamma": np.nan}),
        (TypeError, "gamma must be a number or a dict", {"gamma": "0.25"}),
        (TypeError, "gamma must be a number or a dict", {"gamma": {"0": None}}),
        (ValueError, r"gamma has \['1'\], but .* are \['0'\]", {"gamma": {"1": 1}}),
        (ValueError, "must be one of .*'gamma', 'wsquare', 'zbox'", {"input_rule": "z"}),
        (ValueError, "needs low and high", {"input_rule": "zbox", "low": 0}),
        (ValueError, "low must be less", {"input_rule": "zbox", "low": 0, "high": 0}),
        (ValueError, "must be finite", {"input_rule": "zbox", "low": -np.inf, "high": 0}),
        (TypeError, "high must be a number", {"input_rule": "zbox", "low": 0, "high": "1"}),
        (
            ValueError,
            r"high of shape \(2,\) does not fit rows of shape \(3,\)",
            {"input_rule": "zbox", "low": 0, "high": torch.ones(2)},
        ),
    ],
)
def test_bad_parameters(error, message, options):
    module = nn.Sequential(nn.Linear(3, 3)).eval()
    with pytest.raises(error, match=message):
        LayerwiseRelevance(module, **options)(torch.rand(2, 3), first)


@pytest.mark.parametrize(
    ("error", "message", "x", "top"),
    [
        (TypeError, "floating-point", torch.ones(2, 3, dtype=torch.int64), first),
        (TypeError, "floating-point", np.ones((2, 3)), first),
        (ValueError, r"'0' \(Linear\) goes down to -1.*another input_rule", -1, first),
        (ValueError, r"'1' \(Linear\) goes down to -2.*a ReLU or gamma=0", 1, first),
        (ValueError, r"shape \(2,\)", 0, lambda output: output),
        (ValueError, "does not depend", 0, lambda output: first(output).detach()),
    ],
)
def test_bad_calls(error, message, x, top):
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3)).eval()
    module[0].weight.data = -2 * torch.eye(3)
    x = x * torch.ones(2, 3) if isinstance(x, int) else x
    with pytest.raises(error, match=message):
        LayerwiseRelevance(module)(x, top)


def test_the_layer_before_an_input_rule_is_named():
    module = nn.Sequential(nn.AvgPool1d(2), nn.Linear(2, 3)).eval()
    with pytest.raises(ValueError, match=r"first to be called is '0' \(AvgPool1d\)"):
        LayerwiseRelevance(module, input_rule="wsquare")(torch.rand(2, 4), first)
    module[0] = Function(lambda x: x[:, 2:]).eval()
    with pytest.raises(ValueError, match=r"No linear layer sees .* '0' \(Function\)"):
        LayerwiseRelevance(module, input_rule="wsquare")(torch.rand(2, 4), first)
    with pytest.raises(ValueError, match=r"\(Linear\) is in training mode"):
        LayerwiseRelevance(module.eval()[1].train())
    with pytest.raises(TypeError, match=r"must be a .*Module, not function"):
        LayerwiseRelevance(first)
