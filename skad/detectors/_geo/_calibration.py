"""What a classifier of views says of normal images: GEO's Dirichlet distributions."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils import gen_batches

from skad.detectors._geo._dirichlet import fit_dirichlet

__all__ = [
    "CALIBRATION_ROWS",
    "ViewCalibration",
    "calibrated",
    "in_own_units",
    "rows_at_once",
]

CALIBRATION_ROWS = 1000  # at most, where rows train too
_VIEWS_AT_ONCE = {"cpu": 144, "cuda": 2048}
# Share of the way from guessing to certainty below which views can't be told apart.
_TOLD_APART = 0.2
_FACTORS = {
    "mirrored": "mirrored images from others",
    "up": "how far images are shifted up or down",
    "left": "how far images are shifted to the left or right",
    "turns": "how far images are turned",
}
_TINY, _ROUNDING = np.finfo(np.float64).tiny, 1e-6  # of scores that are float32 at bottom


@dataclass
class ViewCalibration:
    """Means over normal images, by view; nothing is kept by image.

    Parameters
    ----------
    heads : ViewHeads
    views : list of View
    """

    heads: object
    views: list

    def __post_init__(self):
        self._n = 0
        self._sums = self._maps = 0.0

    def add(self, logits, maps):
        """Add images to the means.

        Parameters
        ----------
        logits : tensor of shape (n, n_views, k)
        maps : float64 tensor of shape (n, n_views, ...)
        """
        log_y = self.heads.log_softmax(logits)
        predicted = self.heads.predicted(logits)
        self._sums = self._sums + torch.stack([log_y, log_y.exp(), predicted]).sum(1)
        self._maps = self._maps + maps.sum(0)
        self._n += len(logits)

    @property
    def mean_maps(self):
        """Mean maps of each view: ndarray (n_views, ...), float32."""
        return (self._maps / self._n).float().numpy()

    def dirichlet(self):
        """Fit a Dirichlet distribution to each view, and each head.

        Where there is none, since the images don't differ, the score is that of "log":
        ``alpha = 1 + e_i`` for the right class i.

        Returns
        -------
        alpha : ndarray of shape (n_views, n_logits), float64
        n_failed : int
            Views without a distribution.
        """
        log_y, y, _ = (self._sums / self._n).unbind()
        alpha, failed = 1.0 + self.heads.right(), set()
        by_head = zip(*map(self.heads.split, (log_y, y, alpha)), strict=True)
        for means_log, means, out in by_head:
            for view in range(len(self.views)):
                found = fit_dirichlet(means_log[view], means[view])
                if found is None:
                    failed.add(view)
                else:
                    out[view] = torch.from_numpy(found)
        return alpha.numpy(), len(failed)

    def accuracy(self):
        """Compute the share of views that are classified right, by what they differ in.

        Returns
        -------
        accuracy : dict of str to float
            Of "mirrored", "up", "left" and "turns", where views differ in it and a head
            tells it; and of "view", where one head tells all.
        """
        shares, marks = self._sums[2] / self._n, self.heads.right()
        if self.heads.names == ["view"]:
            same = {n: f[:, None] == f for n, f in self._factors().items()}
            same["view"] = marks.numpy()
            return {n: float((shares.numpy() * m).sum(1).mean()) for n, m in same.items()}
        by_head = zip(
            self.heads.names, *map(self.heads.split, (shares, marks)), strict=True
        )
        return {name: float((s * m).sum(1).mean()) for name, s, m in by_head}

    def _factors(self):
        """Return what the views differ in."""
        factors = {name: [getattr(v, name) for v in self.views] for name in _FACTORS}
        return {n: np.array(f) for n, f in factors.items() if len(set(f)) > 1}

    def chance(self):
        """Compute the accuracy of knowing all factors but one, and guessing that."""
        factors = self._factors()
        if self.heads.names != ["view"]:
            return {n: 1 / len(set(f)) for n, f in factors.items() if n in self.heads.names}
        chance = {}
        for name in factors:
            others = [f for other, f in factors.items() if other != name]
            alike = np.ones((len(self.views),) * 2, dtype=bool)
            for factor in others:
                alike &= factor[:, None] == factor
            chance[name] = float((1 / alike.sum(axis=1)).mean())
        return chance

    def complaint(self):
        """Return a text on the views that can't be told apart; None if all can."""
        accuracy, chance = self.accuracy(), self.chance()
        alike = [
            name
            for name, guessed in chance.items()
            if accuracy[name] - guessed < _TOLD_APART * (1 - guessed)
        ]
        if not alike:
            return None
        what = ", nor ".join(
            f"{_FACTORS[name]} (right: {100 * accuracy[name]:.0f} %, by guessing: "
            f"{100 * chance[name]:.0f} %)"
            for name in alike
        )
        advice = "Train longer, or give transforms without such views."
        if len(alike) == len(chance):
            advice = "As no views can be told apart, the scores tell little."
        return f"The network can't tell {what}. {advice}"


def calibrated(trained, X):
    """Compute a `ViewCalibration` of normal rows, by the views that may be scored.

    Parameters
    ----------
    trained : Trained
        With a `ViewNetwork`.
    X : ndarray of shape (n, d), or LazyRows
    """
    net, rows = trained.module, rows_at_once(trained)
    task, n_logits = net.task.scorable, net.heads.out_features

    def outputs(batch):  # logits and maps, side by side
        maps = net.maps(task.views(batch).flatten(0, 1))
        values = torch.cat([net.classify(maps), maps.flatten(1)], dim=1)
        return values.unflatten(0, (len(batch), -1))

    calibration = ViewCalibration(task.heads, task.views.views)
    for part in gen_batches(len(X), rows):
        values = torch.from_numpy(trained.in_blocks(outputs, X[part], rows))
        logits, maps = values[..., :n_logits], values[..., n_logits:]
        calibration.add(logits, maps.unflatten(-1, net.map_shape))
    return calibration


def rows_at_once(trained):
    """Return the rows of a block, of which all views are in memory at once."""
    at_once = _VIEWS_AT_ONCE["cpu" if trained.device.type == "cpu" else "cuda"]
    return max(1, at_once // len(trained.module.task.candidates))


def in_own_units(scores, others, own):
    """Bring scores of another network to the units of one's own.

    Dirichlet parameters of another network differ by factors, and so do its scores.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        By the other network.
    others, own : ndarray of shape (m,)
        Of the same rows, by the other network and by one's own.
    """
    spread = [s.std() / max(abs(s).max(), _TINY) for s in (own, others)]
    factor = own.std() / others.std() if min(spread) > _ROUNDING else 1.0
    return own.mean() + factor * (scores - others.mean())
