"""Training onto the cube: rows held out, networks that fail trained again, warnings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skad._typing import AnyArray, Floats
from skad._warnings import warn
from skad.detectors._invertible._health import LEAST_INSIDE, is_bad, measure, some
from skad.detectors._invertible._losses import CubeNet
from skad.neural._training import Training

__all__ = ["CubeTraining", "hold_out", "scale_to_the_cube"]

_LOG = logging.getLogger("skad")
_SLOWER = 1 / 3  # the learning rate of networks that are trained again
_START_ROWS = 4000
_LEAST_SHARE = 0.1  # of the root mean square of the radii
_ALL_THE_SAME = 1e-6


def hold_out(X: Any, share: float, least: int) -> tuple[Any, AnyArray]:
    """Draw rows that do not train; return those that do, and those that do not.

    Raises
    ------
    ValueError
        If fewer than `least` rows are left to train on.
    """
    n_aside = round(share * len(X))
    if len(X) and len(X) - n_aside < least:
        raise ValueError(
            f"held_out={share} holds {n_aside} of {len(X)} rows out; two at least must "
            "train."
        )
    order = torch.randperm(len(X)).numpy()
    aside = np.asarray(X[order[:n_aside]])
    return (X[np.sort(order[n_aside:])] if n_aside else X), aside


def scale_to_the_cube(net: Any, rows: Any) -> None:
    """Scale new networks, by the rows that train.

    The median row starts as far out as samples of the cube are on average.
    """
    net, d = net.module_.net, rows.shape[1]
    with torch.no_grad():
        radii = net(some(rows, _START_ROWS).to(net.scale.device)).abs().amax(dim=2)
        # Where most rows are one, the others tell.
        least = _LEAST_SHARE * radii.square().mean(dim=1).sqrt()
        radius = torch.maximum(radii.median(dim=1).values, least)
        factor = torch.where(radius > _ALL_THE_SAME, d / (d + 1) / radius, 1.0)
        net.scale *= factor[:, None, None]


class _Refits(NamedTuple):
    """The health of networks after bad ones were trained again, how many, and the rate."""

    health: Floats
    n_refitted: int
    lr: float


@dataclass(frozen=True, eq=False)
class CubeTraining:
    """Train networks onto the cube, and those that fail once more.

    Called with a `Training`; returns the net, and as state the ``health`` of its networks
    and how many have been trained again, ``n_refitted``.

    Parameters
    ----------
    make_module : callable
        Returns new networks, a `CubeNet`.
    aside : ndarray of shape (n, d)
        Rows that do not train.
    max_refits : int
        How often bad networks are trained again.
    """

    make_module: Callable[[], CubeNet]
    aside: AnyArray
    max_refits: int

    def __call__(self, training: Training) -> tuple[Any, dict[str, Any]]:
        """Train, and warn of networks that were fitted badly."""
        net = training.begin()
        before = len(net.history)
        net, state = training.run(net)
        refits = self._train_bad_again(training, net, before)
        self._check(training, state, refits)
        self._warn_of(training, refits)
        learned = {"health": refits.health, "n_refitted": refits.n_refitted}
        return net, state | learned

    def _train_bad_again(self, training, net, before):
        health, lr, n_refitted = self._measure(training, net), training.settings.lr, 0
        may_refit = training.whole and not training.interrupted(net, before)
        for _ in range(self.max_refits if may_refit else 0):
            if not (bad := is_bad(health)).any():
                break
            lr, n_refitted = lr * _SLOWER, max(n_refitted, int(bad.sum()))
            _LOG.info("%d networks are trained again with lr=%.3g.", bad.sum(), lr)
            other = training.begin(module=self.make_module(), lr=lr)
            # scikit-learn's callbacks count the epochs of the first training.
            training.run(other, watched=False)
            if training.interrupted(other):
                break
            others = self._measure(training, other)
            health = _take_better(net, health, other, others, bad)
        return _Refits(health, n_refitted, lr)

    def _measure(self, training, net):
        return measure(net, training.rows, self.aside, training.parts.units)

    def _check(self, training, state, refits):
        # The loss itself is no measure: it is negative while rows have too little room.
        if np.isnan(state["start_loss"]) or np.isinf(refits.health[:2]).all():
            raise ValueError(
                "The training diverged: the loss is no number, or no network can be "
                "inverted and no gradient is finite. Lower lr, which is "
                f"{training.settings.lr:.3g}."
            )

    def _warn_of(self, training, refits):
        complaints = [_complaint(refits, training.settings.lr)]
        if training.whole:
            complaints.append(_complaint_of_held_out(refits.health, len(self.aside)))
        for text in filter(None, complaints):
            warn(text, ConvergenceWarning)


def _complaint(refits, lr):
    """Return what is to be said of networks that are bad, or were; None for nothing."""
    health, n_refitted, last_lr = refits
    n_bad, n_members = is_bad(health).sum(), health.shape[1]
    worst_trip, worst_norm = health[:2].max(axis=1)
    if n_bad:
        return (
            f"{n_bad} of {n_members} networks were fitted badly: samples of the "
            f"cube come back with errors up to {worst_trip:.2g} (1e-4 is good), "
            f"gradients have norms up to {worst_norm:.2g} (below 10 is good), and as "
            f"few as {health[2].min():.0%} of the rows that trained lie within. "
            f"Lower lr, which was {last_lr:.2g} last."
        )
    if n_refitted:
        return (
            f"{n_refitted} of {n_members} networks were fitted badly with "
            f"lr={lr:.2g}, and were trained again, at last with lr={last_lr:.2g}: now "
            "all is well."
        )
    return None


def _complaint_of_held_out(health, n_aside):
    inside, fresh = health[2:].mean(axis=1)
    if not fresh < LEAST_INSIDE:  # NaN where no row was held out
        return None
    return (
        f"Of {n_aside} held-out rows, {fresh:.0%} lie within the cube, of "
        f"the rows that trained {inside:.0%}: a positive score does not mean that "
        "a row is abnormal here; go by `predict`."
    )


def _take_better(net, health, other, others, bad):
    """Take bad members of another training where they are better; return their health."""
    better = bad & (~is_bad(others) | (others[0] < health[0]))
    theirs = other.module_.state_dict()
    for name, tensor in net.module_.state_dict().items():
        which = torch.from_numpy(better).to(tensor.device)
        tensor[which] = theirs[name][which]
    return np.where(better, others, health)
