"""Anomalies to train on: labelled rows, a corpus, or synthetic ones, in each batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn.utils import check_array

from skad._images import as_rows, same_image
from skad._labels import read_labels
from skad._sklearn import Interval, StrOptions
from skad._typing import ArrayLike
from skad._values import ParameterValue
from skad.images import Confetti
from skad.neural._outlier_sources import (
    CalledOutliers,
    RowsOfOutliers,
    UniformEntries,
    masks_by_pixel,
)
from skad.neural._parts import Batches, TrainingData
from skad.neural._rows import extremes
from skad.neural._units import ScaledUnits, tensor_of

__all__ = [
    "OUTLIER_CONSTRAINTS",
    "Augment",
    "ExposedBatches",
    "Exposure",
    "OutlierExposure",
    "Outliers",
    "Targets",
    "find_exposure",
    "labelled",
    "masks_by_pixel",
]

_LOG = logging.getLogger("skad")
_UNLIKE = 50  # times the values of X that no image of the same units has
_SYNTHETIC = {"confetti", "uniform"}
_SOURCES = [
    StrOptions({"auto", *_SYNTHETIC}),
    *(Confetti, "array-like", callable, None),
]

Augment: TypeAlias = Callable[..., Any] | None


class OutlierExposure(ParameterValue):
    """What anomalies a network trains on, and how many of them.

    Parameters
    ----------
    outliers : str, array-like, Confetti, callable or None, default="auto"
        The anomalies, as the detector's parameter `outliers` takes them. None: rows that
        are labelled -1 only.
    share : float in (0, 1), default=0.5
        Probability with which a normal row of a batch gives its place to an anomaly. Where
        there are several sources, labelled rows and `outliers`, each is as likely.

    See Also
    --------
    skad.HSC : Takes one as `outliers`.

    References
    ----------
    .. [1] D. Hendrycks, M. Mazeika, T. Dietterich. "Deep Anomaly Detection with Outlier
       Exposure". ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import HSC
    >>> from skad.neural import OutlierExposure
    >>> X = np.random.default_rng(0).standard_normal((100, 3))
    >>> few = OutlierExposure("uniform", share=0.2)
    >>> HSC(outliers=few, max_epochs=5, random_state=0).fit(X).outliers_
    ('uniform',)
    """

    _parameter_constraints = {
        "outliers": _SOURCES,
        "share": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, outliers: Any = "auto", *, share: float = 0.5):
        self.outliers = outliers
        self.share = share


Synthetic: TypeAlias = Literal["auto", "confetti", "uniform"]
Outliers: TypeAlias = (
    "Synthetic | Confetti | OutlierExposure | ArrayLike | Callable[..., Any] | None"
)
OUTLIER_CONSTRAINTS: dict[str, Any] = {
    "outliers": [OutlierExposure, *_SOURCES],
    "augment": [callable, None],
}


@dataclass(frozen=True, eq=False)
class Exposure:
    """The sources of anomalies of one training.

    Parameters
    ----------
    sources : tuple of callable
        As for `ExposedBatches`.
    names : tuple of str
        "labelled", "confetti", "uniform", "array" or "callable", of each.
    give_masks : bool
        Whether any source tells where its anomalies are abnormal.
    share : float
        Probability that a row gives its place to an anomaly.
    """

    sources: tuple[Callable[..., Any], ...] = ()
    names: tuple[str, ...] = ()
    give_masks: bool = False
    share: float = 0.5

    def batches(
        self, data: TrainingData, augment: Augment, *, with_masks: bool = False
    ) -> Batches:
        """Return the normal rows with their labels, and what becomes of each batch."""
        labels = None
        if data.labels is not None:
            labels = torch.from_numpy(data.labels[~data.anomalous]).float()
        change = ExposedBatches(
            list(self.sources), share=self.share, with_masks=with_masks, augment=augment
        )
        return Batches(data.normal, labels, change)


def labelled(
    data: TrainingData, y: ArrayLike | None, mask: ArrayLike | None = None
) -> TrainingData:
    """Return training data with labels, and with masks of what is abnormal.

    Raises
    ------
    ValueError
        If labels or masks do not fit the rows, fewer than two rows are not labelled -1, or
        a mask marks pixels of a row that is not.
    """
    labels = read_labels(y, len(data))
    n_normal = (labels != -1).sum()
    if n_normal < 2 and len(data):
        raise ValueError(
            f"Two rows at least must not be labelled -1; got {n_normal} of {len(data)}."
        )
    if mask is not None:
        mask = masks_by_pixel(mask, len(labels), data.row_shape)
        marked = mask.any(axis=(1, 2, 3)) & (labels != -1)
        if marked.any():
            first = int(marked.argmax())
            raise ValueError(
                f"mask marks pixels of {marked.sum()} rows that are not labelled -1; the "
                f"first is row {first}, labelled {labels[first]}."
            )
    return replace(data, labels=labels, mask=mask)


def find_exposure(
    name: str,
    outliers: Outliers,
    data: TrainingData,
    units: ScaledUnits,
    device: Any,
    *,
    needed: bool = True,
) -> Exposure:
    """Find the anomalies that a detector trains on.

    Parameters
    ----------
    name : str
        Of the detector.
    outliers : object
        The parameter.
    data : TrainingData
    units : ScaledUnits
    device : torch.device
        Where corpora are kept, if there is room.
    needed : bool, default=True
        Whether the detector learns nothing without anomalies.

    Raises
    ------
    ValueError
        If `outliers` do not fit the rows, or there are none and they are needed.
    """
    if not len(data):  # weights are loaded: nothing is going to train
        return Exposure()
    if not isinstance(outliers, OutlierExposure):
        outliers = OutlierExposure(outliers)
    found = [_labelled_source(data, units, device)] if len(data.anomalies) else []
    wanted, share = outliers.outliers, outliers.share
    if isinstance(wanted, str) and wanted == "auto":
        wanted = None if found else _synthetic(name, data)
    if wanted is not None:
        found.append(_make_source(wanted, data, units, device))
    if not found and needed:
        raise ValueError(
            f"{name} learns from anomalies, and has none: label rows of fit with y = -1, "
            "or give outliers, which is None."
        )
    sources, names, masks = zip(*found, strict=True) if found else ((), (), ())
    return Exposure(sources, names, any(masks), share)


def _labelled_source(data, units, device):
    masks = data.anomaly_masks
    if masks is not None:  # an anomaly without a mask is anomalous everywhere
        masks = torch.from_numpy(masks)
        masks = masks | ~masks.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    rows = RowsOfOutliers(tensor_of(data.anomalies, units, device), masks)
    return rows, "labelled", masks is not None


def _synthetic(name, data):
    kind = "confetti" if data.is_image else "uniform"
    _LOG.info(
        "%s got no anomalies: it learns from synthetic ones, outliers=%r.", name, kind
    )
    return kind


def _make_source(outliers, data, units, device):
    """Return a source, its name, and whether it gives masks."""
    if isinstance(outliers, str) and outliers == "uniform":
        low, high = (units.prepare(end[None])[0] for end in extremes(data.normal))
        return UniformEntries(low, high), "uniform", True
    if isinstance(outliers, str):
        outliers = Confetti()
    if isinstance(outliers, Confetti):
        _check_images_for(outliers, data)
        return outliers.draw, "confetti", True
    if callable(outliers):
        source = CalledOutliers(outliers, units.prepare, units.restore)
        _, mask = source(units.prepare(data.normal[:2]))
        return source, "callable", mask is not None
    corpus = _checked_corpus(outliers, data)
    rows = tensor_of(corpus, units, device)
    if data.is_image:
        _check_units(rows, corpus, data)
    return RowsOfOutliers(rows), "array", False


def _check_units(rows, outliers, data):
    """Raise for images whose values are far more, or far less, than those of X."""
    greatest = rows.abs().max().item()
    if not 1 / _UNLIKE < greatest < _UNLIKE:
        ends = [
            f"{e.min():.4g} to {e.max():.4g}"
            for e in map(extremes, (outliers, data.normal))
        ]
        raise ValueError(
            f"outliers go from {ends[0]}, X from {ends[1]}: give both in the same units."
        )


def _check_images_for(outliers, data):
    if not data.is_image:
        raise ValueError(
            f"outliers={outliers!r} are drawn on images, but X has flat rows: give "
            "images, set image_shape, or choose outliers='uniform'."
        )


def _checked_corpus(outliers, data):
    rows, shape = as_rows(outliers)
    dtype = (np.float64, np.float32)
    rows = check_array(rows, dtype=dtype, order="C", input_name="outliers")
    own = data.image_shape
    if shape is not None and not (own and same_image(shape, own)):
        described = f"images of shape {own}" if own else "flat rows"
        raise ValueError(f"outliers hold images of shape {shape}, X {described}.")
    if rows.shape[1] != data.X.shape[1]:
        raise ValueError(
            f"outliers have {rows.shape[1]} features, X has {data.X.shape[1]}."
        )
    return rows


class Targets(NamedTuple):
    """What a loss gets as y: labels (n,), and masks (n, 1, H, W) or None."""

    label: torch.Tensor
    mask: torch.Tensor | None


class ExposedBatches:
    """Replace each row of a batch by an anomaly with a probability (FCDD, appendix E).

    Everything is drawn anew for each batch, on its device, from torch's generator there.

    Parameters
    ----------
    sources : list of callable
        From normal rows, prepared, to as many anomalous ones, and their masks, bool
        (n, 1, H, W), or None. Each is as likely as the others.
    share : float
        The probability.
    with_masks : bool
        Whether the loss reads masks. An anomaly without one is anomalous everywhere.
    augment : callable or None
        From rows and masks (None where there are none) to such, for all rows.
    """

    def __init__(self, sources, *, share=0.5, with_masks=False, augment=None):
        self.sources, self.share = sources, share
        self.with_masks, self.augment = with_masks, augment

    def __call__(self, X, y):
        """Return a batch as it trains: rows, and their `Targets`."""
        label = X.new_zeros(len(X)) if y is None else y.clone()
        mask = None
        if self.with_masks:
            mask = torch.zeros((len(X), 1, *X.shape[2:]), dtype=torch.bool, device=X.device)
        if self.sources:
            X = X.clone()
            self._expose(X, label, mask)
        if self.augment is not None:
            X, mask = self._augmented(X, mask)
        return X, Targets(label, mask)

    def _augmented(self, X, mask):
        made = self.augment(X, mask)
        if not isinstance(made, tuple) or len(made) != 2:
            raise ValueError(
                f"augment={self.augment!r} must give a pair, rows and masks (or None); "
                f"it gave a {type(made).__name__}."
            )
        return made

    def _expose(self, X, label, mask):
        hit = torch.rand(len(X), device=X.device) < self.share
        source = torch.randint(len(self.sources), (len(X),), device=X.device)
        for i, draw in enumerate(self.sources):
            rows = (hit & (source == i)).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            X[rows], masks = draw(X[rows])
            label[rows] = -1
            if mask is not None:
                mask[rows] = True if masks is None else masks
