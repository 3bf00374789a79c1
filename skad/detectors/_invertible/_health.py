"""How well networks were fitted onto the cube, and which were fitted badly."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from skad._typing import Bools, Floats
from skad.neural._units import Units, tensor_of

__all__ = ["FIGURES", "is_bad", "measure", "some"]

FIGURES = ("round_trip", "gradient_norm", "inside", "inside_held_out")
LEAST_INSIDE = 0.1  # share of rows
# Training that goes well has norms below 10, and round trips below 1e-4.
_WORST_ROUND_TRIP, _WORST_NORM = 1e-3, 50.0
_SAMPLES = 1000


def measure(net: Any, rows: Any, aside: Any, units: Units) -> Floats:
    """Measure how well each network was fitted.

    Parameters
    ----------
    net : skorch.NeuralNet
        Of a `CubeNet`.
    rows : tensor or PreparedRows
        The rows that trained, prepared.
    aside : ndarray of shape (n, d)
        The rows that were held out.
    units : Units

    Returns
    -------
    health : ndarray of shape (4, n_members)
        By `FIGURES`; NaN where there is nothing to measure.
    """
    norms = getattr(net.optimizer_, "norms", [])
    norms = norms[-max(1, len(norms) // 10) :]
    net = net.module_.net
    with torch.no_grad():
        cube = 2 * torch.rand(net.n_members, _SAMPLES, units.n_features) - 1
        cube = cube.to(net.scale.device)
        error = (net(net.inverse(cube)) - cube).abs().amax(dim=(1, 2))
        unknown = torch.full_like(error, nan)
        fresh = tensor_of(some(aside, _SAMPLES), units, "cpu")
        figures = [
            error.nan_to_num(torch.inf),
            torch.stack(norms).median(dim=0).values if norms else unknown,
            _share_inside(net, some(rows, _SAMPLES).to(cube.device)),
            _share_inside(net, fresh.to(cube.device)),
        ]
    return torch.stack(figures).double().cpu().numpy()


def is_bad(health: npt.NDArray[np.float64]) -> Bools:
    """Return which networks blow up, miss the rows, or can't be inverted in float32."""
    round_trip, gradient_norm, inside = health[:3]
    bad = (round_trip > _WORST_ROUND_TRIP) | (gradient_norm > _WORST_NORM)
    return bad | (inside < LEAST_INSIDE)


def some(rows: Any, most: int) -> Any:
    """Return so many rows at most, from the first to the last: they may be in order."""
    return rows[:: max(1, -(-len(rows) // most))]


def _share_inside(net, rows):
    return (net(rows).abs().amax(dim=2) <= 1).to(rows.dtype).mean(dim=1)
