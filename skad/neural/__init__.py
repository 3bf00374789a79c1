"""Networks: trained through skorch, scored in blocks, saved as plain tensors."""

from skad.neural._augmentation import Augmentation
from skad.neural._backbones import download_weights, load_backbone
from skad.neural._detector import NeuralDetector
from skad.neural._features import fit_features
from skad.neural._invertible import InvertibleNet
from skad.neural._scaling import FeatureNet, Scaling

__all__ = [
    "Augmentation",
    "FeatureNet",
    "InvertibleNet",
    "NeuralDetector",
    "Scaling",
    "download_weights",
    "fit_features",
    "load_backbone",
]
