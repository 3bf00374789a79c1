"""Decompose the score of any detector: the one list of rules, by class or by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from math import prod
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from skad._decomposition import Decomposition, NoDecompositionError
from skad._estimators import unwrapped
from skad._typing import AnyRows, Floats, Rules
from skad.base import BaseDetector

if TYPE_CHECKING:
    from skad.explanation._linear import LinearMap

__all__ = ["can_decompose", "decompose", "register_by_name", "rows"]

P = ParamSpec("P")
R = TypeVar("R")

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
