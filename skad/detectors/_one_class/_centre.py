"""A centre that a network's output is compared with, from the untrained network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skad.detectors._one_class._networks import make_network, n_outputs_of
from skad.detectors._one_class._relevance import scoring_of
from skad.neural._parts import Scoring, Trained
from skad.neural._rows import parts

__all__ = ["CentredNet", "centred_network", "distance_scoring", "set_centre"]

# Components of the centre are at least so much of their root mean square, away from 0.
_LEAST_SHARE = 0.1


def centred_network(network: Any, row_shape: tuple[int, ...], n_outputs: int) -> CentredNet:
    """Return a network without biases, less a centre that is not set yet."""
    net = make_network(network, row_shape, n_outputs, bias=False)
    return CentredNet(net, n_outputs_of(net, row_shape))


def set_centre(net: Any, rows: Any) -> None:
    """Set the centre of an untrained network by the rows that are to train it."""
    net.module_.set_centre(rows)


def distance_scoring(
    trained: Trained, explanation: str, gamma: float, squared_radius: float = 0.0
) -> Scoring:
    """Return how squared distances to the centre score, less a squared radius."""
    centre = trained.module.centre

    def score(features):
        return (features - centre).square().sum(dim=1) - squared_radius

    def top(features):
        return (features * (features - centre).detach()).sum(dim=1)

    return scoring_of(
        trained, trained.module.net, score, top, explanation=explanation, gamma=gamma
    )


class CentredNet(nn.Module):
    """A network less a centre, which is set once and never trained.

    Parameters
    ----------
    net : FeatureNet
    n_outputs : int
    """

    def __init__(self, net, n_outputs):
        super().__init__()
        self.net = net
        self.register_buffer("centre", torch.zeros(n_outputs))

    def forward(self, x):
        """Return the deviations from the centre, (n, n_outputs)."""
        return self.net(x) - self.centre

    def set_centre(self, rows):
        """Set the centre to the mean output of the rows, each component away from 0.

        Components near 0, which weights of 0 reach, are pushed out to a tenth of the root
        mean square of the components.

        Raises
        ------
        ValueError
            If all outputs are 0, since no training would move them from there.
        """
        total, device = 0, self.centre.device
        self.eval()
        with torch.no_grad():
            for part in parts(rows):
                total = total + self.net(rows[part].to(device)).double().sum(dim=0)
        mean = total / len(rows)
        scale = mean.square().mean().sqrt()
        if not (torch.isfinite(scale) and scale > 0):
            raise ValueError(
                "The centre, the mean output of the untrained network, is "
                f"{'0' if scale == 0 else 'not finite'}: no row could be told from any "
                "other by its distance to it. Choose another network, or scale the rows."
            )
        least = _LEAST_SHARE * scale
        signs = torch.where(mean < 0, -1.0, 1.0).to(mean)
        self.centre.copy_(torch.where(mean.abs() < least, signs * least, mean))
