"""Relevance of a score of views: by pixel, by two ways, and by view."""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from skad._sklearn import Interval, StrOptions, check_parameters
from skad._typing import Floats, Rows
from skad.relevance._class_activation import activation_relevance
from skad.relevance._path import ByAutograd, expected_gradients, mean_gradient
from skad.relevance._receptive_field import ReceptiveField
from skad.relevance._upsampling import GaussianUpsampling

__all__ = ["ViewRelevance"]


class ViewRelevance:
    """What a detector that scores views by a `ViewNetwork` adds to explain its score.

    A class has the parameters `explanation`, `n_references` and `sigma`, the attributes
    `mean_maps_` and `references_`, and writes

    - ``_scorer``: the `ViewScorer`;
    - ``_field``, ``_map_shape``: what an entry of the maps sees, and (D, u, v).
    """

    _in_blocks: Any
    _scorer: Any
    _validate: Any

    _parameter_constraints = {
        "explanation": [StrOptions({"cam", "expected_gradients"})],
        "n_references": [Interval(Integral, 1, None, closed="left")],
        "sigma": [Interval(Real, 0, None, closed="neither"), None],
    }

    def explain_views(self, X: Rows) -> Floats:
        """Attribute the outlier score of each row to the views of it.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to explain.

        Returns
        -------
        contributions : ndarray of shape (n, n_scored_views), float64
            By view of `scored_views_`, what it adds to the outlier score over what it adds
            in the reference: ``explain_views(X).sum(axis=1) + reference_score_`` is the
            outlier score.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        scores = self._in_blocks(self._scorer.by_view, self._validate(X))
        return (scores - self._reference_view_scores()) / scores.shape[1]

    @property
    def reference_score_(self) -> float:
        """The outlier score that relevance starts from."""
        if not hasattr(self, "net_"):
            raise AttributeError("This detector has no reference_score_: not fitted.")
        return float(self._reference_view_scores().mean())

    @property
    def _ignores_constant_features(self):
        return self.explanation == "expected_gradients"  # a map smears

    def _relevance(self, X):
        check_parameters(self, "explanation", "sigma")
        if self.explanation == "cam":
            reference, start = self._reference
            steps = self._scorer, reference.double(), start, self._upsampling
            maps = partial(self._activation_maps, *steps)
            return self._in_blocks(maps, X).reshape(X.shape)
        return np.concatenate([self._against_references(x[None]) for x in X])

    def _unattributed(self, X):
        return np.full(len(X), self.reference_score_)

    def _reference_view_scores(self):
        """Give the score of each view that relevance starts from."""
        if self.explanation == "cam":
            return self._scorer.score(self._reference[1]).cpu().numpy()
        return self._in_blocks(self._scorer.by_view, self.references_).mean(axis=0)

    # Against the mean maps.

    @property
    def _reference(self):
        """Give the mean maps of each scored view, and their logits."""
        net = self.net_.module_
        maps = torch.from_numpy(self.mean_maps_[self._scorer.own]).to(
            net.heads.weight.device
        )
        return maps, net.classify(maps).detach().double()

    def _activation_maps(self, scorer, reference, start, upsampling, batch):
        net, views = scorer.network, scorer.views
        maps = net.maps(views(batch).flatten(0, 1))
        logits = net.classify(maps).double().unflatten(0, (len(batch), -1))
        gradient = mean_gradient(scorer.score, start.expand_as(logits), logits)
        places = activation_relevance(
            maps.unflatten(0, (len(batch), -1)),
            reference,
            net.cells(maps.shape[-2:]).to(logits.device),
            net.heads.weight.double(),
            gradient,
        )
        heat = views.adjoint(upsampling(places))[:, None] / len(views)
        return heat.expand_as(batch) / batch.shape[1]

    @property
    def _upsampling(self):
        size, sigma = self._row_shape[1:], self.sigma
        return GaussianUpsampling(self._field, size, self._map_shape[1:], sigma=sigma)

    # Against normal images.

    def _against_references(self, X):
        """Give the expected gradients of one row."""
        device = next(self.net_.module_.parameters()).device
        row, references = (
            self._prepare(rows).to(device).flatten(1).double()
            for rows in (X, self.references_)
        )
        with torch.inference_mode(False), torch.enable_grad():
            score = ByAutograd(self._scorer, self._row_shape)
            relevance = expected_gradients(score, row, references[None])
        relevance = relevance.view(self._row_shape)
        if self.image_shape_ is not None:
            relevance = self._smoothing(relevance)
        return relevance.view(1, -1).cpu().numpy()

    @property
    def _smoothing(self):
        size, reach = self._row_shape[1:], [(n - 1) / 2 for n in self._field.size]
        field = ReceptiveField(tuple(-r for r in reach), tuple(reach), (1.0, 1.0))
        return GaussianUpsampling(field, size, size, sigma=self.sigma)
