"""The one intake of labels: +1 normal, -1 anomaly, 0 unlabelled; and of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skad._typing import AnyArray, ArrayLike, Ints
from skad._warnings import warn

__all__ = [
    "keep_normal",
    "read_classes",
    "read_labels",
    "read_signs",
    "zero_one_complaint",
]

_OTHERS = "y holds labels other than +1 (normal), -1 (anomaly), 0 (unlabelled)."


def zero_one_complaint(y: AnyArray) -> str | None:
    """Return what is wrong with labels that are exactly 0 and 1; None for others."""
    y = np.asarray(y)
    if y.dtype.kind not in "biuf" or not np.array_equal(np.unique(y), [0, 1]):
        return None
    return (
        "y holds the labels 0 and 1. skad's labels are scikit-learn's: +1 normal, -1 "
        "anomaly (0 unlabelled). Labels in which 1 is the anomaly, as PyOD's, are "
        "converted by np.where(y == 1, -1, 1)."
    )


def read_labels(y: ArrayLike | None, n: int) -> npt.NDArray[np.int8]:
    """Return the labels of n training rows; numbers of other kinds count as 0.

    Parameters
    ----------
    y : array-like of shape (n,) or None
        None: all rows are unlabelled.
    n : int

    Returns
    -------
    labels : ndarray of shape (n,), int8
        +1, -1 or 0.

    Raises
    ------
    ValueError
        If y does not hold a number for each of n rows.

    Warns
    -----
    UserWarning
        For labels that are just 0 and 1, PyOD's; and for others than +1, -1, 0. Not an
        error, since scikit-learn hands any y to detectors, which do not read it.
    """
    if y is None:
        return np.zeros(n, dtype=np.int8)
    y = column_or_1d(y)
    odd = [label for label in y.tolist() if isinstance(label, str) or label != label]
    if len(y) != n or odd:
        raise ValueError(
            f"y must hold {n} numbers, one a row: +1 normal, -1 anomaly, 0 unlabelled; "
            f"got {len(y)}, the first of them {(odd or y[:1].tolist())[:1]}."
        )
    known = np.isin(y, (-1, 0, 1))
    complaint = zero_one_complaint(y)
    if not complaint and not known.all():
        complaint = _OTHERS
    if complaint:
        warn(f"{complaint} All but -1 train as normal.")
    return np.where(known, y, 0).astype(np.int8)


def keep_normal(y: ArrayLike, n: int) -> npt.NDArray[np.bool_]:
    """Return which of n rows train a detector of normal rows: those not labelled -1.

    Parameters
    ----------
    y : array-like of shape (n,)
    n : int

    Raises
    ------
    ValueError
        If y holds strings, does not have one label a row, or leaves no row.

    Warns
    -----
    UserWarning
        For labels that are just 0 and 1, PyOD's, and for others than +1, -1, 0. Not an
        error, since scikit-learn hands any y to detectors, which do not read it.
    """
    y = column_or_1d(y)
    if strings := [label for label in y.tolist() if isinstance(label, str)]:
        raise ValueError(
            "y must hold the numbers +1 (normal), -1 (anomaly) and 0 (unlabelled), got "
            f"{strings[0]!r}."
        )
    complaint = zero_one_complaint(y)
    if not complaint and not np.isin(y.astype(float), (-1, 0, 1)).all():
        complaint = _OTHERS
    if complaint:
        warn(f"{complaint} All rows but those labelled -1 train.")
    if len(y) != n:
        raise ValueError(f"y has {len(y)} labels, but X has {n} rows.")
    if not (y != -1).any():
        raise ValueError(f"All {n} rows are labelled -1: none is left to train on.")
    return y != -1


def read_signs(y: ArrayLike) -> Ints:
    """Return labels that are judged by, not trained on: other values are errors.

    Parameters
    ----------
    y : array-like of shape (n,)

    Returns
    -------
    labels : ndarray of shape (n,), int
        +1, -1 or 0.

    Raises
    ------
    ValueError
        For labels that are just 0 and 1, PyOD's, and for others than +1, -1, 0.
    """
    y = column_or_1d(y)
    if complaint := zero_one_complaint(y):
        raise ValueError(complaint)
    values = set(np.unique(y).tolist())
    if not values <= {-1, 0, 1}:
        raise ValueError(
            "Labels must be +1 (normal), -1 (anomaly) or 0 (unlabelled), got "
            f"{sorted(map(str, values))[:5]}."
        )
    return y.astype(int)


def read_classes(y: ArrayLike | None, n: int) -> tuple[tuple[Any, ...], Ints]:
    """Return the classes of n rows, and the number of each row's class.

    Parameters
    ----------
    y : array-like of shape (n,)
        Numbers or strings.
    n : int

    Returns
    -------
    classes : tuple
    numbers : ndarray of shape (n,), int

    Raises
    ------
    ValueError
        If y does not hold a class for each row, or only one class.
    """
    y = column_or_1d(y)
    try:
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"y mixes classes that can't be ordered: {error}") from error
    if not all(isinstance(c, str | bool | int | float) for c in classes.tolist()):
        raise ValueError(f"The classes in y must be numbers or strings; got {y.dtype}.")
    if len(y) != n or len(classes) < 2:
        raise ValueError(
            f"y must hold the classes of {n} rows, two at least; got {len(y)} labels of "
            f"the classes {classes.tolist()}."
        )
    return tuple(classes.tolist()), numbers
