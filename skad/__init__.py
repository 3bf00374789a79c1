"""Anomaly detectors for scikit-learn that say why.

Public names are loaded on first use (PEP 562), so ``import skad`` imports no torch.
"""

from importlib import import_module

__version__ = "0.1.0"

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
    "decompositions",
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

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"skad.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"skad.{name}")
    raise AttributeError(f"module 'skad' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_MODULES})
