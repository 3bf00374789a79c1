"""Displays in the manner of scikit-learn: heat maps, bars, and the Clever Hans plane."""

from ._clever_hans import CleverHansDisplay
from ._explanation import ExplanationDisplay

__all__ = ["CleverHansDisplay", "ExplanationDisplay"]
