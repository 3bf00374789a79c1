"""Gaussians: a soft minimum of Mahalanobis distances to a few means."""

import numpy as np
from scipy.special import digamma, xlogy
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from skad._decomposition import Decomposition
from skad._linear_map import check_kept
from skad.explanation._decompose import decompose, rows
from skad.relevance._soft_minimum import responsibilities

__all__ = ["mahalanobis_parts"]

_LOG_DENSITY = "minus the log density"


def mahalanobis_parts(X, mean, precision, space):
    r"""Return :math:`\delta_i (P \delta)_i`, parts of a squared Mahalanobis distance."""
    own, relevance = _both_parts(X, mean, precision, space)
    if space is not None:
        check_kept(relevance, own)
    return relevance


def _both_parts(X, mean, precision, space):
    """Return the parts of the model's own columns, and of those behind the space."""
    deviation = X - mean
    gradient = deviation @ precision
    own = deviation * gradient
    if space is None:
        return own, own
    return own, space.deviation(deviation) * space.gradient(gradient)


@decompose.register
def _(estimator: EllipticEnvelope, X, space=None):
    """Return ``R_i = delta_i (P delta)_i``; nothing is unattributed."""
    X = rows(estimator, X)
    precision = estimator.get_precision()
    relevance = mahalanobis_parts(X, estimator.location_, precision, space)
    nothing, threshold = np.zeros(len(X)), -float(estimator.offset_)
    return Decomposition(relevance, nothing, "squared Mahalanobis distance", threshold)


@decompose.register(PCA)
@decompose.register(FactorAnalysis)
def _(estimator, X, space=None):
    """Return ``R_i = delta_i (P delta)_i / 2`` of minus the log likelihood."""
    X = rows(estimator, X)
    precision = estimator.get_precision()
    relevance = 0.5 * mahalanobis_parts(X, estimator.mean_, precision, space)
    _, log_determinant = np.linalg.slogdet(precision)
    constant = 0.5 * (X.shape[1] * np.log(2 * np.pi) - log_determinant)
    return Decomposition(relevance, np.full(len(X), constant), _LOG_DENSITY)


@decompose.register(GaussianMixture)
@decompose.register(BayesianGaussianMixture)
def _(estimator, X, space=None):
    r"""Decompose minus the log density of a mixture.

    With responsibilities r, squared Mahalanobis distances :math:`m_k` and
    :math:`b_k = -\log \pi_k - \tfrac12 \log |P_k| + \tfrac{d}{2} \log 2\pi` (Bayesian
    mixtures: in expectation),

    .. math:: o = -\log \sum_k e^{-m_k / 2 - b_k}, \quad
              R_i = \tfrac12 \sum_k r_k \delta_{ki} (P_k \delta_k)_i, \quad
              u = \sum_k r_k b_k - H(r).

    Single entries may be negative unless the covariances are diagonal.
    """
    X = rows(estimator, X)
    factors = _factors(estimator, X.shape[1])
    constants = _constants(estimator, factors)
    parts = [
        _both_parts(X, mean, 0.5 * (factor @ factor.T), space)
        for mean, factor in zip(estimator.means_, factors, strict=True)
    ]
    distances = np.stack([own.sum(axis=1) for own, _ in parts], axis=1)
    r = responsibilities(distances + constants)
    relevance = _mean(r, [part for _, part in parts])
    if space is not None:
        check_kept(relevance, _mean(r, [own for own, _ in parts]))
    weighted = r * np.where(np.isfinite(constants), constants, 0)  # where r is 0
    unattributed = weighted.sum(axis=1) + xlogy(r, r).sum(axis=1)
    return Decomposition(relevance, unattributed, _LOG_DENSITY)


def _mean(r, parts):
    return sum(r[:, k, None] * part for k, part in enumerate(parts))


def _factors(estimator, d):
    """Return a factor F of each component's precision, ``P = F F'``: d x d each."""
    factors, k = estimator.precisions_cholesky_, len(estimator.means_)
    if estimator.covariance_type == "full":
        return list(factors)
    if estimator.covariance_type == "tied":
        return [factors] * k
    if estimator.covariance_type == "diag":
        return [np.diag(row) for row in factors]
    return [factor * np.eye(d) for factor in factors]


def _constants(estimator, factors):
    """Return b_k: ndarray (k,)."""
    d = len(factors[0])
    half_log_determinants = np.array(
        [np.log(np.abs(np.diag(factor))).sum() for factor in factors]
    )
    constants = 0.5 * d * np.log(2 * np.pi) - half_log_determinants
    if isinstance(estimator, GaussianMixture):
        with np.errstate(divide="ignore"):  # a component of weight 0 is infinitely far
            return constants - np.log(estimator.weights_)
    dof = estimator.degrees_of_freedom_
    log_precision = digamma(0.5 * (dof - np.arange(d)[:, None])).sum(axis=0)
    log_precision += d * np.log(2) - d * np.log(dof)
    spread = d / estimator.mean_precision_
    return constants - 0.5 * (log_precision - spread) - _expected_log_weights(estimator)


def _expected_log_weights(estimator):
    concentration = estimator.weight_concentration_
    if estimator.weight_concentration_prior_type == "dirichlet_distribution":
        return digamma(concentration) - digamma(concentration.sum())
    taken, left = (digamma(c) - digamma(sum(concentration)) for c in concentration)
    return taken + np.append(0, np.cumsum(left)[:-1])
