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

    def score(self, X, device=None):
        """Return outlier scores of the rows: ndarray (m,)."""
        return self.relevance(X).sum(axis=1)

    def relevance(self, X):
        """Return the relevance of the features: ndarray (m, d)."""
        return np.square(X - self.mean) + self.variance

    def decompose(self, X, rule=None, device=None, space=None):
        """Return scores, relevance, and its sums, which are the scores."""
        relevance = self.relevance(X)
        score = relevance.sum(axis=1)
        return score, relevance, score

    def leave_one_out(self, rows, device=None):
        """Return scores of the templates `rows`, each without itself: ndarray."""
        n = len(self.templates)
        return self.score(self.templates[rows]) * n / (n - 1)
