"""The detectors, a folder a family; loaded on first use, since networks bring skorch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skad.detectors._autoencoder._detector import AutoEncoder
    from skad.detectors._bag import Bag
    from skad.detectors._deep_one_class._detector import DeepOneClass
    from skad.detectors._fcdd._detector import FCDD
    from skad.detectors._geo._detector import GEO
    from skad.detectors._invertible._flow import NormalizingFlow
    from skad.detectors._invertible._iocn import IOCN
    from skad.detectors._kde._detector import KDE
    from skad.detectors._one_class._deep_sad import DeepSAD
    from skad.detectors._one_class._deep_svdd import DeepSVDD
    from skad.detectors._one_class._hsc import HSC
    from skad.detectors._pyod import PyODDetector

_HOME = {
    "KDE": "_kde._detector",
    "AutoEncoder": "_autoencoder._detector",
    "Bag": "_bag",
    "DeepOneClass": "_deep_one_class._detector",
    "DeepSAD": "_one_class._deep_sad",
    "DeepSVDD": "_one_class._deep_svdd",
    "FCDD": "_fcdd._detector",
    "GEO": "_geo._detector",
    "HSC": "_one_class._hsc",
    "IOCN": "_invertible._iocn",
    "NormalizingFlow": "_invertible._flow",
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


if not TYPE_CHECKING:  # which would let every name pass

    def __getattr__(name):
        if name in _HOME:
            return getattr(import_module(f"skad.detectors.{_HOME[name]}"), name)
        raise AttributeError(f"module 'skad.detectors' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
