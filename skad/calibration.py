"""Promises in finite samples: conformal p-values of any detector."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted

from skad._decomposition import Decomposition, NoDecompositionError
from skad._estimators import inside, normality, refuse_torch_dataset
from skad._references import keep_references
from skad._sklearn import (
    Interval,
    StrOptions,
    _fit_context,
    _num_samples,
    indexable,
    take_rows,
)
from skad._typing import AnyArray, AnyRows, ArrayLike, Bools, Floats, Ints, Seed
from skad._warnings import warn
from skad.base import DetectorMixin, all_or_nothing
from skad.detectors._pyod import as_detector
from skad.explanation import decompose, explain
from skad.model_selection import check_detector_methods, keep_names, normal_rows

__all__ = ["ConformalDetector"]

_TIE = 1e-9  # of the size of the scores
_ROUNDING = 1e-9  # of rates and counts: 0.07 * 100 is 7


class ConformalDetector(DetectorMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Calibrate a detector on normal rows that it has not seen.

    The scores s (higher is more normal) of n held-out normal rows turn that of a new row
    into a p-value,

    .. math:: p(x) = \frac{1 + \#\{i : s_i \le s(x)\}}{n + 1},

    the chance of a normal row to look as abnormal as x does. If normal rows are
    exchangeable, as independent draws from one law are, :math:`P(p \le \alpha) \le \alpha`
    for a fresh normal row, at every n and for any detector, over the draw of the
    calibration rows [1]_. Given one set of them the rate varies around that, as a beta
    distribution with parameters :math:`k = \lfloor \alpha (n + 1) \rfloor` and
    :math:`n + 1 - k` does, if scores have no ties. (With ties it is lower.)

    Parameters
    ----------
    detector : object
        A detector of skad, scikit-learn or PyOD, or a Pipeline that ends in one. It is not
        changed. One that is fitted already is ``sklearn.frozen.FrozenEstimator(detector)``:
        nothing is refitted then, and all rows of `fit` calibrate, none of which it may have
        seen.
    max_false_positive_rate : float in (0, 1), default=0.1
        `predict` flags the rows with a p-value not above it.
    calibration : {"split", "cross"}, default="split"
        ``"split"``: the detector is fitted on some of the normal rows, and calibrated on
        the others. ``"cross"``: K copies are fitted, each without one fold, which
        calibrates it, and all rows count,

        .. math:: p(x) = \frac{1 + \sum_k \#\{i \in \text{fold } k : s^{(k)}_i \le
                         s^{(k)}(x)\}}{n + 1}.

        No row is lost, but folds share their training rows: what is guaranteed is
        :math:`P(p \le \alpha) \le 2 \alpha + 2 (1 - 1/K) / (n/K + 1)` at most [2]_, while
        :math:`\alpha` is what is usually seen.
    held_out : float in (0, 1), default=0.3
        Share of the normal rows that calibrate, for ``"split"``.
    n_folds : int, default=5
        K, for ``"cross"``.
    random_state : int, RandomState instance or None, default=None
        Draws the rows that are held out.

    Attributes
    ----------
    detectors_ : list of object
        The fitted copies; one for ``"split"``.
    calibration_scores_ : list of ndarray of float64
        Sorted scores of the rows that each copy is calibrated on.
    n_calibration_ : int
        How many there are in all.
    offset_ : float
        Threshold on `score_samples`: :math:`\lfloor \alpha (n + 1) \rfloor / (n + 1)`.
    n_features_in_ : int
        Number of features, where the detector knows it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where the detector knows them.

    See Also
    --------
    KDE : Its false_alarm_rate needs no rows held out.
    InlierTraining : Trains on normal rows, and leaves the threshold to the detector.

    References
    ----------
    .. [1] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia. "Testing for outliers with
       conformal p-values". Annals of Statistics 51(1), 2023.
    .. [2] R. F. Barber, E. Candès, A. Ramdas, R. Tibshirani. "Predictive inference with the
       jackknife+". Annals of Statistics 49(1), 2021, Theorem 4.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from skad import ConformalDetector
    >>> X = np.random.default_rng(0).standard_normal((400, 2))
    >>> forest = IsolationForest(random_state=0)
    >>> detector = ConformalDetector(forest, max_false_positive_rate=0.05, random_state=0)
    >>> detector.fit(X).p_values([[0.0, 0.0], [6.0, 6.0]]).round(3)
    array([0.967, 0.008])
    >>> detector.predict([[0.0, 0.0], [6.0, 6.0]])
    array([ 1, -1])
    """

    detectors_: list[Any]
    calibration_scores_: list[Floats]
    n_calibration_: int
    offset_: float
    n_features_in_: int
    feature_names_in_: AnyArray

    _parameter_constraints = {
        "max_false_positive_rate": [Interval(Real, 0, 1, closed="neither")],
        "calibration": [StrOptions({"split", "cross"})],
        "held_out": [Interval(Real, 0, 1, closed="neither")],
        "n_folds": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        detector: Any,
        *,
        max_false_positive_rate: float = 0.1,
        calibration: Literal["split", "cross"] = "split",
        held_out: float = 0.3,
        n_folds: int = 5,
        random_state: Seed = None,
    ):
        self.detector = detector
        self.max_false_positive_rate = max_false_positive_rate
        self.calibration = calibration
        self.held_out = held_out
        self.n_folds = n_folds
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: AnyRows, y: ArrayLike | None = None) -> Self:
        """Fit and calibrate on the rows with ``y != -1``.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to train and calibrate on; those labelled -1 are left out.
        y : array-like of shape (n,), default=None
            +1 normal, -1 anomaly, 0 unlabelled. None: all rows are taken for normal.

        Returns
        -------
        self : object
            The detector itself, fitted and calibrated.

        Raises
        ------
        TypeError
            When the detector does not score.
        ValueError
            For a bad parameter, labels that do not fit, too few rows, or a detector that
            gives the score NaN.

        Warns
        -----
        UserWarning
            When there are too few calibration rows for any row to be flagged; and for
            labels other than +1, -1, 0, or just 0 and 1, PyOD's.
        """
        with all_or_nothing(self):
            check_detector_methods(self.detector, "detector")
            refuse_torch_dataset(self.detector, X)
            X = indexable(normal_rows(X, y))
            n = _num_samples(X)
            self.detectors_, self.calibration_scores_ = [], []
            for train, held_out in self._splits(n):
                copy = as_detector(self.detector)
                copy.fit(take_rows(X, train), None)  # y, since FrozenEstimator wants one
                scores = _scores(copy, take_rows(X, held_out))
                self.detectors_.append(copy)
                self.calibration_scores_.append(np.sort(scores))
            self.n_calibration_ = sum(map(len, self.calibration_scores_))
            self.offset_ = self._flagged_ranks() / (self.n_calibration_ + 1)
            self._references = keep_references(X)
            keep_names(self, self.detectors_[0])
        return self

    def _splits(self, n):
        """Return (train, held out) numbers of rows, once or once a fold."""
        if isinstance(self.detector, FrozenEstimator):
            return [(np.arange(n), np.arange(n))]
        rng = self.random_state
        if rng is None:  # which check_random_state would take for the global generator
            rng = np.random.RandomState(np.random.MT19937())
        rng = check_random_state(rng)
        if self.calibration == "cross":
            if n < 2 * self.n_folds:
                raise ValueError(
                    f"calibration='cross' needs 2 normal rows in each of n_folds="
                    f"{self.n_folds} folds, {2 * self.n_folds} in all; got n_samples = {n}."
                )
            folds = KFold(self.n_folds, shuffle=True, random_state=rng)
            return list(folds.split(np.empty(n)))
        held_out = ceil(self.held_out * n * (1 - _ROUNDING))
        if n - held_out < 2:
            raise ValueError(
                f"calibration='split' needs 2 normal rows to train on and 1 to calibrate; "
                f"with held_out={self.held_out} and n_samples = {n}, {n - held_out} train."
            )
        order = rng.permutation(n)
        return [(np.sort(order[held_out:]), np.sort(order[:held_out]))]

    def _flagged_ranks(self):
        """Return k, such that rows with a p-value of k / (n + 1) and below are flagged."""
        rate, n = self.max_false_positive_rate, self.n_calibration_
        k = round(rate * (n + 1))
        k -= k / (n + 1) > rate  # the largest k with that p-value within the rate, exactly
        if k == 0:
            warn(
                f"No row can be flagged at max_false_positive_rate={rate}: that takes "
                f"{ceil((1 - _ROUNDING) / rate) - 1} calibration rows, and there are {n}.",
            )
        return k

    def _outlier_threshold(self):
        """Return the outlier score of the one copy above which rows are flagged."""
        k = round(self.offset_ * (self.n_calibration_ + 1))
        return -self.calibration_scores_[0][k - 1] if k else np.inf

    def p_values(self, X: AnyRows) -> Floats:
        """Return the conformal p-values: how often a normal row looks as abnormal.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to judge.

        Returns
        -------
        p : ndarray of shape (n,), float64
            From ``1 / (n_calibration_ + 1)`` to 1; low for anomalies.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            When the detector refuses `X`, or gives a row the score NaN.
        """
        check_is_fitted(self)
        counts, _ = self._counts(X)
        return (1 + counts) / (self.n_calibration_ + 1)

    def score_samples(self, X: AnyRows) -> Floats:
        r"""Return the p-values with ties broken by the score: higher is more normal.

        Of rows with as many calibration scores below them, those with a higher score of
        the detector have a higher one, :math:`(c + t) / (n + 1)` with a t between 0 and 1.
        For ``"split"`` the order is the detector's own.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            Between 0 and 1; of fresh normal rows about uniform.

        Raises
        ------
        ValueError
            As `p_values`.
        """
        check_is_fitted(self)
        counts, standardized = self._counts(X)
        # t < 1, so that c + t < k exactly where c + 1 <= k, which is p <= k / (n + 1).
        tail = 0.5 / (1 + abs(standardized))  # no cancellation: far anomalies stay apart
        t = (1 - 1e-6) * np.where(standardized < 0, tail, 1 - tail)
        return (counts + t) / (self.n_calibration_ + 1)

    def _counts(self, X):
        """Count calibration scores not above each row's, and average its scores' z."""
        counts, standardized = 0, 0.0
        for copy, own in zip(self.detectors_, self.calibration_scores_, strict=True):
            scores, spread = _scores(copy, X), own.std()
            # Scores of one row may differ by rounding from batch to batch: equal is near.
            near = _TIE * (abs(scores) + np.median(abs(own)))
            counts = counts + np.searchsorted(own, scores + near, side="right")
            standardized = standardized + (scores - own.mean()) / (spread or 1.0)
        return counts, standardized / len(self.detectors_)

    def decision_function(self, X: AnyRows) -> Floats:
        """Return ``score_samples(X) - offset_``: negative where p is within the rate.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to score.

        Returns
        -------
        decision : ndarray of shape (n,), float64
            Between -1 and 1.

        Raises
        ------
        ValueError
            As `p_values`.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: AnyRows) -> Ints:
        """Label the rows: -1 where the p-value is not above `max_false_positive_rate`.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            Rows to label.

        Returns
        -------
        labels : ndarray of shape (n,), int
            +1 normal, -1 anomaly.

        Raises
        ------
        ValueError
            As `p_values`.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def select(self, X: AnyRows, *, max_false_discovery_rate: float = 0.1) -> Bools:
        r"""Select anomalies among rows, of which few are to be false.

        The procedure of Benjamini and Hochberg on the p-values. For ``"split"``, whose
        p-values are positively dependent in the way that it allows, the expected share
        of normal rows among those selected is at most `max_false_discovery_rate`, times the
        share of normal rows in `X`. ``"cross"`` has no such guarantee, nor have detectors
        that score a row by the others of its batch, PyOD's ECOD and COPOD. No p-value is
        below 1 / (n + 1), so that selecting a share a of the rows takes
        n = 1 / (a max_false_discovery_rate) calibration rows.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, ...)
            All rows that are judged together.
        max_false_discovery_rate : float in (0, 1), default=0.1
            The most of those selected that may be normal, in expectation.

        Returns
        -------
        selected : ndarray of shape (n,), bool
            True for the rows that are taken for anomalies.

        Raises
        ------
        ValueError
            When the rate is not between 0 and 1, and as `p_values`.
        """
        rate = max_false_discovery_rate
        if not isinstance(rate, Real) or not 0 < rate < 1:
            raise ValueError(
                f"max_false_discovery_rate must be a number between 0 and 1, got {rate!r}."
            )
        return false_discovery_control(self.p_values(X)) <= rate * (1 + _ROUNDING)

    def explain(self, X: AnyRows) -> Floats:
        """Attribute the outlier score of the detector to the features.

        The mean over the copies, as :func:`skad.explain` explains each, in its own units.

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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.detector).input_tags
        return tags


def _scores(detector, X):
    """Score rows; infinite scores are the largest numbers that can be squared."""
    scores = normality(detector, X)
    if bad := int(np.isnan(scores).sum()):
        raise ValueError(
            f"{type(detector).__name__} gave the score NaN to {bad} of {len(scores)} rows."
        )
    return np.clip(scores, -1e100, 1e100)


@explain.register
def _(
    estimator: ConformalDetector, X: Any, *, space: Any = "input", references: Any = None
) -> Any:
    check_is_fitted(estimator)
    if references is None:
        references = estimator._references
    return np.mean(
        [
            explain(copy, X, space=space, references=references)
            for copy in estimator.detectors_
        ],
        axis=0,
    )


@inside.register
def _(estimator: ConformalDetector) -> Any:
    """Return the first of the copies, which are all alike."""
    copies = getattr(estimator, "detectors_", [None])
    return copies[0]


@decompose.register
def _(estimator: ConformalDetector, X: Any, space: Any = None) -> Decomposition:
    """Decompose the score of the one copy; the threshold is that of the p-values."""
    check_is_fitted(estimator)
    if len(estimator.detectors_) > 1:
        raise NoDecompositionError(
            "ConformalDetector(calibration='cross') has no one score: decompose each of "
            "its detectors_."
        )
    parts = decompose(estimator.detectors_[0], X, space=space)
    return replace(parts, outlier_threshold=estimator._outlier_threshold())
