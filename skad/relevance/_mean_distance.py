"""The wide limit of min-pooling: the mean distance to the templates."""

from dataclasses import dataclass

import numpy as np

__all__ = ["MeanDistance"]


@dataclass
class MeanDistance:
    """``o = mean_j d_j = |x - mean|^2 + sum_i var_i``, whatever the kernel.

    As the bandwidth grows, every template gets the same weight, and the density estimate
    becomes a distance to the mean (Clever Hans paper, appendix B). Both rules give
    ``R_i = (x_i - mean_i)^2 + var_i``, and nothing is left over.

    Parameters
    ----------
    templates : ndarray of shape (n, d), float64
    """

    templates: np.ndarray

    def __post_init__(self):
        self.mean = self.templates.mean(axis=0)
        self.variance = self.templates.var(axis=0)

    def score(self, X, device):
        """Outlier scores of the rows: ndarray (m,)."""
        return self.relevance(X, None, device).sum(axis=1)

    def relevance(self, X, rule, device):
        """Relevance of the features: ndarray (m, d)."""
        return np.square(X - self.mean) + self.variance

    def unattributed(self, X, rule, device):
        """Zero: ndarray (m,)."""
        return np.zeros(len(X))

    def leave_one_out(self, rows, device):
        """Scores of the templates `rows`, each without itself: ndarray (len(rows),)."""
        n = len(self.templates)
        return self.score(self.templates[rows], device) * n / (n - 1)
