"""The one intake of images: rows that are flattened, and the shape of one image."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from numbers import Integral
from typing import Any

import numpy as np

from skad._sklearn import is_torch_dataset
from skad._warnings import warn

__all__ = ["as_rows", "check_one_image", "find_image_shape", "row_shape_of", "same_image"]


def as_rows(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Flatten images to rows; return also the shape of one image (None for flat input)."""
    if is_torch_dataset(X):  # numpy would read on and on
        raise TypeError(f"An array is needed here, got a data set of torch: {X!r}.")
    if isinstance(X, list | tuple) and len(X):
        if isinstance(X[0], tuple) and X[0] and getattr(X[0][0], "ndim", False):
            raise TypeError(
                "X is a list of tuples of arrays, as scikit-learn picks them from a data "
                "set of torch whose items have labels. Give one whose items are rows "
                "alone, or an array."
            )
        if np.ndim(X[0]) > 1:
            X = np.asarray(X)
    # `getattr`, since array-likes that are no arrays may refuse numpy functions.
    if getattr(X, "ndim", 2) <= 2:
        return X, None
    X = np.asarray(X)
    if X.ndim > 4:
        raise ValueError(
            "X must be rows (n, d) or images (n, H, W) or (n, C, H, W), got an array of "
            f"shape {X.shape}."
        )
    shape = X.shape[1:]
    return X.reshape(len(X), prod(shape)), shape


def same_image(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two image shapes are one: ``(H, W)`` is ``(1, H, W)``."""

    def with_channel(s):
        return (1, *s) if len(s) == 2 else tuple(s)

    return with_channel(shape) == with_channel(other)


def row_shape_of(image_shape: Sequence[int] | None, n_features: int) -> tuple[int, ...]:
    """Return the shape of a row for a network: ``(d,)``, or ``(C, H, W)`` of an image."""
    return (n_features,) if image_shape is None else (1, *image_shape)[-3:]


def find_image_shape(shape, wanted, n_features):
    """Return the image shape that a detector is fitted with; None for tables.

    Parameters
    ----------
    shape : tuple or None
        Shape of one image, as the rows came.
    wanted : tuple or None
        The parameter ``image_shape``.
    n_features : int
        Numbers in a row.

    Raises
    ------
    ValueError
        If the two differ, or `wanted` is no shape of such rows.

    Warns
    -----
    UserWarning
        For images whose channels seem to come last.
    """
    if wanted is None:
        _warn_of_channels_last(shape)
        return shape
    wanted = tuple(wanted)
    if len(wanted) not in (2, 3) or not all(
        isinstance(side, Integral) and side > 0 for side in wanted
    ):
        raise ValueError(
            f"image_shape must be (H, W) or (C, H, W), positive integers; got {wanted}."
        )
    if shape is not None and not same_image(shape, wanted):
        raise ValueError(f"X holds images of shape {shape}, but image_shape={wanted}.")
    if prod(wanted) != n_features:
        raise ValueError(
            f"image_shape={wanted} needs {prod(wanted)} features a row; X has {n_features}."
        )
    return wanted


def check_one_image(came, shape, fitted, n_features, name):
    """Raise ValueError for images of another shape than those of `fit`, or for one alone.

    Parameters
    ----------
    came : tuple
        Shape of X as it came; with a part for the rows.
    shape : tuple or None
        Shape of one of its images; None for flat rows.
    fitted : tuple
        Shape of one image in `fit`.
    n_features : int
        Numbers in a row of `fit`.
    name : str
        Of the detector.
    """
    if shape is None:
        wide = len(came) == 2 and came[1] == n_features  # rows, if images of one
        if not wide and tuple(came) == tuple(fitted[-2:]):
            raise ValueError(f"X is one image, of shape {came}; give X[None].")
    elif not same_image(shape, fitted):
        if tuple(came) == tuple(fitted):
            raise ValueError(f"X is one image, of shape {fitted}; give X[None].")
        raise ValueError(
            f"X holds images of shape {shape}, but {name} was fitted on images of shape "
            f"{fitted}."
        )


def _warn_of_channels_last(shape):
    if shape is not None and len(shape) == 3 and min(shape[:2]) > 4 >= shape[2]:
        warn(
            f"X holds images of {shape[0]} channels, {shape[1]} rows and {shape[2]} "
            "columns. If the channels come last, give np.moveaxis(X, -1, 1).",
        )
