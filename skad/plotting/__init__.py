"""Displays in the manner of scikit-learn: maps, bars, views, normal values, Clever Hans."""

from skad.plotting._clever_hans import CleverHansDisplay
from skad.plotting._counterfactual import CounterfactualDisplay
from skad.plotting._explanation import ExplanationDisplay
from skad.plotting._views import ViewsDisplay

__all__ = [
    "CleverHansDisplay",
    "CounterfactualDisplay",
    "ExplanationDisplay",
    "ViewsDisplay",
]
