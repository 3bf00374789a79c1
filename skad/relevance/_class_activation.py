"""Relevance of the places of feature maps whose means are classified."""

__all__ = ["activation_relevance"]


def activation_relevance(maps, reference, cells, weights, gradient):
    r"""Attribute a change of a score to the places of maps, as class activation maps do.

    The logits are :math:`z = W f + b` of the means :math:`f_c = \sum_p P_{cp}\, a(p)` over
    cells of the maps. With :math:`G` the mean gradient of the score from the logits
    :math:`z^0` of reference maps :math:`a^0` to z,

    .. math::

        R(p) = \sum_c P_{cp}\, (a(p) - a^0(p)) \cdot W_c^\top G, \qquad
        \sum_p R(p) = G \cdot (z - z^0).

    Parameters
    ----------
    maps, reference : tensor of shape (..., D, u, v)
        :math:`a` and :math:`a^0`, that broadcast.
    cells : float64 tensor of shape (n_cells, u * v)
        P, of which each row sums to 1.
    weights : float64 tensor of shape (k, D * n_cells)
        W, by channel and then by cell.
    gradient : float64 tensor of shape (..., k)
        G.

    Returns
    -------
    relevance : float64 tensor of shape (..., u, v)

    Examples
    --------
    >>> import torch
    >>> from skad.relevance._class_activation import activation_relevance
    >>> maps = torch.tensor([[[[1.0, 5.0]]]])
    >>> one = torch.ones(1, 1).double()
    >>> activation_relevance(maps, torch.ones(1, 1, 1, 2), one.expand(1, 2) / 2, one, one)
    tensor([[[0., 2.]]], dtype=torch.float64)
    """
    *size, n_channels, height, width = maps.shape
    difference = (maps.double() - reference).flatten(-2)
    by_cell = (gradient @ weights).view(*size, n_channels, len(cells))
    return ((by_cell.mT @ difference) * cells).sum(-2).view(*size, height, width)
