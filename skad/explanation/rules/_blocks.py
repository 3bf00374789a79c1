"""Work on rows in blocks, so that no intermediate array is large."""

import numpy as np

__all__ = ["blocks", "in_blocks"]

_BLOCK = 2**22  # numbers held at once


def blocks(n, width):
    """Iterate over slices of n rows, such that a block of `width` columns is small."""
    step = max(1, _BLOCK // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def in_blocks(function, n, width):
    """Call a function of a slice on blocks of n rows, and join the arrays that it returns.

    Parameters
    ----------
    function : callable
        Returns an array of the slice's rows, or a tuple of them.
    n : int
    width : int
        How many numbers the function holds a row.
    """
    found = [function(part) for part in blocks(n, width)]
    if isinstance(found[0], tuple):
        return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return np.concatenate(found)
