"""Names for the types of the public signatures; at run time most are mere strings.

scikit-learn and SciPy have no types: estimators are ``Any`` here, and the decorators of
scikit-learn that would hide a signature are given types in ``_sklearn``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import torch
    from scipy.sparse import sparray, spmatrix
    from torch.utils.data import Dataset

__all__ = [
    "AnyArray",
    "AnyRows",
    "ArrayLike",
    "Auto",
    "BatchSize",
    "Bools",
    "BunchOrTuple",
    "Callbacks",
    "Device",
    "FilePath",
    "Floats",
    "ImageShape",
    "Ints",
    "MaskKind",
    "NetParams",
    "Network",
    "Preprocessing",
    "Rows",
    "Rules",
    "Schedule",
    "Seed",
    "Weights",
    "mean_micro_or_each",
    "mean_or_each",
    "singledispatch",
]

AnyArray: TypeAlias = "npt.NDArray[Any]"
Floats: TypeAlias = "npt.NDArray[np.float64]"
Ints: TypeAlias = "npt.NDArray[np.int_]"
Bools: TypeAlias = "npt.NDArray[np.bool_]"

# What array-like means: arrays, nested lists, data frames, memory maps, LazyImages.
ArrayLike: TypeAlias = "npt.ArrayLike"
# For detectors that read rows part by part.
Rows: TypeAlias = "npt.ArrayLike | Dataset[Any]"
# For what hands its rows on to any detector.
AnyRows: TypeAlias = "npt.ArrayLike | Dataset[Any] | sparray | spmatrix"
# As return_X_y asks: overloads would say it, and double every signature.
BunchOrTuple: TypeAlias = Any

Auto: TypeAlias = Literal["auto"]
ImageShape: TypeAlias = "Sequence[int] | None"
Seed: TypeAlias = "int | np.random.RandomState | None"
FilePath: TypeAlias = "str | os.PathLike[str]"
MaskKind: TypeAlias = Literal["changed", "absolute", "squared"]

Network: TypeAlias = "torch.nn.Module | Callable[..., torch.nn.Module]"
Weights: TypeAlias = "FilePath | Mapping[str, torch.Tensor] | None"
Preprocessing: TypeAlias = Literal["imagenet", "caffe"]
BatchSize: TypeAlias = "int | Auto"
Schedule: TypeAlias = Literal["cosine", "onecycle"] | None
Callbacks: TypeAlias = "Sequence[Any] | None"
NetParams: TypeAlias = "dict[str, Any] | None"
Device: TypeAlias = "str | torch.device"

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
Rule = TypeVar("Rule", bound=Callable[..., Any])


class Rules(Protocol[P, R_co]):
    """A function that is taught other classes by ``register``, its signature kept."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Follow the rule for the class of the first argument."""
        ...

    @overload
    def register(self, cls: type[Any], func: None = None) -> Callable[[Rule], Rule]: ...
    @overload
    def register(self, cls: type[Any], func: Rule) -> Rule: ...
    @overload
    def register(self, cls: Rule, func: None = None) -> Rule: ...


Mean_contra = TypeVar("Mean_contra", contravariant=True)


class Averaging(Protocol[Mean_contra]):
    """A metric that gives a float, or for ``average=None`` one for each row."""

    @overload
    def __call__(
        self, mask: ArrayLike, relevance: ArrayLike, *, average: Mean_contra = ...
    ) -> float: ...
    @overload
    def __call__(
        self, mask: ArrayLike, relevance: ArrayLike, *, average: None
    ) -> Floats: ...


def mean_or_each(metric: Callable[..., Any]) -> Averaging[Literal["samples"]]:
    """Give the metric itself, its overloads said."""
    return metric


def mean_micro_or_each(
    metric: Callable[..., Any],
) -> Averaging[Literal["samples", "micro"]]:
    """Give the metric itself, its overloads said."""
    return metric


if TYPE_CHECKING:

    def singledispatch(function: Callable[P, R_co]) -> Rules[P, R_co]:
        """Keep the signature, which the standard library's types give up."""
        ...

else:
    from functools import singledispatch
