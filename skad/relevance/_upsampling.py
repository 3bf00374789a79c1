"""Maps of a convolutional network at the size of its images (FCDD paper, Algorithm 1).

Each output of the network is laid over its receptive field, as a Gaussian. That is one
small matrix for the rows and one for the columns: ``A' = K_h A K_w^T``.
"""

import math

import torch

__all__ = ["GaussianUpsampling", "check_fits", "default_sigma", "gaussian_matrix"]

_NORMALIZATIONS = ("none", "mass", "partition")


class GaussianUpsampling:
    """Spread the outputs of a fully convolutional network over what they see.

    ``A' = K_h A K_w^T``, where K_h (H, u) and K_w (W, v) are those of `gaussian_matrix`
    for the rows and the columns. Unnormalised it is Algorithm 1 of the FCDD paper
    (Liznerski et al., ICLR 2021): ``A'_yx = sum_ij A_ij G_ij(y, x)``, where G_ij is a
    Gaussian of peak 1 around the centre of the field of output (i, j), and 0 outside of it.

    Parameters
    ----------
    field : ReceptiveField
        Of the network, by ``receptive_field``.
    image_size : tuple of two ints
        (H, W), in pixels.
    map_size : tuple of two ints
        (u, v), the outputs of the network for such an image.
    sigma : float > 0, default=None
        Standard deviation of the Gaussians, in pixels; None is `default_sigma`, by axis.
    normalize : {"none", "mass", "partition"}, default="mass"
        As for `gaussian_matrix`. With "mass" an output is handed out as a whole, so that
        ``A'.sum() == A.sum()``. With "partition" A' is a weighted mean of A at each pixel.
        With "none" A' depends on the overlap of the fields, which is less at the border.

    Raises
    ------
    ValueError
        If the field is larger than the image, or for bad arguments.

    Examples
    --------
    >>> import torch
    >>> from skad.relevance._receptive_field import receptive_field
    >>> from skad.relevance._upsampling import GaussianUpsampling
    >>> field = receptive_field(torch.nn.MaxPool2d(2))
    >>> spread = GaussianUpsampling(field, image_size=(4, 2), map_size=(2, 1))
    >>> spread(torch.tensor([[4.0], [8.0]]))
    tensor([[1., 1.],
            [1., 1.],
            [2., 2.],
            [2., 2.]])
    """

    def __init__(self, field, image_size, map_size, *, sigma=None, normalize="mass"):
        check_fits(field, image_size)
        _check(sigma, normalize)
        self.field = field
        self.image_size, self.map_size = tuple(image_size), tuple(map_size)
        self.sigma, self.normalize = sigma, normalize
        self._cache = {}

    def __getstate__(self):
        return vars(self) | {"_cache": {}}  # which may be on a GPU

    def __call__(self, maps):
        """Upsample maps.

        Parameters
        ----------
        maps : floating-point tensor of shape (..., u, v)

        Returns
        -------
        images : tensor of shape (..., H, W), of the dtype and device of the maps
        """
        self._check_size(maps, self.map_size)
        rows, columns = self._matrices(maps)
        return rows @ maps @ columns.mT

    def adjoint(self, images):
        """Sum images under the Gaussians, ``K_h^T Y K_w``: the transpose of upsampling.

        Parameters
        ----------
        images : floating-point tensor of shape (..., H, W)

        Returns
        -------
        maps : tensor of shape (..., u, v), of the dtype and device of the images
        """
        self._check_size(images, self.image_size)
        rows, columns = self._matrices(images)
        return rows.mT @ images @ columns

    def _check_size(self, values, size):
        if not values.is_floating_point():
            raise TypeError(f"Floating-point numbers are needed, not {values.dtype}.")
        if values.shape[-2:] != size:
            raise ValueError(f"The last axes must be {size}; got {tuple(values.shape)}.")

    def _matrices(self, like):
        """Return K_h and K_w in the dtype and on the device of a tensor."""
        key = like.dtype, like.device
        if key not in self._cache:
            with torch.inference_mode(False):  # else they could not be trained through
                self._cache[key] = [self._matrix(axis).to(like) for axis in range(2)]
        return self._cache[key]

    def _matrix(self, axis):
        jump, size = self.field.jump[axis], self.field.size[axis]
        return gaussian_matrix(
            self.image_size[axis],
            self.map_size[axis],
            start=self.field.start[axis],
            jump=jump,
            size=size,
            sigma=default_sigma(size, jump) if self.sigma is None else self.sigma,
            normalize=self.normalize,
        )


def check_fits(field, image_size):
    """Raise unless a whole receptive field fits into the image.

    Parameters
    ----------
    field : ReceptiveField
    image_size : tuple of two ints
        (H, W), in pixels.

    Raises
    ------
    ValueError
        If it does not.

    Examples
    --------
    >>> import torch
    >>> from skad.relevance._receptive_field import receptive_field
    >>> from skad.relevance._upsampling import check_fits
    >>> check_fits(receptive_field(torch.nn.MaxPool2d(32)), image_size=(28, 28))
    Traceback (most recent call last):
    ...
    ValueError: The image is smaller than the receptive field: ...
    """
    if any(size > pixels for size, pixels in zip(field.size, image_size, strict=True)):
        height, width = field.size
        raise ValueError(
            "The image is smaller than the receptive field: "
            f"{image_size[0]} x {image_size[1]} pixels, of which an output of the network "
            f"sees {height:g} x {width:g}. Take a network with a smaller field (fewer or "
            "smaller convolutions, less pooling), or larger images."
        )


def default_sigma(size, jump):
    """Return the standard deviation of the Gaussian: ``max(0.19 size, jump / 2)``.

    0.19 is the 12 pixels of the FCDD paper's best maps over the 62 that an entry sees.
    Below half a jump the maps would be dots.

    Parameters
    ----------
    size : float
        Width of the receptive field, in pixels.
    jump : float
        Pixels from one output to the next.

    Returns
    -------
    sigma : float
        In pixels.

    Examples
    --------
    >>> from skad.relevance._upsampling import default_sigma
    >>> round(default_sigma(16, 4), 2), round(default_sigma(62, 8), 2)
    (3.04, 11.78)
    """
    return max(0.19 * size, jump / 2)


def gaussian_matrix(n_pixels, n_outputs, *, start, jump, size, sigma, normalize):
    """Make the matrix that spreads outputs over pixels, along one axis.

    ``K[y, i] = exp(-(y - c_i)^2 / (2 sigma^2))`` for ``|y - c_i| <= (size - 1) / 2``, else
    0, with the centres ``c_i = start + i jump``.

    Parameters
    ----------
    n_pixels, n_outputs : int
    start : float
        Centre of the field of the first output, in pixels from 0.
    jump, size : float
        Pixels from one output to the next, and that an output sees.
    sigma : float > 0
        In pixels.
    normalize : {"none", "mass", "partition"}
        With "mass" the columns sum to 1; an output that sees no pixel goes to the nearest.
        With "partition" the rows sum to 1; a pixel that no output sees takes the nearest.

    Returns
    -------
    K : float64 tensor of shape (n_pixels, n_outputs)

    Raises
    ------
    ValueError
        For another `sigma` or `normalize`.

    Examples
    --------
    >>> from skad.relevance._upsampling import gaussian_matrix
    >>> geometry = {"start": 0.5, "jump": 2, "size": 2, "sigma": 1.0}
    >>> gaussian_matrix(4, 2, **geometry, normalize="mass")
    tensor([[0.5000, 0.0000],
            [0.5000, 0.0000],
            [0.0000, 0.5000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    _check(sigma, normalize)
    pixels = torch.arange(n_pixels, dtype=torch.float64)[:, None]
    centres = start + jump * torch.arange(n_outputs, dtype=torch.float64)
    distance = (pixels - centres).abs()
    inside = distance <= (size - 1) / 2 + 1e-9
    log_weight = -((distance / sigma) ** 2) / 2
    if normalize == "none":
        return log_weight.exp().where(inside, 0.0)
    axis = 0 if normalize == "mass" else 1
    inside = _with_nearest(inside, distance, axis)
    return log_weight.where(inside, -math.inf).softmax(axis)  # no 0 / 0 for small sigma


def _with_nearest(inside, distance, axis):
    """Take the nearest where nothing is inside."""
    nearest = distance.argmin(axis, keepdim=True)
    alone = torch.zeros_like(inside).scatter_(axis, nearest, True)
    return inside.where(inside.any(axis, keepdim=True), alone)


def _check(sigma, normalize):
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, but is {sigma}.")
    if normalize not in _NORMALIZATIONS:
        raise ValueError(f"normalize must be one of {_NORMALIZATIONS}, not {normalize!r}.")
