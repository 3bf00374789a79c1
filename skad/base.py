"""The contract: every detector scores, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from skad._decomposition import Decomposition
from skad._docs import filled
from skad._estimators import needs_memory
from skad._images import as_rows, check_one_image, find_image_shape, row_shape_of
from skad._sklearn import Interval, _fit_context, is_torch_dataset
from skad._thresholds import (
    TrainingScores,
    calibration_rows,
    cross_fitted_scores,
    offset_of_fresh,
    offset_of_share,
)
from skad._typing import AnyArray, AnyRows, ArrayLike, Floats, Ints

__all__ = ["BaseDetector"]


class DetectorMixin(OutlierMixin):
    """scikit-learn's mixin of outlier detectors, whose `fit_predict` reads the labels."""

    def fit_predict(self, X: AnyRows, y: ArrayLike | None = None, **kwargs: Any) -> Ints:
        """Fit, and label the training rows themselves.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to train on and to label.
        y : array-like of shape (n,), default=None
            Labels, as for `fit`.
        **kwargs : dict
            Further arguments of `fit`.

        Returns
        -------
        labels : ndarray of shape (n,), int
            +1 normal, -1 anomaly.

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        return self.fit(X, y, **kwargs).predict(X)


class BaseDetector(DetectorMixin, BaseEstimator):
    """Base class of the detectors: fit, score, predict, explain.

    Public methods validate and then call private ones, which see a C-contiguous array
    ``(n, d)``, float64 (where the class sets ``_dtype`` otherwise, of that), and nothing
    else. A subclass writes

    - ``_fit(X, y)``: learn; return nothing, or the `TrainingScores` that set the
      threshold, where they are known by then;
    - ``_outlier_score(X)``: the papers' outlier score o(x), float64 ``(n,)``, higher is
      more abnormal;
    - ``_decompose(X, space=None)``: the score as a sum over the features, a
      :class:`~skad.explanation.Decomposition`, such that ``relevance.sum(axis=1) +
      unattributed`` is o(x). `explain` and `unattributed` are views of it. `space` is
      None, or a :class:`~skad.explanation.LinearMap` that made `X` of other columns, of
      which relevance is then: where the score is no function of squared distances,
      ``refuse_space(self, space)`` says so;
    - ``_out_of_sample_score(X, rows)`` where there is a cheaper way than refitting to
      score training rows as if they were fresh (KDE leaves each row out of its own sum).

    Images ``(n, H, W)`` or ``(n, C, H, W)`` are flattened on entry, and relevance comes
    back in the shape of `X`. Flat and n-d input give the same scores.

    See Also
    --------
    skad.neural.NeuralDetector : Base class of the detectors that train a network.
    skad.testing.check_detector : Checks that a detector keeps the contract.

    Notes
    -----
    Parameters that subclasses may offer in ``__init__``:

    contamination : float in (0, 0.5] or None
        Share of the *training* rows that `predict` flags. None is 0.1, unless
        `false_alarm_rate` is given.
    false_alarm_rate : float in (0, 0.5] or None
        Where `contamination` is None: share of *fresh* normal rows that `predict` flags,
        when the training rows are normal. The threshold is then a quantile of
        out-of-sample scores of the training rows.
    image_shape : tuple or None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.base import BaseDetector
    >>> from skad.explanation import Decomposition, refuse_space
    >>> class DistanceToMedian(BaseDetector):
    ...     def __init__(self, *, contamination=None, false_alarm_rate=None):
    ...         self.contamination = contamination
    ...         self.false_alarm_rate = false_alarm_rate
    ...
    ...     def _fit(self, X, y):
    ...         self.median_ = np.median(X, axis=0)
    ...
    ...     def _outlier_score(self, X):
    ...         return abs(X - self.median_).sum(axis=1)
    ...
    ...     def _decompose(self, X, space=None):
    ...         refuse_space(self, space)
    ...         distances = abs(X - self.median_)
    ...         return Decomposition(distances, np.zeros(len(X)), "distance to the median")
    >>> X = np.random.default_rng(0).standard_normal((100, 2))
    >>> detector = DistanceToMedian(false_alarm_rate=0.05).fit(X)
    >>> detector.predict([[0.0, 0.0], [0.0, 9.0]])
    array([ 1, -1])
    """

    offset_: float
    image_shape_: tuple[int, ...] | None
    n_features_in_: int
    feature_names_in_: AnyArray

    _parameter_constraints = {
        "contamination": [Interval(Real, 0, 0.5, closed="right"), None],
        "false_alarm_rate": [Interval(Real, 0, 0.5, closed="right"), None],
        "image_shape": [tuple, list, None],
    }
    # What rows are converted to; the first of several where they come as something else.
    _dtype: Any = np.float64

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Fill in shared texts; merge the constraints that each class declares.

        Those of parameters that `__init__` does not take are left out.
        """
        super().__init_subclass__(**kwargs)
        cls.__doc__ = filled(cls.__doc__)
        cls._own_constraints = vars(cls).get("_parameter_constraints", {})
        merged: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            declared = vars(base).get("_parameter_constraints", {})
            merged |= vars(base).get("_own_constraints", declared)
        taken = signature(cls.__init__).parameters
        cls._parameter_constraints = {k: v for k, v in merged.items() if k in taken}

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit the detector.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Training rows, at least two; finite numbers.
        y : array-like of shape (n,), default=None
            +1 normal, -1 anomaly, 0 unlabelled. Ignored by detectors without labels.

        Returns
        -------
        self : object
            The detector itself, fitted.

        Raises
        ------
        TypeError
            For sparse `X`.
        ValueError
            For a bad parameter, NaN or infinite entries, fewer than two rows, or images
            that do not have the shape `image_shape`. A failed fit leaves the detector
            as it was before.
        """
        with all_or_nothing(self):
            X = self._validate_first(X)
            scores = self._fit(X, y) or self._training_scores(X)
            self.offset_ = self._find_offset(scores)
        return self

    def score_samples(self, X: ArrayLike) -> Floats:
        """Score the rows: ``-o(x)``, higher is more normal (scikit-learn's sign).

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            In the units of the outlier score, which the detector's docstring gives.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        TypeError
            For sparse `X`.
        ValueError
            For NaN or infinite entries, or rows of another shape than those of `fit`.
        """
        return -self._outlier_score(self._validate(X))

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return ``score_samples(X) - offset_``: negative for anomalies.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to score.

        Returns
        -------
        decision : ndarray of shape (n,), float64
            In the units of the outlier score.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> Ints:
        """Label the rows: +1 normal, -1 anomaly.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to label.

        Returns
        -------
        labels : ndarray of shape (n,), int
            -1 where `score_samples` is below `offset_`.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def explain(self, X: ArrayLike) -> Floats:
        """Attribute the outlier score of each row to its features.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to explain.

        Returns
        -------
        relevance : ndarray of the shape of X, float64
            Evidence *for* anomaly, in the units of the outlier score
            ``o(x) = -score_samples(X)``. Over the features of a row,
            ``relevance.sum() + unattributed(X) == o(x)``.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        X, shape = self._validate(X, with_shape=True)
        return self._decompose(X).relevance.reshape(len(X), *shape)

    def unattributed(self, X: ArrayLike) -> Floats:
        """Return the part u(x) of the outlier score that belongs to no feature.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to explain.

        Returns
        -------
        unattributed : ndarray of shape (n,), float64
            ``-score_samples(X) - explain(X).sum(features)``, by the closed form that the
            detector's docstring gives, where there is one.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        return self._decompose(self._validate(X)).unattributed

    def _fit(self, X: Floats, y: ArrayLike | None) -> TrainingScores | None:
        raise NotImplementedError(f"{type(self).__name__} has no _fit(X, y).")

    def _outlier_score(self, X: Floats) -> Floats:
        raise NotImplementedError(f"{type(self).__name__} has no _outlier_score(X).")

    def _decompose(self, X: Floats, space: Any = None) -> Decomposition:
        raise NotImplementedError(
            f"{type(self).__name__} scores, but does not explain: it has no "
            "_decompose(X, space)."
        )

    # The threshold.

    def _training_scores(self, X):
        """Return where the threshold gets scores of the training rows X from."""
        return TrainingScores(
            len(X),
            in_sample=lambda: self._outlier_score(X),
            out_of_sample=lambda rows: self._out_of_sample_score(X, rows),
        )

    def _find_offset(self, scores):
        if self._in_sample_share is not None:
            return offset_of_share(scores.in_sample(), self._in_sample_share)
        fresh = scores.out_of_sample(calibration_rows(scores.n))
        return offset_of_fresh(fresh, self.false_alarm_rate)

    @property
    def _in_sample_share(self):
        """Share of training rows to flag; None where false alarms set the threshold."""
        contamination = getattr(self, "contamination", None)
        if contamination is None and getattr(self, "false_alarm_rate", None) is None:
            return 0.1
        return contamination

    def _out_of_sample_score(self, X, rows):
        return cross_fitted_scores(self._copy_to_cross_fit(), X, rows)

    def _copy_to_cross_fit(self):
        # The copies' own thresholds are never used. They see flat rows.
        copy = clone(self).set_params(false_alarm_rate=None)
        if "image_shape" in copy.get_params(deep=False):
            copy.set_params(image_shape=self.image_shape_)
        return copy

    @property
    def _ignores_constant_features(self):
        """Features that never vary get no relevance; `skad.testing` holds it to that."""
        return True

    # Rows.

    def _validate_first(self, X):
        """Check the rows of a fit, and keep what later rows must be like."""
        X, shape = self._flattened(X)
        X = self._checked(X, reset=True)
        wanted = getattr(self, "image_shape", None)
        self.image_shape_ = find_image_shape(shape, wanted, X.shape[1])
        return X

    def _validate(self, X, with_shape=False):
        check_is_fitted(self)
        rows, shape = self._flattened(X)
        if self.image_shape_ is not None:
            came = np.shape(rows) if shape is None else (len(rows), *shape)
            name = type(self).__name__
            check_one_image(came, shape, self.image_shape_, self.n_features_in_, name)
        rows = self._checked(rows, reset=False)
        if shape is None:
            shape = rows.shape[1:]
        return (rows, shape) if with_shape else rows

    def _flattened(self, X):
        """Return flat rows, and the shape of one image (None for flat input)."""
        if is_torch_dataset(X):
            raise needs_memory(self, X)
        return as_rows(X)

    def _checked(self, X, *, reset):
        """Check flat rows, by scikit-learn's rules, and return them as an array."""
        least = 2 if reset else 1
        given = {"dtype": self._dtype, "order": "C", "ensure_min_samples": least}
        with config_context(array_api_dispatch=False):  # arrays of others become numpy's
            return validate_data(self, X, reset=reset, **given)

    @property
    def _row_shape(self):
        """The shape of a row for a network: ``(d,)``, or ``(C, H, W)`` of an image."""
        return row_shape_of(self.image_shape_, self.n_features_in_)


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Put the estimator back as it was if the block raises: nothing half-fitted."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
