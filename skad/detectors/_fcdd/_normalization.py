"""First steps of a network: what images are normalised by, learned from training images."""

import numpy as np
import torch
from torch import nn

from skad.neural._scaling import Scaling, moments

__all__ = ["ContrastNormalization", "contrast_constants", "make_step", "standard_constants"]


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
        """Give v."""
        v = x - x.mean(dim=(1, 2, 3), keepdim=True)
        scale = v.abs().mean(dim=(1, 2, 3), keepdim=True)
        return v / torch.where(scale > 0, scale, 1)


def contrast_constants(batches):
    """Give the extremes of the contrast of tensors of images: ndarray [[low], [high]]."""
    low, high = np.inf, -np.inf
    for v in map(ContrastNormalization.contrast, batches):
        low, high = min(low, v.min().item()), max(high, v.max().item())
    return np.array([[low], [high if high > low else low + 1]])


def standard_constants(X, row_shape, shift, scale):
    """Give mean and standard deviation of each channel: ndarray (2, C).

    Parameters
    ----------
    X : ndarray of shape (n, d)
    row_shape : tuple of int
        (C, H, W).
    shift, scale : float
        The network sees ``(X - shift) / scale``.
    """
    mean, variance = (values.reshape(row_shape) for values in moments(X))
    variance = variance.mean(axis=(1, 2)) + mean.var(axis=(1, 2))
    mean = (mean.mean(axis=(1, 2)) - shift) / scale
    std = np.sqrt(variance) / scale
    return np.array([mean, np.where(std > 0, std, 1)])


def make_step(kind, constants):
    """Give the step of a network, by the name of what it does."""
    low, high = constants
    return (
        ContrastNormalization(low[0], high[0]) if kind == "contrast" else Scaling(low, high)
    )
