"""What a decomposition is, and the list of rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from inspect import signature
from math import prod
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from skad._scores import is_pyod, unwrapped
from skad._typing import AnyRows, Floats, Rules

if TYPE_CHECKING:
    from skad.decompositions._linear import LinearMap

__all__ = [
    "Decomposition",
    "Exponential",
    "Identity",
    "NoDecompositionError",
    "can_decompose",
    "decompose",
    "refuse_space",
    "rows",
    "unwrapped",
]

P = ParamSpec("P")
R = TypeVar("R")
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
    >>> from skad.decompositions import Identity
    >>> Identity().outlier_score(2.5)
    2.5
    """

    origin: float = 0.0

    def outlier_score(self, score: Score) -> Score:
        """Give o from q.

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
        """Give q from o.

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
    >>> from skad.decompositions import Exponential
    >>> link = Exponential(factor=2.0, rate=1.0)
    >>> float(link.outlier_score(0.0)), float(link.quantity(2.0))
    (2.0, 0.0)
    """

    factor: float
    rate: float
    origin: float = 0.0
    shift: float = 0.0

    def outlier_score(self, score: Score) -> Score:
        """Give o from q.

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
        """Give q from o.

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
    decompose : Gives one.

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


@singledispatch
def _rule(estimator, X, space):
    check_is_fitted(estimator)
    name = type(estimator).__name__
    raise NoDecompositionError(f"{name} has no exact decomposition.")


def _taught_by_rules(function: Callable[P, R]) -> Rules[P, R]:
    taught: Any = function
    taught.register = _rule.register
    return taught


@_taught_by_rules
def decompose(
    estimator: Any, X: AnyRows, *, space: LinearMap | None = None
) -> Decomposition:
    """Decompose the scores of a fitted detector into parts of the features, exactly.

    Parameters
    ----------
    estimator : object
        A fitted detector: of skad; of scikit-learn, OneClassSVM (kernels rbf, linear,
        poly), SGDOneClassSVM, KernelDensity (gaussian, exponential), GaussianMixture,
        BayesianGaussianMixture, EllipticEnvelope, LocalOutlierFactor (novelty),
        IsolationForest, and PCA and FactorAnalysis by their ``score_samples``; of PyOD,
        KDE, KNN, LOF, OCSVM, PCA, GMM, MCD, IForest, HBOS, ECOD, COPOD, LODA and
        AutoEncoder; a Pipeline that ends in one, or a search.
    X : array-like of shape (n, d)
        Rows to explain.
    space : LinearMap, default=None
        What made the columns of `X` out of others, linearly: relevance is then that of
        those others. For detectors whose score is made of squared distances.

    Returns
    -------
    decomposition : Decomposition
        Relevance (n, d) and unattributed part (n,), which sum to its `score`, and the
        threshold on it.

    Raises
    ------
    NoDecompositionError
        A TypeError: for other detectors, parameters without an exact rule, and a `space`
        where the score is no function of squared distances.
    sklearn.exceptions.NotFittedError
        When the detector is not fitted.
    ValueError
        When `X` has another number of columns than the detector was fitted on, or entries
        that it does not take.

    See Also
    --------
    skad.explain : The relevance alone, of any detector.
    shapley_values : From outside, for detectors without a rule.
    linear_map : Gives a `space`.

    Notes
    -----
    ``decompose.register(MyDetector)`` adds a rule: a function of ``(estimator, X)``, or of
    ``(estimator, X, space)`` where the score is made of squared distances, that gives a
    `Decomposition`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from skad.explanation import decompose
    >>> X = np.random.default_rng(0).standard_normal((200, 3))
    >>> forest = IsolationForest(random_state=0).fit(X)
    >>> parts = decompose(forest, [[0.0, 5.0, 0.0]])
    >>> parts.quantity
    'log2 of the outlier score'
    >>> bool(np.isclose(parts.relevance.sum() + parts.unattributed[0], parts.score[0]))
    True
    >>> int(parts.relevance.argmax())
    1
    """
    estimator = unwrapped(estimator)
    return _checked(_applied(_find(estimator), estimator, X, space), X, space)


def _applied(rule, estimator, X, space):
    """Apply a rule; one that takes no `space` is one without squared distances."""
    if len(signature(rule).parameters) > 2:
        return rule(estimator, X, space)
    refuse_space(estimator, space)
    return rule(estimator, X)


def _checked(parts, X, space):
    """See that a rule gave parts of the right shape, and give them."""
    shape = tuple(X.shape if hasattr(X, "shape") else np.shape(X))
    if space is not None:
        shape = (shape[0], space.matrix.shape[1])
    relevance, unattributed = np.asarray(parts.relevance), np.asarray(parts.unattributed)
    flat = (shape[0], prod(shape[1:]))  # as skad's own detectors see images
    if relevance.shape not in (shape, flat) or unattributed.shape != shape[:1]:
        raise ValueError(
            f"The rule to decompose the scores gave relevance of shape {relevance.shape} "
            f"and an unattributed part of shape {unattributed.shape}, but {shape} and "
            f"{shape[:1]} are needed."
        )
    return replace(parts, relevance=relevance, unattributed=unattributed)


def can_decompose(estimator: Any) -> bool:
    """Whether there is a rule for the class of a detector.

    Parameters
    ----------
    estimator : object
        A detector, fitted or not, or a search.

    Returns
    -------
    known : bool
        If True, `decompose` may still refuse its parameters.

    See Also
    --------
    skad.explanation.decompose : Follows the rule.

    Examples
    --------
    >>> from sklearn.ensemble import IsolationForest
    >>> from skad.decompositions import can_decompose
    >>> can_decompose(IsolationForest())
    True
    """
    return _find(unwrapped(estimator)) is not _rule.dispatch(object)


def _find(estimator):
    """Give the rule for the class of an estimator, unless it scores in its own way."""
    rule, known = _rule.dispatch(type(estimator)), None
    if rule is not _rule.dispatch(object):
        known = next(kind for kind in type(estimator).__mro__ if kind in _rule.registry)
    elif is_pyod(estimator):
        from skad.decompositions import _pyod

        name, known = _pyod.name_of(estimator)
        rule = _pyod.RULES.get(name, rule)
    if known is None or known.__module__.split(".")[0] not in ("sklearn", "pyod"):
        return rule
    same = all(_home(type(estimator), m) is _home(known, m) for m in _SCORING)
    return rule if same else _rule.dispatch(object)


_SCORING = ("score_samples", "decision_function", "_decision_function")


def _home(kind, method):
    """Give the class that a class has a method from."""
    return next((base for base in kind.__mro__ if method in vars(base)), None)


def refuse_space(estimator, space):
    """Raise NoDecompositionError where there is a space."""
    if space is not None:
        raise NoDecompositionError(
            f"The score of {type(estimator).__name__} is no function of squared distances."
        )


def rows(estimator, X):
    """Check rows as the methods of a fitted scikit-learn estimator do; float64 (n, d)."""
    check_is_fitted(estimator)
    finite = "allow-nan" if get_tags(estimator).input_tags.allow_nan else True
    return validate_data(
        estimator, X, dtype=np.float64, reset=False, ensure_all_finite=finite
    )
