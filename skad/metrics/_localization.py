"""How well a relevance map finds the ground-truth mask of an anomaly."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.integrate import trapezoid
from scipy.stats import rankdata

from skad._typing import ArrayLike, Floats, mean_micro_or_each, mean_or_each
from skad.metrics._checks import (
    _check_average,
    _check_maps,
    _check_rows,
    _reduce,
    _scaled,
    _undefined,
    _unit,
)

# 8-connectivity inside an image, none between the images of a stack.
_EIGHT_CONNECTED = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


@mean_or_each
def cosine_similarity_score(
    mask: ArrayLike, relevance: ArrayLike, *, average: Literal["samples"] | None = "samples"
) -> float | Floats:
    r"""Cosine between the mask and the rectified relevance.

    With :math:`r = \max(R, 0)` after the sum over channels,
    :math:`\langle r, M \rangle / (\lVert r \rVert \lVert M \rVert)`: the explanation
    accuracy of the Clever Hans score. In [0, 1], higher is better; 0 where no relevance
    is positive. A constant map scores the square root of the mask's area fraction.

    Parameters
    ----------
    mask : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Ground truth: boolean, 0/1, or any non-negative weights. The channels of a 4-D
        mask are merged by their maximum.
    relevance : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Evidence for anomaly. The channels are summed.
    average : {"samples"} or None, default="samples"
        The mean over the rows with a non-empty mask, or None for every row's score.

    Returns
    -------
    score : float, or float64 ndarray of shape (n,) if ``average=None``
        NaN for a row with an empty mask, and (with an ``UndefinedMetricWarning``) for
        the mean over no rows.

    Raises
    ------
    ValueError
        If the shapes differ, a value is NaN, infinite or (in the mask) negative, or
        `average` is none of these.

    See Also
    --------
    clever_hans_score : Detection less this.
    relevance_mass_score : The share of the relevance inside the mask.
    pixel_roc_auc_score, aupro_score : By the order of the relevance alone.

    Examples
    --------
    >>> from skad.metrics import cosine_similarity_score
    >>> mask = [[0, 0, 1, 1], [0, 0, 0, 0]]
    >>> cosine_similarity_score(mask, [[-5, 0, 3, 4], [1, 0, 0, 0]], average=None)
    array([0.98994949,        nan])
    >>> round(cosine_similarity_score(mask, [[1, 1, 1, 1], [1, 1, 1, 1]]), 4)
    0.7071
    """
    _check_average(average, ("samples", None))
    mask, relevance = _check_rows(mask, relevance, binary=False)
    score = (_unit(mask) * _unit(np.maximum(relevance, 0))).sum(axis=1)
    score = np.where(mask.any(axis=1), np.minimum(score, 1), np.nan)
    return _reduce(score, average)


@mean_micro_or_each
def pixel_roc_auc_score(
    mask: ArrayLike,
    relevance: ArrayLike,
    *,
    average: Literal["samples", "micro"] | None = "samples",
) -> float | Floats:
    """Area under the ROC curve of the pixels, ranked by relevance.

    The probability that a masked pixel has more relevance than a mask-free one, ties
    counting one half. In [0, 1], higher is better; a constant map scores 0.5. Relevance
    is not rectified, since only its order matters.

    Parameters
    ----------
    mask : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Ground truth, boolean or 0/1. The channels of a 4-D mask are merged by their
        maximum.
    relevance : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Evidence for anomaly. The channels are summed.
    average : {"samples", "micro"} or None, default="samples"
        "samples": the mean of the rows' areas, over the rows that have both masked and
        mask-free pixels. "micro": one curve for the pixels of all rows together, normal
        rows included (the convention of MVTec AD). None: every row's area.

    Returns
    -------
    score : float, or float64 ndarray of shape (n,) if ``average=None``
        NaN where there is only one kind of pixel (with an ``UndefinedMetricWarning``
        where that leaves no float to return).

    Raises
    ------
    ValueError
        If the shapes differ, a value is NaN or infinite, the mask is not binary, or
        `average` is none of these.

    See Also
    --------
    aupro_score : Every region weighs the same, whatever its size.
    relevance_rank_score : The most relevant pixels alone.

    Examples
    --------
    >>> from skad.metrics import pixel_roc_auc_score
    >>> mask, relevance = [[0, 1, 1], [0, 0, 0]], [[3, 2, 8], [5, 0, 0]]
    >>> pixel_roc_auc_score(mask, relevance)
    0.5
    >>> pixel_roc_auc_score(mask, relevance, average="micro")
    0.75
    """
    _check_average(average, ("samples", "micro", None))
    mask, relevance = _check_rows(mask, relevance)
    if average == "micro":
        mask, relevance = mask.reshape(1, -1), relevance.reshape(1, -1)
    return _reduce(_row_auc(mask, relevance), average)


def aupro_score(mask: ArrayLike, relevance: ArrayLike, *, max_fpr: float = 0.3) -> float:
    """Area under the per-region-overlap curve, up to a false positive rate.

    At a threshold ``t``, the overlap PRO is the mean over regions of the fraction of
    the region with ``relevance >= t``, and FPR is that fraction of all mask-free pixels
    (normal images included). Regions are the 8-connected components of each mask, so
    small defects weigh as much as large ones. The curve through the distinct thresholds
    is integrated by the trapezoidal rule, with linear interpolation at `max_fpr`, and
    divided by `max_fpr`. In [0, 1], higher is better; a constant map scores
    ``max_fpr / 2``.

    Parameters
    ----------
    mask : array-like of shape (n, H, W) or (n, C, H, W)
        Ground truth, boolean or 0/1.
    relevance : array-like of shape (n, H, W) or (n, C, H, W)
        Evidence for anomaly. The channels are summed.
    max_fpr : float, default=0.3
        Where the curve ends, in (0, 1]. With 1 and a single region the score is
        ``pixel_roc_auc_score(..., average="micro")``.

    Returns
    -------
    score : float
        NaN (with an ``UndefinedMetricWarning``) if no pixel, or every pixel, is masked.

    Raises
    ------
    ValueError
        If the input is not a stack of images, the shapes differ, a value is NaN or
        infinite, the mask is not binary, or `max_fpr` is not in (0, 1].

    See Also
    --------
    pixel_roc_auc_score : Every pixel weighs the same.

    Examples
    --------
    >>> from skad.metrics import aupro_score
    >>> mask = [[[1, 0, 0], [0, 0, 0], [0, 1, 1]]]
    >>> aupro_score(mask, mask)
    1.0
    >>> round(aupro_score(mask, [[[1, 1, 1]] * 3]), 6)
    0.15
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be in (0, 1], got {max_fpr!r}.")
    mask, relevance = _check_maps(mask, relevance)
    if mask.ndim != 3:
        raise ValueError(
            "aupro_score needs images of shape (n, H, W) or (n, C, H, W), got rows of "
            f"shape {mask.shape}: reshape mask and relevance."
        )
    if mask.all() or not mask.any():
        return _undefined("AUPRO needs masked and mask-free pixels.")
    fpr, overlap = _overlap_curve(mask, relevance)
    return _area_up_to(fpr, overlap, max_fpr) / max_fpr


@mean_or_each
def relevance_mass_score(
    mask: ArrayLike, relevance: ArrayLike, *, average: Literal["samples"] | None = "samples"
) -> float | Floats:
    """Fraction of the positive relevance that lies inside the mask.

    With ``r = max(R, 0)`` after the sum over channels, ``sum(r * mask) / sum(r)``. In
    [0, 1], higher is better; 0 where no relevance is positive. A constant map scores
    the mask's area fraction.

    Parameters
    ----------
    mask : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Ground truth, boolean or 0/1. The channels of a 4-D mask are merged by their
        maximum.
    relevance : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Evidence for anomaly. The channels are summed.
    average : {"samples"} or None, default="samples"
        The mean over the rows with a non-empty mask, or None for every row's score.

    Returns
    -------
    score : float, or float64 ndarray of shape (n,) if ``average=None``
        NaN for a row with an empty mask, and (with an ``UndefinedMetricWarning``) for
        the mean over no rows.

    Raises
    ------
    ValueError
        If the shapes differ, a value is NaN or infinite, the mask is not binary, or
        `average` is none of these.

    See Also
    --------
    cosine_similarity_score : Also asks that the whole mask is covered.
    relevance_rank_score : By the order of the relevance alone.

    Examples
    --------
    >>> from skad.metrics import relevance_mass_score
    >>> relevance_mass_score([[0, 0, 1, 1]], [[1, -7, 0, 3]])
    0.75
    """
    _check_average(average, ("samples", None))
    mask, relevance = _check_rows(mask, relevance)
    mass = _scaled(np.maximum(relevance, 0))
    total = mass.sum(axis=1)
    score = (mass * mask).sum(axis=1) / np.where(total > 0, total, 1)
    return _reduce(np.where(mask.any(axis=1), score, np.nan), average)


@mean_or_each
def relevance_rank_score(
    mask: ArrayLike, relevance: ArrayLike, *, average: Literal["samples"] | None = "samples"
) -> float | Floats:
    """Fraction of the K most relevant pixels that lie inside the mask of K pixels.

    Ties at the K-th place are broken by expectation over random orders, so the score
    does not depend on how pixels are stored. In [0, 1], higher is better; a constant
    map scores the mask's area fraction. Relevance is not rectified.

    Parameters
    ----------
    mask : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Ground truth, boolean or 0/1. The channels of a 4-D mask are merged by their
        maximum.
    relevance : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Evidence for anomaly. The channels are summed.
    average : {"samples"} or None, default="samples"
        The mean over the rows with a non-empty mask, or None for every row's score.

    Returns
    -------
    score : float, or float64 ndarray of shape (n,) if ``average=None``
        NaN for a row with an empty mask, and (with an ``UndefinedMetricWarning``) for
        the mean over no rows.

    Raises
    ------
    ValueError
        If the shapes differ, a value is NaN or infinite, the mask is not binary, or
        `average` is none of these.

    See Also
    --------
    relevance_mass_score : By the amount of relevance.
    pointing_game_score : The most relevant pixel alone.

    Examples
    --------
    >>> from skad.metrics import relevance_rank_score
    >>> relevance_rank_score([[0, 0, 1, 1]], [[0, 1, 1, 2]])
    0.75
    """
    _check_average(average, ("samples", None))
    mask, relevance = _check_rows(mask, relevance)
    k = mask.sum(axis=1)
    kth = np.sort(relevance, axis=1)[np.arange(len(k)), -np.maximum(k, 1)][:, None]
    above, tied = relevance > kth, relevance == kth
    places = (k - above.sum(axis=1)) / tied.sum(axis=1)
    hits = (above & mask).sum(axis=1) + places * (tied & mask).sum(axis=1)
    return _reduce(np.where(k > 0, hits / np.maximum(k, 1), np.nan), average)


@mean_or_each
def pointing_game_score(
    mask: ArrayLike, relevance: ArrayLike, *, average: Literal["samples"] | None = "samples"
) -> float | Floats:
    """Whether the most relevant pixel lies inside the mask.

    Of several equal maxima, the fraction that lies inside. In [0, 1], higher is better;
    a constant map scores the mask's area fraction.

    Parameters
    ----------
    mask : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Ground truth, boolean or 0/1. The channels of a 4-D mask are merged by their
        maximum.
    relevance : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Evidence for anomaly. The channels are summed.
    average : {"samples"} or None, default="samples"
        The mean over the rows with a non-empty mask, or None for every row's score.

    Returns
    -------
    score : float, or float64 ndarray of shape (n,) if ``average=None``
        NaN for a row with an empty mask, and (with an ``UndefinedMetricWarning``) for
        the mean over no rows.

    Raises
    ------
    ValueError
        If the shapes differ, a value is NaN or infinite, the mask is not binary, or
        `average` is none of these.

    See Also
    --------
    relevance_rank_score : As many pixels as the mask has.

    Examples
    --------
    >>> from skad.metrics import pointing_game_score
    >>> pointing_game_score([[0, 0, 1, 1], [1, 0, 0, 0]], [[0, 2, 1, 2], [3, 1, 1, 0]])
    0.75
    """
    _check_average(average, ("samples", None))
    mask, relevance = _check_rows(mask, relevance)
    peaks = relevance == relevance.max(axis=1, keepdims=True)
    score = (peaks & mask).sum(axis=1) / peaks.sum(axis=1)
    return _reduce(np.where(mask.any(axis=1), score, np.nan), average)


def _overlap_curve(mask, relevance):
    """FPR and mean region overlap at each distinct threshold, from (0, 0) on."""
    region = ndimage.label(mask, structure=_EIGHT_CONNECTED)[0].ravel()
    size = np.bincount(region)
    weight = np.where(region > 0, 1 / size[region], 0)
    order = np.argsort(-relevance, axis=None)
    falling = relevance.ravel()[order]
    last_tied = np.append(falling[1:] != falling[:-1], True)
    fpr = np.cumsum(region[order] == 0)[last_tied] / size[0]
    overlap = np.cumsum(weight[order])[last_tied]
    return np.append(0, fpr), np.append(0, overlap / overlap[-1])


def _area_up_to(x, y, limit):
    """Area under the polyline (x, y), x ascending from 0, up to ``limit``."""
    end = np.searchsorted(x, limit)
    at_limit = np.interp(limit, x[end - 1 : end + 1], y[end - 1 : end + 1])
    return float(trapezoid(np.append(y[:end], at_limit), np.append(x[:end], limit)))


def _row_auc(mask, relevance):
    """ROC AUC of each row from its rank sum; NaN where a row has one class."""
    n_true = mask.sum(axis=1)
    pairs = n_true * (mask.shape[1] - n_true)
    rank_sum = (rankdata(relevance, axis=1) * mask).sum(axis=1)
    wins = rank_sum - n_true * (n_true + 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)
