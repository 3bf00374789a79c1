"""Training onto the cube: rows held out, networks that fail trained again, warnings."""

import logging
from math import nan
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skad._sklearn import Interval, StrOptions
from skad._warnings import warn
from skad.neural._invertible_detector import InvertibleDetector
from skad.neural._invertible_training import PULLS, CubeNet, PullAndPush

__all__ = ["CubeTraining"]

_LOG = logging.getLogger("skad")
# Training that goes well has norms below 10, and round trips below 1e-4.
_WORST_ROUND_TRIP, _WORST_NORM = 1e-3, 50.0
_LEAST_INSIDE = 0.1  # share of rows
_SLOWER = 1 / 3  # the learning rate of networks that are trained again
_START_ROWS = 4000
_LEAST_SHARE = 0.1  # of the root mean square of the radii
_ALL_THE_SAME = 1e-6
_SAMPLES = 1000
_FIGURES = ("round_trip", "gradient_norm", "inside", "inside_held_out")


class CubeTraining(InvertibleDetector):
    """What detectors that map rows onto the cube add to `InvertibleDetector`.

    A class has the parameters `pull`, `held_out` and `max_refits`.
    """

    _parameter_constraints = {
        **InvertibleDetector._parameter_constraints,
        "pull": [StrOptions(set(PULLS)), callable],
        "held_out": [Interval(Real, 0, 1, closed="left")],
        "max_refits": [Interval(Integral, 0, None, closed="left")],
    }
    _learned_here: tuple[str, ...] = (
        *InvertibleDetector._learned_here,
        "_health",
        "_n_refitted",
    )
    early_stopping = False  # the loss is no measure of the fit

    @property
    def diagnostics_(self) -> dict[str, Any]:
        """How well each network was fitted: arrays of shape (n_members,), by name."""
        if not hasattr(self, "_health"):
            raise AttributeError(
                f"This {type(self).__name__} has no diagnostics_: not fitted."
            )
        return {
            "refitted": self._n_refitted,
            **dict(zip(_FIGURES, self._health, strict=True)),
        }

    def _make_module(self):
        return CubeNet(self._invertible_net())

    def _make_criterion(self):
        return PullAndPush(self.pull if callable(self.pull) else PULLS[self.pull])

    def _training_set(self, X, y, device):
        n_aside = round(self.held_out * len(X))
        if len(X) - n_aside < (2 if self._may_refit else 1):
            raise ValueError(
                f"held_out={self.held_out} holds {n_aside} of {len(X)} rows out; two at "
                "least must train."
            )
        order = torch.randperm(len(X)).numpy()
        self._aside = np.asarray(X[order[:n_aside]])
        if n_aside:
            X = X[np.sort(order[n_aside:])]
        return super()._training_set(X, y, device)

    def _before_training(self, net, rows):
        # The median row starts as far out as samples of the cube are on average.
        net, d = net.module_.net, rows.shape[1]
        with torch.no_grad():
            radii = net(_some(rows, _START_ROWS).to(net.scale.device)).abs().amax(dim=2)
            # Where most rows are one, the others tell.
            least = _LEAST_SHARE * radii.square().mean(dim=1).sqrt()
            radius = torch.maximum(radii.median(dim=1).values, least)
            factor = torch.where(radius > _ALL_THE_SAME, d / (d + 1) / radius, 1.0)
            net.scale *= factor[:, None, None]

    def _train(self, X, y, *, go_on, epochs=None):
        self._may_refit, self._refits = not go_on and epochs is None, False
        super()._train(X, y, go_on=go_on, epochs=epochs)
        del self._aside, self._may_refit, self._refits

    def _reporters(self, epochs):
        # scikit-learn's callbacks count the epochs of the first training.
        reporters = super()._reporters(epochs)
        return [r for r in reporters if not (self._refits and r[0] == "fit_tasks")]

    def _check_losses(self, losses):
        # Whatever they are: the loss is negative while the rows have too little room.
        super()._check_losses([self._start_loss] if losses else [])

    def _run(self, net, rows, labels, epochs, seed, go_on):
        before = len(net.history)
        super()._run(net, rows, labels, epochs, seed, go_on)
        health, lr, n_refitted = self._check_health(net, rows), self.lr, 0
        self._refits = self._may_refit and len(net.history) - before >= epochs
        for _ in range(self.max_refits if self._refits else 0):
            if not (bad := _is_bad(health)).any():
                break
            lr, n_refitted = lr * _SLOWER, max(n_refitted, int(bad.sum()))
            _LOG.info("%d networks are trained again with lr=%.3g.", bad.sum(), lr)
            other = self._make_net().set_params(lr=lr).initialize()
            self._before_training(other, rows)
            super()._run(other, rows, labels, epochs, seed, go_on)
            if len(other.history) < epochs:  # interrupted
                break
            health = _take_better(net, health, other, self._check_health(other, rows), bad)
        if np.isinf(health[:2]).all():
            raise ValueError(
                "The training diverged: no network can be inverted, and no gradient is "
                f"finite. Lower lr, which is {self.lr:.3g}."
            )
        self._health, self._n_refitted = health, n_refitted
        self._warn_of(n_refitted, lr)

    def _check_health(self, net, rows):
        """Measure how well each network was fitted: (number of figures, n_members)."""
        norms = getattr(net.optimizer_, "norms", [])
        norms = norms[-max(1, len(norms) // 10) :]
        net = net.module_.net
        with torch.no_grad():
            cube = 2 * torch.rand(net.n_members, _SAMPLES, self.n_features_in_) - 1
            cube = cube.to(net.scale.device)
            error = (net(net.inverse(cube)) - cube).abs().amax(dim=(1, 2))
            unknown = torch.full_like(error, nan)
            fresh = self._tensor(_some(self._aside, _SAMPLES), "cpu")
            figures = [
                error.nan_to_num(torch.inf),
                torch.stack(norms).median(dim=0).values if norms else unknown,
                _share_inside(net, _some(rows, _SAMPLES).to(cube.device)),
                _share_inside(net, fresh.to(cube.device)),
            ]
        return torch.stack(figures).double().cpu().numpy()

    def _warn_of(self, n_refitted, lr):
        n_bad, complaints = _is_bad(self._health).sum(), []
        worst_trip, worst_norm = self._health[:2].max(axis=1)
        inside, fresh = self._health[2:].mean(axis=1)
        if n_bad:
            complaints.append(
                f"{n_bad} of {self.n_members} networks were fitted badly: samples of the "
                f"cube come back with errors up to {worst_trip:.2g} (1e-4 is good), "
                f"gradients have norms up to {worst_norm:.2g} (below 10 is good), and as "
                f"few as {self._health[2].min():.0%} of the rows that trained lie within. "
                f"Lower lr, which was {lr:.2g} last."
            )
        elif n_refitted:
            complaints.append(
                f"{n_refitted} of {self.n_members} networks were fitted badly with "
                f"lr={self.lr:.2g}, and were trained again, at last with lr={lr:.2g}: now "
                "all is well."
            )
        if self._may_refit and fresh < _LEAST_INSIDE:
            complaints.append(
                f"Of {len(self._aside)} held-out rows, {fresh:.0%} lie within the cube, of "
                f"the rows that trained {inside:.0%}: a positive score does not mean that "
                "a row is abnormal here; go by `predict`."
            )
        for text in complaints:
            warn(text, ConvergenceWarning)


def _some(rows, most):
    """Give so many rows at most, from the first to the last: they may be in order."""
    return rows[:: max(1, -(-len(rows) // most))]


def _share_inside(net, rows):
    return (net(rows).abs().amax(dim=2) <= 1).to(rows.dtype).mean(dim=1)


def _is_bad(health):
    """Tell networks not invertible in float32, that blow up, or miss the rows."""
    round_trip, gradient_norm, inside = health[:3]
    bad = (round_trip > _WORST_ROUND_TRIP) | (gradient_norm > _WORST_NORM)
    return bad | (inside < _LEAST_INSIDE)


def _take_better(net, health, other, others, bad):
    """Take bad members of another training where they are better; give their health."""
    better = bad & (~_is_bad(others) | (others[0] < health[0]))
    theirs = other.module_.state_dict()
    for name, tensor in net.module_.state_dict().items():
        which = torch.from_numpy(better).to(tensor.device)
        tensor[which] = theirs[name][which]
    return np.where(better, others, health)
