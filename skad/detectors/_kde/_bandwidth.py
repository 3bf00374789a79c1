"""Bandwidths of a kernel density estimate: maximum leave-one-out likelihood, Scott."""

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from skad._thresholds import calibration_rows
from skad.relevance._distance import ROWS, TemplateTiles, to_tensor
from skad.relevance._soft_minimum import shifted_sum
from skad.relevance._template_pool import mask_own

__all__ = ["leave_one_out_root", "scott_bandwidth"]

_FLOOR = -350  # arithmetic is many times slower where it underflows
_CANCELLED = 1e-6  # a squared distance so small against the mean lost ten digits


def scott_bandwidth(X):
    """Return Scott's rule times the features' root mean variance.

    scikit-learn's ``bandwidth="scott"`` leaves the scale out: the two agree on features
    of unit variance.
    """
    X, size = _normalised(X, "scott")
    varies = np.ptp(X, axis=0) > 0
    spread = np.sqrt(X[:, varies].var(axis=0).mean())
    return float(size * spread * len(X) ** (-1 / (varies.sum() + 4)))


def leave_one_out_root(X, pooling, df, device):
    """Find the bandwidth of maximum leave-one-out likelihood.

    With s the squared distance at which the kernel falls, ``2 sigma^2`` or
    ``df sigma^2``, the log likelihood of row i under the others is

        log mean_{j != i} exp(ell(d_ij / s)) - (D / 2) log s + const,

    D the number of features that vary. At its maximum over a Gaussian's s, ``D sigma^2``
    is a mean of squared distances, hence between the mean distance to the nearest row
    and the mean distance to any row; for a Student-t kernel the range is that of
    ``D s / df``, from the median nearest row on, since few near-copies could otherwise
    pull the maximum to zero. A grid of octaves spans the range, a finer one the octaves
    around the best, and a spline places the maximum.

    Equal rows count once, or the likelihood of data that repeats has no maximum. Of more
    than 5,000 rows, 5,000 are left out in turn, against all the others.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    pooling : callable
        Makes the pooling (SoftMin or PowerMean) of a scale s.
    df : float or None
        Degrees of freedom that belong to the power; None for a Gaussian.
    device : str

    Returns
    -------
    root : float
        The square root of s, in the units of the features.
    """
    X, size = _normalised(np.unique(X, axis=0), "loo")
    d = np.count_nonzero(np.ptp(X, axis=0))
    left_out = _LeftOut(X, calibration_rows(len(X)), device)
    nearest = left_out.nearest.mean().item()
    low, high = nearest, max(left_out.mean, nearest)
    if df is not None:
        low = min(low, left_out.nearest.median().item())
    factors = (2, 2) if df is None else (min(2, df) / 4, 2 * max(2, df))
    grid = _octaves(max(low, 1e-25 * high) * factors[0] / d, high * factors[1] / d)
    best = np.argmax(left_out.log_likelihood(grid, pooling, d))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    fine = np.geomspace(*around, 9)
    scale = _argmax(np.log(fine), left_out.log_likelihood(fine, pooling, d))
    return size * np.sqrt(scale)  # the square of a huge size would overflow


def _normalised(X, rule):
    """Centre X and divide it by its largest entry, so that squares are safe."""
    X = X - X.mean(axis=0)
    size = abs(X).max()
    if not size > 0 or not np.ptp(X, axis=0).any():
        raise ValueError(
            f"bandwidth={rule!r} needs rows that differ; all rows of X are equal. Give "
            "the bandwidth as a number."
        )
    return X / size, size


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
        self.mean = 2 * X.var(axis=0).sum()
        # In units of the mean distance, where products of matrices are precise.
        augmented = TemplateTiles.augment(X / np.sqrt(self.mean), np.float64)
        self.tiles = TemplateTiles(augmented, device)
        self.rows = to_tensor(rows, device)
        self.nearest = self._nearest()
        if self.nearest.min() < _CANCELLED * self.mean:
            self.tiles.direct = True  # slower, but precise for near rows
            self.nearest = self._nearest()

    def _nearest(self):
        nearest = self.tiles.right.new_full((len(self.rows), 1), torch.inf)
        for block, minus_u in self._tiles():
            tile = -minus_u.amax(1, keepdim=True)
            nearest[block] = torch.minimum(nearest[block], tile)
        return nearest * self.mean

    def log_likelihood(self, scales, pooling, d):
        """Return the mean leave-one-out log likelihood at each scale, up to a constant."""
        poolings = [pooling(scale) for scale in scales]
        nearest = self.nearest[:, 0]
        tops = [_log_kernel(p, -self.nearest / p.scale) for p in poolings]
        totals = torch.zeros(
            len(scales), len(self.rows), dtype=torch.float64, device=nearest.device
        )
        buffer = nearest.new_empty(ROWS, self.tiles.width)
        for block, minus_u in self._tiles():
            out = buffer[: minus_u.shape[0], : minus_u.shape[1]]
            for pool, top, total in zip(poolings, tops, totals, strict=True):
                torch.mul(minus_u, self.mean / pool.scale, out=out)
                total[block] += shifted_sum(pool.log_kernel(out), top[block], _FLOOR)
        logs = torch.log(totals) + torch.stack(tops)[:, :, 0]
        return logs.mean(1).cpu().numpy() - d / 2 * np.log(scales)

    def _tiles(self):
        tiles = self.tiles
        out = tiles.right.new_empty(ROWS, tiles.width)
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
