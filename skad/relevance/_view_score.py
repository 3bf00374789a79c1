"""From what a classifier of views says of each view to one score (GEO paper, section 4)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import one_hot

__all__ = ["VIEW_SCORES", "ViewHeads", "ViewScore"]

VIEW_SCORES = ("dirichlet", "simple", "log")
_FACTORS = ("turns", "up", "left")


@dataclass
class ViewHeads:
    """What the heads of a classifier of views tell apart.

    Parameters
    ----------
    targets : int64 tensor of shape (n_views, n_heads)
        The right class of each view, by head.
    widths : list of int
        Classes of each head, side by side in the logits. Further logits are left out.
    names : list of str
        What each head tells: "view", or one of "turns", "up" and "left".
    """

    targets: torch.Tensor
    widths: list
    names: list

    @classmethod
    def of(cls, views, kind):
        """Make the heads for views.

        Parameters
        ----------
        views : list of View
        kind : {"joint", "separate"}
            One head with a class for each view; or one for the turns, one for the shifts
            up, one for those to the left, where they differ, and none for mirroring.

        Raises
        ------
        ValueError
            If there is nothing to tell apart.
        """
        classes = {"view": np.arange(len(views))}
        if kind == "separate":
            factors = {name: [getattr(v, name) for v in views] for name in _FACTORS}
            classes = {n: np.unique(f, return_inverse=True)[1] for n, f in factors.items()}
        classes = {name: column for name, column in classes.items() if column.max() > 0}
        if not classes:
            wanted = "views" if kind == "joint" else "turns or shifts"
            raise ValueError(
                f"The network learns to tell views apart: give two {wanted} at least; got "
                f"{views}."
            )
        targets = torch.from_numpy(np.stack([*classes.values()], axis=1))
        return cls(targets, [int(c.max()) + 1 for c in classes.values()], [*classes])

    @property
    def n_logits(self):
        """Logits of all heads."""
        return sum(self.widths)

    def split(self, values):
        """Cut what is side by side, in the last axis, into heads."""
        return values[..., : self.n_logits].split(self.widths, dim=-1)

    def log_softmax(self, logits):
        """Give float64 logarithms of each head's softmax, side by side."""
        parts = [z.double().log_softmax(-1) for z in self.split(logits)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def predicted(self, logits):
        """Mark the likeliest class of each head, side by side: float64."""
        parts = [one_hot(z.argmax(-1), z.shape[-1]) for z in self.split(logits)]
        return torch.cat(parts, dim=-1).double()

    def right(self):
        """Mark the right classes of each view: float64 (n_views, n_logits)."""
        marks = zip(self.targets.T, self.widths, strict=True)
        return torch.cat([one_hot(column, width) for column, width in marks], -1).double()

    def subset(self, which):
        """Give the same for some of the views."""
        return ViewHeads(self.targets[which], self.widths, self.names)


@dataclass
class ViewScore:
    r"""Outlier scores of views, and their gradient by the classifier's outputs.

    For a view i, logits z and :math:`y = \mathrm{softmax}(z)`:

    - ``"dirichlet"``: :math:`-(\alpha_i - 1) \cdot \log y`;
    - ``"simple"``: :math:`-y_i`;
    - ``"log"``: :math:`-\log y_i`.

    With several heads, each with a softmax of its own, the sum over the heads. The score of
    an image is the mean over its views.

    Parameters
    ----------
    kind : {"dirichlet", "simple", "log"}
    heads : ViewHeads
    alpha : float64 tensor of shape (n_views, n_logits)
        Parameters of the Dirichlet distributions.

    Examples
    --------
    >>> import torch
    >>> from skad.relevance._view_score import ViewHeads, ViewScore
    >>> heads = ViewHeads(torch.tensor([[0], [1]]), [2], ["view"])
    >>> score = ViewScore("log", heads, torch.ones(2, 2))
    >>> score(torch.tensor([[[0.0, 0.0], [-30.0, 0.0]]])) > 0.5
    tensor([[ True, False]])
    """

    kind: str
    heads: ViewHeads
    alpha: torch.Tensor

    def __call__(self, logits):
        """Score each view.

        Parameters
        ----------
        logits : tensor of shape (..., n_views, k)

        Returns
        -------
        scores : float64 tensor of shape (..., n_views)
        """
        log_y = self.heads.log_softmax(logits)
        weights = self._weights(log_y)
        return -(weights * (log_y.exp() if self.kind == "simple" else log_y)).sum(-1)

    def gradient(self, logits):
        """Differentiate the score of each view by its logits.

        Parameters
        ----------
        logits : tensor of shape (..., n_views, k)

        Returns
        -------
        gradient : float64 tensor of the shape of the logits
        """
        log_y = self.heads.log_softmax(logits)
        parts = self.heads.split(log_y.exp()), self.heads.split(self._weights(log_y))
        gradients = [self._by_logits(y, w) for y, w in zip(*parts, strict=True)]
        others = logits[..., self.heads.n_logits :]
        return torch.cat([*gradients, torch.zeros_like(others).double()], dim=-1)

    def _weights(self, like):
        if self.kind == "dirichlet":
            return (self.alpha - 1).to(like)
        return self.heads.right().to(like)

    def _by_logits(self, y, weights):
        if self.kind == "simple":
            return (weights * y).sum(-1, keepdim=True) * (y - weights)
        return weights.sum(-1, keepdim=True) * y - weights
