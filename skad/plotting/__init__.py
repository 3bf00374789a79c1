"""Displays in the manner of scikit-learn: maps, bars, views, the Clever Hans plane."""

from skad.plotting._clever_hans import CleverHansDisplay
from skad.plotting._explanation import ExplanationDisplay
from skad.plotting._views import ViewsDisplay

__all__ = ["CleverHansDisplay", "ExplanationDisplay", "ViewsDisplay"]
