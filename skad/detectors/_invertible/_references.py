"""Relevance by expected gradients, against the nearest training rows that score low."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from skad._thresholds import calibration_rows
from skad._typing import Floats
from skad.neural._blocks import block_rows
from skad.neural._parts import Scoring, Trained
from skad.neural._units import Units
from skad.relevance._path import ByAutograd, expected_gradients

__all__ = ["AgainstReferences", "nearest", "rows_that_score_low", "scoring_of"]

_REFERENCE_ROWS = 2000


def scoring_of(
    trained: Trained, score: Callable[..., torch.Tensor], n_references: int
) -> Scoring:
    """Return how networks score, and are explained against their references.

    Parameters
    ----------
    trained : Trained
    score : callable
        From a tensor of prepared rows to their outlier scores.
    n_references : int
        Rows that a row is explained against.
    """
    explain = AgainstReferences(trained, score, n_references)
    rows = block_rows(trained.units.n_features)
    return Scoring(score, explain.relevance, explain.unattributed, block_rows=rows)


@dataclass(frozen=True, eq=False)
class AgainstReferences:
    """What a row scores more than its nearest references, as a sum over the features.

    Parameters
    ----------
    trained : Trained
        With ``references_`` in its state.
    score : callable
        From a tensor of prepared rows to their outlier scores.
    n_references : int
    """

    trained: Trained
    score: Callable[..., torch.Tensor]
    n_references: int

    @cached_property
    def rows(self) -> Any:
        """The references, as they came."""
        return self.trained.state["references_"]

    def nearest(self, X: Any) -> Any:
        """Return the positions of the references nearest to each row: (n, k)."""
        return nearest(self.trained.units, self.rows, X, self.n_references)

    def relevance(self, X: Any) -> Floats:
        """Return expected gradients, times the way from the references."""
        units, device, found = self.trained.units, self.trained.device, self.nearest(X)
        references = units.prepare(self.rows).double().to(device)
        # A row is scored some `n_references` times at once.
        n_parts = -(-len(X) * found.shape[1] // block_rows(X.shape[1]))
        parts = np.array_split(np.arange(len(X)), max(1, min(n_parts, len(X))))
        score = ByAutograd(self.score, units.row_shape)

        def explained(part):
            rows = units.prepare(X[part]).double().to(device)
            to = references[torch.from_numpy(found[part])]
            return expected_gradients(score, rows, to).cpu().numpy()

        with torch.inference_mode(False), torch.enable_grad():
            return np.concatenate([explained(part) for part in parts])

    def unattributed(self, X: Any) -> Floats:
        """Return the mean score of the references of each row."""
        found = self.nearest(X)
        used, places = np.unique(found, return_inverse=True)
        rows = block_rows(self.trained.units.n_features)
        scores = self.trained.in_blocks(self.score, self.rows[used], rows)
        return scores[places.reshape(found.shape)].mean(axis=1)


def nearest(units: Units, rows: Any, X: Any, k: int) -> Any:
    """Return the positions of the k rows nearest to each of X, in units of the networks."""
    known, asked = (units.prepare(some).double().numpy() for some in (rows, X))
    search = NearestNeighbors(n_neighbors=min(k, len(rows))).fit(known)
    return search.kneighbors(asked, return_distance=False)


def rows_that_score_low(trained: Trained, scoring: Scoring, X: Any) -> Any:
    """Return some of the rows of the half that scores lowest."""
    some = np.asarray(X[calibration_rows(len(X))])
    scores = trained.in_blocks(scoring.score, some, scoring.block_rows)
    low = some[scores <= np.median(scores)]
    return low[calibration_rows(len(low), _REFERENCE_ROWS)]
