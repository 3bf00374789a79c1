"""Pooling of a map into a score, and what each entry of the map contributes to it."""

from math import ceil

import numpy as np

__all__ = ["MapPooling"]

_TOP_SHARE = 0.02  # of the entries that "topk" takes the mean of


class MapPooling:
    """Mean of all entries of a map, of the greatest fiftieth, or the greatest.

    Parameters
    ----------
    kind : {"mean", "max", "topk"}
    n_entries : int
        Of a map.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.relevance._map_pooling import MapPooling
    >>> MapPooling("max", n_entries=4).contributions(np.array([[[1.0, 5.0], [2.0, 0.0]]]))
    array([[[0., 5.],
            [0., 0.]]])
    """

    def __init__(self, kind, n_entries):
        greatest = {"mean": n_entries, "max": 1, "topk": ceil(_TOP_SHARE * n_entries)}
        self.k = greatest[kind]

    def score(self, maps):
        """Pool a tensor of maps (n, u, v): (n,)."""
        flat = maps.flatten(1)
        if self.k < flat.shape[1]:
            flat = flat.topk(self.k, dim=1).values
        return flat.mean(dim=1)

    def contributions(self, maps):
        """Return what the entries of maps (n, u, v) contribute, which sums to the score."""
        flat = maps.reshape(len(maps), -1)
        if self.k < flat.shape[1]:
            top = np.argsort(-flat, axis=1, kind="stable")[:, : self.k]
            counted = np.zeros_like(flat)
            np.put_along_axis(counted, top, np.take_along_axis(flat, top, axis=1), axis=1)
            flat = counted
        return flat.reshape(maps.shape) / self.k
