"""Which pixels the outputs of a fully convolutional network see.

Each step of a network is a field itself: its output i sees its inputs from
``low + i jump`` to ``high + i jump``. Steps in a row are composed, and where branches
meet, the output sees what any of them sees.
"""

import math
import operator
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from skad.relevance._modules import label, shared_copy

__all__ = ["ReceptiveField", "receptive_field"]

_LOCK = threading.RLock()  # for fx, which patches torch while it traces


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that output (i, j) sees, in a regular grid.

    In each axis output i sees the pixels from ``low + i * jump`` to ``high + i * jump``,
    both included and counted from 0. They may lie outside of the image, in the padding.

    Parameters
    ----------
    low, high : tuple of two floats
        First and last pixel that the first output sees: row, column.
    jump : tuple of two floats
        Pixels from one output to the next: rows, columns.

    Examples
    --------
    >>> from skad.relevance._receptive_field import ReceptiveField
    >>> field = ReceptiveField(low=(-1.0, -1.0), high=(2.0, 2.0), jump=(2.0, 2.0))
    >>> field.size, field.start
    ((4.0, 4.0), (0.5, 0.5))
    """

    low: tuple[float, float]
    high: tuple[float, float]
    jump: tuple[float, float]

    @property
    def size(self) -> tuple[float, ...]:
        """Height and width, in pixels."""
        return tuple(map(lambda low, high: high - low + 1, self.low, self.high))

    @property
    def start(self) -> tuple[float, ...]:
        """Row and column of the centre of what the first output sees."""
        return tuple(map(lambda low, high: (low + high) / 2, self.low, self.high))


_PIXEL = ReceptiveField((0.0, 0.0), (0.0, 0.0), (1.0, 1.0))


def receptive_field(module, input_shape=None):
    """Find what the outputs of a fully convolutional network see of an image.

    The network is traced by ``torch.fx``, as it is in eval mode. It may be made of

    - convolutions, also transposed; max, average and Lp pooling by windows; padding;
      upsampling and ``F.interpolate``,
    - what treats each pixel alone: activations, batch norm, dropout, arithmetic,
      comparisons,
    - sums, products and the like of branches, and ``torch.cat`` of channels,

    as modules or functions, in modules of any kind.

    Parameters
    ----------
    module : torch.nn.Module
        From images (n, C, H, W) to maps (n, c, u, v). It is left as it is. A module in it
        with the attribute ``pointwise = True`` is taken as a step that treats each pixel
        alone, whatever it does. Python code that looks at the input, such as
        ``if x.ndim == 4``, cannot be traced, but may be in such a module.
    input_shape : tuple of three ints, default=None
        (C, H, W). Needed only where the field depends on shapes: of upsampling to a given
        size or with aligned corners, and of ``F.conv2d`` with a computed weight. An image
        of zeros of this shape is then sent through the network.

    Returns
    -------
    field : ReceptiveField
        Its edges are exact, except behind upsampling, where it can be too wide by an
        input or two of that step.

    Raises
    ------
    TypeError
        If `module` is no module.
    ValueError
        For a step behind which outputs may see the whole image, such as ``nn.Linear`` or
        global pooling, and any step that is not known, by name; for branches that meet
        with unequal jumps; for a network that cannot be traced, or whose output is not
        one tensor; where `input_shape` is missing.

    Notes
    -----
    Near the border, padding by reflection or replication shows pixels of the image again.
    They lie in the field if the window behind it is wide enough, ``k >= 2 padding + 1``, as
    in ``nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")``.

    Examples
    --------
    >>> from torch import nn
    >>> from skad.relevance._receptive_field import receptive_field
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
    >>> field = receptive_field(net)
    >>> field
    ReceptiveField(low=(-2.0, -2.0), high=(3.0, 3.0), jump=(2.0, 2.0))
    >>> field.size
    (6.0, 6.0)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}.")
    # In a container, so that a single layer is a step too; and a copy, since fx keeps
    # constants in the module.
    net = nn.Sequential(shared_copy(module)).eval()
    graph = _trace(net)
    if input_shape is not None:
        _find_shapes(net, graph, input_shape)
    *nodes, output = graph.nodes
    for node in nodes:
        _visit(node, net)
    result = output.args[0]
    if not isinstance(result, fx.Node) or result.meta["field"] is None:
        raise ValueError(
            f"{type(module).__qualname__} must return one tensor that depends on its input."
        )
    return result.meta["field"]


def _trace(net):
    try:
        with _LOCK:
            return _Tracer().trace(net)
    except Exception as error:  # whatever a forward does with what is no tensor
        raise ValueError(
            f"{type(net[0]).__qualname__} cannot be traced by torch.fx, so that its "
            f"receptive field is unknown ({type(error).__name__}: {error}). A module in it "
            "that treats each pixel alone is not traced if it has pointwise = True."
        ) from error


class _Tracer(fx.Tracer):
    """Takes the layers of torch as steps and looks into all other modules."""

    def __init__(self):
        super().__init__()
        self.thread = threading.get_ident()

    def is_leaf_module(self, m, module_qualified_name):
        if _is_pointwise(m):
            return True
        kind = _known_kind(m)
        inherits = kind is not None and type(m).forward is kind.forward
        return inherits or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        # While fx traces, it catches the calls of all modules, in other threads too.
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _is_pointwise(module):
    # Separable convolutions often have a layer of this name, which is not meant.
    return getattr(module, "pointwise", False) is True


def _find_shapes(net, graph, input_shape):
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (C, H, W), not {input_shape}.")
    tensors = (*net.parameters(), *net.buffers(), torch.zeros(()))
    like = next(tensor for tensor in tensors if tensor.is_floating_point())
    with torch.no_grad():
        _Shapes(fx.GraphModule(net, graph)).run(like.new_zeros(1, *input_shape))


class _Shapes(fx.Interpreter):
    """Runs the network and notes the shapes."""

    def run_node(self, n):
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            n.meta["shape"] = value.shape
        return value


def _visit(node, net):
    """Note the field of a node; None where it does not depend on pixels."""
    node.meta["name"] = _name(node, net)
    node.meta["field"] = None
    if node.op == "placeholder":
        node.meta["field"] = _PIXEL
    elif node.op == "get_attr":
        node.meta["shape"] = getattr(operator.attrgetter(node.target)(net), "shape", None)
    elif _inputs(node) and not _asks_for_shape(node):
        field = _composed(_union(node), _step(node, net))
        node.meta["field"] = field
        if _is_in_place(node):
            node.args[0].meta["field"] = field


def _name(node, net):
    if node.op == "call_module":
        module = net.get_submodule(node.target)
        return label(node.target.partition(".")[2], module)  # without the container
    if node.op == "placeholder":
        return "the input"
    return f"{getattr(node.target, '__name__', node.target)}()"


def _inputs(node):
    return [n for n in node.all_input_nodes if n.meta["field"] is not None]


def _asks_for_shape(node):
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.op == "call_method" and node.target in ("size", "dim")


def _is_in_place(node):
    if node.op == "call_module" or not node.args:
        return False
    return getattr(node.target, "__name__", node.target).endswith("_")


def _union(node):
    """Return what any of the inputs sees."""
    first, *others = _inputs(node)
    field = first.meta["field"]
    for other in others:
        joined = other.meta["field"]
        if not all(map(math.isclose, field.jump, joined.jump)):
            raise ValueError(
                f"{node.meta['name']} joins {first.meta['name']}, with a jump of "
                f"{field.jump} pixels from one output to the next, and "
                f"{other.meta['name']}, with one of {joined.jump}."
            )
        low, high = map(min, field.low, joined.low), map(max, field.high, joined.high)
        field = ReceptiveField(tuple(low), tuple(high), field.jump)
    return field


def _composed(field, step):
    """Return the field of a step's output, in pixels, from the field of its input."""

    def pixels(start, jump, offset):
        return start + jump * offset

    return ReceptiveField(
        low=tuple(map(pixels, field.low, field.jump, step.low)),
        high=tuple(map(pixels, field.high, field.jump, step.high)),
        jump=tuple(map(operator.mul, field.jump, step.jump)),
    )


def _step(node, net):
    """Return the field of one step, in pixels of its input."""
    if node.op == "call_module":
        module = net.get_submodule(node.target)
        kind = _known_kind(module)
        if _is_pointwise(module):
            return _PIXEL
        if kind is not None:
            return _MODULES[kind](module, node)
    elif node.op == "call_method" and node.target.removesuffix("_") in _POINTWISE_METHODS:
        return _PIXEL
    elif node.op == "call_function" and node.target in _POINTWISE_FUNCTIONS:
        return _PIXEL
    elif node.op == "call_function" and node.target in _FUNCTIONS:
        rule, names = _FUNCTIONS[node.target]
        return rule(_options(node, names.split()), node)
    raise _not_local(node)


def _known_kind(module):
    return next((kind for kind in type(module).__mro__ if kind in _MODULES), None)


def _not_local(node, why="it is none of the steps that are known to be local"):
    return ValueError(
        f"What the outputs of {node.meta['name']} see is not bounded: {why}. A fully "
        "convolutional net is needed, of convolutions, pooling by windows, upsampling and "
        "functions of each pixel alone; otherwise its outputs would see the whole image."
    )


def _options(node, names):
    """Return the arguments behind the first by name, like the attributes of a module."""
    options = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    tensors = ("input", "weight", "bias", "size", "tensors")
    numbers = {name: value for name, value in options.items() if name not in tensors}
    computed = []
    fx.node.map_arg(numbers, computed.append)
    if computed:
        raise _not_local(node, "its window depends on the image")
    return SimpleNamespace(**options)


def _shape(node, asker):
    if node.meta.get("shape") is None:
        raise ValueError(
            f"What the outputs of {asker.meta['name']} see depends on shapes that only "
            "a run shows. Pass input_shape=(C, H, W)."
        )
    return node.meta["shape"]


def _pair(value):
    values = tuple(value) if isinstance(value, tuple | list | torch.Size) else (value,)
    return values * 2 if len(values) == 1 else values


def _window(options, node):
    """Return the field of a convolution or pooling."""
    if getattr(options, "padding_mode", "zeros") == "circular":
        raise _not_local(node, "circular padding shows the opposite border")
    dilation, kernel = _pair(getattr(options, "dilation", 1)), _pair(options.kernel_size)
    reach = tuple(map(_reach, dilation, kernel))
    low = tuple(map(operator.neg, _padding(options, reach)))
    stride = getattr(options, "stride", None) or kernel
    return ReceptiveField(low, tuple(map(operator.add, low, reach)), _pair(stride))


def _reach(dilation, kernel):
    return dilation * (kernel - 1)


def _padding(options, reach):
    """Return the padding above and on the left."""
    padding = getattr(options, "padding", 0)
    if padding == "same":
        return tuple(r // 2 for r in reach)
    return _pair(0 if padding == "valid" else padding)


def _functional_convolution(options, node):
    options.kernel_size = _shape(options.weight, node)[2:]
    options.stride = getattr(options, "stride", 1)
    return _window(options, node)


def _transposed(layer, node):
    # Output i sees input u if i = u stride - padding + t, for a t of the kernel.
    steps = tuple(1 / stride for stride in layer.stride)
    high = tuple(map(operator.mul, layer.padding, steps))
    reach = map(_reach, layer.dilation, layer.kernel_size)
    low = map(operator.sub, high, map(operator.mul, reach, steps))
    return ReceptiveField(tuple(low), high, steps)


def _pad(options, node):
    left, _, top, _ = options.padding
    return ReceptiveField((-top, -left), (-top, -left), (1, 1))


def _functional_pad(options, node):
    if getattr(options, "mode", "constant") == "circular":
        raise _not_local(node, "circular padding shows the opposite border")
    options.padding = (*options.pad, 0, 0)[:4]
    return _pad(options, node)


def _interpolation(options, node):
    options.mode = getattr(options, "mode", "nearest")
    if options.mode not in ("nearest", "nearest-exact", *_MARGINS):
        raise _not_local(node, f"it is unknown for mode {options.mode!r}")
    steps = _steps(options, node)
    low, high = zip(*(_neighbours(options, step) for step in steps), strict=True)
    return ReceptiveField(low, high, steps)


def _steps(options, node):
    """Return the inputs, in rows and columns, from one output to the next."""
    aligned = getattr(options, "align_corners", False)
    factor = getattr(options, "scale_factor", None)
    if factor and not aligned and not getattr(options, "recompute_scale_factor", False):
        return tuple(1 / f for f in _pair(factor))
    before, after = (_shape(n, node)[2:] for n in (_inputs(node)[0], node))
    if aligned:
        return tuple(map(lambda n, m: (n - 1) / max(m - 1, 1), before, after))
    return tuple(map(operator.truediv, before, after))


_MARGINS = {"bilinear": 1, "bicubic": 2}


def _neighbours(options, step):
    """Return the first and last input of output 0, so that those of i are in i steps."""
    if options.mode not in _MARGINS:  # floor(i step), exact: floor((i + 1/2) step)
        if (1 / step).is_integer():
            return step - 1, 0
        shift = step / 2 if options.mode == "nearest-exact" else 0
        return shift - 1, shift
    centre = 0 if getattr(options, "align_corners", False) else (step - 1) / 2
    stretch = max(step, 1) if getattr(options, "antialias", False) else 1
    margin = _MARGINS[options.mode] * stretch
    return centre - margin, centre + margin


def _concatenation(options, node):
    if getattr(options, "dim", 0) not in (1, -3):
        raise _not_local(node, "it joins images otherwise than by their channels")
    return _PIXEL


def _batch_norm(module, node):
    if module.running_mean is None:
        raise _not_local(node, "without running statistics it averages over all pixels")
    return _PIXEL


def _pointwise(options, node):
    return _PIXEL


_POINTWISE_LAYERS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus),
    *(nn.Softsign, nn.Hardsigmoid, nn.Hardtanh, nn.Hardswish, nn.Softmax2d, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
_MODULES: dict[type, Any] = {
    **dict.fromkeys((nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d), _window),
    nn.ConvTranspose2d: _transposed,
    **dict.fromkeys((nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d), _pad),
    nn.Upsample: _interpolation,
    nn.BatchNorm2d: _batch_norm,
    **dict.fromkeys(_POINTWISE_LAYERS, _pointwise),
}

_NAMES = (
    "abs add sub mul div truediv neg pow square sqrt exp log log1p expm1 clamp maximum "
    "minimum where gt ge lt le relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu "
    "mish sigmoid logsigmoid tanh softplus softsign hardsigmoid hardtanh hardswish dropout "
    "dropout2d"
).split()
_POINTWISE_METHODS = {*_NAMES, "clone", "contiguous", "detach", "double", "float", "to"}
_POINTWISE_FUNCTIONS = {
    getattr(place, name + end)
    for place in (torch, F, operator)
    for name in _NAMES
    for end in ("", "_")
    if hasattr(place, name + end)
}

# Rules of other functions, with the names of the arguments behind the first.
_FUNCTIONS = {
    F.conv2d: (_functional_convolution, "weight bias stride padding dilation"),
    F.max_pool2d: (_window, "kernel_size stride padding dilation"),
    F.avg_pool2d: (_window, "kernel_size stride padding"),
    F.lp_pool2d: (_window, "norm_type kernel_size stride"),
    F.pad: (_functional_pad, "pad mode"),
    F.interpolate: (
        _interpolation,
        "size scale_factor mode align_corners recompute_scale_factor antialias",
    ),
    torch.cat: (_concatenation, "dim"),
}
