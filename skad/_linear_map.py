"""The matrix by which columns were made of others, for relevance to be pulled back by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skad._decomposition import NoDecompositionError
from skad._typing import AnyArray, Floats

__all__ = ["LinearMap", "LostRelevanceError", "check_kept"]

_LOST = 1e-7  # of relevance, in sums that are pulled back: more is no rounding


@dataclass(frozen=True, eq=False)
class LinearMap:
    r"""How the columns z of a model came out of others: ``z = W x + const``.

    A product of a deviation and a gradient in z, as :math:`\delta_i \cdot \delta_i` of a
    squared distance, is the sum over the columns of x of

    .. math:: (W^+ \delta)_i \cdot (W^\top \delta)_i,

    the shortest deviation in x that makes :math:`\delta`, times the gradient in x.

    Parameters
    ----------
    matrix : ndarray of shape (k, d)
        W.

    See Also
    --------
    linear_map : Returns that of a transformer.
    decompose : Takes one as `space`.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.explanation import LinearMap
    >>> total = LinearMap(np.array([[1.0, 1.0]]))  # z = x_1 + x_2
    >>> total(np.array([[3.0]]))  # 9, shared
    array([[4.5, 4.5]])
    """

    matrix: Floats

    @cached_property
    def inverse(self) -> AnyArray:
        """The pseudo-inverse of W: ndarray (d, k)."""
        return np.linalg.pinv(self.matrix)

    def deviation(self, deviations: Floats) -> Floats:
        r"""Return the shortest deviations in x that make those in z.

        Parameters
        ----------
        deviations : ndarray of shape (n, k)
            A deviation :math:`\delta` in z a row.

        Returns
        -------
        deviations : ndarray of shape (n, d)
            The rows :math:`W^+ \delta`.
        """
        return deviations @ self.inverse.T

    def gradient(self, gradients: Floats) -> Floats:
        r"""Return gradients in x.

        Parameters
        ----------
        gradients : ndarray of shape (n, k)
            A gradient g in z a row.

        Returns
        -------
        gradients : ndarray of shape (n, d)
            The rows :math:`W^\top g`.
        """
        return gradients @ self.matrix

    def __call__(self, deviations: Floats) -> Floats:
        """Share squared deviations in z out among the columns of x.

        Parameters
        ----------
        deviations : ndarray of shape (n, k)
            A deviation in z a row, not squared.

        Returns
        -------
        squares : ndarray of shape (n, d)
            The sum of a row is that of its squared deviations, as far as a deviation in x
            can make them.
        """
        return self.deviation(deviations) * self.gradient(deviations)

    def then(self, other: LinearMap) -> LinearMap:
        """Return the map of this one and then another.

        Parameters
        ----------
        other : LinearMap
            From the columns that this one gives.

        Returns
        -------
        map : LinearMap
            Its matrix is ``other.matrix @ self.matrix``.
        """
        return LinearMap(other.matrix @ self.matrix)


class LostRelevanceError(NoDecompositionError):
    """Columns whose squared distances a linear map does not keep."""


def check_kept(relevance: Floats, own: Floats) -> None:
    """Raise LostRelevanceError where relevance behind a map does not sum to what it was.

    Parameters
    ----------
    relevance : ndarray of shape (n, d)
        Of the columns that the map made others of.
    own : ndarray of shape (n, k)
        Of those others.
    """
    lost = abs(relevance.sum(axis=1) - own.sum(axis=1))
    if (lost > _LOST * (abs(own).sum(axis=1) + abs(relevance).max(initial=0))).any():
        raise LostRelevanceError(
            f"More than {_LOST} of the relevance is lost: the matrix has no accurate "
            "inverse. Leave out constant and collinear columns, or components of next to "
            "no variance; or give references= to explain from outside, by Shapley values."
        )
