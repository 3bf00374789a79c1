"""Networks: trained through skorch, scored in blocks, saved as plain tensors."""

from skad.neural._augmentation import Augmentation
from skad.neural._backbones import Trunk, download_weights, load_backbone
from skad.neural._detector import NeuralDetector
from skad.neural._feature_net import FeatureNet, Scaling
from skad.neural._fit_features import fit_features
from skad.neural._invertible import InvertibleNet
from skad.neural._outliers import OutlierExposure
from skad.neural._parts import (
    Batches,
    EarlyStopping,
    Parts,
    Scoring,
    Trained,
    TrainingData,
)
from skad.neural._units import ScaledUnits, Units
from skad.relevance._view_explanations import ActivationMap, ExpectedGradients

__all__ = [
    "ActivationMap",
    "Augmentation",
    "Batches",
    "EarlyStopping",
    "ExpectedGradients",
    "FeatureNet",
    "InvertibleNet",
    "NeuralDetector",
    "OutlierExposure",
    "Parts",
    "ScaledUnits",
    "Scaling",
    "Scoring",
    "Trained",
    "TrainingData",
    "Trunk",
    "Units",
    "download_weights",
    "fit_features",
    "load_backbone",
]
