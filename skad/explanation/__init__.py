"""Explain any detector: exactly where there is a rule, from outside where there is none."""

from skad._decomposition import (
    Decomposition,
    Exponential,
    Identity,
    NoDecompositionError,
    refuse_space,
)
from skad._linear_map import LinearMap
from skad.explanation import rules  # noqa: F401
from skad.explanation._decompose import decompose
from skad.explanation._explain import explain
from skad.explanation._linear import linear_map
from skad.explanation._occlusion import occlude, patch_groups
from skad.explanation._pull_back import pull_back
from skad.explanation._shapley import shapley_values

__all__ = [
    "Decomposition",
    "Exponential",
    "Identity",
    "LinearMap",
    "NoDecompositionError",
    "decompose",
    "explain",
    "linear_map",
    "occlude",
    "patch_groups",
    "pull_back",
    "refuse_space",
    "shapley_values",
]
