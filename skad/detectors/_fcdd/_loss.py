"""FCDD's objectives: normal images and pixels near the centre, anomalies away from it."""

import torch
from torch import nn

from skad.detectors._one_class._losses import log_one_minus_exp, pseudo_huber

__all__ = ["MapLoss", "heat_of"]


def heat_of(output):
    """Return the map A (n, u, v) of a network's output (n, 1, u, v), the deviations."""
    return pseudo_huber(output.square())[:, 0]


class MapLoss(nn.Module):
    """FCDD's objectives on the map A of pseudo-Huber deviations.

    Where the rows come with masks, objective (3); else (2), per row.

    Parameters
    ----------
    upsampling : GaussianUpsampling or None
        From the map to the pixels, for masks; rows of its matrices sum to 1.
    """

    def __init__(self, upsampling=None):
        super().__init__()
        self.upsampling = upsampling

    def forward(self, output, batch, y):
        """Return the mean loss; `output` is (n, 1, u, v), the deviations."""
        heat = heat_of(output)
        if y.mask is not None:
            return self._by_pixel(heat, y.mask[:, 0].to(heat.dtype))
        score = heat.flatten(1).mean(dim=1)
        return torch.where(y.label < 0, -log_one_minus_exp(score), score).mean()

    def _by_pixel(self, heat, mask):
        # sum_j Y_j A'_j = <K' Y K, A>: the masks go down in place of the maps going up.
        n_pixels = mask[0].numel()
        inside = self.upsampling.adjoint(mask) / n_pixels
        everywhere = self.upsampling.adjoint(torch.ones_like(mask[:1])) / n_pixels
        normal = (heat * (everywhere - inside)).flatten(1).sum(dim=1)
        anomalous = (heat * inside).flatten(1).sum(dim=1)
        has_mask = mask.flatten(1).any(dim=1)
        return (normal - torch.where(has_mask, log_one_minus_exp(anomalous), 0)).mean()
