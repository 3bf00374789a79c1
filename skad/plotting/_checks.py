"""What the displays take: wrapped estimators, rows, masks and maps of many shapes."""

from math import prod

import numpy as np

from skad.base import same_image
from skad.plotting._common import short


def dense(X):
    """Give X as an array; raise ValueError for fewer than two axes, or no entry."""
    X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
    if X.ndim < 2 or 0 in X.shape:
        raise ValueError(
            "X must be a non-empty array of shape (n, d), (n, H, W) or (n, C, H, W), got "
            f"{X.shape}."
        )
    return X


def check_count(X, max_rows):
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
    """Shape of one image, None for tabular rows."""
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
    """Give an array as float64; raise ValueError for NaN or infinite values."""
    array = np.asarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite values.")
    return array


def planes(array, name, X, shape, any_length=False):
    """Give maps as (n, channels, H, W), from any of the shapes they may come in."""
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
    """Give finite numbers in the shape of X; raise ValueError for another shape."""
    array = finite(array, name)
    if array.shape != X.shape:
        raise ValueError(f"{name} has shape {array.shape}, but X has shape {X.shape}.")
    return array


def model_input(estimator, X):
    """Transform X to what the last step sees; give its columns' names too, if known."""
    for name in ("best_estimator_", "estimator_"):
        estimator = getattr(estimator, name, estimator)
    if not hasattr(estimator, "steps") or len(estimator) < 2:
        return X, None
    before = estimator[:-1]
    try:
        names = before.get_feature_names_out()
    except (AttributeError, ValueError):
        names = None
    return before.transform(X), names


def fitted_shape(estimator, n_features):
    """Find the image shape that a detector keeps, however wrapped, if it fits."""
    while estimator is not None:
        shape = getattr(estimator, "image_shape_", None)
        if shape is not None:
            return tuple(shape) if prod(shape) == n_features else None
        inner = getattr(estimator, "best_estimator_", None)
        inner = getattr(estimator, "estimator_", None) if inner is None else inner
        steps = getattr(estimator, "steps", None)
        estimator = steps[-1][1] if steps else inner
    return None
