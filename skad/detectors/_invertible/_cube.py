"""The cube that IOCN maps normal rows onto: distances to its surface."""

import torch

__all__ = ["DISTANCES", "geometric_mean", "latent_distance", "row_distance"]

# The least radius that counts: a row at the centre of one network is not normal by that.
_LEAST_RADIUS = 1e-2


def latent_distance(net, x):
    """Return the signed distance of z to the cube, by member: (n_members, n)."""
    return cube_distance(net(x))


def row_distance(net, x):
    """Return the distance of rows to what clipped z is mapped back to, by member.

    Parameters
    ----------
    net : InvertibleNet
    x : tensor of shape (n, d)

    Returns
    -------
    s : tensor of shape (n_members, n)
        Outside the cube the Euclidean distance of a row and its counterfactual; inside,
        that of `cube_distance`.
    """
    x = x.double()  # which is inverted however far out it is
    z = net(x)
    inside = (z.abs().amax(dim=-1) - 1).clamp(max=0)
    outside = inside >= 0
    beyond = net.inverse(z.clamp(-1, 1)) - x
    # Where a row is inside, something whose norm has a gradient.
    beyond = torch.where(outside[..., None], beyond, 1.0)
    return torch.where(outside, beyond.norm(dim=-1), inside)


DISTANCES = {"latent": latent_distance, "data": row_distance}


def cube_distance(z):
    r"""Return the signed distance to the cube [-1, 1]^d (IOCN, equations 2 to 4).

    .. math::

        s = \sum_k \max(|z_k| - 1, 0) + \min(\max_k |z_k| - 1, 0)

    Parameters
    ----------
    z : tensor of shape (..., d)

    Returns
    -------
    s : tensor of shape (...)
        Above 0 outside, the L1 norm of what is beyond the cube; below 0 inside.

    Examples
    --------
    >>> import torch
    >>> from skad.detectors._invertible._cube import cube_distance
    >>> cube_distance(torch.tensor([[0.5, -0.25], [3.0, -1.5], [0.0, 1.0]]))
    tensor([-0.5000,  2.5000,  0.0000])
    """
    size = z.abs()
    return (size - 1).clamp(min=0).sum(dim=-1) + (size.amax(dim=-1) - 1).clamp(max=0)


def geometric_mean(scores):
    r"""Combine the signed distances of several networks into one.

    .. math:: s = \Bigl(\prod_{m=1}^M (1 + s_m)\Bigr)^{1/M} - 1

    Within a cube, ``1 + s`` is the radius of the cube that a row lies on. The geometric
    mean is not dominated by one network for which a row is very far off. With one network
    it is its distance.

    Parameters
    ----------
    scores : tensor of shape (n_members, n)

    Returns
    -------
    score : tensor of shape (n,)
    """
    if len(scores) == 1:
        return scores[0]
    return (1 + scores).clamp(min=_LEAST_RADIUS).log().mean(dim=0).expm1()
