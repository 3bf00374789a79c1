"""Kernel density estimation: distance to the training rows, softly minimised."""

from __future__ import annotations

from functools import partial
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch

from skad._decomposition import Decomposition, refuse_space
from skad._linear_map import check_kept
from skad._sklearn import Interval, StrOptions
from skad._thresholds import calibration_rows, offset_of_fresh
from skad._typing import ArrayLike, ImageShape, Ints
from skad._warnings import warn
from skad.base import BaseDetector
from skad.detectors._kde._bandwidth import leave_one_out_root, scott_bandwidth
from skad.relevance._mean_distance import MeanDistance
from skad.relevance._pooling import Conserving, PowerMean, SoftMin, Taylor
from skad.relevance._template_pool import TemplatePool

__all__ = ["KDE"]

_RULES = {"taylor": Taylor(), "conserving": Conserving()}


class KDE(BaseDetector):
    r"""Kernel density estimation, explained by deep Taylor decomposition.

    The outlier score is a soft minimum of the squared distances
    :math:`d_j = \|x - x_j\|^2` to the n training rows (eq. 1 of [1]_, with the mean in
    place of the sum, so that :math:`\min_j d_j \le o` and :math:`o \ge 0`). With the
    Gaussian kernel,

    .. math:: o(x) = -\tfrac{1}{\gamma} \log \tfrac{1}{n} \sum_j e^{-\gamma d_j},
              \qquad \gamma = \frac{1}{2\sigma^2},

    an increasing function of minus the log density; with the Student-t kernel and
    :math:`h_j = \nu\sigma^2 + d_j`, the power mean

    .. math:: o(x) = \Big(\tfrac{1}{n} \sum_j h_j^{-q}\Big)^{-1/q}.

    Relevance goes from the score to the training rows in proportion to their
    responsibilities :math:`p_j` (softmax of the log kernels; appendix A.2 of [1]_), and
    from each to the features in proportion to the squared differences (appendix A.3):

    - ``rule="taylor"``: :math:`R_i = \sum_j c_j (x_i - x_{ji})^2` with :math:`c_j = p_j`
      (Gaussian) or :math:`c_j = p_j o / h_j` (Student). Unattributed:
      :math:`KL(p \| 1/n) / \gamma` (Gaussian), :math:`\nu\sigma^2 \sum_j c_j` (Student).
    - ``rule="conserving"``: :math:`R_i = \sum_j p_j (o / d_j) (x_i - x_{ji})^2`, a term
      being 0 where :math:`d_j = 0`. Unattributed: :math:`\sum_{j: d_j = 0} p_j o`.

    The score, the relevance and the unattributed part have the units of a squared
    feature.

    Parameters
    ----------
    kernel : {"gaussian", "student"}, default="gaussian"
        Shape of the kernel.
    bandwidth : float, "loo" or "scott", default="loo"
        :math:`\sigma`, on the scale of :class:`sklearn.neighbors.KernelDensity`, in the
        units of the features. ``numpy.inf`` is the wide limit, the mean distance to the
        training rows, :math:`\|x - \bar x\|^2 + \sum_i var_i` (appendix B of [1]_).
        ``"loo"`` maximises the leave-one-out likelihood of the training rows.
        ``"scott"`` is Scott's rule, :math:`n^{-1/(d+4)}` times the root mean variance of
        the features that vary (scikit-learn's leaves the variance out).
    rule : {"taylor", "conserving"}, default="taylor"
        How the score flows back. ``"taylor"`` is the paper's; ``"conserving"`` sums to
        the score. The maps are nearly parallel; their sizes differ.
    df : float, default=1.0
        Degrees of freedom :math:`\nu` of the Student-t kernel.
    power : float or None, default=None
        Exponent q of the Student-t kernel. ``None``: :math:`(\nu + d) / 2`, the
        density's; 1 is the harmonic mean of [1]_, for which "loo" has no meaning unless
        d = 1, since it is no density.
    contamination : float in (0, 0.5] or None, default=None
        Share of the *training* rows that `predict` flags. None is 0.1, unless
        `false_alarm_rate` is given. A training row is its own nearest template, which a
        fresh row has not: with a narrow bandwidth or many features nearly every fresh
        normal row scores above such a threshold. `predict` warns where that is so.
    false_alarm_rate : float in (0, 0.5] or None, default=None
        Where `contamination` is None: share of *fresh* normal rows that `predict` flags,
        if the training rows are normal. The threshold is then a quantile of the
        leave-one-out scores of the training rows (of 5,000 of them, if there are more).
    [[image_shape]]
    dtype : {"float64", "float32"}, default="float64"
        Precision of the distances. Scores and relevance are float64 all the same.
    device : None, "cpu", "cuda" or "auto", default=None
        Where distances are computed. None is torch's default device; "auto" takes a GPU
        if there is one.

    Attributes
    ----------
    bandwidth_ : float
        The bandwidth :math:`\sigma` in use.
    expected_false_alarm_rate_ : float
        Share of the leave-one-out scores of training rows that lie below `offset_`: what
        `predict` is expected to flag of fresh rows like them.
    [[offset_, image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    ValueError
        By `fit`, when "loo" is asked for and the kernel is no density, a bandwidth is to be
        chosen and all rows are equal, or torch finds no GPU for ``device="cuda"``.

    See Also
    --------
    NormalizingFlow : A density learned by a network, for many rows.
    skad.metrics.mean_distance_agreement : How much of a KDE is distance to the mean.
    sklearn.neighbors.KernelDensity : The same density without explanation, by trees.

    Notes
    -----
    Distances are computed in tiles by matrix products, O(n d) a row; the extra memory is a
    few MiB beside the model and the result. With `false_alarm_rate`, `fit` scores at
    most 5,000 training rows; without, it scores all, O(n^2 d).

    References
    ----------
    .. [1] J. Kauffmann, L. Ruff, G. Montavon, K.-R. Mueller. "The Clever Hans Effect in
       Anomaly Detection". arXiv:2006.10609, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import KDE
    >>> X = np.random.default_rng(0).standard_normal((500, 3))
    >>> kde = KDE(false_alarm_rate=0.05).fit(X)
    >>> kde.predict([[0.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
    array([ 1, -1])
    >>> int(kde.explain([[0.0, 6.0, 0.0]]).argmax())
    1
    """

    bandwidth_: float
    expected_false_alarm_rate_: float

    _parameter_constraints = {
        "kernel": [StrOptions({"gaussian", "student"})],
        "bandwidth": [
            StrOptions({"loo", "scott"}),
            Interval(Real, 0, np.inf, closed="right"),
        ],
        "rule": [StrOptions(set(_RULES))],
        "df": [Interval(Real, 0, None, closed="neither")],
        "power": [Interval(Real, 0, None, closed="neither"), None],
        "dtype": [StrOptions({"float64", "float32"})],
        "device": [StrOptions({"cpu", "cuda", "auto"}), None],
    }

    def __init__(
        self,
        *,
        kernel: Literal["gaussian", "student"] = "gaussian",
        bandwidth: float | Literal["loo", "scott"] = "loo",
        rule: Literal["taylor", "conserving"] = "taylor",
        df: float = 1.0,
        power: float | None = None,
        contamination: float | None = None,
        false_alarm_rate: float | None = None,
        image_shape: ImageShape = None,
        dtype: Literal["float64", "float32"] = "float64",
        device: Literal["cpu", "cuda", "auto"] | None = None,
    ):
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.rule = rule
        self.df = df
        self.power = power
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.dtype = dtype
        self.device = device

    def _fit(self, X, y):
        self.bandwidth_ = self._choose_bandwidth(X)
        self._rule = _RULES[self.rule]
        if np.isinf(self.bandwidth_):
            self._pool = MeanDistance(X)
        else:
            pooling = self._pooling(X.shape[1])(self._checked_scale())
            self._pool = TemplatePool.fit(X, pooling, np.dtype(self.dtype))
        self._flagged_share = self._in_sample_share

    def fit_predict(self, X: Any, y: Any = None, **kwargs: Any) -> Ints:
        """Fit, and label the training rows themselves.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Training rows, at least two; finite numbers.
        y : object, default=None
            Ignored.
        **kwargs : dict
            None: `fit` takes nothing else.

        Returns
        -------
        labels : ndarray of shape (n,), int
            +1 normal, -1 anomaly.

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        return super(KDE, self.fit(X, y, **kwargs)).predict(X)

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

        Warns
        -----
        UserWarning
            When the threshold is the training rows' own, and expected to flag more than
            twice as many of fresh rows.
        """
        labels = super().predict(X)
        share, expected = self._flagged_share, self.expected_false_alarm_rate_
        if share is not None and expected > 2 * share:
            warn(
                f"The threshold flags {share:.0%} of the training rows, but an expected "
                f"{expected:.0%} of fresh rows like them, which lack themselves as nearest "
                "template. For a threshold that holds on fresh rows, set "
                f"contamination=None, false_alarm_rate={self.false_alarm_rate or share}.",
            )
        return labels

    def _find_offset(self, scores):
        fresh = scores.out_of_sample(calibration_rows(scores.n))
        if self._in_sample_share is None:
            offset = offset_of_fresh(fresh, self.false_alarm_rate)
        else:
            offset = super()._find_offset(scores)
        self.expected_false_alarm_rate_ = float(np.mean(-fresh < offset))
        return offset

    def _outlier_score(self, X):
        return self._pool.score(X, self._device())

    def _decompose(self, X, space=None):
        if np.isinf(self.bandwidth_):
            refuse_space(self, space)
        found = self._pool.decompose(X, self._rule, self._device(), space)
        score, relevance, attributed = found
        if space is not None:
            check_kept(relevance, attributed[:, None])
        return Decomposition(relevance, score - attributed, "outlier score")

    def _out_of_sample_score(self, X, rows):
        return self._pool.leave_one_out(rows, self._device())

    def _choose_bandwidth(self, X):
        if self.bandwidth == "scott":
            return scott_bandwidth(X)
        if self.bandwidth != "loo":
            return float(self.bandwidth)
        d = X.shape[1]
        if self.kernel == "student" and 2 * self._power(d) <= d:
            raise ValueError(
                f"bandwidth='loo' needs a density: with {d} features power must exceed "
                f"{d / 2}, got power={self.power}. Give the bandwidth as a number, or "
                "power=None."
            )
        df = None if self.kernel == "gaussian" else 2 * self._power(d) - d
        root = leave_one_out_root(X, self._pooling(d), df, self._device())
        return float(root / np.sqrt(self._scale(1.0)))

    def _pooling(self, d):
        """Return what makes the pooling of a scale."""
        if self.kernel == "gaussian":
            return SoftMin
        return partial(PowerMean, power=self._power(d))

    def _power(self, d):
        return (self.df + d) / 2 if self.power is None else self.power

    def _scale(self, bandwidth):
        """Return the squared distance at which the kernel falls: 2 sigma^2, nu sigma^2."""
        return (2.0 if self.kernel == "gaussian" else self.df) * bandwidth**2

    def _checked_scale(self):
        with np.errstate(over="ignore", under="ignore"):
            scale = self._scale(np.float64(self.bandwidth_))
        if not 1e-290 < scale < 1e290:
            raise ValueError(
                f"The bandwidth must have a square within float64, got {self.bandwidth_}; "
                "numpy.inf is the wide limit."
            )
        return float(scale)

    def _device(self):
        if self.device is None:
            return str(torch.get_default_device())
        if self.device == "cpu":
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        if self.device == "auto":
            return "cpu"
        raise ValueError("device='cuda', but torch finds no CUDA device.")
