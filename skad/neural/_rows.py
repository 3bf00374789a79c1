"""Rows that are not in memory: memory maps, data sets of torch, images in files."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import validate_data
from torch.utils.data import Dataset, IterableDataset

from skad._sklearn import row_of
from skad.datasets import LazyImages

__all__ = [
    "LazyRows",
    "PreparedRows",
    "arrays",
    "check_lazy",
    "extremes",
    "joined",
    "lazy_rows",
    "parts",
]

_PART_ENTRIES = 2**20


class LazyRows:
    """Rows ``(n, d)`` that stay where they are until they are asked for.

    Choosing rows, by slice, indices or mask, gives `LazyRows` again and reads nothing;
    ``np.asarray`` reads, and raises for entries that are not finite numbers.

    Parameters
    ----------
    read : callable
        Gives the array (k, d) of the rows of some numbers, an array (k,).
    numbers : ndarray of int, shape (n,)
        Of the rows that these are.
    n_features : int
    dtype : dtype or tuple of dtype
        As for :func:`sklearn.utils.check_array`.
    """

    ndim = 2

    def __init__(self, read, numbers, n_features, dtype):
        self._read, self._numbers, self._dtype = read, numbers, dtype
        self.shape = (len(numbers), n_features)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return LazyRows(self._read, self._numbers[rows], self.shape[1], self._dtype)

    def __array__(self, dtype=None, copy=None):
        if len(self):
            X = check_array(self._read(self._numbers), dtype=self._dtype, input_name="X")
        else:
            X = np.empty(self.shape)
        return X if dtype is None else X.astype(dtype, copy=False)

    def with_rows_of(self, other):
        """Return the rows of both, where both are rows of the same."""
        numbers = np.concatenate([self._numbers, other._numbers])
        return LazyRows(self._read, numbers, self.shape[1], self._dtype)


class PreparedRows:
    """What a network trains on, made of `LazyRows` batch by batch.

    Indexed by a tensor of numbers, a slice or one number, as a tensor on the CPU is.

    Parameters
    ----------
    rows : LazyRows
    prepare : callable
        From an array of rows to a float32 tensor.
    row_shape : tuple
        Of a row for the network.
    """

    device = torch.device("cpu")

    def __init__(self, rows, prepare, row_shape):
        self._rows, self._prepare = rows, prepare
        self.shape = (len(rows), *row_shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if isinstance(rows, int | np.integer):
            return self[rows : rows + 1][0]
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        return self._prepare(np.asarray(self._rows[rows]))


def lazy_rows(X, dtype):
    """Return `LazyRows` of what is not in memory, and the shape of one image; else None."""
    if isinstance(X, IterableDataset):
        raise TypeError(
            f"X is an IterableDataset ({type(X).__name__}), whose rows come in one order "
            "only; a data set with a length, whose rows can be asked for by number, is "
            "needed."
        )
    if isinstance(X, LazyRows):
        return X, None
    if isinstance(X, Dataset):
        read, shape = _reader_of(X)
    elif isinstance(X, LazyImages):
        read, shape = (lambda rows: np.asarray(X[rows])), X.shape[1:]
    elif _is_mapped(X) and X.ndim > 1:
        read, shape = (lambda rows: np.asarray(X[_as_slice(rows)])), X.shape[1:]
    else:
        return None
    if not (1 <= len(shape) <= 3 and prod(shape)):
        raise ValueError(
            "X must hold rows (d,) or images (H, W) or (C, H, W), of one feature at least; "
            f"it holds items of shape {tuple(shape)}."
        )

    def flat_rows(numbers):
        return read(numbers).reshape(len(numbers), -1)

    rows = LazyRows(flat_rows, np.arange(len(X)), prod(shape), dtype)
    return rows, (tuple(shape) if len(shape) > 1 else None)


def check_lazy(estimator, X, *, reset):
    """Check `LazyRows` as scikit-learn checks arrays, without reading them."""
    if reset and len(X) < 2:
        raise ValueError(f"X must have two rows at least, got {len(X)}.")
    return validate_data(estimator, X, reset=reset, skip_check_array=True)


def extremes(X):
    """Return the least and the greatest value of each feature, (2, d), part by part."""
    ends = [(part.min(axis=0), part.max(axis=0)) for part in arrays(X)]
    low, high = zip(*ends, strict=True)
    return np.stack([np.min(low, axis=0), np.max(high, axis=0)])


def joined(X, others):
    """Return the rows of both, in memory only if these are."""
    if isinstance(X, LazyRows):
        return X.with_rows_of(others)
    return np.concatenate([X, others])


def parts(X):
    """Slice rows into parts of some MiB, for what needs no fixed shape."""
    return gen_batches(len(X), max(1, _PART_ENTRIES // prod(X.shape[1:])))


def arrays(X):
    """Return the parts of rows as arrays, one after the other."""
    return (np.asarray(X[part]) for part in parts(X))


def _reader_of(dataset):
    """Return what reads items of a data set by their numbers, and the shape of an item."""
    if not len(dataset):
        raise ValueError(f"X, a {type(dataset).__name__}, is empty.")
    shape = row_of(dataset[0]).shape

    def read(numbers):
        numbers = numbers.tolist()
        fetch = getattr(dataset, "__getitems__", lambda many: [dataset[i] for i in many])
        rows = [row_of(item) for item in fetch(numbers)]
        for number, row in zip(numbers, rows, strict=True):
            if row.shape != shape:
                raise ValueError(
                    f"Item {number} of X, a {type(dataset).__name__}, has shape "
                    f"{row.shape}, the first one {shape}."
                )
        return np.stack(rows)

    return read, shape


def _is_mapped(X):
    """Whether an array is, or is a view of, a file that is mapped into memory."""
    while isinstance(X, np.ndarray):
        if getattr(X, "_mmap", None) is not None:
            return True
        X = X.base
    return False


def _as_slice(numbers):
    """Return numbers that follow each other as a slice, which copies nothing."""
    if len(numbers) and (np.diff(numbers) == 1).all():
        return slice(numbers[0], numbers[-1] + 1)
    return numbers
