"""Redistribute relevance from what comes out of a transformer onto what goes in."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    Normalizer,
    OneHotEncoder,
)

from skad._sklearn import (
    _get_column_indices,
    _safe_indexing,
    kept_by_imputer,
    one_hot_widths,
)
from skad._typing import Floats, singledispatch
from skad.images import GlobalContrastNormalizer

__all__ = ["NoRuleError", "pull_back", "pulled_back", "refusal"]

_ROUNDING = 1e-6


@singledispatch
def pull_back(transformer: Any, X: Any, relevance: Floats) -> Floats:
    """Redistribute relevance from a transformer's output onto its input.

    Columns that stay themselves (scalers, imputers) keep their relevance, chosen columns
    go back to their places, columns made from one column (one-hot levels, missing-value
    indicators) are added up. Nothing is gained or lost. Transformers that mix columns
    have no such rule and are refused.

    Parameters
    ----------
    transformer : object
        A fitted transformer.
    X : array-like of shape (n, d)
        What it transformed.
    relevance : ndarray of shape (n, d_out)
        Relevance of its output.

    Returns
    -------
    relevance : ndarray of shape (n, d)
        Relevance of the columns of `X`; the sum of a row is what it was.

    Raises
    ------
    TypeError
        When the transformer has no rule. ``pull_back.register(MyTransformer)`` adds
        one: a function of ``(transformer, X, relevance)``.

    See Also
    --------
    linear_map : Undoes linear transformers that mix columns.
    skad.explain : Pulls relevance back through a whole Pipeline.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import OneHotEncoder
    >>> from skad.explanation import pull_back
    >>> X = np.array([["a"], ["b"]])
    >>> pull_back(OneHotEncoder().fit(X), X, np.array([[1.0, 2.0], [0.0, 3.0]]))
    array([[3.],
           [3.]])
    """
    one_to_one = isinstance(transformer, OneToOneFeatureMixin)
    if one_to_one and relevance.shape[1:] == np.shape(X)[1:]:
        return relevance
    raise refusal(transformer)


def pulled_back(transformer, X, relevance):
    """Pull relevance back; check that the rule keeps the input's shape and the sums."""
    pulled, name = pull_back(transformer, X, relevance), type(transformer).__name__
    if np.shape(pulled) != np.shape(X):
        raise ValueError(
            f"The rule to pull relevance back through {name} gave shape "
            f"{np.shape(pulled)}, but its input has {np.shape(X)}."
        )
    pulled = np.asarray(pulled)
    rows = [np.reshape(r, (len(r), -1)) for r in (relevance, pulled)]
    before, after = (r.sum(axis=1) for r in rows)
    sizes = [abs(r).sum(axis=1) for r in rows]
    off = abs(after - before)
    if (off > _ROUNDING * np.maximum(*sizes)).any():
        raise ValueError(
            f"The rule to pull relevance back through {name} must keep the sum of each "
            f"row; one of {before[off.argmax()]:.6g} became {after[off.argmax()]:.6g}."
        )
    return pulled


class NoRuleError(TypeError):
    """A transformer through which relevance can't be pulled back."""


def refusal(transformer):
    """Return the error for a transformer without a rule, with what can be done instead."""
    name = type(transformer).__name__
    return NoRuleError(
        f"Relevance can't be pulled back through {name}: no rule says which input column "
        "an output column belongs to. explain(..., space='model') explains the columns "
        "that come out of it, explain(..., references=X_normal) explains the whole from "
        f"outside, by Shapley values, and pull_back.register({name}) adds a rule."
    )


@pull_back.register(Normalizer)
@pull_back.register(GlobalContrastNormalizer)
@pull_back.register(TfidfTransformer)
def _(transformer, X, relevance):
    raise refusal(transformer)  # one-to-one by name, but they mix columns


@pull_back.register
def _(transformer: FunctionTransformer, X, relevance):
    # A ColumnTransformer's "passthrough", or columns that are said to stay themselves.
    if transformer.func is None or transformer.feature_names_out == "one-to-one":
        return relevance
    raise refusal(transformer)


@pull_back.register
def _(transformer: SelectorMixin, X, relevance):
    support = transformer.get_support()
    pulled = np.zeros((len(relevance), len(support)))
    pulled[:, support] = relevance
    return pulled


@pull_back.register
def _(transformer: OneHotEncoder, X, relevance):
    return _add_up(relevance, one_hot_widths(transformer))


@pull_back.register
def _(transformer: KBinsDiscretizer, X, relevance):
    if transformer.encode == "ordinal":
        return relevance
    return _add_up(relevance, transformer.n_bins_)


def _add_up(relevance, widths):
    """Add up groups of neighbouring columns; a width of 0 gives a column of zeros."""
    source = np.repeat(np.arange(len(widths)), widths)
    pulled = np.zeros((len(relevance), len(widths)))
    np.add.at(pulled.T, source, relevance.T)
    return pulled


@pull_back.register(SimpleImputer)
@pull_back.register(KNNImputer)
def _(transformer, X, relevance):
    source = np.flatnonzero(kept_by_imputer(transformer))
    if transformer.add_indicator:
        source = np.append(source, transformer.indicator_.features_)
    pulled = np.zeros((len(relevance), transformer.n_features_in_))
    np.add.at(pulled.T, source, relevance.T)
    return pulled


@pull_back.register
def _(transformer: ColumnTransformer, X, relevance):
    pulled = np.zeros((len(relevance), np.shape(X)[1]))  # it takes further columns
    for name, step, columns in transformer.transformers_:
        block = relevance[:, transformer.output_indices_[name]]
        if (isinstance(step, str) and step == "drop") or block.shape[1] == 0:
            continue
        chosen = _safe_indexing(X, columns, axis=1)
        if not isinstance(step, str):
            block = pull_back(step, chosen, block)
        np.add.at(pulled.T, _get_column_indices(X, columns), block.T)
    return pulled


@pull_back.register
def _(transformer: FeatureUnion, X, relevance):
    pulled, start = 0, 0
    for _, step in transformer.transformer_list:
        if isinstance(step, str) and step == "drop":
            continue
        width = X.shape[1] if step == "passthrough" else step.transform(X).shape[1]
        block = relevance[:, start : start + width]
        pulled = pulled + (block if step == "passthrough" else pull_back(step, X, block))
        start += width
    return pulled


@pull_back.register
def _(transformer: Pipeline, X, relevance):
    steps = [s for _, s in transformer.steps if s not in (None, "passthrough")]
    inputs = [X]
    for step in steps[:-1]:
        inputs.append(step.transform(inputs[-1]))
    for step in reversed(steps):
        relevance = pulled_back(step, inputs.pop(), relevance)
    return relevance
