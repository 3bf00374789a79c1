"""What a network is to tell of an image: its view, by heads; and which views are scored."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from numbers import Integral
from typing import Self

import numpy as np

from skad._typing import Ints
from skad.images import View, Views, geometric_views
from skad.relevance._view_score import ViewHeads

__all__ = ["ViewTask"]

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class ViewTask:
    """The views that a network tells apart.

    Parameters
    ----------
    views : Views
    heads : ViewHeads
    candidates : ndarray of int
        Positions of the views that may be scored.
    """

    views: Views
    heads: ViewHeads
    candidates: Ints

    @classmethod
    def of(cls, transforms, heads, row_shape) -> Self:
        """Make the task for rows (C, H, W), from GEO's parameters.

        Raises
        ------
        TypeError, ValueError
            If the transforms are no different views of such rows, or fewer than two.
        """
        views = _views(transforms, row_shape)
        candidates = np.arange(len(views))
        if heads == "separate":  # mirrored images are more images, not other views
            mirrored = np.array([view.mirrored for view in views.views])
            candidates = np.flatnonzero(~mirrored | mirrored.all())
        return cls(views, ViewHeads.of(views.views, heads), candidates)

    @property
    def plain_views(self):
        """The views as tuples, for the state of a training."""
        return tuple(tuple(view) for view in self.views.views)

    @property
    def scorable(self) -> ViewTask:
        """The task of the candidates alone, a ViewTask."""
        return self.subset(self.candidates)

    def subset(self, which: Ints) -> ViewTask:
        """Return the same, with the views at some positions."""
        views, heads = self.views.subset(which), self.heads.subset(which)
        return ViewTask(views, heads, np.arange(len(which)))

    def chosen(self, wanted) -> Ints:
        """Return positions of the views that the parameter ``views`` asks for.

        Raises
        ------
        ValueError
            If it asks for more views than may be scored, or for others.
        """
        candidates, n = self.candidates, len(self.candidates)
        if wanted is None:
            return candidates
        if isinstance(wanted, Integral) and not isinstance(wanted, bool):
            if int(wanted) > n:
                raise ValueError(f"views={wanted}, but there are {n} that are scored.")
            # Steps that share no divisor with the periods of turns and shifts.
            step = next(s for s in range(int(_GOLDEN * n), 2 * n) if gcd(s, n) == 1)
            return candidates[np.sort(np.arange(int(wanted)) * step % n)]
        positions = np.asarray(wanted)
        if (
            positions.ndim != 1
            or positions.dtype.kind not in "iu"
            or not np.isin(positions, candidates).all()
            or len(np.unique(positions)) != max(1, len(positions))
        ):
            raise ValueError(
                "views must be None, a number, or different positions in views_ of views "
                f"that are scored, {candidates[0]} to {candidates[-1]}; got {wanted}."
            )
        return positions.astype(np.intp)

    def check_known(self, known, transforms):
        """Raise ValueError where a network was trained on other views.

        Parameters
        ----------
        known : sequence of sequences
            The views of its training, `plain_views`.
        transforms : object
            The parameter that this task comes from.
        """
        known, wanted = [View(*view) for view in known], self.views.views
        if wanted != known:
            raise ValueError(
                f"The network tells {len(known)} views apart, {known[:3]} ...; "
                f"transforms={transforms!r} stands for {len(wanted)}, {wanted[:3]} ..."
            )


def _views(transforms, row_shape):
    size = row_shape[1:]
    if isinstance(transforms, str):
        found = geometric_views(size, transforms)
        if len(found) < 2:
            raise ValueError(
                "GEO needs rows that can be seen by two views at least; X has "
                f"{prod(row_shape)} feature(s), {size[0]} x {size[1]} pixels, and "
                f"transforms={transforms!r}."
            )
        transforms = found
    return Views(transforms, size)
