r"""The soft minimum, which pools energies: its value and the share of each in it.

With weights w that sum to one, energies e pool to

.. math:: -\log \sum_j w_j e^{-e_j} = \sum_j p_j e_j + KL(p \| w), \qquad
          p_j = \frac{w_j e^{-e_j}}{\sum_k w_k e^{-e_k}},

with the responsibilities p. Here it is for arrays that fit in memory; ``_template_pool``
runs the same sum over tiles of templates, relative to a shift that follows the largest.
"""

import numpy as np
from scipy.special import rel_entr, softmax

__all__ = ["divergence", "responsibilities", "shifted_sum"]


def responsibilities(energies, log_weights=0.0):
    """Return p: ndarray (n, m), for energies (n, m) and the logarithms of weights (m,)."""
    return softmax(log_weights - energies, axis=1)


def divergence(p, log_weights):
    """Return the Kullback-Leibler divergence KL(p || w) of each row: ndarray (n,)."""
    return rel_entr(p, np.exp(log_weights)).sum(axis=1)


def shifted_sum(logits, top, floor):
    """Return the sum of exponentials over the columns of a tensor, relative to a shift.

    Parameters
    ----------
    logits : torch.Tensor of shape (n, m)
        Overwritten.
    top : torch.Tensor of shape (n, 1)
        The shift, not below the largest logits by much.
    floor : float
        Logits so far below the shift count as much as this one: arithmetic is many times
        slower where exponentials underflow.
    """
    return logits.sub_(top).clamp_(min=floor).exp_().sum(1)
