"""What the detectors that train invertible networks have in common."""

from __future__ import annotations

from math import ceil
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from skad._sklearn import Interval, StrOptions, check_parameters
from skad._typing import AnyArray, Floats, Rows
from skad.base import calibration_rows
from skad.neural._blocks import block_rows
from skad.neural._invertible import InvertibleNet
from skad.neural._invertible_training import MemberAdam
from skad.neural._rows import extremes
from skad.neural._scaling import ScaledRows, moments
from skad.relevance._path import ByAutograd, expected_gradients

__all__ = ["InvertibleDetector"]

_STEPS = 1000
_ROWS_A_STEP = 256
_REFERENCE_ROWS = 2000
_FAR = 1e30  # the greatest score


class InvertibleDetector(ScaledRows):
    """What detectors that train an `InvertibleNet` add to `NeuralDetector`.

    Rows are flat to them, images too. Relevance is that of expected gradients, against
    the nearest of the training rows that score low. A class has the parameters named
    below, and writes

    - ``_member_scores(batch)``: outlier scores by each network, a tensor (n_members, n);
    - ``_pool(scores)``: one score of them, a tensor (n,).
    """

    _in_blocks: Any
    _validate: Any
    references_: AnyArray

    _parameter_constraints = {
        "n_blocks": [Interval(Integral, 1, None, closed="left")],
        "hidden": [Interval(Integral, 1, None, closed="left")],
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "clamp": [Interval(Real, 0, None, closed="neither")],
        "preprocessing": [StrOptions({"standardize", "sphere"})],
        "noise": [Interval(Real, 0, None, closed="left")],
        "n_references": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    }
    _learned_here: tuple[str, ...] = (*ScaledRows._own_units, "_on_sphere", "references_")

    # Rows.

    @property
    def _ignores_constant_features(self):
        # On the sphere, its share of the length varies.
        return not getattr(self, "_on_sphere", self.preprocessing == "sphere")

    @property
    def _row_shape(self):
        return (self.n_features_in_,)

    def _learn_units(self, X):
        self._on_sphere = self.preprocessing == "sphere"
        X = self._directed(X)
        mean, variance = moments(X)
        low, high = extremes(X)
        if not np.isfinite(variance).all() or (low < high)[variance == 0].any():
            raise ValueError(
                "Values of X are too large or too small: float64 has no room for the "
                "variance of a feature. Change its unit."
            )
        scale = np.sqrt(variance)
        self._shift, self._scale = mean, np.where(scale > 0, scale, 1.0)

    def _prepare(self, X):
        return super()._prepare(self._directed(X))

    def _directed(self, X):
        """Scale rows to length 1, on the sphere."""
        if not self._on_sphere:
            return X
        X = np.asarray(X)
        directions = X / np.where((size := abs(X).max(axis=1)) > 0, size, 1.0)[:, None]
        return directions / _lengths(directions)

    def _as_rows(self, units, X):
        """Give rows in the units of X back; on the sphere, with the lengths of X."""
        rows = units.double().numpy() * self._scale + self._shift
        if self._on_sphere:
            return rows / _lengths(rows) * _lengths(X)
        still = np.ptp(self.references_, axis=0) == 0
        rows[:, still] = self.references_[0, still]
        return rows

    def _rows_of_a_block(self, device):
        return block_rows(self.n_features_in_)

    # Training.

    def _training_set(self, X, y, device):
        self._n_rows = len(X)
        return X, None, _AddNoise(self.noise) if self.noise else None

    @property
    def _epochs_of_a_fit(self):
        if self.max_epochs != "auto":
            return self.max_epochs
        return ceil(_STEPS / ceil(self._n_rows / self._rows_a_step(self._n_rows)))

    def _rows_a_step(self, n):
        if self.batch_size != "auto":
            return self.batch_size
        return ceil(n / ceil(n / _ROWS_A_STEP))  # all steps of one size

    def _invertible_net(self):
        return InvertibleNet(
            self.n_features_in_,
            n_blocks=self.n_blocks,
            hidden=self.hidden,
            n_members=self.n_members,
            clamp=self.clamp,
        )

    @property
    def _params_of_net(self):
        return {"optimizer": MemberAdam, **super()._params_of_net}

    def _train(self, X, y, *, go_on, epochs=None):
        super()._train(X, y, go_on=go_on, epochs=epochs)
        some = np.asarray(X[calibration_rows(len(X))])
        scores = self._outlier_score(some)
        normal = some[scores <= np.median(scores)]
        self.references_ = normal[calibration_rows(len(normal), _REFERENCE_ROWS)]

    # Score.

    @property
    def _net(self):
        return self.net_.module_.net

    def _score_block(self, batch):
        return self._pool(self._finite_scores(batch))

    def _finite_scores(self, batch):
        # Of rows so far off, or networks so badly fitted, that their z overflows.
        return self._member_scores(batch).nan_to_num(nan=_FAR, posinf=_FAR).clamp(max=_FAR)

    def member_scores(self, X: Rows) -> Floats:
        """Score rows by each network alone.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n, n_members), float64
            Outlier scores, higher is more abnormal.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        return self._in_blocks(lambda rows: self._finite_scores(rows).T, self._validate(X))

    # Explanation.

    def _relevance(self, X):
        device = next(self._net.parameters()).device
        references = self._units_of(self.references_).to(device)
        nearest = self._nearest(X)
        # A row is scored some `n_references` times at once.
        n_parts = -(-len(X) * nearest.shape[1] // block_rows(X.shape[1]))
        parts = np.array_split(np.arange(len(X)), max(1, min(n_parts, len(X))))
        score = ByAutograd(self._score_block, self._row_shape)
        with torch.inference_mode(False), torch.enable_grad():
            return np.concatenate(
                [
                    expected_gradients(
                        score,
                        self._units_of(X[part]).to(device),
                        references[torch.from_numpy(nearest[part])],
                    )
                    .cpu()
                    .numpy()
                    for part in parts
                ]
            )

    def _unattributed(self, X):
        """Give the mean score of the references of each row."""
        return self._outlier_score(self.references_)[self._nearest(X)].mean(axis=1)

    def _nearest(self, X):
        """Give the positions in `references_` of the nearest to each row: (n, k)."""
        check_parameters(self, "n_references")
        return self._nearest_among(self.references_, X, self.n_references)

    def _nearest_among(self, rows, X, k):
        """Give the positions of the k rows nearest to each of X, in the networks' units."""
        known, asked = self._units_of(rows).numpy(), self._units_of(X).numpy()
        search = NearestNeighbors(n_neighbors=min(k, len(rows))).fit(known)
        return search.kneighbors(asked, return_distance=False)

    def _units_of(self, X):
        """Give rows in the network's units, float64."""
        return self._prepare(X).double()


class _AddNoise:
    """Add Gaussian noise to a batch."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, X, y):
        return X + self.scale * torch.randn_like(X), y


def _lengths(X):
    """Give the lengths of rows, 1 for rows of zeros: (n, 1)."""
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    return np.where(lengths > 0, lengths, 1.0)
