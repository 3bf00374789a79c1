"""Decompose the score of a Pipeline: the detector's parts, pulled back step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skad._decomposition import Decomposition, NoDecompositionError
from skad._estimators import chain
from skad._linear_map import LinearMap, LostRelevanceError
from skad.explanation._decompose import decompose, rule_of
from skad.explanation._linear import linear_map
from skad.explanation._pull_back import NoRuleError, pull_back, pulled_back, refusal

__all__ = ["first_mixing", "pulled_through", "transformed"]


@decompose.register
def _(estimator: Pipeline, X: Any, space: Any = None) -> Decomposition:
    """Decompose the last step's score, its relevance pulled back.

    The first of the linear steps that mix columns, and all after it, are undone at once.
    """
    check_is_fitted(estimator)
    if space is not None:
        raise NoDecompositionError("A Pipeline is undone as a whole: give its own input.")
    *steps, detector = chain(estimator, stop=lambda part: rule_of(part) is not None)
    inputs, first = transformed(steps, X), first_mixing(steps)
    if first is None:
        parts = decompose(detector, inputs[-1])
    else:
        parts = _decompose_linear(steps[first:], detector, inputs[first:])
    relevance = pulled_through(steps[:first], inputs, parts.relevance)
    return replace(parts, relevance=relevance)


def transformed(steps, X):
    """Return what goes into each of the steps, and what comes out of the last."""
    inputs = [np.asarray(X) if isinstance(X, list | tuple) else X]
    for step in steps:
        inputs.append(step.transform(inputs[-1]))
    return inputs


def first_mixing(steps):
    """Return the place of the first step that is linear and has no rule of its own."""
    for place, step in enumerate(steps):
        known = linear_map.dispatch(type(step)) is not linear_map.dispatch(object)
        alone = pull_back.dispatch(type(step)) is not pull_back.dispatch(object)
        if known and not alone and not isinstance(step, OneToOneFeatureMixin):
            return place
    return None


def pulled_through(steps, inputs, relevance):
    """Pull relevance back through steps, the last first, to what goes into the first."""
    for step, entered in zip(steps[::-1], inputs[: len(steps)][::-1], strict=True):
        relevance = pulled_back(step, entered, relevance)
    return relevance


def _decompose_linear(steps, detector, inputs):
    """Decompose the detector's score into parts of what goes into linear steps."""
    whole = LinearMap(np.eye(inputs[0].shape[1]))
    for step, entered in zip(steps, inputs[:-1], strict=True):
        part = linear_map(step, entered)
        if part is None:
            raise refusal(steps[0])
        whole = whole.then(part)
    try:
        return decompose(detector, inputs[-1], space=whole)
    except LostRelevanceError as error:
        name = type(steps[0]).__name__
        message = f"Relevance can't be pulled back through {name}. {error}"
        raise NoRuleError(message) from error
    except NoDecompositionError as error:
        raise refusal(steps[0]) from error
