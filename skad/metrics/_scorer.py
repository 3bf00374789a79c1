"""A scorer that sees explanations, for searches and cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.metrics import roc_auc_score
from sklearn.utils.metadata_routing import UNUSED

from skad._estimators import normality
from skad._labels import read_signs
from skad._sklearn import _num_samples, take_rows
from skad._typing import AnyRows, ArrayLike
from skad.explanation import explain
from skad.metrics._localization import (
    cosine_similarity_score,
    pixel_roc_auc_score,
    pointing_game_score,
    relevance_mass_score,
    relevance_rank_score,
)

__all__ = ["ExplanationAwareScorer"]

_METRICS = {
    "cosine": cosine_similarity_score,
    "pixel_roc_auc": pixel_roc_auc_score,
    "pointing_game": pointing_game_score,
    "relevance_mass": relevance_mass_score,
    "relevance_rank": relevance_rank_score,
}


class ExplanationAwareScorer(BaseEstimator):
    """Score a detector by what it detects and by why.

    The score is ``(1 - weight) * detection + weight * explanation``, higher is better:
    detection is the ROC AUC of normal rows against anomalies, explanation the agreement
    of relevance and ground-truth masks, averaged over the rows that have a mask. Only
    those rows are explained.

    It goes where scikit-learn takes a scorer; the masks reach it by metadata routing,
    sliced along with the folds.

    Parameters
    ----------
    explanation : str or callable, default="cosine"
        "cosine", "pixel_roc_auc", "pointing_game", "relevance_mass" or "relevance_rank":
        the metrics of ``skad.metrics``; or a function ``(mask, relevance) -> float``.
    weight : float in [0, 1], default=0.5
        Share of the explanation in the score. 0 is the ROC AUC alone, and needs no mask;
        1 is the explanation alone, and needs no `y`.

    See Also
    --------
    skad.InlierTraining : Keeps anomalies out of the training folds.
    clever_hans_score : The difference of the two, for one detector.

    Notes
    -----
    ``sklearn.set_config(enable_metadata_routing=True)`` must be set before the search is
    fitted, and the masks given to its `fit` as ``mask=``.

    Examples
    --------
    >>> import sklearn
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skad import KDE, InlierTraining
    >>> from skad.datasets import load_corrupted_digits
    >>> from skad.metrics import ExplanationAwareScorer
    >>> X, y, mask = load_corrupted_digits("stripe", return_X_y_mask=True)
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     search = GridSearchCV(
    ...         InlierTraining(KDE()),
    ...         {"estimator__bandwidth": [0.3, 3.0]},
    ...         scoring=ExplanationAwareScorer(weight=0.5),
    ...         cv=3,
    ...     ).fit(X[:300], y[:300], mask=mask[:300])
    >>> bool(0 < search.best_score_ <= 1)
    True
    """

    __metadata_request__score = {"mask": True, "estimator": UNUSED}

    def __init__(
        self, explanation: str | Callable[..., Any] = "cosine", weight: float = 0.5
    ):
        self.explanation = explanation
        self.weight = weight

    def score(
        self,
        estimator: Any,
        X: AnyRows,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> float:
        """Score a fitted detector.

        Parameters
        ----------
        estimator : object
            Fitted detector, Pipeline or search.
        X : array-like of shape (n, d) or (n, ...)
            Test rows.
        y : array-like of shape (n,), default=None
            +1 normal, -1 anomaly, 0 unlabelled (left out). Needed unless `weight` is 1.
        mask : array-like of the shape of X, default=None
            Where the anomaly is, not zero; all zero in rows without a mask. Needed unless
            `weight` is 0.

        Returns
        -------
        score : float
            Higher is better; with skad's metrics at most 1.

        Raises
        ------
        TypeError
            When the estimator does not score, or can't be explained.
        ValueError
            When labels or masks are needed and missing, labels are 0/1 or of one class, no
            mask has a non-zero entry, shapes do not agree, or a parameter is bad.
        """
        metric = self._check()
        score = 0.0
        if self.weight < 1:
            score += (1 - self.weight) * self._detection(estimator, X, y)
        if self.weight > 0:
            score += self.weight * self._explanation(estimator, X, mask, metric)
        return score

    __call__ = score

    def _check(self):
        if not (isinstance(self.weight, Real) and 0 <= self.weight <= 1):
            raise ValueError(f"weight must be in [0, 1], got {self.weight!r}.")
        if callable(self.explanation):
            return self.explanation
        if not isinstance(self.explanation, str) or self.explanation not in _METRICS:
            raise ValueError(
                f"explanation must be a function or one of {sorted(_METRICS)}, got "
                f"{self.explanation!r}."
            )
        return _METRICS[self.explanation]

    def _detection(self, estimator, X, y):
        if y is None:
            raise ValueError("Detection is scored against labels: give y (+1, -1).")
        y = read_signs(y)
        known = np.flatnonzero(y)
        if len(classes := np.unique(y[known])) < 2:
            raise ValueError(
                "Detection is the ROC AUC of normal rows against anomalies; this fold has "
                f"rows labelled {classes.tolist()} only. Use stratified folds, fewer folds "
                "or more anomalies."
            )
        return roc_auc_score(y[known], normality(estimator, take_rows(X, known)))

    def _explanation(self, estimator, X, mask, metric):
        if mask is None:
            raise ValueError(
                "ExplanationAwareScorer got no masks. Call "
                "sklearn.set_config(enable_metadata_routing=True) and give the masks to "
                "fit: GridSearchCV(...).fit(X, y, mask=mask), or to "
                "cross_validate(..., params={'mask': mask})."
            )
        mask = mask.toarray() if issparse(mask) else np.asarray(mask)
        if len(mask) != _num_samples(X):
            raise ValueError(f"mask has {len(mask)} rows, X has {_num_samples(X)}.")
        rows = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
        if len(rows) == 0:
            raise ValueError(
                "No row of this fold has a mask, so no explanation can be scored. Use "
                "stratified folds, fewer folds or more anomalies."
            )
        relevance = explain(estimator, take_rows(X, rows))
        return float(metric(_shaped_like(relevance, mask[rows]), relevance))


def _shaped_like(relevance, mask):
    """Return masks the shape of the relevance where one is flat and the other is not."""
    return mask.reshape(relevance.shape) if mask.size == relevance.size else mask
