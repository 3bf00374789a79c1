"""Counterfactuals: the normal row that belongs to z clipped to the cube."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from skad._typing import Floats
from skad.detectors._invertible._references import nearest
from skad.neural._parts import Trained

__all__ = ["Counterfactuals"]

_JUST_INSIDE = 1 - 1e-4
_HALVINGS = 12
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Finds a normal row for each abnormal one.

    Parameters
    ----------
    trained : Trained
        With ``references_`` in its state.
    outlier_score : callable
        From flat rows to their scores.
    """

    trained: Trained
    outlier_score: Callable[[Any], Floats]

    def __call__(self, X: Floats) -> Floats:
        """Return the nearest of the rows that the networks clip each row to."""
        prepare, normal = self.trained.units.prepare, self._nearest_normal(X)
        units = prepare(X).double()
        with torch.inference_mode():
            net, device = self.trained.module.net, self.trained.device
            start = net(prepare(normal).double().to(device))
            step = net(units.to(device)).clamp(-_JUST_INSIDE, _JUST_INSIDE) - start

            def points(share):
                return net.inverse(start + share[..., None].to(device) * step).cpu()

            ends = points(self._longest(points, X, net.n_members))
        by_member = (ends - units).norm(dim=2).argmin(dim=0)
        found = self._as_rows(ends[by_member, torch.arange(len(X))], X)
        missed = self.outlier_score(found) > _ROUNDING
        found[missed] = normal[missed]  # which is known to be normal
        return found

    @cached_property
    def _references(self):
        return self.trained.state["references_"]

    def _longest(self, points, X, n_members):
        """Return the largest shares, at most 1, whose points are normal: (n_members, n)."""

        def normal(share):
            scores = [self.outlier_score(self._as_rows(p, X)) for p in points(share)]
            return torch.from_numpy(np.stack(scores) <= 0)

        high = torch.ones(n_members, len(X), dtype=torch.float64)
        low, whole = torch.zeros_like(high), normal(high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            good = normal(middle)
            low, high = middle.where(good, low), high.where(good, middle)
        return low.where(~whole, 1.0)

    def _as_rows(self, prepared, X):
        units, references = self.trained.units, self._references
        rows = units.as_rows(prepared, X)
        if not units.on_sphere:  # columns that never vary stay as they are
            still = np.ptp(references, axis=0) == 0
            rows[:, still] = references[0, still]
        return rows

    def _nearest_normal(self, X):
        """Return the nearest to each row of the references within the region."""
        references, units = self._references, self.trained.units
        within = self.outlier_score(references) <= 0
        somewhere = references.any(axis=1)
        if units.on_sphere and (within & somewhere).any():
            within &= somewhere  # a row of zeros has no direction to go to
        normal = references[within]
        if not len(normal):
            raise ValueError(
                f"None of {len(references)} training rows that score low lies within "
                "the region: there is no normal row to go to. See diagnostics_."
            )
        return normal[nearest(units, normal, X, 1)[:, 0]]
