"""PyOD's detectors, by their fitted attributes; PyOD is not imported.

PyOD's outlier scores are ``decision_function``, higher for anomalies.
"""

import copy
from dataclasses import replace

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skad._decomposition import Decomposition, NoDecompositionError, refuse_space
from skad._sklearn import training_rows
from skad.explanation._decompose import decompose, register_by_name
from skad.explanation.rules._gaussian import mahalanobis_parts
from skad.explanation.rules._neighbors import minkowski_power, split_distances

__all__ = []


def _by_inner(attribute):
    """Make the rule of a detector whose score is minus that of an estimator inside."""

    def rule(detector, X, space=None):
        X = _rows(detector, X)
        parts = decompose(getattr(detector, attribute), X, space=space)
        return replace(parts, outlier_threshold=float(detector.threshold_))

    return rule


def _by_inner_decision(detector, X, space=None):
    """Decompose a detector whose score is minus the decision of the one inside."""
    parts = _by_inner("detector_")(detector, X, space)
    offset = float(np.ravel(detector.detector_.offset_)[0])
    if hasattr(parts.link, "shift"):
        return replace(parts, link=replace(parts.link, shift=offset))
    return replace(parts, unattributed=parts.unattributed + offset)


def _mcd(detector, X, space=None):
    """Decompose MCD: ``R_i = delta_i (P delta)_i``."""
    inner = detector.detector_
    X = _rows(detector, X, len(inner.location_))
    relevance = mahalanobis_parts(X, inner.location_, inner.get_precision(), space)
    return _of(detector, relevance, quantity="squared Mahalanobis distance")


def _knn(detector, X, space=None):
    r"""Decompose KNN: the distance to the k-th, or the mean or median of k, each split."""
    X = _rows(detector, X)
    inner, k = detector.neigh_, detector.n_neighbors
    power = minkowski_power(inner, space)
    distances, neighbors = inner.kneighbors(X, n_neighbors=k)
    weights = np.zeros(distances.shape)
    if detector.method == "mean":
        weights[:] = 1 / k
    elif detector.method == "median":
        weights[:, [(k - 1) // 2]] += 0.5
        weights[:, [k // 2]] += 0.5
    else:
        weights[:, -1] = 1
    templates = training_rows(inner)
    relevance = split_distances(X, templates, neighbors, distances, weights, power, space)
    return _of(detector, relevance, quantity="distance to neighbours")


def _pca(detector, X, space=None):
    r"""Decompose PCA, whose score is :math:`\sum_c \|z - v_c\| / w_c` over eigenvectors.

    What each distance has more than that of the mean m, :math:`\delta = z - m`:

    .. math:: R_i = \sum_c \frac{\delta_i (\delta_i + 2 (m_i - v_{ci}))}
                        {w_c (\|z - v_c\| + \|m - v_c\|)}, \quad
              u = \sum_c \|m - v_c\| / w_c.
    """
    X = _rows(detector, X)
    refuse_space(detector, space)
    if detector.standardization:
        X = detector.scaler_.transform(X)
    if not np.all(detector.selected_w_components_ > 0):
        raise NoDecompositionError(
            "PyOD's PCA divides by the variances of components, and one of them is 0: its "
            "scores are infinite. Leave constant columns out, or set weighted=False."
        )
    mean = detector.detector_.mean_
    delta, relevance, unattributed = X - mean, np.zeros(X.shape), 0.0
    components = detector.selected_components_, detector.selected_w_components_
    for component, weight in zip(*components, strict=True):
        start = np.linalg.norm(mean - component)
        distance = np.linalg.norm(X - component, axis=1, keepdims=True)
        excess = delta * (delta + 2 * (mean - component))
        relevance += excess / (weight * (distance + start))
        unattributed += start / weight
    return _of(
        detector,
        relevance,
        np.full(len(X), unattributed),
        "weighted distances to the eigenvectors",
    )


def _autoencoder(detector, X, space=None):
    r"""Decompose AutoEncoder: :math:`R_i = (z_i - r_i)^2 / \|z - r\|`, z standardised."""
    import torch

    X = _rows(detector, X)
    refuse_space(detector, space)
    if detector.preprocessing:
        X = (X - detector.X_mean) / (detector.X_std + 1e-8)
    detector.model.eval()
    with torch.no_grad():
        z = torch.as_tensor(X, dtype=torch.float32, device=detector.device)
        squares = np.square((z - detector.model(z)).double().cpu().numpy())
    distance = np.sqrt(squares.sum(axis=1, keepdims=True))
    relevance = np.divide(squares, distance, out=np.zeros(X.shape), where=distance > 0)
    return _of(detector, relevance, quantity="reconstruction error")


def _tail_probabilities(detector, X, space=None):
    """Decompose ECOD and COPOD: a sum over the features as it stands.

    The score ranks a row among the training rows and those it is scored with.
    """
    X = _rows(detector, X, detector.X_train.shape[1])
    refuse_space(detector, space)
    scratch = copy.copy(detector)  # scoring leaves its table in the detector
    scratch.n_jobs = 1
    scratch.decision_function(X)
    relevance = np.array(scratch.O[-len(X) :], dtype=np.float64)
    return _of(detector, relevance, quantity="minus the log tail probabilities")


def _hbos(detector, X, space=None):
    """Decompose HBOS: the log2 height of each feature's bin below that of the highest."""
    automatic = isinstance(detector.n_bins, str)
    expected = len(detector.bin_edges_) if automatic else detector.bin_edges_.shape[1]
    X = _rows(detector, X, expected)
    refuse_space(detector, space)
    relevance, unattributed = np.empty(X.shape), 0.0
    for i, x in enumerate(X.T):
        edges = detector.bin_edges_[i] if automatic else detector.bin_edges_[:, i]
        heights = detector.hist_[i] if automatic else detector.hist_[:, i]
        highest = np.log2(heights.max() + detector.alpha)
        own = _log_heights(x, edges, heights, detector.alpha, detector.tol)
        relevance[:, i] = highest - own
        unattributed -= highest
    return _of(
        detector, relevance, np.full(len(X), unattributed), "minus the log2 heights of bins"
    )


def _log_heights(x, edges, heights, alpha, tolerance):
    logs = np.log2(heights + alpha)
    place = np.digitize(x, edges, right=True)  # 0 below, len(edges) above
    low = edges[0] - x > (edges[1] - edges[0]) * tolerance
    high = x - edges[-1] > (edges[-1] - edges[-2]) * tolerance
    inside = logs[np.clip(place - 1, 0, len(heights) - 1)]
    outside = ((place == 0) & low) | ((place == len(edges)) & high)
    return np.where(outside, logs.min(), inside)


def _loda(detector, X, space=None):
    r"""Decompose LODA: each projection's excess over its mode, by the squared weights.

    With projections :math:`z_k = w_k \cdot x` and their scores
    :math:`s_k(z_k) = -a_k \log h_k(z_k)`, the w-squared rule of deep Taylor decomposition:

    .. math:: R_i = \sum_k \frac{w_{ki}^2}{\|w_k\|^2} (s_k(z_k) - \min s_k), \quad
              u = \sum_k \min s_k.
    """
    X = _rows(detector, X, detector.projections_.shape[1])
    refuse_space(detector, space)
    relevance, unattributed = np.zeros(X.shape), 0.0
    for k, direction in enumerate(detector.projections_):
        scores = (
            -detector.weights[k] / detector.n_random_cuts * np.log(detector.histograms_[k])
        )
        inner_edges = detector.limits_[k][: len(scores) - 1]
        excess = scores[np.searchsorted(inner_edges, direction.dot(X.T))] - scores.min()
        relevance += excess[:, None] * (np.square(direction) / np.square(direction).sum())
        unattributed += scores.min()
    return _of(
        detector, relevance, np.full(len(X), unattributed), "minus the log heights of bins"
    )


def _rows(detector, X, n_features=None):
    X = check_array(X, dtype=np.float64)
    if n_features is not None and X.shape[1] != n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(detector).__name__} was fitted on "
            f"{n_features} features."
        )
    return X


def _of(detector, relevance, unattributed=None, quantity=""):
    if unattributed is None:
        unattributed = np.zeros(len(relevance))
    return Decomposition(relevance, unattributed, quantity, float(detector.threshold_))


def _of_fitted(rule):
    def checked(detector, X, space=None):
        check_is_fitted(detector, "decision_scores_")
        return rule(detector, X, space)

    return checked


for name, rule in {
    "kde.KDE": _by_inner("kde_"),
    "knn.KNN": _knn,
    "lof.LOF": _by_inner("detector_"),
    "ocsvm.OCSVM": _by_inner_decision,
    "pca.PCA": _pca,
    "gmm.GMM": _by_inner("detector_"),
    "mcd.MCD": _mcd,
    "iforest.IForest": _by_inner_decision,
    "hbos.HBOS": _hbos,
    "ecod.ECOD": _tail_probabilities,
    "copod.COPOD": _tail_probabilities,
    "loda.LODA": _loda,
    "auto_encoder.AutoEncoder": _autoencoder,
}.items():
    register_by_name(f"pyod.models.{name}", _of_fitted(rule))
