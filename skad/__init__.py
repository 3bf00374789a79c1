"""Anomaly detectors for scikit-learn that say why.

Public names are loaded on first use (PEP 562), so ``import skad`` imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from skad._versions import __version__

if TYPE_CHECKING:
    from skad import base as base
    from skad import benchmark as benchmark
    from skad import calibration as calibration
    from skad import datasets as datasets
    from skad import detectors as detectors
    from skad import explanation as explanation
    from skad import images as images
    from skad import metrics as metrics
    from skad import model_selection as model_selection
    from skad import neural as neural
    from skad import plotting as plotting
    from skad import relevance as relevance
    from skad import testing as testing
    from skad._versions import show_versions
    from skad.calibration import ConformalDetector
    from skad.detectors import (
        FCDD,
        GEO,
        HSC,
        IOCN,
        KDE,
        AutoEncoder,
        Bag,
        DeepOneClass,
        DeepSAD,
        DeepSVDD,
        NormalizingFlow,
        PyODDetector,
    )
    from skad.explanation import explain
    from skad.model_selection import InlierTraining

_HOME = {
    "AutoEncoder": "detectors",
    "KDE": "detectors",
    "Bag": "detectors",
    "ConformalDetector": "calibration",
    "DeepOneClass": "detectors",
    "DeepSAD": "detectors",
    "DeepSVDD": "detectors",
    "FCDD": "detectors",
    "GEO": "detectors",
    "HSC": "detectors",
    "IOCN": "detectors",
    "NormalizingFlow": "detectors",
    "PyODDetector": "detectors",
    "InlierTraining": "model_selection",
    "explain": "explanation",
    "show_versions": "_versions",
}
_MODULES = {
    "base",
    "benchmark",
    "calibration",
    "datasets",
    "detectors",
    "explanation",
    "images",
    "metrics",
    "model_selection",
    "neural",
    "plotting",
    "relevance",
    "testing",
}

__all__ = [
    "FCDD",
    "GEO",
    "HSC",
    "IOCN",
    "KDE",
    "AutoEncoder",
    "Bag",
    "ConformalDetector",
    "DeepOneClass",
    "DeepSAD",
    "DeepSVDD",
    "InlierTraining",
    "NormalizingFlow",
    "PyODDetector",
    "__version__",
    "explain",
    "show_versions",
]


if not TYPE_CHECKING:  # which would let every name pass

    def __getattr__(name):
        if name in _HOME:
            return getattr(import_module(f"skad.{_HOME[name]}"), name)
        if name in _MODULES:
            return import_module(f"skad.{name}")
        raise AttributeError(f"module 'skad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
