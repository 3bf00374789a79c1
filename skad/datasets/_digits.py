"""scikit-learn's digits, some of them corrupted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import check_random_state

from skad._typing import BunchOrTuple, MaskKind, Seed
from skad.datasets._common import (
    check_names,
    check_share,
    corrupt_each,
    image_bunch,
    no_masks,
    signs,
)

# Those whose effect is plain at 8 x 8. There the blurs and the warps look like one more
# way to write the digit, and fog and spatter cover all of it.
DIGIT_CORRUPTIONS = (
    "stripe",
    "dotted_line",
    "zigzag",
    "brightness",
    "translate",
    "impulse_noise",
    "missing_stroke",
)

_DESCR = """Corrupted digits
================

The 1797 handwritten digits of scikit-learn, 8 x 8 pixels in [0, 1]. A random share of
them is corrupted as in MNIST-C. An image appears once, clean or corrupted.

:Rows: 1797
:Features: 64 pixels, float64 in [0, 1]
:Target: +1 normal, -1 anomaly
:Mask: the pixels that the corruption changed
"""


def load_corrupted_digits(
    corruption: str | Sequence[str] = "stripe",
    *,
    anomaly_share: float = 0.2,
    mask: MaskKind = "changed",
    random_state: Seed = 0,
    return_X_y_mask: bool = False,
) -> BunchOrTuple:
    """Load scikit-learn's digits with a share of them corrupted; works offline.

    The images to corrupt are drawn at random. Each of the 1797 digits appears once,
    clean or corrupted, so no anomaly has its clean twin in the data. Where a corruption
    happens to change no pixel by more than .1, the image stays clean and another one is
    drawn in its place.

    Parameters
    ----------
    corruption : str or list of str, default="stripe"
        A name in :data:`skad.images.CORRUPTIONS`; a list of names, of which each
        anomaly draws one; or "all", for those that make sense at this size: "stripe",
        "dotted_line", "zigzag", "brightness", "translate", "impulse_noise" and
        "missing_stroke".
    anomaly_share : float, default=0.2
        The share of anomalies, in [0, 1].
    mask : {"changed", "absolute", "squared"}, default="changed"
        The kind of mask, as in :func:`skad.images.corrupt`.
    random_state : int, RandomState instance or None, default=0
        Seeds the choice of images and the corruptions.
    return_X_y_mask : bool, default=False
        Return ``(data, target, mask)`` instead of a ``Bunch``.

    Returns
    -------
    digits : Bunch
        With the attributes

        - data: ndarray of shape (1797, 64), float64 in [0, 1];
        - images: ndarray of shape (1797, 8, 8), the same values;
        - target: ndarray of shape (1797,), +1 normal and -1 anomaly;
        - mask: ndarray of shape (1797, 64), bool or float64, zero in normal rows;
        - kind: ndarray of shape (1797,), "normal" or the corruption's name;
        - digit: ndarray of shape (1797,), the digit, 0 to 9;
        - image_shape: (8, 8);
        - DESCR: str.

    Raises
    ------
    ValueError
        If a corruption or the mask is unknown, or ``anomaly_share`` not in [0, 1].

    See Also
    --------
    fetch_mnist_c : Larger digits, with all of MNIST-C's corruptions.
    make_textures : Textures with defects; works offline too.

    Examples
    --------
    >>> from skad.datasets import load_corrupted_digits
    >>> digits = load_corrupted_digits("stripe", anomaly_share=0.1)
    >>> digits.data.shape, int((digits.target == -1).sum())
    ((1797, 64), 180)
    >>> X, y, mask = load_corrupted_digits("all", return_X_y_mask=True)
    """
    names = check_names(corruption, DIGIT_CORRUPTIONS)
    check_share(anomaly_share)
    rng = check_random_state(random_state)
    digits = load_digits()
    clean = digits.images / 16
    images, masks, kind = _corrupt_share(clean, names, anomaly_share, mask, rng)
    target = signs(kind != "normal")
    bunch = image_bunch(images, target, masks, kind=kind, digit=digits.target, DESCR=_DESCR)
    return (bunch.data, target, bunch.mask) if return_X_y_mask else bunch


def _corrupt_share(clean, names, share, mask, rng):
    """Corrupt so many random images, passing over those that would not change."""
    images, masks = clean.copy(), no_masks(clean.shape, mask)
    kind = np.full(len(clean), "normal", dtype=object)
    missing, pool = round(share * len(clean)), rng.permutation(len(clean))
    while missing and len(pool):
        rows, pool = pool[:missing], pool[missing:]
        drawn = rng.choice(names, size=len(rows))
        corrupted, changed = corrupt_each(clean[rows], drawn, mask, rng)
        visible = (np.abs(corrupted - clean[rows]) > 0.1).any(axis=(1, 2))
        rows = rows[visible]
        images[rows], masks[rows] = corrupted[visible], changed[visible]
        kind[rows] = drawn[visible]
        missing -= len(rows)
    return images, masks, kind
