"""Training on anomalies: labelled rows, a corpus of outliers, or synthetic ones."""

import logging
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from sklearn.utils import check_array

from skad._sklearn import Interval, StrOptions
from skad._typing import ArrayLike
from skad.base import as_rows, read_labels, same_image
from skad.images import Confetti
from skad.neural._outliers import (
    CalledOutliers,
    OutlierExposure,
    RowsOfOutliers,
    UniformEntries,
)
from skad.neural._rows import extremes, joined
from skad.neural._scaling import ScaledRows

__all__ = ["Augment", "OutlierTraining", "Outliers"]

_LOG = logging.getLogger("skad")
_UNLIKE = 50  # times the values of X that no image of the same units has
_SYNTHETIC = {"confetti", "uniform"}

Synthetic: TypeAlias = Literal["auto", "confetti", "uniform"]
Outliers: TypeAlias = "Synthetic | Confetti | ArrayLike | Callable[..., Any] | None"
Augment: TypeAlias = Callable[..., Any] | None


class OutlierTraining(ScaledRows):
    """What detectors that learn from anomalies add to `NeuralDetector`.

    The rows with ``y != -1`` make the epochs; each may give its place in a batch to an
    anomaly, from one of the sources: the rows with ``y == -1``, and `outliers`. A class
    has the parameters `outliers`, `outlier_share` and `augment`.
    """

    _parameter_constraints = {
        "outliers": [
            StrOptions({"auto", *_SYNTHETIC}),
            *(Confetti, "array-like", callable, None),
        ],
        "outlier_share": [Interval(Real, 0, 1, closed="neither")],
        "augment": [callable, None],
    }
    outliers_: tuple[str, ...]
    _learned_here: tuple[str, ...] = (*ScaledRows._own_units, "outliers_")
    _needs_anomalies = True
    _with_masks = False

    def _train(self, X, y, *, go_on, epochs=None):
        self._labels = read_labels(y, len(X))
        n_normal = (self._labels != -1).sum()
        if n_normal < 2:
            raise ValueError(
                f"Two rows at least must not be labelled -1; got {n_normal} of {len(X)}."
            )
        super()._train(X, self._labels, go_on=go_on, epochs=epochs)

    def _training_set(self, X, y, device):
        anomalous = y == -1
        self._anomalies = X[anomalous], self._masks_of(anomalous)
        X, y = self._normal_part(X, y), y[~anomalous]
        sources = self._find_sources(X, device)
        self._choose_objective(sources)
        change = OutlierExposure(
            [source for source, _ in sources],
            share=self.outlier_share,
            with_masks=self._with_masks,
            augment=self.augment,
        )
        return X, torch.from_numpy(y).float(), change

    def _harmless_loss(self, net):
        # An anomaly near the centre alone may cost so much.
        return 10.0

    def _masks_of(self, rows):
        """Give the masks of some training rows, (m, 1, H, W), or None."""

    def _choose_objective(self, sources):
        """Settle what depends on which sources give masks."""

    def _find_sources(self, X, device):
        """Give the sources of anomalies, and whether they give masks."""
        anomalies, masks = self._anomalies
        sources, names = [], []
        if len(anomalies):
            rows = RowsOfOutliers(self._tensor(anomalies, device), _filled(masks))
            sources.append((rows, masks is not None))
            names.append("labelled")
        outliers = self.outliers
        if isinstance(outliers, str) and outliers == "auto":
            outliers = None if sources else self._synthetic()
        if outliers is not None:
            source, name = self._make_source(outliers, X, device)
            sources.append(source)
            names.append(name)
        if not sources and self._needs_anomalies:
            raise ValueError(
                f"{type(self).__name__} learns from anomalies, and has none: label rows of "
                "fit with y = -1, or give outliers, which is None."
            )
        self.outliers_ = tuple(names)
        return sources

    def _synthetic(self):
        name = "uniform" if self.image_shape_ is None else "confetti"
        _LOG.info(
            "%s got no anomalies: it learns from synthetic ones, outliers=%r.",
            type(self).__name__,
            name,
        )
        return name

    def _make_source(self, outliers, X, device):
        """Give a source with whether it gives masks, and its name."""
        if isinstance(outliers, str) and outliers == "uniform":
            low, high = (self._prepare(end[None])[0] for end in extremes(X))
            return (UniformEntries(low, high), True), "uniform"
        if isinstance(outliers, str):
            outliers = Confetti()
        if isinstance(outliers, Confetti):
            self._check_images_for(outliers)
            return (outliers.draw, True), "confetti"
        if callable(outliers):
            source = CalledOutliers(outliers, self._prepare, self._unprepare)
            _, mask = source(self._prepare(X[:2]))
            return (source, mask is not None), "callable"
        outliers = self._check_outliers(outliers)
        rows = self._tensor(outliers, device)
        if self.image_shape_ is not None:
            self._check_units(rows, outliers, X)
        return (RowsOfOutliers(rows), False), "array"

    def _check_units(self, rows, outliers, X):
        """Raise for images whose values are far more, or far less, than those of X."""
        greatest = rows.abs().max().item()
        if not 1 / _UNLIKE < greatest < _UNLIKE:
            ends = [f"{e.min():.4g} to {e.max():.4g}" for e in map(extremes, (outliers, X))]
            raise ValueError(
                f"outliers go from {ends[0]}, X from {ends[1]}: give both in the same "
                "units."
            )

    def _check_images_for(self, outliers):
        if self.image_shape_ is None:
            raise ValueError(
                f"outliers={outliers!r} are drawn on images, but X has flat rows: give "
                "images, set image_shape, or choose outliers='uniform'."
            )

    def _check_outliers(self, outliers):
        rows, shape = as_rows(outliers)
        rows = check_array(rows, dtype=self._dtype, order="C", input_name="outliers")
        own = self.image_shape_
        if shape is not None and not (own and same_image(shape, own)):
            described = f"images of shape {own}" if own else "flat rows"
            raise ValueError(f"outliers hold images of shape {shape}, X {described}.")
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"outliers have {rows.shape[1]} features, X has {self.n_features_in_}."
            )
        return rows

    # The threshold is that of the rows that are not labelled -1.

    def _normal_part(self, X, y):
        normal = self._labels != -1
        return X if normal.all() else X[normal]

    def _find_offset(self, X):
        try:
            return super()._find_offset(X)
        finally:
            del self._labels, self._anomalies

    def _fit_copy(self, copy, X, train):
        if not hasattr(self, "_anomalies"):  # a Bag asks later, and has no labels
            return copy.fit(X[train])
        anomalies, masks = self._anomalies
        y = self._labels[self._labels != -1][train]
        if len(anomalies) == 0:
            return copy.fit(X[train], y)
        y = np.concatenate([y, np.full(len(anomalies), -1, dtype=y.dtype)])
        given = {}
        if masks is not None:
            none = np.zeros((len(train), *masks.shape[1:]), dtype=bool)
            given["mask"] = np.concatenate([none, masks.numpy()])
        return copy.fit(joined(X[train], anomalies), y, **given)


def _filled(masks):
    """Take an anomaly without a mask to be anomalous everywhere."""
    if masks is None:
        return None
    return masks | ~masks.flatten(1).any(dim=1).view(-1, 1, 1, 1)
