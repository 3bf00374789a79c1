"""Warnings that point at the caller's own line."""

import sys
import warnings

__all__ = ["warn"]

_PASSED_THROUGH = ("skad", "sklearn", "skorch", "joblib", "contextlib")


def warn(message, category=UserWarning):
    """Warn at the nearest line outside skad and of what it calls through.

    Python shows a warning once a line: of all detectors it would show one, were the line
    scikit-learn's or skad's.
    """
    frame, level = sys._getframe(1), 2
    while frame and frame.f_globals.get("__name__", "").split(".")[0] in _PASSED_THROUGH:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
