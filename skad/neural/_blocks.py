"""Inference in blocks of one size, so that a row's score does not depend on its batch."""

import numpy as np
import torch
from torch.nn.functional import pad

__all__ = ["ALIGNMENT", "as_tensor", "block_rows", "in_blocks", "in_small_parts"]

_BLOCK_ENTRIES = 2**18
# Vectorised functions treat what is left over of 16 numbers apart: there is none.
_LEAST_ROWS = 16
# Products sum a row in an order that depends on its address modulo so many numbers.
ALIGNMENT = 4


def as_tensor(X):
    """Return rows as a tensor, without a copy where torch takes their memory as it is."""
    X = np.asarray(X)
    shared = X.flags.writeable and min(X.strides, default=0) >= 0
    return torch.from_numpy(X if shared else X.copy())


def block_rows(n_features):
    """Return the rows of a block: a power of two from 16 to 1024, fewer for larger rows.

    One row costs a whole block, many rows cost a call a block; either is small where a
    block holds some 200,000 numbers.
    """
    rows = max(_LEAST_ROWS, min(1024, _BLOCK_ENTRIES // n_features))
    return 1 << (rows.bit_length() - 1)


def in_blocks(function, X, prepare, rows, device):
    """Apply a function of a batch of tensors to the rows of X, in zero-padded blocks.

    float32 products depend in their last bits on the shape of the batch, and on the
    alignment of its rows; with every block of one shape, and every row of a flat block
    aligned, a row gets the same bits alone and in any company.

    Parameters
    ----------
    function : callable
        From a tensor (rows, ...) on the device to a tensor (rows, ...).
    X : ndarray of shape (n, d)
    prepare : callable
        From rows of X to a tensor of what the function takes.
    rows : int
        Rows of a block.
    device : torch.device

    Returns
    -------
    values : Tensor of shape (n, ...), on the CPU
    """
    values = None
    for start in range(0, len(X), rows):
        block = prepare(X[start : start + rows])
        value = _checked(function(_whole(block, rows).to(device)), rows)[: len(block)]
        if values is None:  # one array: many small ones would keep memory in pieces
            values = value.new_empty((len(X), *value.shape[1:]), device="cpu")
        values[start : start + len(block)] = value
    return values


def _checked(value, rows):
    """Return what a function gave for a block, if it has an entry for each of the rows."""
    if not isinstance(value, torch.Tensor) or value.shape[:1] != (rows,):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise ValueError(
            f"A function of a block of {rows} rows must return a tensor with an entry for "
            f"each; it returned a {type(value).__name__}{shape}."
        )
    return value


def in_small_parts(explain, X, prepare):
    """Apply what propagates relevance to the rows of X, a part of a block at a time.

    A row takes some four times the memory that it takes in scoring.

    Parameters
    ----------
    explain : callable
        From a tensor of prepared rows to their relevance, a tensor of that shape.
    X : ndarray of shape (n, d)
    prepare : callable
        From rows of X to a tensor.

    Returns
    -------
    relevance : ndarray of shape (n, d), float64
    """
    n_parts = -(-len(X) // max(1, block_rows(X.shape[1]) // 4))
    parts = (explain(prepare(part)) for part in np.array_split(X, n_parts))
    return torch.cat([part.cpu() for part in parts]).flatten(1).double().numpy()


def _whole(block, rows):
    """Zero-pad a block to its full height, and a flat one to an aligned stride."""
    short = rows - len(block)
    narrow = -block.shape[1] % ALIGNMENT if block.ndim == 2 else 0
    if not (short or narrow):
        return block
    sides = [0] * (2 * block.ndim - 1) + [short]
    sides[1] += narrow
    return pad(block, sides)[..., : block.shape[-1]]
