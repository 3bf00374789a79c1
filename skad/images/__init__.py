"""Images in, images (and masks) out; loaded on first use, since some bring torch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skad.images._confetti import Confetti, confetti
    from skad.images._contrast import GlobalContrastNormalizer
    from skad.images._corrupt import CORRUPTIONS, MNIST_C, corrupt
    from skad.images._noise import add_noise
    from skad.images._views import View, Views, geometric_views

_HOME = {
    "CORRUPTIONS": "_corrupt",
    "MNIST_C": "_corrupt",
    "Confetti": "_confetti",
    "GlobalContrastNormalizer": "_contrast",
    "View": "_views",
    "Views": "_views",
    "add_noise": "_noise",
    "confetti": "_confetti",
    "corrupt": "_corrupt",
    "geometric_views": "_views",
}

__all__ = [
    "CORRUPTIONS",
    "MNIST_C",
    "Confetti",
    "GlobalContrastNormalizer",
    "View",
    "Views",
    "add_noise",
    "confetti",
    "corrupt",
    "geometric_views",
]


if not TYPE_CHECKING:  # which would let every name pass

    def __getattr__(name):
        if name in _HOME:
            return getattr(import_module(f"skad.images.{_HOME[name]}"), name)
        raise AttributeError(f"module 'skad.images' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
