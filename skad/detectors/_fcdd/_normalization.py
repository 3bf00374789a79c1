"""First steps of a network: what images are normalised by, learned from training images."""

import numpy as np
import torch
from torch import nn

from skad.neural._feature_net import Scaling
from skad.neural._rows import parts
from skad.neural._units import moments

__all__ = ["ContrastNormalization", "find_constants", "make_step"]


class ContrastNormalization(nn.Module):
    """Global contrast normalisation of each image, then one scale for all.

    ``x - mean(x)``, over its mean absolute value, then ``(v - low) / (high - low)``: the
    preprocessing of the FCDD paper's code. A constant image becomes that of v = 0.

    Parameters
    ----------
    low, high : float
        Extremes of v over the normal training images.
    """

    pointwise = True  # but for two numbers an image

    def __init__(self, low, high):
        super().__init__()
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32))
        self.register_buffer("width", torch.as_tensor(high - low, dtype=torch.float32))

    def forward(self, x):
        """Normalise images (n, C, H, W)."""
        return (self.contrast(x) - self.low) / self.width

    @staticmethod
    def contrast(x):
        """Return v."""
        v = x - x.mean(dim=(1, 2, 3), keepdim=True)
        scale = v.abs().mean(dim=(1, 2, 3), keepdim=True)
        return v / torch.where(scale > 0, scale, 1)


def find_constants(kind, data, units):
    """Return what the first step is scaled by, learned from the normal rows.

    Parameters
    ----------
    kind : {"contrast", "standard"} or None
    data : TrainingData
    units : ScaledUnits
        What makes tensors of its rows.

    Returns
    -------
    constants : ndarray of shape (2, C), (2, 1) or (2, 0)
        Mean and standard deviation of each channel; the extremes of the contrast;
        nothing.
    """
    if kind == "contrast":
        return _extremes_of_contrast(data.normal, units)
    if kind == "standard":
        return _mean_and_std(data.normal, units)
    return np.zeros((2, 0))


def _extremes_of_contrast(X, units):
    low, high = np.inf, -np.inf
    for part in parts(X):
        v = ContrastNormalization.contrast(units.prepare(X[part]))
        low, high = min(low, v.min().item()), max(high, v.max().item())
    return np.array([[low], [high if high > low else low + 1]])


def _mean_and_std(X, units):
    mean, variance = (values.reshape(units.row_shape) for values in moments(X))
    variance = variance.mean(axis=(1, 2)) + mean.var(axis=(1, 2))
    mean = (mean.mean(axis=(1, 2)) - units.shift) / units.scale
    std = np.sqrt(variance) / units.scale
    return np.array([mean, np.where(std > 0, std, 1)])


def make_step(kind, constants):
    """Return the step of a network, by the name of what it does."""
    low, high = constants
    return (
        ContrastNormalization(low[0], high[0]) if kind == "contrast" else Scaling(low, high)
    )
