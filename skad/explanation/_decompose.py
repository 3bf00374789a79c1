"""Decompose the score of any detector: the one list of rules, by class or by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from math import prod
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from skad._decomposition import Decomposition, NoDecompositionError
from skad._estimators import inside
from skad._linear_map import LinearMap
from skad._typing import AnyRows, Rules
from skad.base import BaseDetector

__all__ = ["can_decompose", "decompose", "register_by_name", "rows", "rule_of"]

P = ParamSpec("P")
R = TypeVar("R")
Rule: TypeAlias = "Callable[[Any, Any, LinearMap | None], Decomposition]"

_BY_NAME: dict[str, Rule] = {}
_SCORING = ("score_samples", "decision_function", "_decision_function")


@singledispatch
def _rule(estimator: Any, X: Any, space: Any = None) -> Decomposition:
    raise NoDecompositionError(f"{type(estimator).__name__} has no exact decomposition.")


def _open_to_rules(function: Callable[P, R]) -> Rules[P, R]:
    opened: Any = function
    opened.register = _rule.register
    return opened


def register_by_name(name: str, rule: Rule) -> None:
    """Add the rule of a class of a library that is not imported, by its qualified name."""
    _BY_NAME[name] = rule


@_open_to_rules
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
        AutoEncoder; a Pipeline that ends in one, a search, or one that is frozen or in
        InlierTraining or ConformalDetector.
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
    linear_map : Returns a `space`.

    Notes
    -----
    ``decompose.register(MyDetector)`` adds a rule: a function of ``(estimator, X, space)``
    that returns a `Decomposition`. `space` is as above; a rule for a score that is not made
    of squared distances calls :func:`refuse_space`.

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
    estimator, rule = _found(estimator)
    if rule is None:
        check_is_fitted(estimator)
        rule = _rule
    return _checked(rule(estimator, X, space), X, space)


def can_decompose(estimator: Any) -> bool:
    """Return whether there is a rule for a fitted detector, or for what it wraps.

    Where there is one, `decompose` may still refuse the detector's parameters.
    """
    return _found(estimator)[1] is not None


def _found(estimator):
    """Return the outermost estimator of a wrapped one that has a rule, and the rule."""
    while (rule := rule_of(estimator)) is None:
        within = inside(estimator)
        if within is None:
            break
        estimator = within
    return estimator, rule


def rule_of(estimator):
    """Return the rule for the class of an estimator.

    None where there is none, or the class overrides a scoring method of the class of
    another library that the rule is for.
    """
    kinds = type(estimator).__mro__
    rule = _rule.dispatch(type(estimator))
    if rule is not _rule.dispatch(object):
        known = next(kind for kind in kinds if kind in _rule.registry)
    else:
        known = next((kind for kind in kinds if _name(kind) in _BY_NAME), None)
        rule = _BY_NAME.get(_name(known))
    if rule is None or known.__module__.split(".")[0] not in ("sklearn", "pyod"):
        return rule
    same = all(_home(type(estimator), m) is _home(known, m) for m in _SCORING)
    return rule if same else None


def _name(kind):
    return None if kind is None else f"{kind.__module__}.{kind.__qualname__}"


def _home(kind, method):
    """Return the class that a class has a method from."""
    return next((base for base in kind.__mro__ if method in vars(base)), None)


def _checked(parts, X, space):
    """Return the parts; raise ValueError where a rule gave them in a wrong shape."""
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


@_rule.register
def _(estimator: BaseDetector, X: Any, space: Any = None) -> Decomposition:
    parts = estimator._decompose(estimator._validate(X), space)
    return replace(parts, outlier_threshold=-float(estimator.offset_))


def rows(estimator, X):
    """Check rows as a fitted scikit-learn estimator does; return them as float64 (n, d)."""
    check_is_fitted(estimator)
    finite = "allow-nan" if get_tags(estimator).input_tags.allow_nan else True
    return validate_data(
        estimator, X, dtype=np.float64, reset=False, ensure_all_finite=finite
    )
