"""The normal rows that a wrapper keeps, to explain from outside with."""

import numpy as np

from skad._sklearn import _num_samples, is_torch_dataset, row_of, take_rows

__all__ = ["keep_references"]

_KEPT = 256


def keep_references(X):
    """Draw the normal rows that a wrapper keeps: at most 256, always the same."""
    n = _num_samples(X)
    rows = np.arange(n)
    if n > _KEPT:
        rows = np.sort(np.random.default_rng(0).choice(n, _KEPT, replace=False))
    if is_torch_dataset(X):  # whose items may be tuples, and which may hold far more
        return np.stack([row_of(X[i]) for i in rows.tolist()])
    if n <= _KEPT:
        return X
    return take_rows(X, rows)
