"""What the displays take: wrapped estimators, rows, masks and maps of many shapes."""

from math import prod

import numpy as np

from skad._estimators import chain, layers
from skad._images import same_image
from skad.plotting._common import short


def dense(X):
    """Return X as an array; raise ValueError for fewer than two axes, or no entry."""
    X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
    if X.ndim < 2 or 0 in X.shape:
        raise ValueError(
            "X must be a non-empty array of shape (n, d), (n, H, W) or (n, C, H, W), got "
            f"{X.shape}."
        )
    return X


def check_rows_shown(X, max_rows):
    """Raise ValueError unless there are rows, and no more than may be shown."""
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    if n == 0:
        raise ValueError("X has no rows to show.")
    if n > max_rows:
        raise ValueError(
            f"X has {n} rows, more than max_rows={max_rows}: choose the rows to show, "
            "such as X[:8], or raise max_rows."
        )


def image_shape_of(X, wanted):
    """Return the shape of one image, None for tabular rows."""
    row = X.shape[1:]
    shape = row if len(row) > 1 else wanted
    if shape is None:
        return None
    shape = tuple(shape)
    fits = wanted is None or prod(wanted) == prod(row)
    if len(row) > 1 and wanted is not None:
        fits = same_image(row, wanted)
    if not fits or len(shape) not in (2, 3):
        raise ValueError(
            f"image_shape={wanted} does not fit X of shape {X.shape}: images are "
            "(n, H, W), (n, C, H, W), or flat rows of H * W or C * H * W values."
        )
    return shape


def row_titles(n, scores, labels):
    """Write beside each row its label and its score."""
    lines = [[] for _ in range(n)]
    for name, values in (("labels", labels), ("scores", scores)):
        if values is None:
            continue
        values = list(values) if name == "labels" else np.asarray(values).ravel()
        if len(values) != n:
            raise ValueError(f"{name} has {len(values)} entries, but X has {n} rows.")
        for line, value in zip(lines, values, strict=True):
            line.append(str(value) if name == "labels" else f"o = {short(value)}")
    return ["\n".join(line) for line in lines]


def finite(array, name):
    """Return an array as float64; raise ValueError for NaN or infinite values."""
    array = np.asarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite values.")
    return array


def planes(array, name, X, shape, any_length=False):
    """Return maps as (n, channels, H, W), from any of the shapes they may come in."""
    array = finite(array, name)
    height, width = shape[-2:]
    image, row = (prod(shape[:-2]), height, width), array.shape[1:]
    plane = (1, height, width)
    possible = {image, plane, image[1:], (prod(image),), (prod(plane),)}
    if row not in possible or not (any_length or len(array) == len(X)):
        raise ValueError(f"{name} has shape {array.shape}, but X has shape {X.shape}.")
    return array.reshape(len(array), -1, height, width)


def heat_maps(array, name, X, shape, any_length=False):
    """Sum relevance over channels and rectify it."""
    return np.maximum(planes(array, name, X, shape, any_length).sum(axis=1), 0)


def table(array, name, X):
    """Return finite numbers in the shape of X; raise ValueError for another shape."""
    array = finite(array, name)
    if array.shape != X.shape:
        raise ValueError(f"{name} has shape {array.shape}, but X has shape {X.shape}.")
    return array


def model_input(estimator, X):
    """Return what the detector in a model sees of X, and its columns' names, if known."""
    *steps, _ = chain(estimator)
    for step in steps:
        X = step.transform(X)
    return X, _names_after(steps)


def _names_after(steps):
    names = None
    try:
        for step in steps:
            names = step.get_feature_names_out(names)
    except (AttributeError, ValueError):
        return None
    return names


def fitted_shape(estimator, n_features):
    """Return the image shape that a detector keeps, however wrapped, if it fits."""
    shapes = (getattr(part, "image_shape_", None) for part in layers(estimator))
    shape = next((shape for shape in shapes if shape is not None), None)
    return tuple(shape) if shape is not None and prod(shape) == n_features else None
