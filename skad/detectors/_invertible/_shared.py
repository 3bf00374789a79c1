"""What the detectors that train invertible networks share: parameters, nets, batches."""

from __future__ import annotations

from functools import partial
from math import ceil
from numbers import Integral, Real
from typing import Any

import torch

from skad._sklearn import Interval, StrOptions
from skad.detectors._invertible._member_adam import MemberAdam
from skad.neural._invertible import InvertibleNet
from skad.neural._parts import Batches

__all__ = ["CONSTRAINTS", "bounded", "make_batches", "make_net", "with_member_adam"]

_STEPS = 1000
_ROWS_A_STEP = 256
_GREATEST_SCORE = 1e30

CONSTRAINTS: dict[str, Any] = {
    "n_blocks": [Interval(Integral, 1, None, closed="left")],
    "hidden": [Interval(Integral, 1, None, closed="left")],
    "n_members": [Interval(Integral, 1, None, closed="left")],
    "clamp": [Interval(Real, 0, None, closed="neither")],
    "preprocessing": [StrOptions({"standardize", "sphere"})],
    "noise": [Interval(Real, 0, None, closed="left")],
    "n_references": [Interval(Integral, 1, None, closed="left")],
    "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
}


def make_net(detector: Any, n_features: int) -> InvertibleNet:
    """Make the networks by a detector's parameters, with random rotations."""
    return InvertibleNet(
        n_features,
        n_blocks=detector.n_blocks,
        hidden=detector.hidden,
        n_members=detector.n_members,
        clamp=detector.clamp,
    )


def make_batches(detector: Any, rows: Any) -> Batches:
    """Return the rows that train, with noise; by default in 1,000 steps of one size."""
    n = len(rows)
    if not n:  # weights are loaded: nothing trains
        return Batches(rows)
    size, epochs = detector.batch_size, detector.max_epochs
    if size == "auto":
        size = ceil(n / ceil(n / _ROWS_A_STEP))
    if epochs == "auto":
        epochs = ceil(_STEPS / ceil(n / size))
    change = partial(_add_noise, detector.noise) if detector.noise else None
    return Batches(rows, change=change, size=size, epochs=epochs)


def with_member_adam(net_params: dict[str, Any] | None) -> dict[str, Any]:
    """Return the parameters of a net that `MemberAdam` trains, unless they say other."""
    return {"optimizer": MemberAdam, **(net_params or {})}


def bounded(scores: torch.Tensor) -> torch.Tensor:
    """Bound the scores of rows so far out, or networks so bad, that their z overflows."""
    most = _GREATEST_SCORE
    return scores.nan_to_num(nan=most, posinf=most).clamp(max=most)


def _add_noise(scale, X, y):
    return X + scale * torch.randn_like(X), y
