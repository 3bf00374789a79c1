"""The first layers of a pretrained network, of which the very first are not trained."""

import numpy as np
import torch
from torch import nn

from skad.neural._backbones import load_backbone

__all__ = ["Frozen", "cut_trunk"]

# How many layers are taken by default; those of VGG11-BN are the paper's.
_TAKEN = {"vgg11_bn": 21, "squeezenet1_1": 8, "resnet18": 6}
_FROZEN_BY_PAPER = {"vgg11_bn": 15}
_WHOLE_BLOCKS = 3  # of VGG's five, where the paper says nothing


def cut_trunk(trunk):
    """Return the steps of a trunk: "scaling", "frozen" and "trained", modules by name.

    Parameters
    ----------
    trunk : Trunk

    Raises
    ------
    ValueError
        If there are no weights, or those of another network, or fewer layers than asked
        for.
    FileNotFoundError
        If there is no such file of weights.
    """
    if trunk.weights is None:
        raise ValueError(
            f"Trunk({trunk.name!r}) needs weights, a file or a state dict; "
            "skad.neural.download_weights gets torchvision's."
        )
    backbone = load_backbone(trunk.name, trunk.weights, preprocessing=trunk.preprocessing)
    layers = _first_layers(trunk, backbone)
    n_frozen = _n_frozen(trunk, len(layers))
    return {
        "scaling": backbone.scaling,
        "frozen": Frozen(*layers[:n_frozen]),
        "trained": nn.Sequential(*layers[n_frozen:]).requires_grad_(True),
    }


def _first_layers(trunk, backbone):
    named = dict(backbone.layers.named_children())
    named.pop("pool", None)
    features = named.pop("features", None)
    layers = list(features.children() if features is not None else named.values())
    n_layers = trunk.n_layers or _TAKEN.get(trunk.name) or _whole_blocks(layers)
    if n_layers > len(layers):
        raise ValueError(f"{trunk.name} has {len(layers)} layers; got n_layers={n_layers}.")
    return layers[:n_layers]


def _whole_blocks(layers):
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    return pools[_WHOLE_BLOCKS - 1]


def _n_frozen(trunk, n_layers):
    freeze = trunk.freeze
    if isinstance(freeze, bool | np.bool_):
        return n_layers if freeze else 0
    if freeze == "auto":
        return min(_FROZEN_BY_PAPER.get(trunk.name, n_layers), n_layers)
    if freeze > n_layers:
        raise ValueError(f"freeze={freeze}, but {trunk.name} is cut to {n_layers} layers.")
    return freeze


class Frozen(nn.Sequential):
    """Layers that are not trained: neither weights nor the statistics of batch norms."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode=True):
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x):
        """Apply the layers, without a gradient."""
        with torch.no_grad():  # on a CPU twice as fast with the channels last
            return super().forward(x.contiguous(memory_format=torch.channels_last))
