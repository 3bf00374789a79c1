"""Scores of views of rows, and relevance of them: by pixel, in two ways, and by view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from skad.detectors._geo._calibration import rows_at_once
from skad.images import Views
from skad.neural._parts import Trained
from skad.relevance._class_activation import activation_relevance
from skad.relevance._path import ByAutograd, expected_gradients, mean_gradient
from skad.relevance._receptive_field import ReceptiveField
from skad.relevance._upsampling import GaussianUpsampling
from skad.relevance._view_score import ViewScore

__all__ = ["AgainstImages", "AgainstMaps", "ViewScorer"]


@dataclass(frozen=True, eq=False)
class ViewScorer:
    """Scores of images by some views of them.

    Parameters
    ----------
    network : ViewNetwork
    views : Views
    score : ViewScore
        Of the logits of these views.
    own : ndarray of int
        Positions of the views among those that the detector learned about.
    """

    network: Any
    views: Views
    score: ViewScore
    own: Any

    @classmethod
    def of(cls, trained: Trained, wanted: Any, normality: str) -> Self:
        """Make the scorer of the views that GEO's parameters ask for."""
        task, alpha = trained.module.task, trained.state["alpha_"]
        scored = task.chosen(wanted)
        own = np.searchsorted(task.candidates, scored)
        chosen = task.subset(scored)
        score = ViewScore(normality, chosen.heads, torch.from_numpy(alpha[own]))
        return cls(trained.module, chosen.views, score, own)

    def by_view(self, batch):
        """Score each view of images (n, C, H, W): (n, n_views), float64."""
        logits = self.network(self.views(batch).flatten(0, 1))
        return self.score(logits.unflatten(0, (len(batch), -1)))

    def __call__(self, batch):
        """Score images: the mean over the views, (n,)."""
        return self.by_view(batch).mean(dim=1)


@dataclass(frozen=True, eq=False)
class AgainstMaps:
    """Relevance of what differs from the mean maps of normal images, place by place.

    Parameters
    ----------
    trained : Trained
    scorer : ViewScorer
    sigma : float or None
        Spread of the Gaussians of a place, in pixels.
    """

    trained: Trained
    scorer: ViewScorer
    sigma: float | None

    @property
    def start(self):
        """Score of each view that relevance starts from: ndarray (n_views,)."""
        return self.scorer.score(self._reference[1]).cpu().numpy()

    def relevance(self, X):
        """Return the relevance of each feature of flat rows: ndarray (n, ...)."""
        reference, start = self._reference
        steps = reference.double(), start, self._upsampling
        rows = rows_at_once(self.trained)
        return self.trained.in_blocks(lambda batch: self._maps(batch, *steps), X, rows)

    @cached_property
    def _reference(self):
        """The mean maps of each scored view, and their logits."""
        net = self.scorer.network
        maps = torch.from_numpy(self.trained.state["mean_maps_"][self.scorer.own])
        maps = maps.to(net.heads.weight.device)
        return maps, net.classify(maps).detach().double()

    @property
    def _upsampling(self):
        net, size = self.scorer.network, self.trained.units.row_shape[1:]
        return GaussianUpsampling(net.field, size, net.map_shape[1:], sigma=self.sigma)

    def _maps(self, batch, reference, start, upsampling):
        net, views = self.scorer.network, self.scorer.views
        maps = net.maps(views(batch).flatten(0, 1))
        logits = net.classify(maps).double().unflatten(0, (len(batch), -1))
        gradient = mean_gradient(self.scorer.score, start.expand_as(logits), logits)
        places = activation_relevance(
            maps.unflatten(0, (len(batch), -1)),
            reference,
            net.cells().to(logits.device),
            net.heads.weight.double(),
            gradient,
        )
        heat = views.adjoint(upsampling(places))[:, None] / len(views)
        return heat.expand_as(batch) / batch.shape[1]


@dataclass(frozen=True, eq=False)
class AgainstImages:
    """Relevance of what differs from some normal images, pixel by pixel.

    Parameters
    ----------
    trained : Trained
    scorer : ViewScorer
    sigma : float or None
        Spread of the Gaussians of a pixel of an image.
    """

    trained: Trained
    scorer: ViewScorer
    sigma: float | None

    @cached_property
    def start(self):
        """Score of each view that relevance starts from: ndarray (n_views,)."""
        references, rows = self.trained.state["references_"], rows_at_once(self.trained)
        return self.trained.in_blocks(self.scorer.by_view, references, rows).mean(axis=0)

    def relevance(self, X):
        """Return the relevance of each feature of flat rows: ndarray (n, d)."""
        return np.concatenate([self._of_row(X[i : i + 1]) for i in range(len(X))])

    def _of_row(self, X):
        units, device = self.trained.units, self.trained.device
        row, references = (
            units.prepare(rows).to(device).flatten(1).double()
            for rows in (X, self.trained.state["references_"])
        )
        with torch.inference_mode(False), torch.enable_grad():
            score = ByAutograd(self.scorer, units.row_shape)
            relevance = expected_gradients(score, row, references[None])
        relevance = relevance.view(units.row_shape)
        if units.image_shape is not None:
            relevance = self._smoothing(relevance)
        return relevance.view(1, -1).cpu().numpy()

    @property
    def _smoothing(self):
        size = self.trained.units.row_shape[1:]
        reach = [(n - 1) / 2 for n in self.scorer.network.field.size]
        field = ReceptiveField(tuple(-r for r in reach), tuple(reach), (1.0, 1.0))
        return GaussianUpsampling(field, size, size, sigma=self.sigma)
