"""Corrupt images by name, and say which pixels changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.utils import check_random_state, gen_batches

from skad._typing import AnyArray, ArrayLike, Floats, MaskKind, Seed
from skad.images._checks import check_images, value_range
from skad.images._corruptions import FUNCTIONS, MNIST_C_FUNCTIONS

MNIST_C = tuple(MNIST_C_FUNCTIONS)
CORRUPTIONS = tuple(FUNCTIONS)

_MASKS: dict[str, Callable[[Floats], AnyArray]] = {
    "changed": lambda difference: difference > 0.1,
    "absolute": lambda difference: difference,
    "squared": np.square,
}


def corrupt(
    images: ArrayLike,
    corruption: str,
    *,
    random_state: Seed = None,
    mask: MaskKind = "changed",
) -> tuple[AnyArray, AnyArray]:
    """Corrupt grey images and return the mask of what changed.

    The 15 corruptions of MNIST-C (:data:`skad.images.MNIST_C`), with the parameters of the
    published set, and ``"missing_stroke"``, which erases the ink in a disk of radius
    4/28 of the side. On 28 x 28 images lengths are the published ones; on other sizes
    they scale with the shorter side. Ink is bright on a dark ground.

    Parameters
    ----------
    images : array-like of shape (n, H, W)
        Floats in [0, 1] or uint8 in 0..255. Not modified.
    corruption : str
        A name in :data:`skad.images.CORRUPTIONS`.
    random_state : int, RandomState instance or None, default=None
        Seeds the corruption's random draws; an int gives the same result every time.
    mask : {"changed", "absolute", "squared"}, default="changed"
        The ground truth for explanations, from the difference ``d`` of the corrupted
        and the clean image as a share of the value range: ``|d| > 0.1``, ``|d|`` or
        ``d ** 2``.

    Returns
    -------
    corrupted : ndarray of shape (n, H, W)
        In the dtype and value range of ``images``.
    mask : ndarray of shape (n, H, W)
        Of bools for "changed", else float64 in [0, 1]. A row is all zero where the
        corruption happened to change nothing.

    Raises
    ------
    ValueError
        If ``corruption`` or ``mask`` is unknown, or ``images`` is empty, not
        three-dimensional, or holds NaN or values outside its range.
    TypeError
        If ``images`` is neither floating point nor uint8.

    See Also
    --------
    add_noise, confetti : Noises with masks, for images with channels too.
    skad.datasets.fetch_mnist_c : MNIST, corrupted so.

    References
    ----------
    .. [1] N. Mu, J. Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision",
       arXiv:1906.02337, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.images import corrupt
    >>> striped, mask = corrupt(np.zeros((1, 4, 4)), "stripe")
    >>> striped[0, 0]
    array([1., 0., 0., 1.])
    >>> mask[0, 0]
    array([ True, False, False,  True])
    """
    images = check_images(images)
    _check_name("corruption", corruption, FUNCTIONS)
    _check_name("mask", mask, _MASKS)
    rng = check_random_state(random_state)
    corrupted = np.empty(images.shape, images.dtype)
    # In blocks: some corruptions take many times the memory of their images.
    for block in gen_batches(len(images), max(1, 2**20 // images[0].size)):
        corrupted[block] = _corrupt(images[block], FUNCTIONS[corruption], rng)
    difference = np.abs(corrupted.astype(np.float64) - images) / value_range(images)
    return corrupted, _MASKS[mask](difference)


def _corrupt(images, function, rng):
    top = value_range(images)
    corrupted = function(images.astype(np.float64) / top, rng).clip(0, 1)
    return np.rint(corrupted * top) if top > 1 else corrupted


def _check_name(parameter, name, known):
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{parameter}={name!r} is unknown; known: {', '.join(known)}.")
