"""Displays in the manner of scikit-learn: heat maps, bars, and the Clever Hans plane."""

from skad.plotting._clever_hans import CleverHansDisplay
from skad.plotting._explanation import ExplanationDisplay

__all__ = ["CleverHansDisplay", "ExplanationDisplay"]
