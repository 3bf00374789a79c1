"""Training a network to tell views apart: which rows, which views, the loss."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from skad._typing import Ints
from skad.detectors._geo._calibration import CALIBRATION_ROWS

__all__ = [
    "RandomViews",
    "RowsAside",
    "ViewLoss",
    "ViewTargets",
    "numbered_classes",
    "with_weight_decay",
]

_WEIGHT_DECAY = 5e-4  # the paper's
_OUTLIER_WEIGHT = 0.5  # of an outlier beside a normal row (Hendrycks et al., 2019)


@dataclass(frozen=True, eq=False)
class RowsAside:
    """Numbers of normal rows: those that train, and those to calibrate by.

    Parameters
    ----------
    order : ndarray of int
        Those that train, in random order.
    train : ndarray of int, or slice
        The same in ascending order.
    aside : ndarray of int
        Held-out rows; where there are none, some of those that train.
    """

    order: Ints
    train: Any
    aside: Ints

    @classmethod
    def drawn(cls, n, held_out):
        """Draw them from n rows, of which a share is held out.

        Raises
        ------
        ValueError
            If that leaves fewer than two rows on either side.
        """
        order = torch.randperm(n).numpy()
        n_aside = round(held_out * n)
        if held_out and not 2 <= n_aside <= n - 2:
            raise ValueError(
                f"held_out={held_out} holds {n_aside} of {n} rows out; two at least must "
                "be held out, and two must train."
            )
        rest = order[n_aside:]
        train = np.sort(rest) if n_aside else slice(None)
        return cls(rest, train, np.sort(order[: n_aside or CALIBRATION_ROWS]))


def numbered_classes(data, previous):
    """Return the classes of a training, and the number of each row's class.

    Parameters
    ----------
    data : TrainingData
    previous : Trained or None
        Where the training goes on: its numbers of the classes stay.

    Returns
    -------
    classes : tuple or None
    numbers : ndarray of shape (n,), int, or None

    Raises
    ------
    ValueError
        If the rows have other classes than those that the network knows.
    """
    known = None if previous is None else previous.state["classes_"]
    if previous is None or (known is None and data.classes is None):
        return data.classes, data.class_numbers
    if not len(data):
        return known, None
    if data.classes is None or not set(data.classes) <= set(known or ()):
        raise ValueError(
            f"The network goes on with the classes {known}, and labels='classes'; the "
            f"rows have the classes {data.classes}."
        )
    numbers = np.array([known.index(name) for name in data.classes])
    return known, numbers[data.class_numbers]


def with_weight_decay(net_params):
    """Return parameters of a skorch net with the paper's weight decay.

    They may set another; an optimiser that has none is left alone.
    """
    params = dict(net_params or {})
    optimizer = params.get("optimizer", torch.optim.Adam)
    if "weight_decay" in signature(optimizer).parameters:
        params.setdefault("optimizer__weight_decay", _WEIGHT_DECAY)
    return params


class ViewTargets(NamedTuple):
    """What `ViewLoss` gets as y.

    By row, the right class of its view for each head, int64 (n, n_heads); and a label (n,):
    -1 for outliers, and the row's class where there are classes.
    """

    view: torch.Tensor
    label: torch.Tensor


class RandomViews:
    """Show each row of a batch by one view, all views equally often.

    Parameters
    ----------
    views : Views
    targets : int64 tensor of shape (n_views, n_heads)
    expose : callable
        From rows and labels to rows and `Targets`, before: `ExposedBatches`.
    """

    def __init__(self, views, targets, expose):
        self.views, self.targets, self.expose = views, targets, expose

    def __call__(self, X, y):
        """Return a batch as it trains: rows, and their `ViewTargets`."""
        X, exposed = self.expose(X, y)
        k = len(self.views)
        first = torch.randint(k, (1,), device=X.device)
        which = (torch.randperm(len(X), device=X.device) + first) % k
        targets = self.targets.to(X.device)[which]
        return self.views.select(X, which), ViewTargets(targets, exposed.label)


class ViewLoss(nn.Module):
    """Cross-entropy of the views, a mean over the heads; and of the classes, if any.

    Outliers should look like no view: theirs is the cross-entropy with the uniform
    distribution, by half.

    Parameters
    ----------
    heads : ViewHeads
    n_classes : int, default=0
        Logits behind those of the heads, for the classes of the rows.
    """

    def __init__(self, heads, n_classes=0):
        super().__init__()
        self.heads, self.n_classes = heads, n_classes

    def forward(self, output, batch, y):
        """Return the mean loss of a batch of logits (n, n_outputs)."""
        outlier = y.label == -1
        losses = [
            self._of_head(z, right, outlier)
            for z, right in zip(self.heads.split(output), y.view.T, strict=True)
        ]
        loss = torch.stack(losses).mean(0)
        if self.n_classes:
            right = torch.where(outlier, -100, y.label).long()  # -100 counts as 0
            classes = output[:, self.heads.n_logits :]
            loss = loss + cross_entropy(classes, right, reduction="none")
        return loss.mean()

    def _of_head(self, z, right, outlier):
        told = cross_entropy(z, right, reduction="none")
        uniform = -_OUTLIER_WEIGHT * z.log_softmax(1).mean(1)
        return torch.where(outlier, uniform, told)
