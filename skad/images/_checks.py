"""Checks of images that come in."""

import numpy as np

__all__ = ["check_images", "value_range"]


def value_range(images):
    """Give the greatest value that images can have: 255 or 1."""
    return 255 if images.dtype == np.uint8 else 1


def check_images(images, *, channels=False):
    """Give images as an array, if their shape, dtype and values are as expected.

    Parameters
    ----------
    images : array-like of shape (n, H, W) or, with `channels`, (n, C, H, W)
    channels : bool, default=False
        Whether images may have channels.

    Raises
    ------
    ValueError, TypeError
        With what came and what was expected.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(
            f"images must be floats in [0, 1] or uint8 in 0..255, got dtype {images.dtype}."
        )
    if images.ndim not in ((3, 4) if channels else (3,)) or images.size == 0:
        expected = "(n, H, W) or (n, C, H, W)" if channels else "(n, H, W)"
        raise ValueError(
            f"images must have shape {expected} with at least one pixel, "
            f"got {images.shape}."
        )
    # Written so that NaN, which compares false, is refused too.
    if not (images.min() >= 0 and images.max() <= value_range(images)):
        raise ValueError(
            "images must be finite and in [0, 1]; found a minimum of "
            f"{images.min()} and a maximum of {images.max()}."
        )
    return images
