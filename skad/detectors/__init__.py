"""The detectors, one file each; loaded on first use, since networks bring skorch."""

from importlib import import_module

_HOME = {
    "KDE": "_kde",
    "AutoEncoder": "_autoencoder",
    "Bag": "_bag",
    "DeepOneClass": "_deep_one_class",
    "DeepSAD": "_deep_sad",
    "DeepSVDD": "_deep_svdd",
    "FCDD": "_fcdd",
    "GEO": "_geo",
    "HSC": "_hsc",
    "IOCN": "_iocn",
    "NormalizingFlow": "_flow",
    "PyODDetector": "_pyod",
}

__all__ = [
    "FCDD",
    "GEO",
    "HSC",
    "IOCN",
    "KDE",
    "AutoEncoder",
    "Bag",
    "DeepOneClass",
    "DeepSAD",
    "DeepSVDD",
    "NormalizingFlow",
    "PyODDetector",
]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"skad.detectors.{_HOME[name]}"), name)
    raise AttributeError(f"module 'skad.detectors' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
