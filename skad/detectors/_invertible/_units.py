"""Units of invertible networks: standardised columns, of directions on the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from skad.neural._rows import extremes
from skad.neural._units import ScaledUnits, moments

__all__ = ["DirectedUnits"]


@dataclass(frozen=True, eq=False)
class DirectedUnits(ScaledUnits):
    """Standardised columns; on the sphere, of rows that are first scaled to length 1.

    Parameters
    ----------
    row_shape, image_shape, shift, scale
        As for `ScaledUnits`.
    on_sphere : bool, default=False
    """

    on_sphere: bool = False

    @classmethod
    def of(cls, data: Any, previous: Any = None, *, on_sphere: bool = False) -> Self:
        """Learn what rows are scaled by, or take what was learned before.

        Raises
        ------
        ValueError
            If float64 has no room for the variance of a feature.
        """
        if previous is not None:
            return cls.from_state(data, previous.state)
        X = _directions(data.X) if on_sphere else data.X
        mean, variance = moments(X)
        low, high = extremes(X)
        if not np.isfinite(variance).all() or (low < high)[variance == 0].any():
            raise ValueError(
                "Values of X are too large or too small: float64 has no room for the "
                "variance of a feature. Change its unit."
            )
        scale = np.sqrt(variance)
        scale = np.where(scale > 0, scale, 1.0)
        return cls(data.row_shape, data.image_shape, mean, scale, on_sphere)

    @classmethod
    def from_state(cls, data: Any, state: dict[str, Any]) -> Self:
        """Return the units that a state describes."""
        units = state["shift"], state["scale"], state["on_sphere"]
        return cls(data.row_shape, data.image_shape, *units)

    @property
    def state(self) -> dict[str, Any]:
        """What was learned, by name."""
        return super().state | {"on_sphere": self.on_sphere}

    def prepare(self, X: Any) -> Any:
        """Make a float32 tensor of flat rows."""
        return super().prepare(_directions(X) if self.on_sphere else X)

    def as_rows(self, prepared: Any, X: Any) -> Any:
        """Return tensors in the units of the rows X; on the sphere, with their lengths."""
        rows = prepared.double().numpy() * self.scale + self.shift
        return rows / _lengths(rows) * _lengths(X) if self.on_sphere else rows


def _directions(X):
    """Scale rows to length 1."""
    X = np.asarray(X)
    directions = X / np.where((size := abs(X).max(axis=1)) > 0, size, 1.0)[:, None]
    return directions / _lengths(directions)


def _lengths(X):
    """Return the lengths of rows, 1 for rows of zeros: (n, 1)."""
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    return np.where(lengths > 0, lengths, 1.0)
