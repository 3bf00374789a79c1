"""Distance to templates, then min-pooling: the score runs down, relevance runs up."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from skad.relevance._distance import ROWS, FeatureSums, MappedSums, TemplateTiles, to_tensor
from skad.relevance._pooling import PowerMean, SoftMin

__all__ = ["TemplatePool", "mask_own"]

_WIDE = 0.1  # squared distance, in units of the bandwidth
_SPREAD = 1e4  # beyond it, products of matrices lose digits that an explanation shows


@dataclass
class TemplatePool:
    """Score rows by pooled distances to templates, in bounded memory.

    Tiles of distances are made, pooled and forgotten. The sums are kept relative to a
    running maximum, so that far rows neither overflow nor underflow.

    Parameters
    ----------
    augmented : ndarray of shape (n, d + 2)
        Centred templates in units of the bandwidth, from `TemplateTiles.augment`.
    center : ndarray of shape (d,)
    pooling : SoftMin or PowerMean
    """

    augmented: np.ndarray
    center: np.ndarray
    pooling: SoftMin | PowerMean

    @classmethod
    def fit(cls, templates, pooling, dtype):
        """Keep templates, an array of shape (n, d)."""
        center = templates.mean(axis=0)
        with np.errstate(over="ignore"):  # reported below
            scaled = (templates - center) / np.sqrt(pooling.scale)
            augmented = TemplateTiles.augment(scaled, dtype)
        if not np.isfinite(augmented).all():
            raise ValueError(
                "Training rows are too many bandwidths apart for their squared distance "
                f"to be a {np.dtype(dtype)}. Take a wider bandwidth."
            )
        return cls(augmented, center, pooling)

    @property
    def templates(self):
        """The templates as they came, up to the rounding of the dtype: ndarray (n, d)."""
        scaled = self.augmented[:, :-2].astype(np.float64)
        return scaled * np.sqrt(self.pooling.scale) + self.center

    def score(self, X, device):
        """Return outlier scores of the rows: ndarray (m,), float64."""
        return self._sweep(X, device)[0]

    def decompose(self, X, rule, device, space=None):
        """Score the rows and explain the scores, in one sweep over the templates.

        Parameters
        ----------
        X : ndarray of shape (m, k), float64
        rule : Taylor or Conserving
        device : str
        space : LinearMap, default=None
            What made the columns of X out of others; relevance is theirs then.

        Returns
        -------
        score : ndarray of shape (m,), float64
        relevance : ndarray of shape (m, d), float64
            Not negative, but for a space.
        attributed : ndarray of shape (m,), float64
            What the relevance of a row sums to, or would without rounding of the space.
        """
        if space is None:
            score, relevance = self._sweep(X, device, rule, FeatureSums, X.shape[1])
            np.maximum(relevance, 0, out=relevance)
            return score, relevance, relevance.sum(axis=1)
        make, width = partial(MappedSums, space=space), space.matrix.shape[1]
        score, sums = self._in_float64()._sweep(X, device, rule, make, width + 1)
        return score, np.ascontiguousarray(sums[:, :width]), sums[:, width]

    def _in_float64(self):
        """Return the pool in the precision that the inverse of a matrix needs."""
        if self.augmented.dtype == np.float64:
            return self
        points = self.augmented[:, :-2].astype(np.float64)
        return replace(self, augmented=TemplateTiles.augment(points, np.float64))

    def leave_one_out(self, rows, device):
        """Return scores of the templates `rows`, each without itself: ndarray."""
        return self._sweep(None, device, own=rows)[0]

    def _sweep(self, X, device, rule=None, make_sums=None, width=0, own=None):
        """Pool over all templates; collect what the rule sends back, if there is one."""
        tiles = TemplateTiles(self.augmented, device)
        n_rows = len(X if own is None else own)
        scores, collected = np.empty(n_rows), np.empty((n_rows, width))
        for start in range(0, n_rows, ROWS):
            rows = slice(start, min(start + ROWS, n_rows))
            block = self._block(tiles, X, rows, own)
            collect = None if rule is None else _Collector(block, rule, make_sums)
            log_mean, sums = block.pool(collect)
            score = self.pooling.score(log_mean)
            scores[rows] = _unpadded(score, rows)[:, 0]
            if rule is not None:
                collected[rows] = _unpadded(rule.unit(self.pooling, score) * sums, rows)
        return scores, collected

    def _block(self, tiles, X, rows, own):
        if own is not None:
            x = self.augmented[own[rows], :-2]
            return _Block(tiles, self.pooling, x, to_tensor(own[rows], tiles.device))
        with np.errstate(over="ignore"):  # the block reports it
            x = (X[rows] - self.center) / np.sqrt(self.pooling.scale)
            return _Block(tiles, self.pooling, x.astype(self.augmented.dtype))


class _Block:
    """A block of rows on its way through all the tiles."""

    def __init__(self, tiles, pooling, x, own=None):
        self.tiles, self.pooling, self.own = tiles, pooling, own
        self.x = _padded(x, tiles.device)
        self.left = tiles.left_factor(self.x)
        if not torch.isfinite(self.left[:, -1]).all():
            raise ValueError(
                "X holds rows too many bandwidths away from the training rows for their "
                f"squared distance to be a {x.dtype}."
            )
        self.shift = self.x.new_zeros(len(self.x), 1)
        # Where ell is linear in the distance, the product of matrices can subtract it.
        self.folds = pooling.linear and not tiles.direct
        # No distance can be greater.
        self.farthest = ((-self.left[:, -1:]).sqrt_() + tiles.radius).square_()
        # All weights are near 1: what they lack is summed, or its digits would be lost.
        self.wide = bool(self.farthest.max() < _WIDE) and own is None

    def pool(self, collect=None):
        """Return L, and ``sum_j p_j slope_j (...)`` as `collect` gathers it."""
        out = self.x.new_empty(len(self.x), self.tiles.width)
        limits = _Limits(self.x.dtype, self.tiles.count, collect is not None)
        total, lack = (self.x.new_zeros(len(self.x), 1) for _ in range(2))
        for columns in self.tiles.columns():
            ell = self._log_kernel(columns, out)
            if self.wide:
                lack += torch.expm1(ell).sum(1, keepdim=True)
            elif columns.start == 0:
                self._subtract(limits.first_shift(ell.amax(1, keepdim=True)), ell)
                self._look_ahead(limits)
            elif limits.can_rise:
                rise = ell.amax(1, keepdim=True)
                if rise.max().item() > limits.slack:
                    fading = torch.exp(-rise.clamp_(min=0))
                    self._subtract(rise, ell)
                    total *= fading
                    if collect is not None:
                        collect.fade(fading)
            u = None if collect is None else collect.distance(ell, self.shift)
            weights = (ell.clamp_(min=limits.floor) if limits.sinks(ell) else ell).exp_()
            total += weights.sum(1, keepdim=True)
            if collect is not None:
                collect.add(weights, u, columns)
        count = self.tiles.count - (self.own is not None)
        sums = None if collect is None else collect.result() / total
        if self.wide:
            return torch.log1p(lack / count), sums
        return torch.log(total / count) + self.shift, sums

    def _log_kernel(self, columns, out):
        """Return ell of a tile, less the shift."""
        minus_u = self.tiles.minus_distances(self.x, self.left, columns, out)
        if self.own is not None:
            mask_own(minus_u, self.own, columns)
        ell = self.pooling.log_kernel(minus_u)
        return ell if self.folds else ell.sub_(self.shift)

    def _subtract(self, shift, ell):
        """Subtract from a tile, and from those to come."""
        ell.sub_(shift)
        self.shift += shift
        if self.folds:
            self.left[:, -1:] -= shift

    def _look_ahead(self, limits):
        """See from the first tile whether weights can overflow or underflow at all."""
        lowest = self.pooling.log_kernel(-self.farthest) - self.shift
        limits.can_rise = bool(-self.shift.min() > limits.slack)  # since ell <= 0
        limits.can_sink = bool(lowest.min() < limits.floor)


class _Limits:
    """How far exponents may rise above the shift, and fall below it.

    Weights below exp(floor) do not count beside those near 1, and arithmetic that
    underflows is many times slower. Weights that are multiplied further, to collect
    relevance, get more room on both sides; those that are summed only are looked at in
    every 32nd row, which is cheaper than to clamp them all.
    """

    def __init__(self, dtype, count, collecting):
        highest, lowest = np.log(torch.finfo(dtype).max), np.log(torch.finfo(dtype).tiny)
        self.collecting = collecting
        self.slack = 0.7 * highest if collecting else highest - np.log(count) - 1
        self.floor = 0.5 * lowest if collecting else 0.95 * lowest
        # float32 is too narrow for 0 as the greatest exponent: it takes the middle.
        self.lift = 40 if dtype == torch.float32 and not collecting else 0
        self.can_rise = self.can_sink = False

    def first_shift(self, top):
        """Return the shift by the first tile's maximum, which later ones may exceed."""
        return top - (self.slack + top).clamp_(0, self.lift)

    def sinks(self, ell):
        """Whether a tile must be clamped."""
        if self.collecting or not self.can_sink:
            return self.can_sink
        return ell[::32].amin().item() < self.floor


class _Collector:
    """Collects the relevance of the features, of a block of rows, tile by tile."""

    def __init__(self, block, rule, make_sums):
        self.block, self.rule = block, rule
        self.sums = make_sums(block.tiles, block.x)
        wide_spread = block.tiles.radius**2 > _SPREAD or isinstance(self.sums, MappedSums)
        self.exact_near = rule.singular or (wide_spread and not block.tiles.direct)
        self.fade = self.sums.fade
        self.result = self.sums.result

    def distance(self, ell, shift):
        pooling = self.block.pooling
        if self.exact_near or self.rule.needs_distance(pooling):
            return pooling.distance(ell + shift)
        return None

    def add(self, weights, u, columns):
        if not self.exact_near:
            self.sums.add(self._sloped(weights, u), columns)
            return
        tiles, x = self.block.tiles, self.block.x
        pairs = tiles.near(x, u, columns, self.sums.near)
        far = self._sloped(weights, u).clone()
        far[pairs] = 0  # they follow, exactly
        self.sums.add(far, columns)
        for i, j, differences in tiles.differences(x, columns, pairs):
            own = self._sloped(weights[i, j], differences.square().sum(1))
            self.sums.add_pairs(i, own, differences)

    def _sloped(self, weights, u):
        slope = self.rule.slope(self.block.pooling, u)
        return weights if slope is None else weights * slope


def mask_own(minus_u, own, columns):
    """Leave each row out of its own sum: own holds the rows' places among templates."""
    inside = (own >= columns.start) & (own < columns.stop)
    i = inside.nonzero(as_tuple=True)[0]
    minus_u[i, own[i] - columns.start] = -torch.inf


def _padded(x, device):
    """Rows on the device; in float32 always a full block.

    The rounding of a matrix product depends on its shape: with one shape, a row's score
    does not depend on how many rows come with it. In float64 the difference is 1e-15.
    """
    if x.dtype == np.float32 and len(x) < ROWS:
        x = np.pad(x, [(0, ROWS - len(x)), (0, 0)])
    return to_tensor(np.ascontiguousarray(x), device)


def _unpadded(values, rows):
    return values[: rows.stop - rows.start].double().cpu().numpy()
