"""One run: train on normal rows, detect, explain, and measure."""

import time
import warnings

import numpy as np
from scipy.integrate import trapezoid
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    average_precision_score,
    pairwise_distances_argmin,
    roc_auc_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skad._estimators import normality
from skad.benchmark._interrupt import interrupts_end_it
from skad.benchmark._memory import MemoryWatch
from skad.detectors._pyod import as_detector
from skad.explanation import explain
from skad.metrics import (
    cosine_similarity_score,
    pixel_flipping_curve,
    pixel_roc_auc_score,
)

RESULTS = (
    *("roc_auc", "average_precision", "explanation", "baseline", "pixel_roc_auc"),
    *("clever_hans", "faithfulness", "fit_seconds", "score_seconds", "explain_seconds"),
    "peak_mib",
)
_N_REFERENCES = 256
_N_RANDOM = 10  # random orders that an explanation is compared with


def split(y, seed, max_rows):
    """Draw the rows that train, and the normal and the abnormal rows that test.

    Half of the normal rows train, the others and all anomalies test; at most `max_rows`
    of each of the three.
    """
    rng = np.random.default_rng(seed)
    normal = rng.permutation(np.flatnonzero(y == 1))
    odd = rng.permutation(np.flatnonzero(y == -1))[:max_rows]
    half = len(normal) // 2
    return normal[:half][:max_rows], normal[half:][:max_rows], odd


def seeded(estimator, seed):
    """Set every random_state that is None, also of what the estimator holds."""
    params = estimator.get_params(deep=True)
    states = [k for k in params if k.rsplit("__", 1)[-1] == "random_state"]
    return estimator.set_params(**{k: seed for k in states if params[k] is None})


def run_once(detector, data, seed, *, scale, max_rows, n_explained):
    """Run one detector on one dataset.

    Returns
    -------
    row : dict
        Sizes, the `RESULTS`, and "error": the message of what the detector raised.
    """
    train, fresh, odd = split(data.y, seed, max_rows)
    test = np.concatenate([fresh, odd])
    row = {"n_train": len(train), "n_test": len(test), "n_anomalies": len(odd)}
    row |= {"n_features": data.X[0].size} | dict.fromkeys(RESULTS, float("nan"))
    row["error"] = ""
    try:
        model = seeded(as_detector(detector), seed)
        if scale and data.is_table:
            model = Pipeline([("scale", StandardScaler()), ("detector", model)])
        _detect(row, model, data, train, test)
    except Exception as error:
        return row | dict.fromkeys(RESULTS, float("nan")) | {"error": _message(error)}
    try:
        _explain(row, model, data, train, odd[:n_explained], seed)
    except Exception as error:
        row["error"] = f"explain: {_message(error)}"
    return row


def _message(error):
    return " ".join(f"{type(error).__name__}: {error}".split())


def _detect(row, model, data, train, test):
    with MemoryWatch() as memory:
        start = time.perf_counter()
        with interrupts_end_it():
            model.fit(data.X[train])
        fitted = time.perf_counter()
        scores = -normality(model, data.X[test])
        row["score_seconds"] = time.perf_counter() - fitted
        row["fit_seconds"] = fitted - start
    row["peak_mib"] = memory.rise_mib
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(test)} scores are NaN.")
    if not np.isfinite(scores).any():
        raise ValueError(f"All {len(test)} scores are infinite.")
    scores = np.clip(scores, -1e300, 1e300)  # infinite ones come last or first
    anomalous = data.y[test] == -1
    row["roc_auc"] = float(roc_auc_score(anomalous, scores))
    row["average_precision"] = float(average_precision_score(anomalous, scores))


def _explain(row, model, data, train, odd, seed):
    X, normal = data.X[odd], data.X[train]
    start = time.perf_counter()
    relevance = np.asarray(explain(model, X, references=normal[:_N_REFERENCES]))
    row["explain_seconds"] = time.perf_counter() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # NaN says it
        if data.mask is not None:
            _compare_with_masks(row, *data.comparable_masks(odd, relevance))
        reference = _nearest(X, normal, data)
        row["faithfulness"] = _faithfulness(model, X, relevance, reference, seed)


def _faithfulness(model, X, relevance, reference, seed):
    """Mean, over rows, of the area under the curve of random orders less the row's own.

    Curves are cut off at 0 and 1. Rows that score hardly higher than their reference, and
    detectors to which a row of two halves is stranger than either, have curves far outside,
    and would outweigh all others.
    """
    rng = np.random.RandomState(seed)

    def areas(relevance):
        flips = pixel_flipping_curve(
            model, X, relevance, reference=reference, n_random=0, random_state=rng
        )
        return trapezoid(np.clip(flips.curve, 0, 1), flips.fractions, axis=1)

    own = areas(relevance)
    gain = np.mean([areas(np.zeros(X.shape)) for _ in range(_N_RANDOM)], axis=0) - own
    gain = gain[~np.isnan(gain)]
    return float(gain.mean()) if len(gain) else float("nan")


def _compare_with_masks(row, mask, relevance):
    row["explanation"] = float(cosine_similarity_score(mask, relevance))
    row["baseline"] = float(cosine_similarity_score(mask, np.ones(mask.shape)))
    row["clever_hans"] = row["roc_auc"] - row["explanation"]
    if np.isin(mask, (0, 1)).all():
        row["pixel_roc_auc"] = float(pixel_roc_auc_score(mask, relevance))


def _nearest(X, normal, data):
    """Return the normal row that is nearest to each: of tables, in standardised columns."""
    a, b = X.reshape(len(X), -1), normal.reshape(len(normal), -1)
    if data.is_table:
        scaler = StandardScaler().fit(b)
        a, b = scaler.transform(a), scaler.transform(b)
    return normal[pairwise_distances_argmin(a, b)]
