"""Receptive fields against gradients, and upsampling against Algorithm 1 of FCDD."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from skad.neural._backbones import _make_layers
from skad.relevance._receptive_field import ReceptiveField, receptive_field
from skad.relevance._upsampling import (
    GaussianUpsampling,
    check_fits,
    default_sigma,
    gaussian_matrix,
)

C = 2  # channels of the small networks


class Function(nn.Module):
    """What a user's forward may do between layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)
        self.register_buffer("filter", torch.ones(C, 1, 3, 2))
        self.offset = nn.Parameter(torch.ones(C, 1, 1))

    def forward(self, x):
        return self.function(x, self, *self.layers)


def conv(*args, **options):
    return nn.Conv2d(C, C, *args, **options)


def residual(main, shortcut=None):
    def forward(x, m, main, *shortcut):
        y = main(x)
        y += shortcut[0](x) if shortcut else x
        return y

    return Function(forward, main, *([] if shortcut is None else [shortcut]))


def frozen(x, m, layer):
    with torch.no_grad():
        return layer(x)


def in_place(x, m, layer):
    y = layer(x)
    y.add_(x)
    return y


# The geometries of the FCDD paper and of known networks: size, jump, start.


def fmnist():
    first, second = nn.Conv2d(1, 8, 5, padding=2), nn.Conv2d(8, 8, 5, padding=2)
    layers = [first, nn.BatchNorm2d(8), nn.LeakyReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, second, nn.MaxPool2d(2), nn.Conv2d(8, 1, 1))


def cifar():
    convs = [nn.Conv2d(3, 4, 3, padding=1), *(nn.Conv2d(4, 4, 3, padding=1) for _ in "123")]
    first, second, third, last = convs
    layers = [first, nn.LeakyReLU(), nn.MaxPool2d(2), second, nn.LeakyReLU(), third]
    return nn.Sequential(*layers, nn.MaxPool2d(2), last, nn.Conv2d(4, 1, 1))


def small_kernels():
    def pool():
        return nn.MaxPool2d(3, 2, padding=1)

    def same():
        return conv(3, padding=1)

    layers = [nn.Conv2d(3, C, 3, padding=1), pool(), same(), pool(), same(), same(), pool()]
    return nn.Sequential(*layers, same(), nn.Conv2d(C, 1, 1))


def wide_resnet():
    def block(stride):
        main = nn.Sequential(conv(3, stride, padding=1), nn.ReLU(), conv(3, padding=1))
        return residual(main, conv(1, stride))

    return nn.Sequential(nn.Conv2d(3, C, 3, padding=1), block(1), block(2), block(2))


def vgg():
    return nn.Sequential(*_make_layers("vgg11_bn").features[:21], nn.Conv2d(512, 1, 1))


@pytest.mark.parametrize(
    ("make", "shape", "map_size", "size", "jump", "start"),
    [
        (fmnist, (1, 28, 28), (7, 7), 16, 4, 1.5),
        (cifar, (3, 32, 32), (8, 8), 22, 4, 1.5),
        (vgg, (3, 224, 224), (28, 28), 62, 8, 3.5),
        (small_kernels, (3, 224, 224), (28, 28), 53, 8, 0),
        (wide_resnet, (3, 32, 32), (8, 8), 25, 4, 0),
        (lambda: _make_layers("resnet18")[:6], (3, 224, 224), (28, 28), 99, 8, 0),
        (lambda: _make_layers("squeezenet1_1").features[:7], (3, 64, 64), (7, 7), 47, 8, 7),
    ],
    ids=["FMNIST", "CIFAR", "VGG11", "3x3", "WRN-10-4", "ResNet-18", "SqueezeNet"],
)
def test_known_geometries(make, shape, map_size, size, jump, start):
    with torch.device("meta"):
        net = make()
    field = receptive_field(net)
    assert field.size == (size, size)
    assert field.jump == (jump, jump)
    assert field.start == (start, start)
    assert net(torch.empty(1, *shape, device="meta")).shape[2:] == map_size


# The gradient oracle. All weights and pixels are positive, so that nothing cancels.

STEPS = {
    "strided": conv(3, stride=2, padding=1),
    "rectangular": conv((2, 5), stride=(1, 3), padding=(0, 2)),
    "dilated": conv((3, 2), dilation=(2, 3), padding=(2, 1)),
    "depthwise": conv(3, groups=C),
    "same": conv((4, 3), padding="same", dilation=(1, 2)),
    "valid": conv(2, padding="valid"),
    "reflecting": conv(3, padding=1, padding_mode="reflect"),
    "zeros": nn.ZeroPad2d((3, 0, 1, 2)),
    "cropped": nn.ZeroPad2d((-1, 2, -2, 0)),
    "reflected": nn.Sequential(nn.ReflectionPad2d((2, 1, 1, 2)), conv((6, 5))),
    "replicated": nn.Sequential(nn.ReplicationPad2d((1, 2, 0, 1)), conv((3, 5))),
    "average": nn.AvgPool2d((3, 2), stride=(2, 1), padding=1),
    "ceil": nn.AvgPool2d(3, ceil_mode=True),
    "lp": nn.LPPool2d(2, (2, 3), stride=(1, 2)),
    "residual": residual(nn.Sequential(conv(3, padding=1), conv((1, 5), padding=(0, 2)))),
    "shifted": residual(conv(3, 2), nn.Sequential(nn.ZeroPad2d((1, -1, 0, 0)), conv(3, 2))),
    "cat": Function(
        lambda x, m, a, b, c: c(torch.cat([a(x), b(x)], dim=1)),
        *(conv((3, 1), padding=(1, 0)), conv((1, 5), padding=(0, 2))),
        nn.Conv2d(2 * C, C, 1),
    ),
    "F.conv2d": Function(lambda x, m: F.conv2d(x, m.filter, None, (2, 1), 1, groups=C)),
    "F.avg_pool2d": Function(lambda x, m: F.avg_pool2d(x, (3, 2), padding=1)),
    "F.lp_pool2d": Function(lambda x, m: F.lp_pool2d(x, 2, 3, stride=1)),
    "F.pad": Function(lambda x, m: F.conv2d(F.pad(x, (2, 1)), m.filter, groups=C)),
    "huber": Function(lambda x, m: torch.sqrt((m.offset - x / 2) ** 2 + 1.0) - 1),
    "in place": Function(in_place, nn.ZeroPad2d((2, -2, 0, 0))),
    "norm": nn.Sequential(nn.BatchNorm2d(C), nn.Softplus(), nn.Dropout2d(), nn.GELU()),
}
UPSAMPLING = {
    "transposed": nn.ConvTranspose2d(C, C, (4, 3), (2, 1), padding=(1, 2), dilation=(1, 2)),
    "nearest": nn.Upsample(scale_factor=(2, 3)),
    "nearest uneven": nn.Upsample(scale_factor=(4 / 3, 0.6)),
    "exact": nn.Upsample(scale_factor=(3, 2), mode="nearest-exact"),
    "exact uneven": nn.Upsample(scale_factor=(4 / 3, 0.6), mode="nearest-exact"),
    "bilinear": nn.Upsample(scale_factor=(2, 3), mode="bilinear"),
    "bilinear uneven": nn.Upsample(scale_factor=(1.4, 0.6), mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=(2, 1.3), mode="bicubic"),
    "aligned": nn.UpsamplingBilinear2d(scale_factor=(2, 1.3)),
    "nearest layer": nn.UpsamplingNearest2d(size=(13, 15)),
    "size": nn.Upsample(size=(13, 35), mode="bilinear"),
    "F.interpolate": Function(
        lambda x, m, f: F.interpolate(f(x), size=x.shape[-2:]), conv(3, 2, padding=1)
    ),
    "antialias": Function(
        lambda x, m: F.interpolate(x, None, (0.4, 2), "bilinear", antialias=True)
    ),
    "recomputed": nn.Upsample(
        scale_factor=1.3, mode="bilinear", recompute_scale_factor=True
    ),
}
MAXIMA = {
    "maximum": nn.MaxPool2d((3, 2), stride=(2, 3), padding=1, dilation=(1, 2)),
    "F.max_pool2d": Function(lambda x, m: F.max_pool2d(x, 3, padding=(0, 1))),
}


def positive(*steps):
    """A network with weights in [0.1, 1]."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(*copy.deepcopy(steps)).double().eval()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.1, 1, generator=generator)
    return net


def dependence(net, height, width):
    """Whether output (i, j) changes with pixel (y, x): booleans (u, v, H, W)."""
    x = torch.rand(1, C, height, width, generator=torch.Generator().manual_seed(1)).double()
    u, v = net(x).shape[2:]
    x = x.repeat(u * v, 1, 1, 1).requires_grad_()
    own = net(x).sum(1).flatten(1).diagonal()
    return (torch.autograd.grad(own.sum(), x)[0] != 0).any(1).view(u, v, height, width)


def edges(field, axis, n_outputs):
    """First and last pixel of each output; a pixel is a whole number."""
    shift = torch.arange(n_outputs).double() * field.jump[axis]
    first, last = field.low[axis] + shift, field.high[axis] + shift
    return (first - 1e-9).ceil(), (last + 1e-9).floor()


def assert_within(seen, field):
    for axis in range(2):
        used = seen.any(3 - axis).any(1 - axis)  # outputs and pixels of this axis
        first, last = edges(field, axis, len(used))
        pixels = torch.arange(used.shape[1])
        inside = (pixels >= first[:, None]) & (pixels <= last[:, None])
        assert not (used & ~inside).any()


def assert_edges(seen, field):
    """Outputs whose field lies in the image see its first and its last pixels."""
    for axis in range(2):
        used = seen.any(3 - axis).any(1 - axis)
        first, last = edges(field, axis, len(used))
        whole = (first >= 0) & (last < used.shape[1])
        assert whole.any()
        seen_first = used.int().argmax(1)
        seen_last = used.shape[1] - 1 - used.int().flip(1).argmax(1)
        assert_close(seen_first[whole], first[whole], check_dtype=False)
        assert_close(seen_last[whole], last[whole], check_dtype=False)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", STEPS)
def test_a_step_against_gradients(name):
    net = positive(STEPS[name])
    seen, field = dependence(net, 15, 18), receptive_field(net)
    assert_within(seen, field)
    assert_edges(seen, field)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_against_gradients(seed):
    names = np.random.default_rng(seed).choice([*STEPS], 3)
    net = positive(*(STEPS[name] for name in names))
    seen, field = dependence(net, 31, 40), receptive_field(net)
    assert_within(seen, field)
    assert_edges(seen, field)


@pytest.mark.parametrize("name", [*UPSAMPLING, *MAXIMA])
def test_between_convolutions_nothing_else_is_seen(name):
    first, step = conv(3, stride=(2, 1), padding=1), (UPSAMPLING | MAXIMA)[name]
    for net in (positive(step), positive(first, step, conv((3, 2)))):
        field = receptive_field(net, input_shape=(C, 24, 20))
        assert_within(dependence(net, 24, 20), field)


@pytest.mark.parametrize(
    ("step", "low", "high", "jump"),
    [
        (MAXIMA["maximum"], (-1, -1), (1, 1), (2, 3)),
        (MAXIMA["F.max_pool2d"], (0, -1), (2, 1), (3, 3)),
        (nn.Upsample(scale_factor=2), (-1 / 2, -1 / 2), (0, 0), (1 / 2, 1 / 2)),
        (UPSAMPLING["bilinear"], (-5 / 4, -4 / 3), (3 / 4, 2 / 3), (1 / 2, 1 / 3)),
        (Function(frozen, conv((3, 1), 2)), (0, 0), (2, 0), (2, 2)),
    ],
    ids=["maximum", "F.max_pool2d", "nearest", "bilinear", "frozen"],
)
def test_golden_fields(step, low, high, jump):
    field = receptive_field(step)
    assert [*field.low, *field.high, *field.jump] == pytest.approx([*low, *high, *jump])


class Scaling(nn.Module):
    """A first step that looks at its input, so that it cannot be traced."""

    pointwise = True

    def forward(self, x):
        return x[:, [1, 0]] - 1 if x.ndim == 4 else x


def test_pointwise_modules_are_not_traced():
    class Traced(Scaling):
        pointwise = False

    field = receptive_field(nn.Sequential(Scaling(), conv(3)))
    assert (field.low, field.high, field.jump) == ((0, 0), (2, 2), (1, 1))
    with pytest.raises(ValueError, match=r"Sequential cannot be traced.*control flow"):
        receptive_field(nn.Sequential(Traced(), conv(3)))


def test_a_layer_named_pointwise_is_a_layer():
    separable = nn.Sequential()
    separable.depthwise, separable.pointwise = conv(3, groups=C), conv(1, 2)
    field = receptive_field(nn.Sequential(separable))
    assert (field.size, field.jump) == ((3, 3), (2, 2))


def test_the_module_is_left_as_it_is():
    def forward(x, m, layer, norm):
        if m.training:
            raise AssertionError("This is another network than the one in eval mode.")
        return F.interpolate(norm(layer(x)) * m.filter.sum(), (9, 9))

    module = Function(forward, conv(3), nn.BatchNorm2d(C))
    attributes, state = set(dir(module)), copy.deepcopy(module.state_dict())
    receptive_field(module, input_shape=(C, 8, 8))
    assert set(dir(module)) == attributes
    assert all(child.training for child in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert_close(module.state_dict(), state, rtol=0, atol=0)


def test_other_threads_may_call_modules_meanwhile():
    other, outputs = nn.Sequential(nn.Linear(1, 1)), []

    def forward(x, m, layer):
        thread = threading.Thread(target=lambda: outputs.append(other(input=torch.ones(1))))
        thread.start()
        thread.join()
        return layer(x)

    assert receptive_field(Function(forward, conv(3))).size == (3, 3)
    assert_close(outputs, [other(torch.ones(1))])


def function(forward, *layers):
    return nn.Sequential(conv(3), Function(forward, *layers))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(conv(3), nn.Flatten(), nn.Linear(8, 2)), r"'1' \(Flatten\)"),
        (nn.Sequential(conv(3), nn.Linear(8, 2)), r"'1' \(Linear\).*fully convolutional"),
        (nn.Linear(8, 2), r"the module itself \(Linear\)"),
        (_make_layers("squeezenet1_1"), r"'pool' \(AdaptiveAvgPool2d\).*whole image"),
        (nn.Sequential(nn.Sequential(nn.AdaptiveMaxPool2d(2))), r"'0.0' \(AdaptiveMaxPool"),
        (nn.GroupNorm(1, C), r"GroupNorm"),
        (nn.BatchNorm2d(C, track_running_stats=False), r"BatchNorm2d.*running statistics"),
        (conv(3, padding=1, padding_mode="circular"), r"Conv2d.*opposite border"),
        (function(lambda x, m: F.pad(x, (1, 1), "circular")), r"pad\(\).*opposite border"),
        (function(lambda x, m: x.mean((2, 3))), r"mean\(\)"),
        (function(lambda x, m: x - x.amax()), r"amax\(\)"),
        (function(lambda x, m: F.adaptive_avg_pool2d(x, 1)), r"adaptive_avg_pool2d\(\)"),
        (
            function(lambda x, m: F.avg_pool2d(x, x.shape[2:])),
            r"avg_pool2d\(\).*(depends on|must be tuple of ints, not Proxy)",
        ),
        (function(lambda x, m: x @ x.transpose(2, 3)), r"transpose\(\)"),
        (function(lambda x, m: torch.cat([x, x], 2)), r"cat\(\).*channels"),
        (function(lambda x, m: F.interpolate(x, (5, 5), mode="area")), r"'area'"),
        (nn.Upsample(size=5), r"Upsample.*Pass input_shape=\(C, H, W\)"),
        (UPSAMPLING["aligned"], r"UpsamplingBilinear2d.*input_shape"),
        (residual(conv(3, 2, padding=1)), r"add\(\) joins.*2\.0.*the input.*1\.0"),
        (
            function(lambda x, m: x.relu() if x.sum() > 0 else x),
            r"cannot be traced.*control",
        ),
        (function(lambda x, m: (x, x)), r"one tensor"),
        (function(lambda x, m: m.offset * 2), r"one tensor that depends on its input"),
    ],
)
def test_what_has_no_field_is_named(net, message):
    with pytest.raises(ValueError, match=message):
        receptive_field(net)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"must be \(C, H, W\), not \(9, 9\)"):
        receptive_field(nn.Upsample(size=5), input_shape=(9, 9))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, not str"):
        receptive_field("resnet18")


# Upsampling. Geometries are (start, jump, size) in rows and in columns.

GEOMETRIES = {
    "odd": ((0, 2, 5), (1, 3, 7)),
    "even": ((1.5, 4, 16), (0.5, 1, 2)),
    "gaps": ((0.5, 8, 2), (2, 5, 3)),
    "outside": ((-9, 4, 3), (-1.25, 6.5, 4.5)),
    "single": ((8, 1, 17), (0, 7, 1)),
}
IMAGE_SIZE, MAP_SIZE = (19, 17), (4, 3)


def field_of(rows, columns):
    """The field with these starts, jumps and sizes."""
    start, jump, size = zip(rows, columns, strict=True)
    low = [s - (n - 1) / 2 for s, n in zip(start, size, strict=True)]
    high = [s + (n - 1) / 2 for s, n in zip(start, size, strict=True)]
    return ReceptiveField(tuple(low), tuple(high), tuple(map(float, jump)))


def upsampling(name, **options):
    return GaussianUpsampling(field_of(*GEOMETRIES[name]), IMAGE_SIZE, MAP_SIZE, **options)


def draw(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def algorithm_1(maps, rows, columns, sigma):
    """The paper's loop over outputs, with a Gaussian cut to the receptive field."""
    image = np.zeros(IMAGE_SIZE)
    for (i, j), a in np.ndenumerate(maps):
        for y, x in np.ndindex(*IMAGE_SIZE):
            dy = y - (rows[0] + i * rows[1])
            dx = x - (columns[0] + j * columns[1])
            if abs(dy) <= (rows[2] - 1) / 2 and abs(dx) <= (columns[2] - 1) / 2:
                image[y, x] += a * np.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    return torch.from_numpy(image)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_upsampling_is_algorithm_1(name):
    maps = draw(2, *MAP_SIZE)
    images = upsampling(name, sigma=1.7, normalize="none")(maps)
    expected = [algorithm_1(a.numpy(), *GEOMETRIES[name], 1.7) for a in maps]
    assert_close(images, torch.stack(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [13, 5])
def test_upsampling_is_a_transposed_convolution(size):
    jump, start, n, sigma = 4, 1, 7, 2.5
    g = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    kernel, maps = torch.from_numpy(np.outer(g, g))[None, None], draw(1, 1, n, n)
    expected = F.conv_transpose2d(maps, kernel, stride=jump, output_padding=2)
    margin = size // 2 - start
    expected = expected[:, :, margin:][:, :, :, margin:][:, :, :24, :24]
    field = field_of(*[(start, jump, size)] * 2)
    up = GaussianUpsampling(field, (24, 24), (n, n), sigma=sigma, normalize="none")
    assert_close(up(maps), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [None, 0.01, 3.0])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_normalizations(name, sigma):
    maps = draw(3, *MAP_SIZE)
    mass = upsampling(name, sigma=sigma)(maps)
    assert_close(mass.sum((1, 2)), maps.sum((1, 2)), rtol=0, atol=1e-12)
    mean = upsampling(name, sigma=sigma, normalize="partition")
    constant = torch.full(MAP_SIZE, 0.3).double()
    assert_close(mean(constant), torch.full(IMAGE_SIZE, 0.3).double(), rtol=0, atol=1e-12)


def test_what_no_output_or_pixel_reaches_goes_to_the_nearest():
    options = {"start": -5, "jump": 8, "size": 3, "sigma": 1.0}
    mass = gaussian_matrix(6, 2, **options, normalize="mass")
    assert mass[:, 0].tolist() == [1, 0, 0, 0, 0, 0]
    assert mass[1, 1] == 0 < mass[2, 1] < mass[3, 1]
    partition = gaussian_matrix(6, 2, **options, normalize="partition")
    assert partition.argmax(1).tolist() == [1, 1, 1, 1, 1, 1]
    assert set(partition.flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("normalize", ["none", "mass", "partition"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_adjoint(name, normalize):
    up = upsampling(name, normalize=normalize)
    maps, images = draw(2, *MAP_SIZE), draw(2, *IMAGE_SIZE)
    assert_close((up(maps) * images).sum(), (maps * up.adjoint(images)).sum())


@pytest.mark.parametrize(
    ("size", "jump", "sigma"), [(16, 4, 3.04), (62, 8, 11.78), (1, 1, 0.5), (8, 8, 4.0)]
)
def test_default_sigma(size, jump, sigma):
    assert default_sigma(size, jump) == pytest.approx(sigma)


def test_default_sigma_is_that_of_each_axis():
    rows, columns = (20, 2, 41), (4, 2, 9)
    up = GaussianUpsampling(field_of(rows, columns), (41, 9), (1, 1), normalize="none")
    image = up(torch.ones(1, 1).double())
    assert image[20, 4] == 1
    ratio = -0.5 / torch.log(torch.stack([image[21, 4], image[20, 5]]))
    assert_close(ratio.sqrt(), torch.tensor([0.19 * 41, 0.19 * 9]).double())


def test_dtype_gradient_and_pickle():
    up = upsampling("even")
    with torch.inference_mode():
        up(torch.ones(MAP_SIZE))
    maps = torch.ones(MAP_SIZE, requires_grad=True)
    images = up(maps)
    assert images.dtype == torch.float32
    (images**2).sum().backward()
    assert_close(maps.grad, 2 * up.adjoint(images.detach()))
    assert_close(pickle.loads(pickle.dumps(up))(maps), images)
    assert pickle.dumps(up) == pickle.dumps(upsampling("even"))


def test_image_smaller_than_the_field():
    field = field_of((1.5, 4, 16), (1.5, 4, 22))
    check_fits(field, (16, 22))
    message = "24 x 21 pixels.*16 x 22.*smaller field.*larger images"
    with pytest.raises(ValueError, match=message):
        check_fits(field, (24, 21))
    with pytest.raises(ValueError, match="smaller than the receptive field"):
        GaussianUpsampling(field, (15, 28), (4, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0}, "sigma must be positive"),
        ({"sigma": float("nan")}, "sigma must be positive"),
        ({"normalize": "sum"}, "normalize must be one of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        upsampling("odd", **options)


def test_bad_maps():
    up = upsampling("odd")
    with pytest.raises(ValueError, match=r"must be \(4, 3\); got \(3, 4\)"):
        up(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"must be \(19, 17\); got \(2, 4, 3\)"):
        up.adjoint(torch.ones(2, *MAP_SIZE))
    with pytest.raises(TypeError, match="int64"):
        up(torch.ones(MAP_SIZE, dtype=torch.int64))
