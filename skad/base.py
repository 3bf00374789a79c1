"""The contract: every detector scores, and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.model_selection import KFold
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skad._scores import grows_with_rows, needs_memory, normality
from skad._sklearn import Interval, _fit_context, is_torch_dataset
from skad._typing import AnyArray, AnyRows, ArrayLike, Floats, Ints
from skad._warnings import warn
from skad.decompositions import NoDecompositionError

__all__ = ["BaseDetector"]

# An offset is a quantile: 5,000 rows place the 10 % quantile within 0.4 % of its rate.
_MAX_CALIBRATION_ROWS = 5000


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

    - ``_fit(X, y)``: learn;
    - ``_outlier_score(X)``: the papers' outlier score o(x), float64 ``(n,)``, higher is
      more abnormal;
    - ``_relevance(X)``: evidence for anomaly, float64 ``(n, d)``;
    - ``_unattributed(X)`` where a part u(x) of the score belongs to no feature, so that
      ``explain(X).sum(features) + unattributed(X) == -score_samples(X)``;
    - ``_relevance_through(X, space)`` where the score is made of squared distances: the
      relevance of other columns, of which `X` was made by a
      :class:`~skad.explanation.LinearMap`;
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
    >>> class DistanceToMedian(BaseDetector):
    ...     def __init__(self, *, contamination=None, false_alarm_rate=None):
    ...         self.contamination = contamination
    ...         self.false_alarm_rate = false_alarm_rate
    ...
    ...     def _fit(self, X, y):
    ...         self.median_ = np.median(X, axis=0)
    ...
    ...     def _outlier_score(self, X):
    ...         return self._relevance(X).sum(axis=1)
    ...
    ...     def _relevance(self, X):
    ...         return abs(X - self.median_)
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
            self._fit(X, y)
            self.offset_ = self._find_offset(self._normal_part(X, y))
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
        """Give ``score_samples(X) - offset_``: negative for anomalies.

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
        return self._relevance(X).reshape(len(X), *shape)

    def unattributed(self, X: ArrayLike) -> Floats:
        """Give the part u(x) of the outlier score that belongs to no feature.

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
        return self._unattributed(self._validate(X))

    def _relevance(self, X):
        raise NotImplementedError(
            f"{type(self).__name__} scores, but does not explain: it has no _relevance(X)."
        )

    def _unattributed(self, X):
        return np.zeros(len(X))

    def _relevance_through(self, X, space):
        raise NoDecompositionError(
            f"The score of {type(self).__name__} is no function of squared distances."
        )

    def _normal_part(self, X, y):
        """Give the training rows that set the threshold."""
        return X

    def _find_offset(self, X):
        if self._in_sample_share is not None:
            return np.quantile(-self._outlier_score(X), self._in_sample_share)
        fresh = self._out_of_sample_score(X, calibration_rows(len(X)))
        return self._offset_of_fresh(fresh)

    def _offset_of_fresh(self, scores):
        """Give the threshold that flags the false_alarm_rate of out-of-sample scores."""
        if len(scores) * self.false_alarm_rate < 1:
            warn(
                f"{len(scores)} rows can't tell a false_alarm_rate of "
                f"{self.false_alarm_rate:g} from 0: it takes "
                f"{1 / self.false_alarm_rate:.0f} at least. More fresh rows will be "
                "flagged.",
            )
        return np.quantile(-scores, self.false_alarm_rate)

    @property
    def _ignores_constant_features(self):
        """Features that never vary get no relevance; `skad.testing` holds it to that."""
        return True

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

    def _validate_first(self, X):
        """Check the rows of a fit, and keep what later rows must be like."""
        X, shape = self._flattened(X)
        X = self._checked(X, reset=True)
        self.image_shape_ = self._fitted_image_shape(shape, X.shape[1])
        return X

    def _validate(self, X, with_shape=False):
        check_is_fitted(self)
        X, shape = self._flattened(X)
        fitted = self.image_shape_
        if shape is not None and fitted is not None and not same_image(shape, fitted):
            if (len(X), *shape) == tuple(fitted):
                raise ValueError(f"X is one image, of shape {fitted}; give X[None].")
            raise ValueError(
                f"X holds images of shape {shape}, but {type(self).__name__} was fitted "
                f"on images of shape {fitted}."
            )
        if shape is None and fitted is not None:
            self._refuse_one_image(np.shape(X))
        X = self._checked(X, reset=False)
        if shape is None:
            shape = X.shape[1:]
        return (X, shape) if with_shape else X

    def _refuse_one_image(self, shape):
        wide = len(shape) == 2 and shape[1] == self.n_features_in_  # rows, if images of one
        if not wide and shape == tuple(self.image_shape_[-2:]):
            raise ValueError(f"X is one image, of shape {shape}; give X[None].")

    def _flattened(self, X):
        """Give flat rows, and the shape of one image (None for flat input)."""
        if is_torch_dataset(X):
            raise needs_memory(self, X)
        return as_rows(X)

    def _checked(self, X, *, reset):
        """Check flat rows, by scikit-learn's rules, and give them as an array."""
        least = 2 if reset else 1
        given = {"dtype": self._dtype, "order": "C", "ensure_min_samples": least}
        with config_context(array_api_dispatch=False):  # arrays of others become numpy's
            return validate_data(self, X, reset=reset, **given)

    @property
    def _row_shape(self):
        """The shape of a row for a network: ``(d,)``, or ``(C, H, W)`` of an image."""
        if self.image_shape_ is None:
            return (self.n_features_in_,)
        return (1, *self.image_shape_)[-3:]

    def _fitted_image_shape(self, shape, n_features):
        wanted = getattr(self, "image_shape", None)
        if wanted is None:
            _warn_of_channels_last(shape)
            return shape
        wanted = tuple(wanted)
        if len(wanted) not in (2, 3) or not all(
            isinstance(side, Integral) and side > 0 for side in wanted
        ):
            raise ValueError(
                f"image_shape must be (H, W) or (C, H, W), positive integers; got {wanted}."
            )
        if shape is not None and not same_image(shape, wanted):
            raise ValueError(f"X holds images of shape {shape}, but image_shape={wanted}.")
        if prod(wanted) != n_features:
            raise ValueError(
                f"image_shape={wanted} needs {prod(wanted)} features a row; X has "
                f"{n_features}."
            )
        return wanted


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


def as_rows(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Flatten images to rows; give also the shape of one image (None for flat input)."""
    if is_torch_dataset(X):  # numpy would read on and on
        raise TypeError(f"An array is needed here, got a data set of torch: {X!r}.")
    if isinstance(X, list | tuple) and len(X):
        if isinstance(X[0], tuple) and X[0] and getattr(X[0][0], "ndim", False):
            raise TypeError(
                "X is a list of tuples of arrays, as scikit-learn picks them from a data "
                "set of torch whose items have labels. Give one whose items are rows "
                "alone, or an array."
            )
        if np.ndim(X[0]) > 1:
            X = np.asarray(X)
    # `getattr`, since array-likes that are no arrays may refuse numpy functions.
    if getattr(X, "ndim", 2) <= 2:
        return X, None
    X = np.asarray(X)
    if X.ndim > 4:
        raise ValueError(
            "X must be rows (n, d) or images (n, H, W) or (n, C, H, W), got an array of "
            f"shape {X.shape}."
        )
    shape = X.shape[1:]
    return X.reshape(len(X), prod(shape)), shape


def _warn_of_channels_last(shape):
    if shape is not None and len(shape) == 3 and min(shape[:2]) > 4 >= shape[2]:
        warn(
            f"X holds images of {shape[0]} channels, {shape[1]} rows and {shape[2]} "
            "columns. If the channels come last, give np.moveaxis(X, -1, 1).",
        )


def same_image(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two image shapes are one: ``(H, W)`` is ``(1, H, W)``."""

    def with_channel(s):
        return (1, *s) if len(s) == 2 else tuple(s)

    return with_channel(shape) == with_channel(other)


def zero_one_complaint(y: AnyArray) -> str | None:
    """Give what is wrong with labels that are exactly 0 and 1; None for others."""
    y = np.asarray(y)
    if y.dtype.kind not in "biuf" or not np.array_equal(np.unique(y), [0, 1]):
        return None
    return (
        "y holds the labels 0 and 1. skad's labels are scikit-learn's: +1 normal, -1 "
        "anomaly (0 unlabelled). Labels in which 1 is the anomaly, as PyOD's, are "
        "converted by np.where(y == 1, -1, 1)."
    )


def read_labels(y: ArrayLike | None, n: int) -> npt.NDArray[np.int8]:
    """Give labels +1, -1, 0 (unlabelled), one a row; numbers of other kinds count as 0.

    Raises
    ------
    ValueError
        If y does not hold a number for each of n rows.

    Warns
    -----
    UserWarning
        For labels that are just 0 and 1, PyOD's; and for others than +1, -1, 0. Not an
        error, since scikit-learn hands any y to detectors, which do not read it.
    """
    if y is None:
        return np.zeros(n, dtype=np.int8)
    y = column_or_1d(y)
    odd = [label for label in y.tolist() if isinstance(label, str) or label != label]
    if len(y) != n or odd:
        raise ValueError(
            f"y must hold {n} numbers, one a row: +1 normal, -1 anomaly, 0 unlabelled; "
            f"got {len(y)}, the first of them {(odd or y[:1].tolist())[:1]}."
        )
    known = np.isin(y, (-1, 0, 1))
    complaint = zero_one_complaint(y)
    if not complaint and not known.all():
        complaint = "y holds labels other than +1 (normal), -1 (anomaly), 0 (unlabelled)."
    if complaint:
        warn(f"{complaint} All but -1 train as normal.")
    return np.where(known, y, 0).astype(np.int8)


def read_classes(y: ArrayLike | None, n: int) -> tuple[tuple[Any, ...], Ints]:
    """Give the classes of n rows, a tuple, and the number of each row's class.

    Raises
    ------
    ValueError
        If y does not hold a class for each row, or only one class.
    """
    y = column_or_1d(y)
    try:
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"y mixes classes that can't be ordered: {error}") from error
    if not all(isinstance(c, str | bool | int | float) for c in classes.tolist()):
        raise ValueError(f"The classes in y must be numbers or strings; got {y.dtype}.")
    if len(y) != n or len(classes) < 2:
        raise ValueError(
            f"y must hold the classes of {n} rows, two at least; got {len(y)} labels of "
            f"the classes {classes.tolist()}."
        )
    return tuple(classes.tolist()), numbers


def calibration_rows(n: int, most: int = _MAX_CALIBRATION_ROWS) -> Ints:
    """Choose the rows whose out-of-sample scores set a threshold or a scale."""
    if n <= most:
        return np.arange(n)
    rows = np.random.default_rng(0).choice(n, most, replace=False)
    return np.sort(rows)


def cross_fitted_scores(
    detector: Any,
    X: Any,
    rows: Ints,
    fit: Callable[..., Any] | None = None,
    score: Callable[..., Any] | None = None,
) -> Floats:
    """Outlier scores of ``X[rows]``, each by a copy fitted on four other fifths of X.

    They are in the units of a detector that is fitted on all of X.

    ``fit(copy, X, train)`` is how a copy is fitted on ``X[train]``, where that takes more
    than rows; ``score(copy, X, train, test)`` how it scores ``X[test]``, where its scores
    have units of their own.
    """
    fit = fit or (lambda copy, X, train: copy.fit(X[train], None))
    score = score or (lambda copy, X, train, test: -normality(copy, X[test]))
    if len(X) < 3:
        raise ValueError(
            "Scores out of sample, for a threshold by false_alarm_rate or the scale of a "
            f"Bag's member, need three rows at least; got {len(X)}."
        )
    scores = np.empty(len(X))
    folds = KFold(min(5, len(X)), shuffle=True, random_state=0)
    for train, test in folds.split(X):
        test = np.intersect1d(test, rows, assume_unique=True)
        if len(test):
            scores[test] = score(fit(clone(detector), X, train), X, train, test)
            if grows_with_rows(detector):
                scores[test] *= len(X) / len(train)
    return scores[rows]
