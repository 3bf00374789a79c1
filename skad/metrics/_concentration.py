"""How much of a KDE is distance to the mean: of its weights, scores and maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr
from scipy.stats import spearmanr
from sklearn.metrics import pairwise_distances_chunked
from sklearn.utils import Bunch

from skad._typing import ArrayLike
from skad.metrics._checks import _undefined
from skad.metrics._localization import cosine_similarity_score
from skad.relevance._mean_distance import MeanDistance
from skad.relevance._soft_minimum import responsibilities

if TYPE_CHECKING:
    from skad.detectors import KDE


_CHUNK_MIB = 16  # of distances; a few times that is in use


def mean_distance_agreement(kde: KDE, X: ArrayLike) -> Bunch:
    r"""Measure how much of a KDE is distance to the mean of its training rows.

    A KDE becomes its wide limit ``KDE(bandwidth=numpy.inf)``, the mean :math:`\bar d(x)
    = \|x - \bar x\|^2 + \sum_i var_i` of the squared distances :math:`d_j` to the n
    training rows, where :math:`\gamma (d_j - \bar d)` is near 0 for all of them: since
    the bandwidth is wide, or since distances concentrate in high dimension (appendix B
    of [1]_). `template_share` tells whether that is so; `rank_correlation` and `cosine`
    tell how far scores and explanations are those of the wide limit, for this or
    another reason. All three are 1 in the wide limit, and stay as they are when `X`,
    training rows and bandwidth change their unit.

    Parameters
    ----------
    kde : KDE
        Fitted, of any kernel, rule and bandwidth.
    X : array-like of shape (n_rows, d), (n_rows, H, W) or (n_rows, C, H, W)
        Rows like those to be scored, not the training rows: each of these has itself
        as nearest template.

    Returns
    -------
    result : Bunch
        With the attributes

        rank_correlation : float
            Spearman's correlation between outlier score and distance to the mean over
            the rows of `X`, in [-1, 1]. At 1 the two have the same ROC AUC for any
            labels. Rows far from all training rows raise it, whatever the bandwidth.
            NaN (with an ``UndefinedMetricWarning``) if all rows have the same score or
            the same distance.
        cosine : float64 ndarray of shape (n_rows,)
            Cosine in [0, 1] between ``kde.explain(X)`` and the explanation of the wide
            limit, :math:`(x_i - \bar x_i)^2 + var_i`. NaN where that is zero.
        template_share : float64 ndarray of shape (n_rows,)
            Effective number of templates behind the score, as a share of all:
            :math:`e^{H(p)} / n = e^{-KL(p \| 1/n)}` with the responsibilities
            :math:`p_j` of :class:`skad.KDE`. From 1/n (the nearest template decides)
            to 1 (all count the same).

    Raises
    ------
    TypeError
        If `kde` is no KDE.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If `X` does not fit to `kde`.

    See Also
    --------
    clever_hans_score : Whether that harms, which takes labels and masks.

    Notes
    -----
    Only `template_share` has a lower end that means "nearest template": the scores and
    the (non-negative) explanations of the nearest template agree with the wide limit's
    to an extent that depends on the data. Compare with a narrow bandwidth.

    With ``rule="conserving"``, which divides by each :math:`d_j`, `cosine` stays a little
    below 1 at wide finite bandwidths.

    The cost is that of scoring and explaining `X`, and once more, on the CPU.

    References
    ----------
    .. [1] J. Kauffmann, L. Ruff, G. Montavon, K.-R. Mueller. "The Clever Hans Effect in
       Anomaly Detection". arXiv:2006.10609, 2020.

    Examples
    --------
    The mean of rows on a circle is where none of them lies:

    >>> import numpy as np
    >>> from skad import KDE
    >>> from skad.metrics import mean_distance_agreement
    >>> angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    >>> circle = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> inside = [[0.0, 0.0], [0.3, 0.0], [0.6, 0.0]]
    >>> for bandwidth in (0.2, np.inf):
    ...     kde = KDE(bandwidth=bandwidth).fit(circle)
    ...     result = mean_distance_agreement(kde, inside)
    ...     print(round(result.rank_correlation, 2), result.template_share.round(2))
    -1.0 [1.   0.25 0.17]
    1.0 [1. 1. 1.]
    """
    _check_is_kde(kde)
    score, relevance = -kde.score_samples(X), kde.explain(X)
    rows, templates = kde._validate(X), kde._pool.templates
    wide = MeanDistance(templates).relevance(rows)
    return Bunch(
        rank_correlation=_rank_correlation(score, wide.sum(axis=1)),
        cosine=cosine_similarity_score(wide, relevance.reshape(rows.shape), average=None),
        template_share=_template_share(kde, rows, templates),
    )


def _check_is_kde(kde):
    from skad.detectors import KDE  # here, since it imports torch

    if not isinstance(kde, KDE):
        raise TypeError(
            f"kde must be a fitted skad.KDE, got {type(kde).__name__}. Take a KDE out of a "
            "pipeline or search, and hand over X as it sees it."
        )


def _rank_correlation(score, distance):
    if np.ptp(score) == 0 or np.ptp(distance) == 0:
        reason = "All rows have the same score or the same distance to the mean."
        return _undefined(reason)
    return float(spearmanr(score, distance).statistic)


def _template_share(kde, rows, templates):
    """Return exp(H(p)) / n of each row."""
    if np.isinf(kde.bandwidth_):
        return np.ones(len(rows))

    def share(distances, start):
        p = responsibilities(kde._pool.pooling.energies(distances))
        return np.exp(entr(p).sum(axis=1)) / len(templates)

    # Centred, since the distances come from a product of matrices, which cancels digits.
    rows, templates = rows - kde._pool.center, templates - kde._pool.center
    chunks = pairwise_distances_chunked(
        rows, templates, reduce_func=share, working_memory=_CHUNK_MIB, squared=True
    )
    return np.concatenate(list(chunks))
