"""Pretrained networks, by the names that torchvision gives their weights."""

from __future__ import annotations

import os
from collections import OrderedDict
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.hub import download_url_to_file

from skad._sklearn import Interval, StrOptions
from skad._typing import Auto, FilePath, Network, Preprocessing, Weights
from skad._values import ParameterValue
from skad.neural._feature_net import FeatureNet, Scaling
from skad.neural._weights import load_weights, read_tensors

__all__ = [
    "BACKBONES",
    "PREPROCESSING",
    "Trunk",
    "download_weights",
    "load_backbone",
]

_URL = "https://download.pytorch.org/models/"
# torchvision's weights of ImageNet; a name ends in the start of the file's SHA-256.
_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
    "vgg11": "vgg11-8a719046.pth",
    "vgg11_bn": "vgg11_bn-6002323d.pth",
    "vgg13": "vgg13-19584684.pth",
    "vgg13_bn": "vgg13_bn-abd245e5.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "vgg19_bn": "vgg19_bn-c79401a0.pth",
}
BACKBONES = tuple(_FILES)

_CAFFE_MEAN = (103.939, 116.779, 123.68)
_SCALINGS: dict[str, Any] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb"),
    "caffe": (tuple(mean / 255 for mean in _CAFFE_MEAN), 1 / 255, "bgr"),
}
PREPROCESSING = tuple(_SCALINGS)

_VGG_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_VGG_WIDTHS = (64, 128, 256, 512, 512)
# A pooling, or the widths of a fire module: squeezed, each of the expanded halves.
_SQUEEZENET = (
    *("pool", (16, 64), (16, 64), "pool", (32, 128), (32, 128), "pool"),
    *((48, 192), (48, 192), (64, 256), (64, 256)),
)
_RESNET_WIDTHS = (64, 128, 256, 512)


class Trunk(ParameterValue):
    """The first layers of a pretrained network, for maps of what they see of an image.

    Parameters
    ----------
    name : str
        "vgg11", "vgg13", "vgg16", "vgg19", each also with "_bn", "squeezenet1_1" or
        "resnet18"; "vgg11_bn" is what the FCDD paper [1]_ takes.
    weights : str, path or dict, default=None
        The network's weights, a file or a state dict, as for `load_backbone`; a detector
        needs them. `download_weights` gets torchvision's; `fit` downloads nothing.
    preprocessing : {"imagenet", "caffe"}, default="imagenet"
        What the weights were trained with, as for `load_backbone`.
    n_layers : int or None, default=None
        How many layers, counting each convolution, norm, function, pooling and block.
        None is 21 of VGG11-BN, as the paper; 8 of SqueezeNet, up to fire5; two stages of
        ResNet18; three blocks of others.
    freeze : bool, int or "auto", default="auto"
        How many of the layers are not trained, batch-norm statistics included. "auto" is
        15 of VGG11-BN's, as the paper, else all.
    head : {"mlp", "linear"} or callable, default="mlp"
        What makes the map of the features, always trained: a hidden layer of 64 for each
        place, or none, as in the paper. A callable makes a module from the number of
        channels.

    See Also
    --------
    skad.FCDD : Takes one as `network`.
    load_backbone : The whole network, whose features are averaged over the image.
    download_weights : Get torchvision's weights.

    References
    ----------
    .. [1] P. Liznerski, L. Ruff, R. A. Vandermeulen, B. J. Franks, M. Kloft, K.-R. Mueller.
       "Explainable Deep One-Class Classification". ICLR 2021.

    Examples
    --------
    Grids read ``network__n_layers``, since a trunk has parameters of its own:

    >>> from skad import FCDD
    >>> from skad.neural import Trunk, download_weights
    >>> weights = download_weights("squeezenet1_1")  # doctest: +SKIP
    >>> detector = FCDD(network=Trunk("squeezenet1_1", freeze=3), max_epochs=1)
    >>> detector.set_params(network__n_layers=4).network
    Trunk(freeze=3, n_layers=4, name='squeezenet1_1')

    Random weights in place of downloaded ones:

    >>> from skad.datasets import make_textures
    >>> from skad.neural._backbones import _make_layers
    >>> weights = _make_layers("squeezenet1_1").state_dict()
    >>> images = make_textures(16, anomaly_share=0, random_state=0).images
    >>> detector.set_params(network__weights=weights).fit(images).map_shape_
    (7, 7)
    """

    _parameter_constraints = {
        "name": [StrOptions(set(BACKBONES))],
        "weights": [str, os.PathLike, dict, None],
        "preprocessing": [StrOptions(set(PREPROCESSING))],
        "n_layers": [Interval(Integral, 1, None, closed="left"), None],
        "freeze": [
            "boolean",
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "head": [StrOptions({"mlp", "linear"}), callable],
    }

    def __init__(
        self,
        name: str,
        *,
        weights: Weights = None,
        preprocessing: Preprocessing = "imagenet",
        n_layers: int | None = None,
        freeze: bool | int | Auto = "auto",
        head: Network | Literal["mlp", "linear"] = "mlp",
    ):
        self.name = name
        self.weights = weights
        self.preprocessing = preprocessing
        self.n_layers = n_layers
        self.freeze = freeze
        self.head = head


def load_backbone(
    name: str, weights: Weights, *, preprocessing: Preprocessing = "imagenet"
) -> FeatureNet:
    """Make a pretrained network whose features are averaged over the image.

    The features are those of the last convolution, behind its ReLU: 512 of them. It takes
    RGB or grey images with values in [0, 1] of shape (n, C, H, W); a grey image stands for
    all three channels.

    Parameters
    ----------
    name : str
        "vgg11", "vgg13", "vgg16", "vgg19", each also with "_bn", "squeezenet1_1" or
        "resnet18".
    weights : str, path or dict
        State dict, or a file of one, with torchvision's names. Those of VGG and
        SqueezeNet may lack the prefix "features."; the classifier's are left out. Half
        precision becomes single.
    preprocessing : {"imagenet", "caffe"}, default="imagenet"
        What the weights were trained with: RGB, standardised by ImageNet's means and
        standard deviations (torchvision's weights), or BGR in [0, 255] less ImageNet's
        means.

    Returns
    -------
    net : torch.nn.Module
        In eval mode, its parameters frozen. The scaling of the input is part of it.

    Raises
    ------
    ValueError
        If the name is unknown, the file is broken, or holds weights of another network.
    FileNotFoundError
        If there is no such file.
    ImportError
        For ``*.safetensors``, if that package is missing.

    See Also
    --------
    download_weights : Get torchvision's weights.
    fit_features : Features learned from labelled rows of your own.
    skad.DeepOneClass : Takes a backbone by its name, too.
    Trunk : Its first layers only.

    References
    ----------
    VGG: Simonyan & Zisserman, arXiv:1409.1556. SqueezeNet: Iandola et al.,
    arXiv:1602.07360, version 1.1. ResNet: He et al., arXiv:1512.03385.

    Examples
    --------
    >>> from skad import DeepOneClass
    >>> from skad.neural import download_weights, load_backbone
    >>> weights = download_weights("squeezenet1_1")  # doctest: +SKIP
    >>> net = load_backbone("squeezenet1_1", weights)  # doctest: +SKIP
    >>> DeepOneClass(features=net).fit(images)  # doctest: +SKIP
    """
    _check_choice("name", name, BACKBONES)
    _check_choice("preprocessing", preprocessing, PREPROCESSING)
    # Made without memory or random numbers: all values come from the weights.
    with torch.device("meta"):
        layers = _make_layers(name)
    layers.to_empty(device="cpu")
    given, source = _read(weights)
    load_weights(layers, _matching(given, layers.state_dict(), name), source)
    mean, std, channels = _SCALINGS[preprocessing]
    scaling = Scaling(mean, std, channels=channels)
    return FeatureNet(layers, scaling, input_range=(0.0, 1.0)).eval().requires_grad_(False)


def download_weights(name: str, data_home: FilePath | None = None) -> Path:
    """Download the weights of a backbone that torchvision publishes, unless they are there.

    Nothing else in skad downloads weights. They were trained on ImageNet, with
    ``preprocessing="imagenet"``.

    Parameters
    ----------
    name : str
        As for `load_backbone`.
    data_home : str or path, default=None
        The file is kept in its folder ``weights``; None is ``$SKAD_DATA``, else
        ``~/skad_data``.

    Returns
    -------
    path : pathlib.Path
        For `load_backbone`.

    Raises
    ------
    ValueError
        If the name is unknown.
    FileNotFoundError
        If the file can't be downloaded, or has another checksum than its name says.

    See Also
    --------
    load_backbone : Makes the network.

    Examples
    --------
    >>> from skad.neural import download_weights
    >>> path = download_weights("vgg16")  # doctest: +SKIP
    """
    _check_choice("name", name, BACKBONES)
    file = _FILES[name]
    home = Path(data_home or os.environ.get("SKAD_DATA") or "~/skad_data").expanduser()
    folder = home / "weights"
    path = folder / file
    if path.is_file():
        return path
    checksum = Path(file).stem.rpartition("-")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url_to_file(_URL + file, str(path), checksum, progress=False)
    # RuntimeError is for a wrong checksum.
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{file} is not in {folder} and could not be downloaded from {_URL} ({error}). "
            "Put the file there; data_home or the environment variable SKAD_DATA names the "
            "folder around it."
        ) from error
    return path


def _check_choice(parameter, value, known):
    if value not in known:
        raise ValueError(
            f"{parameter} must be one of {', '.join(map(repr, known))}; got {value!r}."
        )


def _read(weights):
    """Return a state dict, and what to call it in messages."""
    if isinstance(weights, str | os.PathLike):
        return read_tensors(weights), weights
    if not isinstance(weights, dict) or not weights:
        raise ValueError(
            "weights must be a file or a state dict, names of tensors; got "
            f"{type(weights).__name__}. download_weights gets torchvision's."
        )
    return weights, "the state dict"


def _matching(given, own, name):
    """Return the weights under the names of the layers, without the classifier's."""
    if name != "resnet18" and not any(key.startswith("features.") for key in given):
        given = {f"features.{key}": value for key, value in given.items()}
    classifier = _classifier_names(name)
    given = {key: value for key, value in given.items() if key not in classifier}
    # Files of before 2018 have no counters of batches, which eval mode does not read.
    counters = {key: torch.tensor(0) for key in own if key.endswith("num_batches_tracked")}
    return counters | given


def _classifier_names(name):
    if name == "resnet18":
        layers = ["fc"]
    else:
        numbers = [1] if name == "squeezenet1_1" else [0, 3, 6]
        layers = [f"classifier.{number}" for number in numbers]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def _make_layers(name):
    if name == "resnet18":
        layers = _resnet_layers()
    elif name == "squeezenet1_1":
        layers = {"features": nn.Sequential(*_squeezenet_layers())}
    else:
        depths = _VGG_DEPTHS[name.removesuffix("_bn")]
        features = [*_vgg_layers(depths, norm=name.endswith("_bn"))]
        layers = {"features": nn.Sequential(*features[:-1])}  # without the last pooling
    return nn.Sequential(OrderedDict(layers, pool=nn.AdaptiveAvgPool2d(1)))


def _vgg_layers(depths, norm):
    channels = 3
    for depth, width in zip(depths, _VGG_WIDTHS, strict=True):
        for _ in range(depth):
            yield nn.Conv2d(channels, width, 3, padding=1)
            if norm:
                yield nn.BatchNorm2d(width)
            yield nn.ReLU()
            channels = width
        yield nn.MaxPool2d(2)


def _squeezenet_layers():
    yield from (nn.Conv2d(3, 64, 3, stride=2), nn.ReLU())
    channels = 64
    for step in _SQUEEZENET:
        if step == "pool":
            yield nn.MaxPool2d(3, stride=2, ceil_mode=True)
        else:
            yield _Fire(channels, *step)
            channels = 2 * step[1]


def _resnet_layers():
    layers = {
        "conv1": nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        "bn1": nn.BatchNorm2d(64),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }
    channels = 64
    for i, width in enumerate(_RESNET_WIDTHS, start=1):
        first = _Residual(channels, width, stride=1 if i == 1 else 2)
        layers[f"layer{i}"] = nn.Sequential(first, _Residual(width, width, stride=1))
        channels = width
    return layers


class _Fire(nn.Module):
    """Few channels, from which convolutions of two sizes make many."""

    def __init__(self, channels, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        """Return twice the expanded channels."""
        x = self.relu(self.squeeze(x))
        return self.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


class _Residual(nn.Module):
    """Two convolutions, whose output is added to the input."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = nn.Sequential()
        if stride > 1:
            shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x):
        """Return the sum, behind a ReLU."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))
