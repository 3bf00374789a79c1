"""Squared distances to templates, tile by tile, and how relevance splits among features.

A tile is one matrix product: with the squared norms as two further columns,

    [2x, 1, -|x|^2] . [y, -|y|^2, 1] = -|x - y|^2.

Relevance q_j on the distances goes to the features as ``sum_j q_j (x_i - y_ji)^2``
(Clever Hans paper, appendix A.3), two more products. Both forms cancel digits where
distances are small against the norms, so templates come centred, and where that is not
enough the differences are taken directly.
"""

import numpy as np
import torch

__all__ = ["ROWS", "FeatureSums", "TemplateTiles", "to_tensor"]

# The shape of a tile, small enough to stay in the cache between the passes over it.
ROWS = 512
TILE_BYTES = 2**20
_PAIRS = 4096  # near pairs treated at once


class TemplateTiles:
    """Templates on a device, ready to be compared with blocks of rows.

    Parameters
    ----------
    augmented : ndarray of shape (n, d + 2)
        What `augment` made of the templates.
    device : str
    """

    def __init__(self, augmented, device="cpu"):
        self.device = device
        self.count = len(augmented)
        self.width = TILE_BYTES // (ROWS * augmented.itemsize)
        self.right = to_tensor(augmented, device)
        self.points = self.right[:, :-2]
        self.transposed = [right.t() for right in self.right.split(self.width)]
        self.tolerance = torch.finfo(self.right.dtype).eps ** 0.5
        self.radius = (-self.right[:, -2].min()).sqrt().item()
        # Squared norms so large that their rounding would show in the exponent.
        self.direct = self.radius**2 > 1 / self.tolerance

    @staticmethod
    def augment(templates, dtype):
        """Append -|y|^2 and 1 to the templates; (n, d) float64 -> (n, d + 2)."""
        n, d = templates.shape
        augmented = np.empty((n, d + 2), dtype=dtype)
        augmented[:, :d] = templates
        augmented[:, d] = -np.einsum("nd,nd->n", templates, templates)
        augmented[:, d + 1] = 1
        return augmented

    def columns(self):
        """Iterate over the slices of templates that make a tile."""
        for start in range(0, self.count, self.width):
            yield slice(start, min(start + self.width, self.count))

    def left_factor(self, x):
        """Give rows as ``[2x, 1, -|x|^2]``."""
        left = x.new_empty(len(x), self.right.shape[1])
        torch.mul(x, 2, out=left[:, :-2])
        left[:, -2] = 1
        left[:, -1] = x.square().sum(1).neg_()
        return left

    def minus_distances(self, x, left, columns, out):
        """Give ``-|x - y|^2`` for a block of rows and a slice of templates."""
        if self.direct:
            how = "donot_use_mm_for_euclid_dist"
            distances = torch.cdist(x, self.points[columns], compute_mode=how)
            return distances.square_().neg_()
        out = out[: len(x), : columns.stop - columns.start]
        return torch.mm(left, self.transposed[columns.start // self.width], out=out)

    def near(self, x, u, columns):
        """Give the pairs whose distance lost half its digits to cancellation."""
        norms = x.square().sum(1, keepdim=True) - self.right[columns, -2]
        return (u <= self.tolerance * norms).nonzero(as_tuple=True)

    def differences(self, x, columns, pairs):
        """Iterate over near pairs: rows, columns of the tile, squared differences."""
        y = self.points[columns]
        for i, j in zip(*(p.split(_PAIRS) for p in pairs), strict=True):
            yield i, j, (x[i] - y[j]).square()


class FeatureSums:
    """Gathers ``sum_j weights_j (x_i - y_ji)^2`` for a block of rows over its tiles."""

    def __init__(self, tiles, x):
        self.tiles, self.x = tiles, x
        self.total = x.new_zeros(len(x), 1)
        self.first = torch.zeros_like(x)
        self.second = torch.zeros_like(x)

    def add(self, weights, columns):
        """Add a tile."""
        y = self.tiles.points[columns]
        if self.tiles.direct:
            self._add_directly(weights, y)
            return
        self.total += weights.sum(1, keepdim=True)
        self.first.addmm_(weights, y)
        self.second.addmm_(weights, y.square())

    def add_pairs(self, rows, weighted_squares):
        """Add single pairs of a row and a template."""
        self.second.index_add_(0, rows, weighted_squares)

    def fade(self, factor):
        """Multiply what was gathered so far."""
        for moment in (self.total, self.first, self.second):
            moment *= factor

    def result(self):
        """Give the sums, as (rows, d)."""
        x = self.x
        return self.second.addcmul(x, self.first, value=-2).addcmul_(x.square(), self.total)

    def _add_directly(self, weights, y):
        for i in range(self.x.shape[1]):  # a feature a step: no (rows, columns, d) array
            squares = (self.x[:, i, None] - y[None, :, i]).square_()
            self.second[:, i] += squares.mul_(weights).sum(1)


def to_tensor(array, device):
    """Share the array's memory with torch where it may be written; else copy."""
    array = array if array.flags.writeable else array.copy()
    return torch.as_tensor(array, device=device)
