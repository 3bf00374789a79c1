"""The detectors, one file each."""

from skad.detectors._autoencoder import AutoEncoder
from skad.detectors._bag import Bag
from skad.detectors._deep_one_class import DeepOneClass
from skad.detectors._kde import KDE
from skad.detectors._pyod import PyODDetector

__all__ = ["KDE", "AutoEncoder", "Bag", "DeepOneClass", "PyODDetector"]
