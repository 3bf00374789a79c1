"""Explanations in the units of the outlier score, exact or from outside."""

from __future__ import annotations

from typing import Any

from skad._decomposition import Decomposition, NoDecompositionError
from skad._estimators import normality
from skad._linear_map import LinearMap
from skad._typing import AnyRows, Floats
from skad.base import BaseDetector
from skad.explanation._decompose import can_decompose, decompose
from skad.explanation._explain import explain
from skad.explanation._pull_back import NoRuleError

__all__ = ["decompose_any", "relevance_in_units", "with_remainder"]


def decompose_any(estimator: Any, X: AnyRows, references: AnyRows) -> Decomposition:
    """Decompose the outlier score of any fitted detector, in its own units.

    Parameters
    ----------
    estimator : object
        A detector, Pipeline or wrapper. Where there is no exact decomposition it is
        explained from outside.
    X : array-like of shape (n, d)
    references : array-like of shape (m, d)
        Normal rows.
    """
    if isinstance(estimator, BaseDetector):
        return decompose(estimator, X)
    return with_remainder(_relevance(estimator, X, references), -normality(estimator, X))


def _relevance(estimator, X, references):
    if can_decompose(estimator):
        try:
            return relevance_in_units(estimator, X)
        except (NoRuleError, NoDecompositionError):
            pass
    return explain(estimator, X, references=references)


def relevance_in_units(
    estimator: Any, X: AnyRows, space: LinearMap | None = None
) -> Floats:
    """Return the exact relevance, scaled row by row to the units of the outlier score."""
    parts = decompose(estimator, X, space=space)
    return parts.relevance * parts.slopes[:, None]


def with_remainder(relevance: Floats, score: Floats) -> Decomposition:
    """Return the decomposition whose unattributed part is the rest of the outlier score."""
    return Decomposition(relevance, score - relevance.sum(axis=1), "outlier score")
