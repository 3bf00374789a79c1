"""Whitening: distance to the origin, in units of the spread of the training rows."""

import numpy as np
from sklearn.metrics import roc_auc_score

__all__ = ["Spectrum", "best_regularization", "second_moment"]

_ROWS_AT_ONCE = 4096
# Half decades from 1e-8 to 10; of equals the first is taken, nearest to the default, 1e-4.
_GRID = sorted(10.0 ** np.arange(-8, 1.5, 0.5), key=lambda r: abs(np.log10(r) + 4))


def second_moment(phi):
    """Give ``E[phi phi']``, uncentred.

    Parameters
    ----------
    phi : ndarray of shape (n, D)

    Returns
    -------
    moment : ndarray of shape (D, D), float64
    """
    total = np.zeros((phi.shape[1],) * 2)
    for part in _parts(phi):
        total += part.T @ part
    return total / len(phi)


class Spectrum:
    """Eigenvalues and eigenvectors of a second moment M, for any regularisation of it.

    ``W = (M + lam I)^(-1/2)``, symmetric, with ``lam = regularization * trace(M) / D``.
    The score ``|W phi|^2`` is that of any other root of the inverse too.

    Parameters
    ----------
    moment : ndarray of shape (D, D)
    """

    def __init__(self, moment):
        values, self.vectors = np.linalg.eigh(moment)
        # Features that are always 0 have eigenvalues that rounding makes negative.
        self.values = values.clip(min=0)
        self.mean = self.values.mean()

    def inverse(self, regularization):
        """Give the eigenvalues of ``(M + lam I)^(-1)``.

        Raises
        ------
        ValueError
            If that is singular.
        """
        values = self.values + regularization * self.mean
        zero = values <= np.finfo(float).eps * len(values) * values.max()
        if zero.any():
            raise ValueError(
                f"{zero.sum()} of the {len(values)} eigenvalues of the second moment of "
                f"the features are 0 at regularization={regularization}: features are 0 or "
                "dependent for all training rows, or the rows are fewer than the "
                "features. "
                + ("Set regularization > 0." if self.mean else "All features are always 0.")
            )
        return 1 / values

    def whitening(self, regularization):
        """Give W, of shape (D, D)."""
        return (self.vectors * np.sqrt(self.inverse(regularization))) @ self.vectors.T

    def scores(self, phi, regularizations):
        """Give ``|W phi|^2`` of each row, for each regularisation: (n, number of them)."""
        inverses = np.stack([self.inverse(r) for r in regularizations], axis=1)
        parts = [(part @ self.vectors) ** 2 @ inverses for part in _parts(phi)]
        return np.concatenate(parts)


def best_regularization(normal, anomalous):
    """Choose by the ROC AUC of a held-out fifth of normal rows against anomalies.

    Parameters
    ----------
    normal, anomalous : ndarray of shape (n, D)
        Features; the anomalous ones do not enter the whitening.

    Returns
    -------
    regularization : float
    """
    order = np.random.default_rng(0).permutation(len(normal))
    held_out, rest = np.split(order, [max(1, len(order) // 5)])
    spectrum = Spectrum(second_moment(normal[rest]))
    scores = spectrum.scores(np.concatenate([normal[held_out], anomalous]), _GRID)
    is_anomaly = np.arange(len(scores)) >= len(held_out)
    return float(_GRID[np.argmax([roc_auc_score(is_anomaly, s) for s in scores.T])])


def _parts(phi):
    for start in range(0, len(phi), _ROWS_AT_ONCE):
        yield phi[start : start + _ROWS_AT_ONCE].astype(np.float64)
