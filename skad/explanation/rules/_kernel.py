"""Kernel methods: a soft minimum of distances to templates, or a linear function."""

import numpy as np
from scipy.sparse import issparse
from scipy.special import gammaln
from sklearn.linear_model import SGDOneClassSVM
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from skad._decomposition import (
    Decomposition,
    Exponential,
    NoDecompositionError,
    refuse_space,
)
from skad._sklearn import svm_gamma
from skad.explanation._decompose import decompose, rows
from skad.explanation.rules._blocks import in_blocks
from skad.explanation.rules._squares import split_squares, squared_distances
from skad.relevance._soft_minimum import divergence, responsibilities

__all__ = []


@decompose.register
def _(estimator: KernelDensity, X, space=None):
    r"""Decompose minus the log density, ``gaussian`` and ``exponential`` kernels.

    With energies :math:`e_j = d_j / 2h^2` or :math:`\sqrt{d_j} / h` of the squared
    distances and responsibilities :math:`p_j = w_j e^{-e_j} / \sum_k w_k e^{-e_k}`,

    .. math:: R_i = \sum_j p_j \frac{e_j}{d_j} (x_i - x_{ji})^2, \quad
              u = KL(p \| w) + \log Z.
    """
    X = rows(estimator, X)
    _need_euclidean(estimator)
    h, d = estimator.bandwidth_, X.shape[1]
    templates = np.asarray(estimator.tree_.data)
    weights = estimator.tree_.sample_weight
    weights = np.ones(len(templates)) if weights is None else np.asarray(weights)
    templates, weights = templates[weights > 0], weights[weights > 0]
    log_weights = np.log(weights / weights.sum())
    if estimator.kernel == "gaussian":
        normalizer = d * (np.log(h) + 0.5 * np.log(2 * np.pi))
    else:
        normalizer = d * np.log(h) + gammaln(d) - gammaln(d / 2)
        normalizer += np.log(2) + 0.5 * d * np.log(np.pi)
    root = estimator.kernel == "exponential"
    stiffness = 1 / h if root else 0.5 / h**2
    relevance, unattributed = _pool(X, templates, log_weights, stiffness, root, space)
    return Decomposition(relevance, unattributed + normalizer, "minus the log density")


def _need_euclidean(estimator):
    if estimator.kernel not in ("gaussian", "exponential"):
        raise NoDecompositionError(
            f"KernelDensity(kernel={estimator.kernel!r}) has no exact decomposition: its "
            "density is 0 beyond the bandwidth, or no function of Euclidean distances; "
            "'gaussian' and 'exponential' have."
        )
    p = (estimator.metric_params or {}).get("p", 2)
    if estimator.metric not in ("euclidean", "l2", "minkowski") or p != 2:
        raise NoDecompositionError(
            f"KernelDensity(metric={estimator.metric!r}) has no exact decomposition; "
            "'euclidean' has."
        )


def _pool(X, templates, log_weights, stiffness, root, space):
    """Pool ``stiffness * d`` (or its root) softly: return R and KL(p || w)."""

    def pooled(part):
        distances = squared_distances(X[part], templates)
        roots = np.sqrt(distances) if root else distances
        p = responsibilities(stiffness * roots, log_weights)
        rest = divergence(p, log_weights)
        if root:
            p = np.divide(p, roots, out=np.zeros_like(p), where=roots > 0)
        return split_squares(X[part], templates, stiffness * p, space), rest

    return in_blocks(pooled, len(X), len(templates))


@decompose.register
def _(estimator: OneClassSVM, X, space=None):
    X = rows(estimator, X)
    if estimator.kernel == "rbf":
        return _soft_minimum_of_svm(estimator, X, space)
    if estimator.kernel == "linear" or (
        estimator.kernel == "poly" and estimator.degree > 0
    ):
        return _homogeneous_svm(estimator, X, space)
    raise NoDecompositionError(
        f"OneClassSVM(kernel={estimator.kernel!r}, degree={estimator.degree}) has no exact "
        "decomposition; 'rbf', 'linear' and 'poly' of a degree from 1 on have."
    )


def _dual(estimator):
    """Return support vectors, (m, d), and their coefficients, (m,)."""
    vectors, coefficients = estimator.support_vectors_, estimator.dual_coef_
    if issparse(vectors):
        vectors, coefficients = vectors.toarray(), coefficients.toarray()
    return vectors, coefficients.ravel()


def _soft_minimum_of_svm(estimator, X, space):
    r"""Decompose the machine with a Gaussian kernel, a soft minimum of distances.

    With :math:`w_j = \alpha_j / A`, :math:`A = \sum \alpha` and f the ``score_samples``,

    .. math:: q = -\tfrac{1}{\gamma} \log \tfrac{f}{A} \ge 0, \quad
              R_i = \sum_j p_j (x_i - x_{ji})^2, \quad u = KL(p \| w) / \gamma.

    -f is ``-A exp(-gamma q)``.
    """
    vectors, alpha = _dual(estimator)
    gamma, total = svm_gamma(estimator), alpha.sum()
    log_weights = np.log(alpha / total)
    relevance, unattributed = _pool(X, vectors, log_weights, gamma, False, space)
    return Decomposition(
        relevance / gamma,
        unattributed / gamma,
        "-log(score_samples / sum of dual coefficients) / gamma",
        outlier_threshold=-float(np.ravel(estimator.offset_)[0]),
        link=Exponential(factor=-total, rate=-gamma),
    )


def _homogeneous_svm(estimator, X, space):
    r"""Apply Euler's theorem to ``f = sum_j alpha_j (gamma <x, x_j> + c)^p``.

    .. math:: R_i = -\tfrac{1}{p} x_i \partial_i f, \quad
              u = -\tfrac{c}{p} \partial_c f,

    with p = 1 and c = 0 for the linear kernel: the root point is the origin, from which
    the machine separates the data.
    """
    refuse_space(estimator, space)
    vectors, alpha = _dual(estimator)
    if estimator.kernel == "linear":
        gamma, power, constant = 1.0, 1, 0.0
    else:
        gamma, power, constant = svm_gamma(estimator), estimator.degree, estimator.coef0

    def by_euler(part):
        inner = gamma * X[part] @ vectors.T + constant
        slope = alpha * inner ** (power - 1)
        return -X[part] * (gamma * slope @ vectors), -constant * slope.sum(axis=1)

    relevance, unattributed = in_blocks(by_euler, len(X), len(vectors))
    return _plain(estimator, relevance, unattributed)


@decompose.register
def _(estimator: SGDOneClassSVM, X, space=None):
    """Return ``R_i = -w_i x_i``; nothing is unattributed."""
    X = rows(estimator, X)
    refuse_space(estimator, space)
    return _plain(estimator, -X * estimator.coef_.ravel(), np.zeros(len(X)))


def _plain(estimator, relevance, unattributed):
    threshold = -float(np.ravel(estimator.offset_)[0])
    return Decomposition(relevance, unattributed, "-score_samples", threshold)
