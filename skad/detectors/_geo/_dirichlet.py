"""Maximum-likelihood estimates of Dirichlet distributions, by Newton's method."""

import numpy as np
from scipy.special import digamma, gammaln, polygamma, xlogy

__all__ = ["fit_dirichlet"]

_LEAST = 1e-6  # of a start, whose digamma must be finite
_NO_SPREAD = 1e-14  # rounding
_STEPS_BACK = 60


def fit_dirichlet(mean_log, mean, *, max_iter=100):
    r"""Estimate the parameters of a Dirichlet distribution from means over its samples.

    The maximum of :math:`\log\Gamma(\sum_j \alpha_j) - \sum_j \log\Gamma(\alpha_j) +
    \sum_j (\alpha_j - 1)\,\overline{\log y_j}`, which is where :math:`\psi(\alpha_j) -
    \psi(\sum_j \alpha_j) = \overline{\log y_j}`, by Newton's method [2]_, which takes the
    inverse of the Hessian in linear time.

    Parameters
    ----------
    mean_log : array of shape (k,)
        Mean of :math:`\log y_j` over the samples.
    mean : array of shape (k,)
        Mean of :math:`y_j`, for the start by Wicker et al. [1]_.
    max_iter : int, default=100
        Steps at most.

    Returns
    -------
    alpha : ndarray of shape (k,), float64; or None
        None where there is no maximum: the samples don't differ, or aren't finite.

    References
    ----------
    .. [1] N. Wicker, J. Muller, R. K. R. Kalathur, O. Poch. "A maximum likelihood
       approximation method for Dirichlet's parameter estimation". 2008.
    .. [2] T. Minka. "Estimating a Dirichlet distribution". 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.special import digamma
    >>> from skad.detectors._geo._dirichlet import fit_dirichlet
    >>> alpha = np.array([2.0, 3.0, 5.0])
    >>> fit_dirichlet(digamma(alpha) - digamma(10), alpha / 10).round(6)
    array([2., 3., 5.])
    """
    mean_log, mean = (np.asarray(m, dtype=np.float64) for m in (mean_log, mean))
    if not np.isfinite(mean_log).all():
        return None
    spread = (xlogy(mean, mean) - mean * mean_log).sum()
    if not spread > _NO_SPREAD:
        return None
    total = (len(mean) - 1) * -digamma(1) / spread
    start = np.maximum(total * mean, _LEAST)
    start = _inverse_digamma(digamma(start.sum()) + mean_log)
    alpha = _newton(start, mean_log, max_iter)
    return alpha if np.isfinite(alpha).all() else None


def _newton(alpha, mean_log, max_iter):
    likelihood = _log_likelihood(alpha, mean_log)
    for _ in range(max_iter):
        step = _newton_step(alpha, mean_log)
        for _ in range(_STEPS_BACK):
            after = alpha + step
            if (after > 0).all():
                new = _log_likelihood(after, mean_log)
                if new >= likelihood - 1e-12 * abs(likelihood):
                    break
            step = step / 2
        else:
            break
        alpha, likelihood = after, new
        if (np.abs(step) <= 1e-12 * alpha).all():
            break
    return alpha


def _newton_step(alpha, mean_log):
    """Solve with the Hessian, a diagonal matrix and a constant."""
    gradient = digamma(alpha.sum()) - digamma(alpha) + mean_log
    diagonal = polygamma(1, alpha)
    weight = (gradient / diagonal).sum() / (
        1 / polygamma(1, alpha.sum()) - (1 / diagonal).sum()
    )
    return (gradient + weight) / diagonal


def _log_likelihood(alpha, mean_log):
    return gammaln(alpha.sum()) - gammaln(alpha).sum() + ((alpha - 1) * mean_log).sum()


def _inverse_digamma(values):
    x = np.where(values >= -2.22, np.exp(values) + 0.5, -1 / (values - digamma(1)))
    for _ in range(5):
        x = x - (digamma(x) - values) / polygamma(1, x)
    return x
