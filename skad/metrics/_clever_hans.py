"""Is the detector right for the right reason? The Clever Hans score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.utils import check_consistent_length, column_or_1d

from skad._estimators import normality
from skad._sklearn import indexable, take_rows
from skad._typing import ArrayLike, Rows
from skad.explanation import explain
from skad.metrics._checks import _split_classes
from skad.metrics._localization import cosine_similarity_score

if TYPE_CHECKING:
    import pandas as pd


def clever_hans_score(
    y_true: ArrayLike, outlier_score: ArrayLike, mask: ArrayLike, relevance: ArrayLike
) -> float:
    """Measure by how much detection accuracy exceeds explanation accuracy.

    The ROC AUC of `outlier_score`, minus the mean cosine between mask and rectified
    relevance over the anomalous rows. In [-1, 1]; the closer to 1, the more does the
    detector separate the classes by the wrong features. A perfect detector whose
    relevance is constant scores one minus the square root of the masks' area fraction.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        +1 normal, -1 anomaly, 0 unlabelled (left out).
    outlier_score : array-like of shape (n,)
        Higher is more abnormal: ``-detector.score_samples(X)``.
    mask : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Ground truth, boolean or non-negative. Anomalies with an empty mask count for
        detection only.
    relevance : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Evidence for anomaly. Only the rows of anomalies are read, here and in `mask`.

    Returns
    -------
    score : float
        NaN (with an ``UndefinedMetricWarning``) if no anomaly has a mask.

    Raises
    ------
    ValueError
        If the labels are 0/1 or of one class only, if lengths or shapes differ, or if
        a value is NaN or infinite.

    See Also
    --------
    cosine_similarity_score : The explanation accuracy.
    clever_hans_report : The scores by detector and kind of anomaly.
    mean_distance_agreement : What a Clever Hans of a KDE may come from.

    References
    ----------
    .. [1] Kauffmann, Ruff, Montavon, Müller, "The Clever Hans Effect in Anomaly
       Detection", 2020, arXiv:2006.10609, Section 3.

    Examples
    --------
    The detection is perfect, but the second feature is to blame, not the first:

    >>> from skad.metrics import clever_hans_score
    >>> y = [1, 1, -1, -1]
    >>> mask = [[0, 0], [0, 0], [1, 0], [1, 0]]
    >>> relevance = [[0, 0], [0, 0], [3, 4], [0, 5]]
    >>> round(clever_hans_score(y, [0.1, 0.2, 0.8, 0.9], mask, relevance), 6)
    0.7
    """
    normal, anomalous = _split_classes(y_true)
    outlier_score, mask = column_or_1d(outlier_score), np.asarray(mask)
    relevance = np.asarray(relevance)
    check_consistent_length(anomalous, outlier_score, mask, relevance)
    detection = _detection(outlier_score, normal, anomalous)
    return detection - cosine_similarity_score(mask[anomalous], relevance[anomalous])


def clever_hans_report(
    detectors: Mapping[str, Any] | Sequence[tuple[str, Any]],
    X: Rows,
    y: ArrayLike,
    *,
    mask: ArrayLike,
    kind: ArrayLike | None = None,
    top_k: int = 3,
) -> pd.DataFrame:
    """Tabulate detection and explanation by detector and kind of anomaly.

    Each detector scores the labelled rows once, and explains the anomalies that have a
    mask once. The detection of a kind is the ROC AUC of that kind against all normal
    rows.

    Parameters
    ----------
    detectors : dict of str to estimator, or list of (str, estimator)
        Fitted detectors: skad's, scikit-learn's or PyOD's, pipelines and searches too.
        Higher ``score_samples`` (without it, ``decision_function``) must mean
        more normal, as in scikit-learn; PyOD's own opposite sign is known.
    X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Test rows.
    y : array-like of shape (n,)
        +1 normal, -1 anomaly, 0 unlabelled (left out).
    mask : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Ground truth, boolean or non-negative. Where one of mask and explanation is
        flat and the other is not, the flat one takes the other's shape. Only the rows
        of anomalies are read.
    kind : array-like of shape (n,), default=None
        The kind of each anomaly, compared as strings; any value for other rows.
        "all" is reserved.
    top_k : int, default=3
        How many kinds ``attrs["worst"]`` lists for each detector.

    Returns
    -------
    report : pandas.DataFrame
        One row for each detector (in the order given) and kind (sorted, then "all"),
        with columns

        - ``detector``, ``kind``, ``n_anomalies``
        - ``detection``: ROC AUC
        - ``explanation``: mean cosine over the anomalies with a mask (NaN if none)
        - ``clever_hans``: the difference of the two
        - ``baseline``: the explanation of a constant map

        ``report.attrs["worst"]`` maps each detector to its `top_k` kinds as a list of
        (kind, Clever Hans score), highest first ("all" only where `kind` is None).

    Raises
    ------
    ImportError
        If pandas is not installed.
    TypeError
        If a detector has neither ``score_samples`` nor ``decision_function``.
    ValueError
        If two detectors have the same name or there is none, if the labels are 0/1 or
        of one class only, if lengths or shapes differ, or if a kind is called "all".

    See Also
    --------
    clever_hans_score : One detector, from scores and relevance.
    skad.plotting.CleverHansDisplay.from_report : Draws it.

    Examples
    --------
    The anomalies lie in the first feature; the second is unscaled noise:

    >>> import numpy as np
    >>> from skad import KDE
    >>> from skad.metrics import clever_hans_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2)) * [1, 5]
    >>> kde = KDE(bandwidth=1.0).fit(X[:40])
    >>> X[50:, 0] += 8
    >>> y = np.repeat([1, -1], [50, 10])
    >>> mask = np.outer(y == -1, [1, 0])
    >>> report = clever_hans_report({"KDE": kde}, X, y, mask=mask)
    >>> report[["detector", "kind", "n_anomalies"]]
      detector kind  n_anomalies
    0      KDE  all           10
    >>> bool(report["clever_hans"][0] > 0)
    True
    """
    pd = _import_pandas()
    detectors = _named(detectors)
    normal, anomalous = _split_classes(y)
    mask = np.asarray(mask)
    check_consistent_length(anomalous, X, mask)
    kinds = _kinds(kind, anomalous)
    explained = anomalous & mask.reshape(len(mask), -1).any(axis=1)
    constant = _cosines(mask, explained, np.ones(mask[explained].shape))
    rows = []
    for name, detector in detectors.items():
        score = _scores(detector, X, normal | anomalous)
        relevance = explain(detector, _take(X, explained)) if explained.any() else None
        cosine = _cosines(mask, explained, relevance)
        for label, members in kinds.items():
            row = _row(score, cosine, constant, normal, members)
            rows.append({"detector": name, "kind": label, **row})
    report = pd.DataFrame(rows)
    report.attrs["worst"] = {name: _worst(rows, name, top_k) for name in detectors}
    return report


def _row(score, cosine, constant, normal, members):
    detection = _detection(score, normal, members)
    explanation = _mean(cosine[members])
    return {
        "n_anomalies": int(members.sum()),
        "detection": detection,
        "explanation": explanation,
        "clever_hans": detection - explanation,
        "baseline": _mean(constant[members]),
    }


def _worst(rows, name, top_k):
    """(kind, score) of the kinds with the highest Clever Hans scores."""
    mine = [row for row in rows if row["detector"] == name]
    # The last row is "all", which is a kind only where no other is known.
    mine = mine[:-1] or mine
    scores = [(row["kind"], row["clever_hans"]) for row in mine]
    scores = [pair for pair in scores if not np.isnan(pair[1])]
    return sorted(scores, key=lambda pair: -pair[1])[:top_k]


def _detection(score, normal, anomalous):
    rows = normal | anomalous
    return float(roc_auc_score(anomalous[rows], score[rows]))


def _scores(detector, X, rows):
    score = np.full(len(rows), np.nan)
    score[rows] = -normality(detector, _take(X, rows))
    return score


def _cosines(mask, rows, relevance):
    """Cosine of the chosen rows with their relevance; NaN for the others."""
    cosine = np.full(len(rows), np.nan)
    if rows.any():
        mask, relevance = _same_layout(mask[rows], np.asarray(relevance))
        cosine[rows] = cosine_similarity_score(mask, relevance, average=None)
    return cosine


def _same_layout(mask, relevance):
    """Return a flat mask or relevance the other's image shape, where sizes agree."""
    if mask.size == relevance.size:
        if relevance.ndim == 2:
            relevance = relevance.reshape(mask.shape)
        elif mask.ndim == 2:
            mask = mask.reshape(relevance.shape)
    return mask, relevance


def _kinds(kind, anomalous):
    """Map each kind of anomaly, then "all", to its rows."""
    kinds = {}
    if kind is not None:
        check_consistent_length(anomalous, kind)
        kind = np.array([str(k) for k in kind])
        kinds = {k: anomalous & (kind == k) for k in np.unique(kind[anomalous]).tolist()}
    if "all" in kinds:
        raise ValueError('The kind "all" is reserved for the anomalies of every kind.')
    return {**kinds, "all": anomalous}


def _named(detectors):
    if hasattr(detectors, "fit"):
        raise TypeError(f"detectors must be a dict, by name; got {detectors!r}.")
    pairs = list(detectors.items() if hasattr(detectors, "items") else detectors)
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"detectors needs one or more distinct names, got {names}.")
    return dict(pairs)


def _take(X, rows):
    return take_rows(indexable(X), np.flatnonzero(rows))


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else np.nan


def _import_pandas():
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "clever_hans_report needs pandas: pip install 'skad[plot]'."
        ) from error
    return pandas
