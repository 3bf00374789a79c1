"""Explain any detector: bare, at the end of a Pipeline, or found by a search.

An exact explanation is asked of the detector, or of the rule for its class, and pulled
back, transformer by transformer, to the columns that came in. A detector without one is
explained from outside, by sampled Shapley values. The lists of rules are open:
``explain.register(MyDetector)`` or ``decompose.register(MyDetector)``, and
``pull_back.register(MyTransformer)``.
"""

from __future__ import annotations

from typing import Any, Literal

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skad._decomposition import NoDecompositionError
from skad._estimators import can_score, chain, inside, refuse_torch_dataset
from skad._typing import AnyRows, Floats, singledispatch
from skad.explanation._decompose import can_decompose, decompose
from skad.explanation._pull_back import NoRuleError
from skad.explanation._shapley import shapley_values
from skad.explanation._through import first_mixing, pulled_through, transformed

__all__ = ["explain"]


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
        A fitted detector, a Pipeline ending in one, or a search over either, also frozen or
        in InlierTraining or ConformalDetector. A detector
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
        `shapley_values`. Others do not use them.

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

    ``explain.register(MyDetector)`` adds a rule for further detectors, a function of
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
    within = None if _explains_by_method(type(estimator)) else inside(estimator)
    if within is not None:
        return explain(within, X, space=space, references=references)
    if _explains_by_method(estimator):
        return estimator.explain(X)
    check_is_fitted(estimator)
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
    *steps, detector = chain(estimator, stop=_has_rule)
    if space == "model":
        return _explain_last(steps, detector, X, references)
    if not (_has_own(detector) or can_decompose(detector)):
        return _explain_from_outside(estimator, X, references)
    try:
        return _explain_through(estimator, steps, detector, X)
    except (NoRuleError, NoDecompositionError):
        if references is None:
            raise
        return _explain_from_outside(estimator, X, references)


def _explain_last(steps, detector, X, references):
    """Explain the detector in the columns that it sees."""
    if references is not None:
        references = transformed(steps, references)[-1]
    return explain(detector, transformed(steps, X)[-1], references=references)


def _explain_through(estimator, steps, detector, X):
    """Explain the detector's input, and pull the relevance back through the steps."""
    mixing = first_mixing(steps) is not None
    if can_decompose(detector) and (mixing or not _has_own(detector)):
        return decompose(estimator, X).relevance
    inputs = transformed(steps, X)
    return pulled_through(steps, inputs, explain(detector, inputs[-1]))


def _has_own(detector):
    """Return whether an explanation is registered for the class, or it has its own."""
    return _has_rule(detector) or _explains_by_method(detector)


def _has_rule(estimator):
    return explain.dispatch(type(estimator)) is not explain.dispatch(object)


def _explains_by_method(estimator):
    return hasattr(estimator, "explain")


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
