"""Rules for the detectors of scikit-learn and PyOD; importing them registers them."""

from skad.explanation.rules import (  # noqa: F401
    _forest,
    _gaussian,
    _kernel,
    _neighbors,
    _pyod,
)
