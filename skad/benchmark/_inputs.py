"""Detectors and datasets as `benchmark` is given them, checked before anything runs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.utils import check_array

from skad._labels import read_signs
from skad.benchmark._catalog import make_detector
from skad.benchmark._data import load_table


@dataclass(frozen=True)
class Dataset:
    """Rows, labels +1 and -1, masks or None, and the shape of flat rows that are images."""

    name: str
    X: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None = None
    image_shape: tuple | None = None

    @property
    def is_table(self):
        """Whether columns have units of their own, so that they may be standardised."""
        return self.X.ndim == 2 and self.image_shape is None

    @cached_property
    def fingerprint(self):
        """Hash of all that is in it but the name."""
        digest = hashlib.sha256(repr(self.image_shape).encode())
        for array in (self.X, self.y, self.mask):
            if array is not None:
                digest.update(f"{array.shape} {array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()

    def comparable_masks(self, rows, relevance):
        """Return masks of rows, and their relevance, in shapes that metrics compare."""
        mask = self.mask[rows]
        if self.image_shape is not None:
            relevance = relevance.reshape(-1, *self.image_shape)
        if mask.shape == relevance.shape:
            return mask, relevance
        if mask.size != relevance.size:  # a mask for all channels
            return mask.reshape(len(mask), *relevance.shape[-2:]), relevance
        return mask.reshape(relevance.shape), relevance


def read_detectors(detectors):
    """Return a dict of detectors by name.

    Raises
    ------
    TypeError
        If it is neither a dict of estimators nor a list of names.
    ValueError
        If it is empty, or a name is unknown or comes twice.
    """
    if isinstance(detectors, str) or not hasattr(detectors, "__iter__"):
        raise TypeError(
            "detectors must be a dict of detectors by name, or a list of names; got "
            f"{detectors!r}."
        )
    if not isinstance(detectors, Mapping):
        names = list(detectors)
        strange = [n for n in names if not isinstance(n, str)]
        if strange:
            raise TypeError(
                f"A list of detectors must hold names, got {strange[0]!r}. Detectors "
                "themselves come in a dict, by name."
            )
        if len(set(names)) < len(names):
            raise ValueError(f"detectors names one twice: {names}.")
        detectors = {name: make_detector(name) for name in names}
    if not detectors:
        raise ValueError("detectors must hold one at least.")
    for name, detector in detectors.items():
        if isinstance(detector, type) or not hasattr(detector, "get_params"):
            raise TypeError(
                f"detector {name!r} must be an unfitted detector with get_params, got "
                f"{detector!r}."
            )
    return {str(name): detector for name, detector in detectors.items()}


def read_datasets(datasets):
    """Return a list of `Dataset`.

    Raises
    ------
    TypeError
        If it is no dict, or an item is none of the forms that are known.
    ValueError
        If it is empty, or what an item holds is not to be used.
    """
    if not isinstance(datasets, Mapping):
        raise TypeError(
            "datasets must be a dict of (X, y), (X, y, mask), a Bunch, a path or a "
            f"callable by name; got {type(datasets).__name__}."
        )
    if not datasets:
        raise ValueError("datasets must hold one at least.")
    return [read_dataset(str(name), given) for name, given in datasets.items()]


def read_dataset(name, given):
    """Return the `Dataset` that one item of datasets stands for."""
    if isinstance(given, Dataset):
        return given
    if callable(given):
        given = given()
    if isinstance(given, str | Path):
        given = load_table(given)
    X, y, mask, image_shape = _parts(name, given)
    try:
        floats = [np.float64, np.float32]
        X = check_array(X, allow_nd=True, dtype=floats, order="C", input_name="X")
        y = _signs(y, len(X))
        mask = None if mask is None else _masks(mask, X.shape, image_shape)
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"dataset {name!r}: {error}") from error
    return Dataset(name, X, y, mask, image_shape)


def read_seeds(seeds):
    """Return a list of seeds, of a number of them or of themselves."""
    listed = list(range(seeds)) if isinstance(seeds, Integral) else list(seeds)
    valid = all(isinstance(s, Integral) and 0 <= s < 2**32 for s in listed)
    if isinstance(seeds, bool) or not listed or not valid or len(set(listed)) < len(listed):
        raise ValueError(
            f"seeds must be a positive number of them, or distinct integers; got {seeds!r}."
        )
    return [int(s) for s in listed]


def check_at_least(name, value, least):
    """Raise ``ValueError`` unless a value is an integer, and not below the least."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def _parts(name, given):
    if hasattr(given, "keys") and {"data", "target"} <= set(given):
        shape = given.get("image_shape")
        shape = None if shape is None else tuple(shape)
        return given["data"], given["target"], given.get("mask"), shape
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        X, y, *mask = given
        return X, y, (mask[0] if mask else None), None
    raise TypeError(
        f"dataset {name!r} must be (X, y), (X, y, mask), a Bunch with data and target, a "
        f"path, or a callable that gives one of these; got {type(given).__name__}."
    )


def _signs(y, n):
    y = read_signs(y)
    values = np.unique(y).tolist()
    if values != [-1, 1]:
        raise ValueError(
            f"y must hold +1 (normal) and -1 (anomaly), both of them; got {values[:5]}."
        )
    if len(y) != n:
        raise ValueError(f"y has {len(y)} labels, but X has {n} rows.")
    if (y == 1).sum() < 4:
        raise ValueError(f"4 normal rows are needed at least, got {(y == 1).sum()}.")
    return y.astype(np.int8)


def _masks(mask, shape, image_shape):
    mask = np.asarray(mask)
    row = shape[1:] if image_shape is None else image_shape
    of_pixels = (prod(row[-2:]),) if len(row) > 1 else (prod(row),)
    allowed = {tuple(row), tuple(row[-2:]), (prod(row),), of_pixels}
    if mask.ndim < 2 or mask.shape[0] != shape[0] or mask.shape[1:] not in allowed:
        raise ValueError(f"mask has shape {mask.shape}, which does not fit X, {shape}.")
    if mask.dtype.kind not in "biuf" or not np.isfinite(mask).all() or (mask < 0).any():
        raise ValueError("mask must hold booleans or numbers that are not negative.")
    return mask
