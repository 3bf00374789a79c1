"""How the scores of scikit-learn's and PyOD's own detectors decompose, exactly."""

from skad.decompositions import _forest, _gaussian, _kernel, _neighbors  # noqa: F401
from skad.decompositions._decomposition import (
    Decomposition,
    Exponential,
    Identity,
    NoDecompositionError,
    can_decompose,
    decompose,
    unwrapped,
)
from skad.decompositions._linear import LinearMap, linear_map

__all__ = [
    "Decomposition",
    "Exponential",
    "Identity",
    "LinearMap",
    "NoDecompositionError",
    "can_decompose",
    "decompose",
    "linear_map",
    "unwrapped",
]
