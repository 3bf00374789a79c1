"""MNIST, Fashion-MNIST and corrupted MNIST, from a file or from OpenML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.utils import check_random_state

from skad._typing import BunchOrTuple, FilePath, MaskKind, Seed
from skad.datasets._common import (
    check_choice,
    check_count,
    check_names,
    corrupt_each,
    image_bunch,
    signs,
)
from skad.datasets._fetch import load_arrays
from skad.images import MNIST_C

_MNIST_DESCR = """MNIST
=====

Handwritten digits, 28 x 28 pixels in [0, 1]; 60000 training and 10000 test images
(LeCun, Cortes, Burges; CC BY-SA 3.0).
"""

_FASHION_DESCR = """Fashion-MNIST
=============

Articles of clothing in 10 classes, 28 x 28 pixels in [0, 1]; 60000 training and 10000
test images (Xiao, Rasul, Vollgraf 2017; MIT).
"""

_MNIST_C_DESCR = """Corrupted MNIST
===============

Clean MNIST digits, and digits corrupted by the recipes of MNIST-C (Mu & Gilmer 2019),
28 x 28 pixels in [0, 1]. The corruptions are drawn anew, not the published files.
"""


def fetch_mnist(
    *,
    subset: Literal["train", "test"] = "train",
    n_samples: int | None = None,
    normal_class: int | None = None,
    data_home: FilePath | None = None,
    download_if_missing: bool = True,
    random_state: Seed = 0,
    return_X_y: bool = False,
) -> BunchOrTuple:
    """Fetch MNIST: all of it normal, or one digit against the rest.

    ``mnist.npz`` is looked for in ``data_home`` and, where missing, made there from
    OpenML. It holds ``x_train``, ``y_train``, ``x_test`` and ``y_test``, uint8.

    Parameters
    ----------
    subset : {"train", "test"}, default="train"
        Which of the two parts.
    n_samples : int, default=None
        Draw so many images at random; None takes all, in the order of the file.
    normal_class : int, default=None
        The label that is normal; the others are anomalies. None: all are normal.
    data_home : str or path, default=None
        The folder of the file; else the environment variable ``SKAD_DATA``, else
        ``~/skad_data``.
    download_if_missing : bool, default=True
        If False, raise where the file is missing.
    random_state : int, RandomState instance or None, default=0
        Seeds the draw of images.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a ``Bunch``.

    Returns
    -------
    mnist : Bunch
        With the attributes

        - data: ndarray of shape (n, 784), float32 in [0, 1], for memory's sake;
        - images: ndarray of shape (n, 28, 28), the same values;
        - target: ndarray of shape (n,), +1 normal and -1 anomaly;
        - label: ndarray of shape (n,), the class, 0 to 9;
        - image_shape: (28, 28);
        - DESCR: str.

    Raises
    ------
    FileNotFoundError
        If the file is missing and could or should not be downloaded.
    ValueError
        If the file is malformed or a parameter outside of its choices.

    See Also
    --------
    fetch_mnist_c : With corruptions and their masks.
    fetch_fashion_mnist : Clothes in the same format.

    Examples
    --------
    >>> from skad.datasets import fetch_mnist
    >>> X, y = fetch_mnist(n_samples=1000, return_X_y=True)  # doctest: +SKIP
    """
    images, label = _load("mnist", subset, data_home, download_if_missing)
    rows = _draw_rows(len(images), n_samples, random_state)
    return _one_vs_rest(images[rows], label[rows], normal_class, _MNIST_DESCR, return_X_y)


def fetch_fashion_mnist(
    *,
    subset: Literal["train", "test"] = "train",
    n_samples: int | None = None,
    normal_class: int | None = None,
    data_home: FilePath | None = None,
    download_if_missing: bool = True,
    random_state: Seed = 0,
    return_X_y: bool = False,
) -> BunchOrTuple:
    """Fetch Fashion-MNIST: all of it normal, or one class against the rest.

    ``fashion_mnist.npz`` is looked for in ``data_home`` and, where missing, made there
    from OpenML. It holds ``x_train``, ``y_train``, ``x_test`` and ``y_test``, uint8.
    The classes are T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker,
    bag and ankle boot.

    Parameters
    ----------
    subset : {"train", "test"}, default="train"
        Which of the two parts.
    n_samples : int, default=None
        Draw so many images at random; None takes all, in the order of the file.
    normal_class : int, default=None
        The label that is normal; the others are anomalies. None: all are normal.
    data_home : str or path, default=None
        The folder of the file; else the environment variable ``SKAD_DATA``, else
        ``~/skad_data``.
    download_if_missing : bool, default=True
        If False, raise where the file is missing.
    random_state : int, RandomState instance or None, default=0
        Seeds the draw of images.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a ``Bunch``.

    Returns
    -------
    fashion : Bunch
        With the attributes of :func:`fetch_mnist`.

    Raises
    ------
    FileNotFoundError
        If the file is missing and could or should not be downloaded.
    ValueError
        If the file is malformed or a parameter outside of its choices.

    See Also
    --------
    fetch_mnist : Digits in the same format.

    Examples
    --------
    >>> from skad.datasets import fetch_fashion_mnist
    >>> test = fetch_fashion_mnist(subset="test", normal_class=0)  # doctest: +SKIP
    """
    images, label = _load("fashion_mnist", subset, data_home, download_if_missing)
    rows = _draw_rows(len(images), n_samples, random_state)
    return _one_vs_rest(images[rows], label[rows], normal_class, _FASHION_DESCR, return_X_y)


def fetch_mnist_c(
    corruption: str | Sequence[str],
    *,
    subset: Literal["test", "train"] = "test",
    n_samples: int | None = None,
    paired: bool = True,
    data_home: FilePath | None = None,
    download_if_missing: bool = True,
    mask: MaskKind = "changed",
    random_state: Seed = 0,
    return_X_y_mask: bool = False,
) -> BunchOrTuple:
    """Fetch clean MNIST digits and digits corrupted as in MNIST-C, with masks.

    The corruptions are drawn from the published recipes by
    :func:`skad.images.corrupt`, on images of ``mnist.npz`` (see :func:`fetch_mnist`).

    Parameters
    ----------
    corruption : str or list of str
        A name in :data:`skad.images.CORRUPTIONS`; a list of names, of which each
        anomaly draws one; or "all", for the 15 of MNIST-C.
    subset : {"test", "train"}, default="test"
        Which part of MNIST.
    n_samples : int, default=None
        The number of clean images, and of corrupted ones, drawn at random. None takes
        as many as there are.
    paired : bool, default=True
        True corrupts the very images that are also given clean, as MNIST-C does: right
        for scoring a detector trained on other images. False corrupts other images, so
        that no anomaly has its clean twin in the data: right for splitting the rows.
    data_home : str or path, default=None
        The folder of the file; else the environment variable ``SKAD_DATA``, else
        ``~/skad_data``.
    download_if_missing : bool, default=True
        If False, raise where the file is missing.
    mask : {"changed", "absolute", "squared"}, default="changed"
        The kind of mask, as in :func:`skad.images.corrupt`.
    random_state : int, RandomState instance or None, default=0
        Seeds the draw of images and the corruptions.
    return_X_y_mask : bool, default=False
        Return ``(data, target, mask)`` instead of a ``Bunch``.

    Returns
    -------
    mnist_c : Bunch
        First the clean rows, then as many corrupted ones (if paired, in the same
        order), with the attributes

        - data: ndarray of shape (n, 784), float32 in [0, 1], for memory's sake;
        - images: ndarray of shape (n, 28, 28), the same values;
        - target: ndarray of shape (n,), +1 clean and -1 corrupted;
        - mask: ndarray of shape (n, 784), bool or float64, zero in clean rows and
          where a corruption happened to change nothing;
        - kind: ndarray of shape (n,), "normal" or the corruption's name;
        - label: ndarray of shape (n,), the digit, 0 to 9;
        - image_shape: (28, 28);
        - DESCR: str.

    Raises
    ------
    FileNotFoundError
        If the file is missing and could or should not be downloaded.
    ValueError
        If the file is malformed or a parameter outside of its choices.

    See Also
    --------
    load_corrupted_digits : Smaller digits; works offline.
    skad.images.corrupt : Draws the corruptions.

    Examples
    --------
    >>> from skad.datasets import fetch_mnist_c
    >>> test = fetch_mnist_c("zigzag", n_samples=1000)  # doctest: +SKIP
    """
    names = check_names(corruption, MNIST_C)
    images, label = _load("mnist", subset, data_home, download_if_missing)
    rng = check_random_state(random_state)
    clean, other = _draw_pairs(len(images), n_samples, paired, rng)
    kind = rng.choice(names, size=len(other)).astype(object)
    corrupted, changed = corrupt_each(images[other], kind, mask, rng)
    bunch = image_bunch(
        _unit(np.concatenate([images[clean], corrupted])),
        signs(np.arange(2 * len(clean)) >= len(clean)),
        np.concatenate([np.zeros_like(changed), changed]),
        kind=np.concatenate([np.full(len(clean), "normal", dtype=object), kind]),
        label=label[np.concatenate([clean, other])],
        DESCR=_MNIST_C_DESCR,
    )
    return (bunch.data, bunch.target, bunch.mask) if return_X_y_mask else bunch


def _load(name, subset, data_home, download_if_missing):
    check_choice("subset", subset, ("train", "test"))
    arrays = load_arrays(name, data_home, download_if_missing)
    return arrays[f"x_{subset}"], arrays[f"y_{subset}"].astype(np.int64)


def _unit(images):
    return images.astype(np.float32) / 255


def _draw_rows(n, n_samples, random_state):
    if n_samples is None:
        return np.arange(n)
    check_count("n_samples", n_samples, n)
    return np.sort(check_random_state(random_state).permutation(n)[:n_samples])


def _draw_pairs(n, n_samples, paired, rng):
    """Return the rows that stay clean and those that are corrupted."""
    most = n if paired else n // 2
    size = most if n_samples is None else n_samples
    check_count("n_samples", size, most)
    rows = rng.permutation(n)
    clean = np.sort(rows[:size])
    return clean, clean if paired else np.sort(rows[size : 2 * size])


def _one_vs_rest(images, label, normal_class, descr, return_X_y):
    anomalous = np.zeros(len(label), bool)
    if normal_class is not None:
        check_choice("normal_class", normal_class, range(10))
        anomalous = label != normal_class
    bunch = image_bunch(_unit(images), signs(anomalous), label=label, DESCR=descr)
    return (bunch.data, bunch.target) if return_X_y else bunch
