"""Noise as a stand-in for anomalies: the other noises of the FCDD reference code."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage
from sklearn.utils import check_random_state, gen_batches

from skad._typing import AnyArray, ArrayLike, Bools, Seed
from skad.images._checks import check_images, value_range

_SQUARE = 6 / 240  # side, as a share of the image's shorter side
_COVERED = 0.002 * 6**2  # centres a pixel times pixels a square, at 240 pixels


def add_noise(
    images: ArrayLike,
    noise: Literal["gaussian", "uniform", "solid", "blobs"],
    *,
    random_state: Seed = None,
    mask_threshold: float = 0.1,
) -> tuple[AnyArray, Bools]:
    """Spoil images by noise, and give the masks of what changed.

    - ``"gaussian"`` adds N(0, 64/255) to each value and clips to the range;
    - ``"uniform"`` replaces each value by U(0, 1);
    - ``"solid"`` replaces the whole image by one random colour;
    - ``"blobs"`` draws white squares of 1/40 of the shorter side, one at least, cut off at
      the border. Each pixel is a centre with the same probability.

    These are noises of the code of [1]_, whose images have 240 x 240 pixels: there a
    square has 6 x 6 pixels, and a pixel is a centre with probability .002. On other sizes
    the side scales with the shorter side of the image, and the probability so that
    squares cover the same share of it, about 7 %.

    Parameters
    ----------
    images : array-like of shape (n, H, W) or (n, C, H, W)
        Floats in [0, 1] or uint8 in 0..255. Not modified.
    noise : {"gaussian", "uniform", "solid", "blobs"}
        Which noise.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws; an int gives the same result every time.
    mask_threshold : float, default=0.1
        A pixel belongs to the mask where any channel changed by more than this share of
        the value range; in [0, 1).

    Returns
    -------
    noisy : ndarray of the shape of images
        In the dtype and value range of `images`.
    mask : bool ndarray of shape (n, H, W)
        A row is all False where the noise happened to change little, as white squares do
        on white.

    Raises
    ------
    ValueError
        If `noise` is unknown, `mask_threshold` not in [0, 1), or `images` is empty, of
        another shape, or holds NaN or values outside its range.
    TypeError
        If `images` is neither floating point nor uint8.

    See Also
    --------
    confetti : The noise that FCDD trains on.
    corrupt : The corruptions of MNIST-C.

    References
    ----------
    .. [1] P. Liznerski et al. "Explainable Deep One-Class Classification". ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.images import add_noise
    >>> noisy, mask = add_noise(np.zeros((2, 8, 8)), "blobs", random_state=0)
    >>> np.unique(noisy), bool((noisy[mask] == 1).all())
    (array([0., 1.]), True)
    """
    images = check_images(images, channels=True)
    if not isinstance(noise, str) or noise not in _NOISES:
        raise ValueError(f"noise={noise!r} is unknown; known: {', '.join(_NOISES)}.")
    if not 0 <= mask_threshold < 1:
        raise ValueError(f"mask_threshold must be in [0, 1), got {mask_threshold!r}.")
    rng, top = check_random_state(random_state), value_range(images)
    noisy = np.empty(images.shape, images.dtype)
    # In blocks: the draws are float64.
    for rows in gen_batches(len(images), max(1, 2**20 // images[0].size)):
        drawn = _NOISES[noise](images[rows] / np.float64(top), rng).clip(0, 1)
        noisy[rows] = np.rint(drawn * top) if top > 1 else drawn
    return noisy, _changed(images, noisy, mask_threshold * top)


def _changed(images, noisy, threshold):
    """Tell the pixels of which any channel changed by more than the threshold."""
    changed = np.abs(noisy.astype(np.float64) - images) > threshold
    return changed if changed.ndim == 3 else changed.any(axis=1)


def _gaussian(images, rng):
    return images + 64 / 255 * rng.standard_normal(images.shape)


def _uniform(images, rng):
    return rng.random_sample(images.shape)


def _solid(images, rng):
    colours = rng.random_sample((*images.shape[:-2], 1, 1))
    return np.broadcast_to(colours, images.shape)


def _blobs(images, rng):
    n, (height, width) = len(images), images.shape[-2:]
    side = max(1, round(_SQUARE * min(height, width)))
    centres = rng.random_sample((n, height, width)) < _COVERED / side**2
    without = np.flatnonzero(~centres.any(axis=(1, 2)))
    one = rng.randint(height * width, size=len(without))
    centres.reshape(n, -1)[without, one] = True
    squares = ndimage.maximum_filter(centres, size=(1, side, side), mode="constant")
    return np.where(squares if images.ndim == 3 else squares[:, None], 1, images)


_NOISES = {"gaussian": _gaussian, "uniform": _uniform, "solid": _solid, "blobs": _blobs}
