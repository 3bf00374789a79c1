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

__all__ = ["ROWS", "FeatureSums", "MappedSums", "TemplateTiles", "to_tensor"]

# The shape of a tile, small enough to stay in the cache between the passes over it.
ROWS = 512
TILE_BYTES = 2**20
_PAIRS = 4096  # near pairs treated at once
_NEAR = 1e-5  # maps lose further digits, by the condition of their matrix


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
        """Return rows as ``[2x, 1, -|x|^2]``."""
        left = x.new_empty(len(x), self.right.shape[1])
        torch.mul(x, 2, out=left[:, :-2])
        left[:, -2] = 1
        left[:, -1] = x.square().sum(1).neg_()
        return left

    def minus_distances(self, x, left, columns, out):
        """Return ``-|x - y|^2`` for a block of rows and a slice of templates."""
        if self.direct:
            how = "donot_use_mm_for_euclid_dist"
            distances = torch.cdist(x, self.points[columns], compute_mode=how)
            return distances.square_().neg_()
        out = out[: len(x), : columns.stop - columns.start]
        return torch.mm(left, self.transposed[columns.start // self.width], out=out)

    def near(self, x, u, columns, tolerance):
        """Return the pairs whose distance is below a tolerance of their squared norms."""
        norms = x.square().sum(1, keepdim=True) - self.right[columns, -2]
        return (u <= tolerance * norms).nonzero(as_tuple=True)

    def differences(self, x, columns, pairs):
        """Iterate over near pairs: rows, columns of the tile, differences."""
        y = self.points[columns]
        for i, j in zip(*(p.split(_PAIRS) for p in pairs), strict=True):
            yield i, j, x[i] - y[j]


class FeatureSums:
    """Gathers ``sum_j weights_j (x_i - y_ji)^2`` for a block of rows over its tiles.

    Parameters
    ----------
    tiles : TemplateTiles
    x : torch.Tensor of shape (rows, d)
    """

    def __init__(self, tiles, x):
        self.tiles, self.x = tiles, x
        self.total = x.new_zeros(len(x), 1)
        self.first = torch.zeros_like(x)
        self.second = torch.zeros_like(x)
        # Half the digits are lost at such a share of the squared norms.
        self.near = tiles.tolerance

    def add(self, weights, columns):
        """Add a tile."""
        y = self.tiles.points[columns]
        if self.tiles.direct:
            _add_products(self.second, weights, self.x, y)
            return
        self.total += weights.sum(1, keepdim=True)
        self.first.addmm_(weights, y)
        self.second.addmm_(weights, y.square())

    def add_pairs(self, rows, weights, differences):
        """Add single pairs of a row and a template."""
        self.second.index_add_(0, rows, weights[:, None] * differences.square())

    def fade(self, factor):
        """Multiply what was gathered so far."""
        for moment in (self.total, self.first, self.second):
            moment *= factor

    def result(self):
        """Return the sums, as (rows, d)."""
        x = self.x
        return self.second.addcmul(x, self.first, value=-2).addcmul_(x.square(), self.total)


class MappedSums:
    r"""Gathers ``sum_j weights_j a_ji g_ji`` of other columns, and ``sum_j weights_j d_j``.

    For the columns that a linear map W made those of the templates of: with the
    differences :math:`\delta_j = x - y_j`, :math:`a_j = W^+ \delta_j` and
    :math:`g_j = W^\top \delta_j`; the d_j are :math:`\|\delta_j\|^2`.

    Parameters
    ----------
    tiles : TemplateTiles
    x : torch.Tensor of shape (rows, k)
    space : LinearMap
        Its ``matrix`` is (k, d), its ``inverse`` (d, k).
    """

    def __init__(self, tiles, x, space):
        self.tiles, self.x = tiles, x
        given = {"dtype": x.dtype, "device": x.device}
        self.gradient = torch.as_tensor(space.matrix, **given)
        self.deviation = torch.as_tensor(space.inverse.T, **given)
        self.total, self.own = x.new_zeros(len(x), 1), x.new_zeros(len(x), 1)
        self.first = torch.zeros_like(x)
        self.products = x.new_zeros(len(x), self.gradient.shape[1])
        self.near = max(_NEAR, tiles.tolerance)

    def add(self, weights, columns):
        """Add a tile."""
        y = self.tiles.points[columns]
        if self.tiles.direct:
            self._add_directly(weights, y)
            return
        self.total += weights.sum(1, keepdim=True)
        self.first.addmm_(weights, y)
        self.own.addmm_(weights, y.square().sum(1, keepdim=True))
        self.products.addmm_(weights, self._split(y))

    def add_pairs(self, rows, weights, differences):
        """Add single pairs of a row and a template."""
        weights = weights[:, None]
        self.own.index_add_(0, rows, weights * differences.square().sum(1, keepdim=True))
        self.products.index_add_(0, rows, weights * self._split(differences))

    def fade(self, factor):
        """Multiply what was gathered so far."""
        for moment in (self.total, self.own, self.first, self.products):
            moment *= factor

    def result(self):
        """Return the sums, as (rows, d + 1); those of the distances come last."""
        x, first = self.x, self.first
        products = self.products + self._split(x) * self.total
        products -= (x @ self.deviation) * (first @ self.gradient)
        products -= (x @ self.gradient) * (first @ self.deviation)
        own = self.own + x.square().sum(1, keepdim=True) * self.total
        own -= 2 * (x * first).sum(1, keepdim=True)
        return torch.cat([products, own], dim=1)

    def _split(self, differences):
        return (differences @ self.deviation) * (differences @ self.gradient)

    def _add_directly(self, weights, y):
        squares = torch.zeros_like(self.x)
        _add_products(squares, weights, self.x, y)
        self.own += squares.sum(1, keepdim=True)
        mapped = [(p @ self.deviation, p @ self.gradient) for p in (self.x, y)]
        _add_products(
            self.products, weights, *(a for a, _ in mapped), *(g for _, g in mapped)
        )


def _add_products(sums, weights, x, y, other_x=None, other_y=None):
    """Add weighted products of differences in two ways; of squares, where one is given."""
    for i in range(x.shape[1]):  # a feature a step: no (rows, columns, d) array
        products = x[:, i, None] - y[None, :, i]
        if other_x is None:
            products.square_()
        else:
            products *= other_x[:, i, None] - other_y[None, :, i]
        sums[:, i] += products.mul_(weights).sum(1)


def to_tensor(array, device):
    """Share the array's memory with torch where it may be written; else copy."""
    array = array if array.flags.writeable else array.copy()
    return torch.as_tensor(array, device=device)
