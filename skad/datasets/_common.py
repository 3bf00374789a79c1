"""What the loaders share: corrupting rows, checks and the layout of the result."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch

from skad.images import CORRUPTIONS, corrupt


def check_names(corruption, all_names):
    """Return the tuple of corruptions that a name, a list or ``"all"`` stands for."""
    if isinstance(corruption, str):
        names = all_names if corruption == "all" else (corruption,)
    else:
        names = tuple(corruption)
    unknown = [name for name in names if name not in CORRUPTIONS]
    if unknown or not names:
        raise ValueError(
            f"corruption={corruption!r} is unknown; known: {', '.join(CORRUPTIONS)}, "
            "a list of these, or 'all'."
        )
    return names


def check_choice(parameter, value, known):
    """Raise ``ValueError`` unless ``value`` is one of ``known``."""
    if value not in known:
        raise ValueError(
            f"{parameter} must be one of {', '.join(map(repr, known))}, got {value!r}."
        )


def check_share(share):
    """Raise ``ValueError`` unless ``share`` is a number in [0, 1]."""
    if not isinstance(share, Real) or not 0 <= share <= 1:
        raise ValueError(f"anomaly_share must be in [0, 1], got {share!r}.")


def check_count(parameter, count, most=None):
    """Raise ``ValueError`` unless ``count`` is an integer from 1 to ``most``."""
    if not isinstance(count, Integral) or not 1 <= count <= (most or count):
        limit = "a positive integer" if most is None else f"an integer in [1, {most}]"
        raise ValueError(f"{parameter} must be {limit}, got {count!r}.")


def no_masks(shape, mask):
    """Return all-zero masks of the dtype of this kind of mask."""
    check_choice("mask", mask, ("changed", "absolute", "squared"))
    return np.zeros(shape, bool if mask == "changed" else np.float64)


def corrupt_each(images, kinds, mask, rng):
    """Corrupt each image by the corruption that ``kinds`` names for it."""
    corrupted, masks = images.copy(), no_masks(images.shape, mask)
    for name in np.unique(kinds):
        rows = kinds == name
        corrupted[rows], masks[rows] = corrupt(
            images[rows], name, random_state=rng, mask=mask
        )
    return corrupted, masks


def image_bunch(images, target, masks=None, **fields):
    """Lay images out as a ``Bunch``: flat ``data`` and ``mask``, and ``images``."""
    n, *shape = images.shape
    data = images.reshape(n, -1)
    if masks is not None:
        fields["mask"] = masks.reshape(n, -1)
    return Bunch(
        data=data, target=target, images=images, image_shape=tuple(shape), **fields
    )


def signs(anomalous):
    """Return +1 for normal and -1 for anomalous rows."""
    return np.where(anomalous, -1, 1)
