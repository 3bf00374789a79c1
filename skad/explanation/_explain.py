"""Explain any detector: bare, at the end of a Pipeline, or found by a search.

An exact explanation is asked of the detector, or of the rule for its class, and pulled
back, transformer by transformer, to the columns that came in. A detector without one is
explained from outside, by sampled Shapley values. The lists of rules are open:
``explain.register(MyDetector)`` or ``decompose.register(MyDetector)``, and
``pull_back.register(MyTransformer)``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skad._occlusion import occlude, patch_groups
from skad._pull_back import NoRuleError, pull_back, pulled_back, refusal
from skad._scores import can_score, refuse_torch_dataset
from skad._shapley import shapley_values
from skad._typing import AnyRows, Floats, singledispatch
from skad.base import BaseDetector
from skad.decompositions import (
    Decomposition,
    LinearMap,
    NoDecompositionError,
    can_decompose,
    decompose,
    linear_map,
    unwrapped,
)

__all__ = [
    "Decomposition",
    "LinearMap",
    "NoDecompositionError",
    "decompose",
    "explain",
    "linear_map",
    "occlude",
    "patch_groups",
    "pull_back",
    "shapley_values",
]

_LOST = 1e-7  # of relevance, in sums that are pulled back: more is no rounding


@singledispatch
def explain(
    estimator: Any,
    X: AnyRows,
    *,
    space: Literal["input", "model"] = "input",
    references: AnyRows | None = None,
) -> Floats:
    """Attribute the outlier score of each row to its features, for any detector.

    Parameters
    ----------
    estimator : object
        A fitted detector, a Pipeline ending in one, or a search over either. A detector
        is explained by the rule registered for its class, else by its own ``explain``
        method, else by its exact decomposition (`decompose` lists those of scikit-learn
        and PyOD that have one), else by `shapley_values`, which needs normal rows to
        compare with.
    X : array-like of shape (n, d) or (n, ...)
        Rows to explain.
    space : {"input", "model"}, default="input"
        Explain the columns of `X`, or what the Pipeline's last step sees. The two differ
        for a Pipeline only.
    references : array-like of shape (m, d), default=None
        Normal rows, in the space of `X`, for detectors without an explanation of their
        own and Pipelines whose transformers mix columns: they are explained by
        `shapley_values`. Others take no notice of it.

    Returns
    -------
    relevance : ndarray of the shape of X (of the model's input, if ``space="model"``)
        Evidence for anomaly, float64, in the units of the outlier score
        ``o(x) = -score_samples(X)``, or of the additive quantity that `decompose` names
        where o is an increasing function of one (OneClassSVM, IsolationForest).

    Raises
    ------
    TypeError
        When a transformer has no rule to pull relevance back and there are no
        `references`, or `estimator` scores nothing, or its parameters leave it without
        an exact decomposition and there are no `references`.
    ValueError
        When a detector needs `references` and got none, `space` is unknown, `X` does not
        fit, or `estimator` is not fitted.

    See Also
    --------
    skad.explanation.decompose : The unattributed part and the threshold too.
    skad.explanation.shapley_values : From outside, with a standard error.
    skad.explanation.occlude : From outside, cheaper.
    skad.plotting.ExplanationDisplay : Draws it.

    Notes
    -----
    Linear transformers that mix columns, such as PCA, are undone exactly where the
    detector's score is made of squared distances: see `linear_map`.

    Further detectors are taught by ``explain.register(MyDetector)``, a function of
    ``(estimator, X, *, space="input", references=None)``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skad import KDE, explain
    >>> X = np.random.default_rng(0).standard_normal((100, 3)) * [1, 10, 100]
    >>> model = make_pipeline(StandardScaler(), KDE()).fit(X)
    >>> int(explain(model, [[0.0, 50.0, 0.0]]).argmax())
    1
    """
    _check_space(space)
    refuse_torch_dataset(estimator, X)
    if hasattr(estimator, "explain"):
        return estimator.explain(X)
    check_is_fitted(estimator)
    found = unwrapped(estimator)
    if found is not estimator:
        return explain(found, X, space=space, references=references)
    if can_decompose(estimator):
        try:
            return decompose(estimator, X).relevance
        except NoDecompositionError:
            if references is None:
                raise
    return _explain_from_outside(estimator, X, references)


@explain.register
def _(estimator: Pipeline, X: Any, *, space: Any = "input", references: Any = None) -> Any:
    _check_space(space)
    check_is_fitted(estimator)
    refuse_torch_dataset(estimator, X)
    *steps, detector = _flat_steps(estimator)
    if not _explains_itself(detector) and space == "input":
        return _explain_from_outside(estimator, X, references)
    inputs, seen = _transformed(steps, X), references
    if space == "input":
        try:
            return _explain_through(steps, detector, inputs)
        except (NoRuleError, NoDecompositionError):
            if references is None:
                raise
            return _explain_from_outside(estimator, X, references)
    for step in steps if seen is not None else ():
        seen = step.transform(seen)
    return explain(detector, inputs[-1], references=seen)


def _transformed(steps, X):
    """Give what goes into each of the steps, and what comes out of the last."""
    inputs = [np.asarray(X) if isinstance(X, list | tuple) else X]
    for step in steps:
        inputs.append(step.transform(inputs[-1]))
    return inputs


def _explain_through(steps, detector, inputs):
    """Explain the detector's input, and pull the relevance back through the steps."""
    mixing = _first_mixing(steps) is not None and can_decompose(detector)
    if (_is_registered(detector) or hasattr(detector, "explain")) and not mixing:
        return _pulled_through(steps, inputs, explain(detector, inputs[-1]))
    return _decompose_through(steps, detector, inputs).relevance


def _decompose_through(steps, detector, inputs):
    """Decompose the detector's score into parts of the columns that came in first.

    The first of the linear steps that mix columns, and all after it, are undone at once.
    """
    parts = decompose(detector, inputs[-1])
    mixing = _first_mixing(steps)
    if mixing is None:
        return replace(parts, relevance=_pulled_through(steps, inputs, parts.relevance))
    first = steps.index(mixing)
    relevance = _undo_linear(steps[first:], detector, inputs[first:], parts.relevance)
    return replace(parts, relevance=_pulled_through(steps[:first], inputs, relevance))


def _undo_linear(steps, detector, inputs, relevance):
    """Explain what goes into linear steps; refuse where steps or detector forbid it."""
    whole = LinearMap(np.eye(inputs[0].shape[1]))
    for step, entered in zip(steps, inputs[:-1], strict=True):
        part = linear_map(step, entered)
        if part is None:
            raise refusal(steps[0])
        whole = whole.then(part)
    try:
        pulled = decompose(detector, inputs[-1], space=whole).relevance
    except NoDecompositionError as error:
        raise refusal(steps[0]) from error
    lost = abs(pulled.sum(axis=1) - relevance.sum(axis=1))
    if (lost > _LOST * (abs(relevance).sum(axis=1) + abs(pulled).max(initial=0))).any():
        raise NoRuleError(
            f"Relevance can't be pulled back through {type(steps[0]).__name__} within "
            f"{_LOST} of its size: the matrix has no accurate inverse. Leave out constant "
            "and collinear columns, or components of next to no variance; or give "
            "references= to explain from outside, by Shapley values."
        )
    return pulled


def _pulled_through(steps, inputs, relevance):
    for step, entered in zip(steps[::-1], inputs[: len(steps)][::-1], strict=True):
        relevance = pulled_back(step, entered, relevance)
    return relevance


def _first_mixing(steps):
    """Give the first step that is linear and has no rule to be pulled back alone."""
    for step in steps:
        known = linear_map.dispatch(type(step)) is not linear_map.dispatch(object)
        alone = pull_back.dispatch(type(step)) is not pull_back.dispatch(object)
        if known and not alone and not isinstance(step, OneToOneFeatureMixin):
            return step
    return None


def _flat_steps(estimator):
    """Give a Pipeline's fitted steps, those of Pipelines inside in their place; a list."""
    estimator = unwrapped(estimator)
    if not isinstance(estimator, Pipeline):
        return [estimator]
    steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    return [part for step in steps for part in _flat_steps(step)]


@decompose.register
def _(estimator: BaseDetector, X: Any, space: Any) -> Any:
    """Decompose one of skad's own by its explanation, as flat rows."""
    relevance, unattributed = estimator.explain(X), estimator.unattributed(X)
    if space is not None:
        relevance = estimator._relevance_through(estimator._validate(X), space)
    return Decomposition(
        relevance.reshape(len(relevance), -1),
        unattributed,
        "outlier score",
        outlier_threshold=-float(estimator.offset_),
    )


@decompose.register
def _(estimator: Pipeline, X: Any, space: Any) -> Any:
    """Decompose the last step's score, its relevance pulled back."""
    check_is_fitted(estimator)
    if space is not None:
        raise NoDecompositionError("A Pipeline is undone as a whole: give its own input.")
    *steps, detector = _flat_steps(estimator)
    return _decompose_through(steps, detector, _transformed(steps, X))


def explain_in_score_units(
    estimator: Any, X: AnyRows, references: AnyRows | None
) -> Floats:
    """Explain as `explain` does, but always in the units of the outlier score."""
    detector = _flat_steps(estimator)[-1]
    if isinstance(detector, BaseDetector) or not can_decompose(detector):
        return explain(estimator, X, references=references)
    try:
        parts = decompose(estimator, X)
    except (NoRuleError, NoDecompositionError):
        return _explain_from_outside(estimator, X, references)
    return parts.relevance * parts.slopes[:, None]


def _explains_itself(detector):
    """Whether a rule is registered for the detector's class, or it has its own."""
    own = _is_registered(detector) or hasattr(detector, "explain")
    return own or can_decompose(detector)


def _is_registered(detector):
    return explain.dispatch(type(detector)) is not explain.dispatch(object)


def _explain_from_outside(estimator, X, references):
    name = type(estimator).__name__
    if not can_score(estimator):
        raise TypeError(
            f"{name} can't be explained: it has no explain, score_samples or "
            "decision_function method (a search has them when it was fitted with refit)."
        )
    if references is None:
        raise ValueError(
            f"{name} has no explanation of its own and keeps no training rows to compare "
            "with. Give normal rows, explain(..., references=X_normal), or fit it inside "
            f"InlierTraining({name}(...)), which keeps some."
        )
    return shapley_values(estimator, X, references).relevance


def _check_space(space):
    if space not in ("input", "model"):
        raise ValueError(f"space must be 'input' or 'model', got {space!r}.")
