"""What a decomposition is: a score as a sum over the features, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from skad._typing import Floats

__all__ = [
    "Decomposition",
    "Exponential",
    "Identity",
    "NoDecompositionError",
    "refuse_space",
]

Score = TypeVar("Score", float, "Floats")


@dataclass(frozen=True)
class Identity:
    """Link of a quantity q that is the outlier score o itself.

    Parameters
    ----------
    origin : float, default=0.0
        A q to measure from, for `Decomposition.slopes`.

    See Also
    --------
    Exponential : Link of a q that is a logarithm of o.

    Examples
    --------
    >>> from skad.explanation import Identity
    >>> Identity().outlier_score(2.5)
    2.5
    """

    origin: float = 0.0

    def outlier_score(self, score: Score) -> Score:
        """Return o for q.

        Parameters
        ----------
        score : float or ndarray
            The quantity q.

        Returns
        -------
        outlier_score : float or ndarray
            The outlier score o.
        """
        return score

    def quantity(self, outlier_score: Score) -> Score:
        """Return q for o.

        Parameters
        ----------
        outlier_score : float or ndarray
            The outlier score o.

        Returns
        -------
        quantity : float or ndarray
            The quantity q.
        """
        return outlier_score


@dataclass(frozen=True)
class Exponential:
    """Link ``o = factor * exp(rate * q) + shift`` of quantity q and outlier score o.

    Parameters
    ----------
    factor, rate : float
        Of one sign, so that o increases with q.
    origin : float, default=0.0
        A q to measure from, for `Decomposition.slopes`.
    shift : float, default=0.0
        What o is far down.

    See Also
    --------
    Identity : Link of a q that is o itself.

    Examples
    --------
    >>> from skad.explanation import Exponential
    >>> link = Exponential(factor=2.0, rate=1.0)
    >>> float(link.outlier_score(0.0)), float(link.quantity(2.0))
    (2.0, 0.0)
    """

    factor: float
    rate: float
    origin: float = 0.0
    shift: float = 0.0

    def outlier_score(self, score: Score) -> Score:
        """Return o for q.

        Parameters
        ----------
        score : float or ndarray
            The quantity q.

        Returns
        -------
        outlier_score : float or ndarray
            The outlier score o.
        """
        return self.factor * np.exp(self.rate * score) + self.shift

    def quantity(self, outlier_score: Score) -> Score:
        """Return q for o.

        Parameters
        ----------
        outlier_score : float or ndarray
            The outlier score o.

        Returns
        -------
        quantity : float or ndarray
            The quantity q; infinite where no q gives this o.
        """
        ratio = (outlier_score - self.shift) / self.factor
        with np.errstate(divide="ignore"):
            return np.log(np.maximum(ratio, 0)) / self.rate


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A score as a sum over the features, exactly.

    Parameters
    ----------
    relevance : ndarray of shape (n, d), float64
        Evidence for anomaly.
    unattributed : ndarray of shape (n,), float64
        What belongs to no feature.
    quantity : str
        What the two sum to, in words.
    outlier_threshold : float or None
        Rows whose outlier score is above it are those that the detector calls anomalies.
        None where it has no threshold.
    link : Identity or Exponential, default=Identity()
        How the outlier score o follows from the quantity q.

    See Also
    --------
    decompose : Returns one.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.explanation import Decomposition
    >>> squares = np.array([[4.0, 1.0], [0.0, 0.5]])
    >>> parts = Decomposition(squares, np.zeros(2), "squared length", outlier_threshold=2.0)
    >>> parts.score > parts.threshold
    array([ True, False])
    """

    relevance: Floats
    unattributed: Floats
    quantity: str
    outlier_threshold: float | None = None
    link: Identity | Exponential = Identity()

    @property
    def score(self) -> Floats:
        """The quantity q, ``relevance.sum(axis=1) + unattributed``: float64 (n,)."""
        return self.relevance.sum(axis=1) + self.unattributed

    @property
    def outlier_score(self) -> Floats:
        """The outlier score o: float64 (n,).

        ``-score_samples(X)`` of a scikit-learn detector, ``decision_function(X)`` of one of
        PyOD.
        """
        return self.link.outlier_score(self.score)

    @property
    def threshold(self) -> float | None:
        """The threshold on `score`: float or None."""
        if self.outlier_threshold is None:
            return None
        return float(self.link.quantity(self.outlier_threshold))

    @property
    def slopes(self) -> Floats:
        r"""What turns q into o, row by row: the slope of a chord, float64 (n,), positive.

        ``relevance * slopes[:, None]`` sums to o, with another unattributed part; the order
        of a row's features stays.

        .. math:: \frac{o(q) - o(q_0)}{q - q_0}
        """
        run = self.score - self.link.origin
        rise = self.outlier_score - self.link.outlier_score(self.link.origin)
        return np.divide(rise, run, out=np.ones_like(run), where=run != 0)


class NoDecompositionError(TypeError):
    """A detector, or its parameters, for which there is no exact decomposition.

    See Also
    --------
    decompose : Raises it.

    Examples
    --------
    >>> from sklearn.svm import OneClassSVM
    >>> from skad.explanation import NoDecompositionError, decompose
    >>> svm = OneClassSVM(kernel="sigmoid").fit([[0.0], [1.0]])
    >>> try:
    ...     decompose(svm, [[0.5]])
    ... except NoDecompositionError:
    ...     print("explain from outside")
    explain from outside
    """


def refuse_space(estimator: object, space: object) -> None:
    """Raise NoDecompositionError where a rule is asked for other columns, by a space.

    Parameters
    ----------
    estimator : object
        The detector whose score is no function of squared distances.
    space : LinearMap or None
        As a rule of `decompose` gets it.

    Raises
    ------
    NoDecompositionError
        Where `space` is not None.

    See Also
    --------
    decompose : Calls the rules.

    Examples
    --------
    >>> from sklearn.ensemble import IsolationForest
    >>> from skad.explanation import refuse_space
    >>> refuse_space(IsolationForest(), None)
    """
    if space is not None:
        raise NoDecompositionError(
            f"The score of {type(estimator).__name__} is no function of squared distances."
        )
