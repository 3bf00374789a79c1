"""A bag of detectors: the mean of standardised scores, explained by the same mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from skad._decomposition import Decomposition, refuse_space
from skad._estimators import can_score, normality
from skad._references import keep_references
from skad._sklearn import _BaseComposition
from skad._thresholds import calibration_rows, cross_fitted_scores
from skad._typing import ArrayLike, Floats, ImageShape
from skad.base import BaseDetector
from skad.detectors._pyod import as_detector
from skad.explanation._units import decompose_any

__all__ = ["Bag"]


class Bag(BaseDetector, _BaseComposition):
    r"""Average the standardised scores of several detectors.

    With member scores :math:`o_m`, weights :math:`w_m` that sum to one, and the mean
    :math:`\mu_m` and standard deviation :math:`\sigma_m` of the member's out-of-sample
    scores on the training rows,

    .. math:: o(x) = \sum_m w_m \frac{o_m(x) - \mu_m}{\sigma_m}, \qquad
              R_i(x) = \sum_m w_m \frac{R_i^{(m)}(x)}{\sigma_m}.

    The zero-order terms belong to no feature:
    :math:`u(x) = \sum_m w_m (u_m(x) - \mu_m) / \sigma_m`. It is a soft 'or' of the members
    (section 5 of [1]_; average pooling, appendix A.1). The score has no unit.

    Out of sample means: by leaving each row out of its own sum where the member can
    (:class:`KDE`), else by five-fold cross-fitting, five more fits a member. In-sample
    scores would make a member that remembers its training rows look steadier, and weigh
    more, than it is.

    Parameters
    ----------
    detectors : list of (str, object)
        Named members: detectors of skad, scikit-learn or PyOD, or Pipelines that end in
        one. Their parameters are the bag's: ``kde__bandwidth``. Detectors that are fitted
        already are members as ``sklearn.frozen.FrozenEstimator(detector)``: nothing is
        refitted then, and `fit` wants rows that none of them has seen, to standardise by.
    weights : array-like of shape (n_detectors,) or None, default=None
        Weights, not negative; only their ratios matter. None: all equal.
    contamination : float in (0, 0.5] or None, default=None
        Share of the training rows that `predict` flags. None is 0.1, unless
        `false_alarm_rate` is given.
    false_alarm_rate : float in (0, 0.5] or None, default=None
        Where `contamination` is None: share of fresh normal rows that `predict` flags, if
        the training rows are normal. The threshold is then a quantile of the
        out-of-sample scores.
    image_shape : tuple or None, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images. Members see flat rows;
        those that take an ``image_shape`` and have none are given the bag's.
    n_jobs : int or None, default=None
        Members fitted at once, as in joblib.

    Attributes
    ----------
    detectors_ : list of object
        The fitted members.
    weights_ : ndarray of shape (n_detectors,)
        Weights that sum to one.
    means_, scales_ : ndarray of shape (n_detectors,)
        Mean and standard deviation of each member's out-of-sample training scores.
    [[offset_, image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    TypeError
        By `fit`, when a member can't be fitted or can't score.
    ValueError
        By `fit`, when names or weights are not as above, or a member gives all training
        rows the same score, by which it can't be standardised.

    See Also
    --------
    ConformalDetector : Calibrates any detector, a bag too.

    References
    ----------
    .. [1] J. Kauffmann, L. Ruff, G. Montavon, K.-R. Mueller. "The Clever Hans Effect in
       Anomaly Detection". arXiv:2006.10609, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from skad import KDE, Bag
    >>> X = np.random.default_rng(0).standard_normal((200, 2))
    >>> forest = IsolationForest(n_estimators=20, random_state=0)
    >>> bag = Bag([("kde", KDE()), ("forest", forest)]).fit(X)
    >>> int(bag.explain([[6.0, 0.0]]).argmax())
    0
    """

    detectors_: list[Any]
    weights_: Floats
    means_: Floats
    scales_: Floats

    _parameter_constraints = {
        "detectors": [list, tuple],
        "weights": ["array-like", None],
    }

    def __init__(
        self,
        detectors: Sequence[tuple[str, Any]],
        *,
        weights: ArrayLike | None = None,
        contamination: float | None = None,
        false_alarm_rate: float | None = None,
        image_shape: ImageShape = None,
        n_jobs: int | None = None,
    ):
        self.detectors = detectors
        self.weights = weights
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.n_jobs = n_jobs

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters, the members' own among them.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return the members' own too.

        Returns
        -------
        params : dict
            Values by name; ``kde__bandwidth`` is that of the member "kde".
        """
        return self._get_params("detectors", deep=deep)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, the members' own among them; a name alone sets the member.

        Parameters
        ----------
        **params : dict
            Values by name, as `get_params` returns them.

        Returns
        -------
        self : object
            The bag itself.

        Raises
        ------
        ValueError
            When there is no such parameter.
        """
        self._set_params("detectors", **params)
        return self

    def _fit(self, X, y):
        names, members = self._check_members()
        self.weights_ = self._check_weights(len(members))
        rows = calibration_rows(len(X))
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_member)(name, self._prepare(member), X, rows)
            for name, member in zip(names, members, strict=True)
        )
        self.detectors_ = [member for member, _ in fitted]
        scores = np.column_stack([scores for _, scores in fitted])
        self.means_, self.scales_ = scores.mean(axis=0), scores.std(axis=0)
        self._check_spread(names)
        self._calibration = self._pooled(scores)
        self._references = keep_references(X)

    def _outlier_score(self, X):
        return self._pooled(
            np.column_stack([-normality(member, X) for member in self.detectors_])
        )

    def _decompose(self, X, space=None):
        refuse_space(self, space)
        relevance, left_over = 0, []
        for share, member in zip(self._shares, self.detectors_, strict=True):
            parts = decompose_any(member, X, self._references)
            relevance = relevance + share * parts.relevance
            left_over.append(parts.unattributed)
        unattributed = self._pooled(np.column_stack(left_over))
        return Decomposition(relevance, unattributed, "outlier score")

    def _out_of_sample_score(self, X, rows):
        return self._calibration

    @property
    def _shares(self):
        return self.weights_ / self.scales_

    def _pooled(self, scores):
        return (scores - self.means_) @ self._shares

    def _prepare(self, member):
        """Copy a member; tell it the image shape if it has a use for it."""
        member = as_detector(member)
        if member.get_params(deep=False).get("image_shape", ()) is None:
            member.set_params(image_shape=self.image_shape_)
        return member

    def _check_members(self):
        members = list(self.detectors)
        if not members or not all(
            isinstance(m, tuple | list) and len(m) == 2 and isinstance(m[0], str)
            for m in members
        ):
            raise ValueError(
                f"detectors must be a list of (name, detector), got {self.detectors!r}."
            )
        names, members = zip(*members, strict=True)
        self._validate_names(names)
        for name, member in zip(names, members, strict=True):
            if not (hasattr(member, "fit") and can_score(member)):
                raise TypeError(
                    f"Member {name!r} is no detector: {member!r} lacks fit, or "
                    "score_samples and decision_function."
                )
        return names, members

    def _check_weights(self, n_members):
        if self.weights is None:
            return np.full(n_members, 1 / n_members)
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (n_members,) or not (
            np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0
        ):
            raise ValueError(
                f"weights must be {n_members} finite numbers, one a member, not "
                f"negative and not all zero; got {self.weights!r}."
            )
        return weights / weights.sum()

    def _check_spread(self, names):
        for name, mean, scale in zip(names, self.means_, self.scales_, strict=True):
            if not scale > 1e-12 * abs(mean):  # also when nan
                raise ValueError(
                    f"Member {name!r} gives all training rows the same score (mean "
                    f"{mean:.3g}, standard deviation {scale:.3g}): it can't be "
                    "standardised. Leave it out or change its parameters."
                )


def _fit_member(name, member, X, rows):
    """Return a fitted member, and its outlier scores of the rows, out of sample."""
    try:
        # The fit of a Bag skips what is checked within it, but members are the user's.
        with config_context(skip_parameter_validation=False):
            fitted = clone(member).fit(X, None)  # y, since FrozenEstimator wants one
            if isinstance(member, BaseDetector):
                return fitted, fitted._out_of_sample_score(X, rows)
            return fitted, cross_fitted_scores(member, X, rows)
    except Exception as error:
        error.add_note(f"While fitting member {name!r} of a Bag, or copies of it on folds.")
        raise
