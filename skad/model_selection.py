"""Model selection for detectors that train on normal rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from skad._estimators import (
    can_score,
    grows_with_rows,
    inside,
    layers,
    refuse_torch_dataset,
)
from skad._labels import keep_normal
from skad._references import keep_references
from skad._sklearn import _num_samples, available_if, take_rows
from skad._typing import AnyArray, AnyRows, ArrayLike, Floats, Ints
from skad.base import DetectorMixin, all_or_nothing
from skad.detectors._pyod import as_detector
from skad.explanation import explain

__all__ = ["InlierTraining"]


def _has(method):
    return lambda self: hasattr(getattr(self, "estimator_", self.estimator), method)


class InlierTraining(DetectorMixin, MetaEstimatorMixin, BaseEstimator):
    """Fit a detector on the rows that are no anomalies; score and explain any.

    In a search the test folds need anomalies and the training folds must have none. A
    splitter that leaves them out is not enough, since the search refits on all rows.

    Parameters
    ----------
    estimator : object
        A detector of skad, scikit-learn or PyOD, or a Pipeline that ends in one. Without a
        `decision_function` of its own (``GaussianMixture``) it has no threshold:
        `decision_function` and `predict` are missing here too, and `ConformalDetector`
        gives both.

    Attributes
    ----------
    estimator_ : object
        The detector, fitted on the rows with ``y != -1``.
    offset_ : float
        The detector's threshold on `score_samples`.
    n_features_in_ : int
        Number of features, where the detector knows it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where the detector knows them.

    See Also
    --------
    ConformalDetector : Trains on normal rows too, and calibrates on others.
    skad.metrics.ExplanationAwareScorer : Searches by detection and explanation.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from skad import KDE, InlierTraining
    >>> from skad.datasets import load_corrupted_digits
    >>> X, y, mask = load_corrupted_digits("stripe", return_X_y_mask=True)
    >>> detector = InlierTraining(KDE(bandwidth=0.5))
    >>> scores = cross_val_score(detector, X[:400], y[:400], scoring="roc_auc", cv=3)
    >>> bool(scores.min() > 0.95)
    True
    """

    estimator_: Any
    n_features_in_: int
    feature_names_in_: AnyArray

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def fit(self, X: AnyRows, y: ArrayLike | None = None, **unexpected: Any) -> Self:
        """Fit the detector on the rows with ``y != -1``.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Training rows; sparse matrices and frames, where the detector takes them.
        y : array-like of shape (n,), default=None
            +1 normal, -1 anomaly, 0 unlabelled. None: all rows train.
        **unexpected : dict
            Anything else is refused, with advice.

        Returns
        -------
        self : object
            The wrapper itself, fitted.

        Raises
        ------
        TypeError
            When the estimator does not score, or more than `X` and `y` is given.
        ValueError
            When `y` holds strings, does not have one label a row, or leaves no row.

        Warns
        -----
        UserWarning
            When there are other labels than +1, -1, 0, or just 0 and 1, PyOD's.
        """
        if unexpected:
            raise TypeError(
                f"fit got {', '.join(unexpected)}. Masks are for a search's scorer, and "
                "reach it after sklearn.set_config(enable_metadata_routing=True)."
            )
        with all_or_nothing(self):
            check_detector_methods(self.estimator)
            refuse_torch_dataset(self.estimator, X)
            X = normal_rows(X, y)
            # y, since FrozenEstimator wants one
            self.estimator_ = as_detector(self.estimator).fit(X, None)
            self._references = keep_references(X)
            keep_names(self, self.estimator_)
        return self

    @property
    def offset_(self) -> float:
        """Threshold on `score_samples`."""
        check_is_fitted(self)
        found = (part for part in layers(self.estimator_) if hasattr(part, "offset_"))
        return next(found, self.estimator_).offset_

    def _ready_for(self, X):
        check_is_fitted(self)
        refuse_torch_dataset(self.estimator_, X)
        return self.estimator_

    @available_if(_has("score_samples"))
    def score_samples(self, X: AnyRows) -> Floats:
        """Score the rows by the fitted detector: higher is more normal.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n,)
            In the detector's own units.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            Where the detector refuses `X`.
        """
        return self._ready_for(X).score_samples(X)

    @available_if(_has("decision_function"))
    def decision_function(self, X: AnyRows) -> Floats:
        """Return the fitted detector's decision: negative for anomalies.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to score.

        Returns
        -------
        decision : ndarray of shape (n,)
            In the detector's own units.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        return self._ready_for(X).decision_function(X)

    @available_if(_has("decision_function"))  # the predict of others gives no ±1
    def predict(self, X: AnyRows) -> Ints:
        """Label the rows: +1 normal, -1 anomaly.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to label.

        Returns
        -------
        labels : ndarray of shape (n,), int
            As the detector labels them.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        return self._ready_for(X).predict(X)

    def explain(self, X: AnyRows) -> Floats:
        """Attribute the outlier score of each row to its features.

        As :func:`skad.explain` does; a detector without an explanation of its own is
        compared with normal rows kept from `fit`.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to explain.

        Returns
        -------
        relevance : ndarray of the shape of X, float64
            Evidence *for* anomaly.

        Raises
        ------
        TypeError, ValueError
            As :func:`skad.explain`.
        """
        return explain(self, X)

    @available_if(_has("unattributed"))
    def unattributed(self, X: AnyRows) -> Floats:
        """Return the part of the outlier score that belongs to no feature.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to explain.

        Returns
        -------
        unattributed : ndarray of shape (n,), float64
            What the relevance of a row lacks of its outlier score.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        check_is_fitted(self)
        return self.estimator_.unattributed(X)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def keep_names(estimator: Any, fitted: Any) -> None:
    """Copy the number and names of features that a fitted estimator knows to a wrapper."""
    for name in ("n_features_in_", "feature_names_in_"):
        vars(estimator).pop(name, None)
        if hasattr(fitted, name):
            setattr(estimator, name, getattr(fitted, name))


def check_detector_methods(estimator: Any, name: str = "estimator") -> None:
    """Raise TypeError unless an unfitted estimator can be fitted and score."""
    if not (hasattr(estimator, "fit") and can_score(estimator)):
        raise TypeError(
            f"{name} must be a detector, with fit and score_samples or "
            f"decision_function (LocalOutlierFactor with novelty=True); got {estimator!r}."
        )


def normal_rows(X: Any, y: ArrayLike | None) -> Any:
    """Return the rows of X with ``y != -1``; all where y is None.

    Raises
    ------
    ValueError
        When `y` holds strings, does not have one label a row, or leaves no row.
    """
    if y is None:
        return X
    keep = keep_normal(y, _num_samples(X))
    return X if keep.all() else take_rows(X, np.flatnonzero(keep))


@inside.register
def _(estimator: InlierTraining) -> Any:
    return getattr(estimator, "estimator_", None)


@grows_with_rows.register
def _(estimator: InlierTraining) -> Any:
    return grows_with_rows(estimator.estimator)


@explain.register
def _(
    estimator: InlierTraining, X: Any, *, space: Any = "input", references: Any = None
) -> Any:
    check_is_fitted(estimator)
    if references is None:
        references = estimator._references
    return explain(estimator.estimator_, X, space=space, references=references)
