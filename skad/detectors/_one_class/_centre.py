"""A centre that a network's output is compared with, from the untrained network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skad._typing import Floats
from skad.neural._network_relevance import NetworkRelevance
from skad.neural._one_class_networks import make_network, n_outputs_of
from skad.neural._rows import parts

__all__ = ["CentredNet", "DistanceToCentre"]

# Components of the centre are at least so much of their root mean square, away from 0.
_LEAST_SHARE = 0.1


class DistanceToCentre(NetworkRelevance):
    """What detectors that score the squared distance to a centre have in common.

    A class has the parameters `network` and `n_outputs`, and those of `NetworkRelevance`.
    """

    net_: Any

    @property
    def center_(self) -> Floats:
        """The centre c, ndarray of shape (n_outputs,)."""
        return self.net_.module_.centre.cpu().numpy()

    def _make_module(self):
        net = make_network(self.network, self._row_shape, self.n_outputs, bias=False)
        return CentredNet(net, n_outputs_of(net, self._row_shape))

    def _before_training(self, net, rows):
        net.module_.set_centre(rows)

    @property
    def _feature_net(self):
        return self.net_.module_.net

    def _deviation(self, features):
        return features - self.net_.module_.centre

    def _score_of(self, features):
        return self._deviation(features).square().sum(dim=1)

    def _top(self, features):
        return (features * self._deviation(features).detach()).sum(dim=1)


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
        """Give the deviations from the centre, (n, n_outputs)."""
        return self.net(x) - self.centre

    def set_centre(self, rows):
        """Set the centre to the mean output of the rows, each component away from 0.

        Components near 0, which weights of 0 reach, are pushed out to a tenth of the root
        mean square of the components.

        Raises
        ------
        ValueError
            If all outputs are 0, so that training can't but keep them there.
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
