"""Synthetic textures with planted local defects."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage
from sklearn.utils import check_random_state

from skad._typing import BunchOrTuple, Seed
from skad.datasets._common import check_choice, check_count, check_share, image_bunch, signs

_DESCR = """Textures with planted defects
=============================

Grey images of slanted stripes (phase and frequency vary) or of smooth noise. Anomalies
have one local defect: a dark blot, a bright scratch, or a patch of a wrong texture
(stripes across, or finer noise). The mask is the shape of the defect, exactly.

:Features: size * size pixels, float64 in [0, 1]
:Target: +1 normal, -1 anomaly
:Mask: the pixels of the defect
"""


def make_textures(
    n_samples: int = 200,
    *,
    anomaly_share: float = 0.2,
    size: int = 32,
    texture: Literal["both", "stripes", "noise"] = "both",
    defect: Literal["all", "blot", "scratch", "patch"] = "all",
    random_state: Seed = None,
    return_X_y_mask: bool = False,
) -> BunchOrTuple:
    """Draw textures, some with a local defect, and the exact mask of each defect.

    Parameters
    ----------
    n_samples : int, default=200
        The number of images.
    anomaly_share : float, default=0.2
        The share of images with a defect, in [0, 1].
    size : int, default=32
        Height and width of an image in pixels, at least 8.
    texture : {"both", "stripes", "noise"}, default="both"
        The texture: slanted stripes, smooth noise, or each image draws one of them.
    defect : {"all", "blot", "scratch", "patch"}, default="all"
        The defect: a dark ellipse, a bright straight line, a disk of a wrong texture
        (stripes across, or finer noise), or each anomaly draws one of them.
    random_state : int, RandomState instance or None, default=None
        Seeds everything; an int gives the same result every time.
    return_X_y_mask : bool, default=False
        Return ``(data, target, mask)`` instead of a ``Bunch``.

    Returns
    -------
    textures : Bunch
        With the attributes

        - data: ndarray of shape (n_samples, size * size), float64 in [0, 1];
        - images: ndarray of shape (n_samples, size, size), the same values;
        - target: ndarray of shape (n_samples,), +1 normal and -1 anomaly;
        - mask: bool ndarray of shape (n_samples, size * size), where the defect is;
        - kind: ndarray of shape (n_samples,), "normal" or the defect's name;
        - texture: ndarray of shape (n_samples,), "stripes" or "noise";
        - image_shape: (size, size);
        - DESCR: str.

    Raises
    ------
    ValueError
        If a parameter is outside of its range or not among its choices.

    See Also
    --------
    load_image_folder : Real textures, in the layout of MVTec AD.
    load_corrupted_digits : Real digits, corrupted.

    Examples
    --------
    >>> from skad.datasets import make_textures
    >>> textures = make_textures(50, defect="scratch", random_state=0)
    >>> textures.images.shape, int((textures.kind == "scratch").sum())
    ((50, 32, 32), 10)
    >>> bool(textures.mask[textures.target == 1].any())
    False
    """
    check_count("n_samples", n_samples)
    check_count("size", size)
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}.")
    check_share(anomaly_share)
    check_choice("texture", texture, ("both", *_TEXTURES))
    check_choice("defect", defect, ("all", *_DEFECTS))
    rng = check_random_state(random_state)
    texture = _draw(list(_TEXTURES) if texture == "both" else [texture], n_samples, rng)
    defects = _draw(list(_DEFECTS) if defect == "all" else [defect], n_samples, rng)
    anomalous = rng.permutation(n_samples) < round(anomaly_share * n_samples)
    images, masks = _render(texture, defects, anomalous, size, rng)
    bunch = image_bunch(
        images,
        signs(anomalous),
        masks,
        kind=np.where(anomalous, defects, "normal"),
        texture=texture,
        DESCR=_DESCR,
    )
    return (bunch.data, bunch.target, bunch.mask) if return_X_y_mask else bunch


def _draw(names, n, rng):
    return rng.choice(names, size=n).astype(object)


def _render(texture, defects, anomalous, size, rng):
    images = np.empty((len(texture), size, size))
    masks = np.zeros(images.shape, dtype=bool)
    for i, image in enumerate(images):
        image[:] = _TEXTURES[texture[i]](size, rng)
        if anomalous[i]:
            shape, values = _DEFECTS[defects[i]](size, texture[i], rng)
            masks[i], image[shape] = shape, values[shape]
    return images, masks


def _stripes(size, rng, wrong=False):
    """Draw about four periods of a slanted sine, or of one across it."""
    y, x = np.mgrid[:size, :size] / size
    angle = np.deg2rad(rng.normal(30, 3) + 90 * wrong)
    frequency = rng.uniform(3.6, 4.4)
    wave = np.cos(angle) * x + np.sin(angle) * y
    phase = rng.uniform(0, 2 * np.pi)
    grain = 0.02 * rng.standard_normal((size, size))
    values = 0.5 + 0.25 * np.sin(2 * np.pi * frequency * wave + phase) + grain
    return values.clip(0, 1)


def _noise(size, rng, wrong=False):
    """Draw noise smoothed over a sixteenth of the side, or over a fourth of that."""
    sigma = size / (64 if wrong else 16)
    values = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma)
    return (0.5 + 0.15 * (values - values.mean()) / values.std()).clip(0, 1)


_TEXTURES = {"stripes": _stripes, "noise": _noise}


def _offsets(size, margin, rng):
    """Return the pixels' positions about a random centre, in shares of the side."""
    centre = rng.uniform(margin, 1 - margin, size=(2, 1, 1))
    return np.mgrid[:size, :size] / size - centre


def _blot(size, texture, rng):
    dy, dx = _offsets(size, 0.15, rng)
    # Never so small that it lies between the pixels.
    radii = np.maximum(rng.uniform(0.07, 0.14, size=2), 0.75 / size)
    values = rng.uniform(0.02, 0.1, size=(size, size))
    return np.hypot(dy / radii[0], dx / radii[1]) <= 1, values


def _scratch(size, texture, rng):
    dy, dx = _offsets(size, 0.25, rng)
    angle, half = rng.uniform(0, np.pi), rng.uniform(0.15, 0.3)
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = np.cos(angle) * dy - np.sin(angle) * dx
    # Never thinner than a pixel and its diagonal, or the line would have gaps.
    thin = np.abs(across) <= max(1 / 40, 0.75 / size)
    return thin & (np.abs(along) <= half), rng.uniform(0.9, 0.98, size=(size, size))


def _patch(size, texture, rng):
    dy, dx = _offsets(size, 0.2, rng)
    values = _TEXTURES[texture](size, rng, wrong=True)
    return np.hypot(dy, dx) <= rng.uniform(0.12, 0.2), values


_DEFECTS = {"blot": _blot, "scratch": _scratch, "patch": _patch}
