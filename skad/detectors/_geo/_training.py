"""Training a network to tell views apart: which views, the batches, the loss."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

__all__ = ["RandomViews", "ViewLoss", "ViewTargets"]

_OUTLIER_WEIGHT = 0.5  # of an outlier beside a normal row (Hendrycks et al., 2019)


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
        From rows and labels to rows and `Targets`, before: `OutlierExposure`.
    """

    def __init__(self, views, targets, expose):
        self.views, self.targets, self.expose = views, targets, expose

    def __call__(self, X, y):
        """Give a batch as it trains: rows, and their `ViewTargets`."""
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
        """Give the mean loss of a batch of logits (n, n_outputs)."""
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
