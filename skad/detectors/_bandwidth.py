"""Bandwidths of a kernel density estimate: maximum leave-one-out likelihood, Scott."""

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from skad.base import calibration_rows
from skad.relevance._distance import COLUMNS, ROWS, TemplateTiles, to_tensor
from skad.relevance._template_pool import mask_own

__all__ = ["leave_one_out_scale", "scott_bandwidth"]

_FLOOR = -700  # exp is many times slower where it underflows


def scott_bandwidth(X):
    """Scott's rule times the features' root mean variance.

    scikit-learn's ``bandwidth="scott"`` leaves the scale out: the two agree on features
    of unit variance.
    """
    variance = X.var(axis=0)
    d = np.count_nonzero(variance)
    if d == 0:
        raise ValueError(
            "bandwidth='scott' needs rows that differ; all rows of X are equal. Give "
            "the bandwidth as a number."
        )
    return np.sqrt(variance[variance > 0].mean()) * len(X) ** (-1 / (d + 4))


def leave_one_out_scale(X, pooling, device):
    """Find the scale s of maximum leave-one-out likelihood.

    The log likelihood of row i under the others, with kernel ell of ``u = d / s``, is

        log mean_{j != i} exp(ell(d_ij / s)) - (D / 2) log s + const,

    D the number of features that vary. At its maximum over a Gaussian's s = 2 sigma^2,
    ``D sigma^2`` is a mean of squared distances, hence between the mean distance to the
    nearest row and the mean distance to any row. A grid of octaves spans that range, a
    finer one the octaves around the best, and a spline places the maximum.

    Equal rows count once, or the likelihood of data that repeats has no maximum. Of more
    than 5,000 rows, 5,000 are left out in turn, against all the others.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    pooling : callable
        Makes the pooling (SoftMin or PowerMean) of a scale.
    device : str

    Returns
    -------
    scale : float
    """
    X = np.unique(X, axis=0)
    if len(X) < 2:
        raise ValueError(
            "bandwidth='loo' needs rows that differ; all rows of X are equal. Give the "
            "bandwidth as a number."
        )
    d = np.count_nonzero(np.ptp(X, axis=0))
    left_out = _LeftOut(X - X.mean(axis=0), calibration_rows(len(X)), device)
    nearest, mean = left_out.nearest.mean().item(), 2 * X.var(axis=0).sum()
    # For a Gaussian s = 2 sigma^2; heavier tails choose a smaller s.
    grid = _octaves(2 * nearest / d, 2 * mean / d)
    curve = left_out.log_likelihood(grid, pooling, d)
    while (best := np.argmax(curve)) in (0, len(grid) - 1):
        more = grid[0] / [8, 4, 2] if best == 0 else grid[-1] * np.array([2, 4, 8])
        grid = np.concatenate([grid, more])
        curve = np.append(curve, left_out.log_likelihood(more, pooling, d))
        grid, curve = grid[order := np.argsort(grid)], curve[order]
    fine = np.geomspace(grid[best - 1], grid[best + 1], 9)
    return _argmax(np.log(fine), left_out.log_likelihood(fine, pooling, d))


def _octaves(low, high):
    count = int(np.ceil(np.log2(high / low))) + 3
    return low / 2 * 2.0 ** np.arange(count)


def _argmax(log_scale, curve):
    spline = CubicSpline(log_scale, curve)
    stationary = spline.derivative().roots(extrapolate=False)
    candidates = np.concatenate([log_scale, stationary])
    return float(np.exp(candidates[np.argmax(spline(candidates))]))


class _LeftOut:
    """Rows against all the others, the same tiles of distances for every bandwidth."""

    def __init__(self, X, rows, device):
        # Distances relative to the mean one: then `TemplateTiles` can tell whether the
        # product of matrices is precise enough.
        self.unit = 2 * X.var(axis=0).sum()
        augmented = TemplateTiles.augment(X / np.sqrt(self.unit), np.float64)
        self.tiles = TemplateTiles(augmented, device)
        self.rows = to_tensor(rows, device)
        self.nearest = torch.full((len(rows), 1), torch.inf, dtype=torch.float64)
        self.nearest = self.nearest.to(device)
        for block, minus_u in self._tiles():
            nearest = self.nearest[block]
            torch.minimum(nearest, -minus_u.amax(1, keepdim=True), out=nearest)
        self.nearest *= self.unit

    def log_likelihood(self, scales, pooling, d):
        """Mean leave-one-out log likelihood at each scale, up to a constant."""
        poolings = [pooling(scale) for scale in scales]
        nearest = self.nearest[:, 0]
        tops = [_log_kernel(p, -self.nearest / p.scale) for p in poolings]
        totals = torch.zeros(
            len(scales), len(self.rows), dtype=torch.float64, device=nearest.device
        )
        buffer = nearest.new_empty(ROWS, COLUMNS)
        for block, minus_u in self._tiles():
            out = buffer[: minus_u.shape[0], : minus_u.shape[1]]
            for pool, top, total in zip(poolings, tops, totals, strict=True):
                torch.mul(minus_u, self.unit / pool.scale, out=out)
                ell = pool.log_kernel(out).sub_(top[block])
                total[block] += ell.clamp_(min=_FLOOR).exp_().sum(1)
        logs = torch.log(totals) + torch.stack(tops)[:, :, 0]
        return logs.mean(1).cpu().numpy() - d / 2 * np.log(scales)

    def _tiles(self):
        tiles = self.tiles
        out = tiles.right.new_empty(ROWS, COLUMNS)
        for start in range(0, len(self.rows), ROWS):
            block = slice(start, start + ROWS)
            own = self.rows[block]
            x = tiles.points[own]
            left = tiles.left_factor(x)
            for columns in tiles.columns():
                minus_u = tiles.minus_distances(x, left, columns, out)
                mask_own(minus_u, own, columns)
                yield block, minus_u


def _log_kernel(pooling, minus_u):
    return pooling.log_kernel(minus_u.clone())
