"""What the metrics share: checks of classes, masks and maps, and means without NaN."""

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_array

from skad._labels import read_signs
from skad._warnings import warn


def _split_classes(y):
    """Return boolean masks of the normal and the anomalous rows, neither of them empty."""
    y = read_signs(y)
    normal, anomalous = y == 1, y == -1
    if not (normal.any() and anomalous.any()):
        raise ValueError(
            "Detection needs both normal (+1) and anomalous (-1) rows, got "
            f"{normal.sum()} and {anomalous.sum()}."
        )
    return normal, anomalous


def _check_rows(mask, relevance, *, binary=True):
    """Validate; return mask and heat map with one flat row for each sample."""
    maps = _check_maps(mask, relevance, binary=binary)
    return tuple(array.reshape(len(array), -1) for array in maps)


def _check_maps(mask, relevance, *, binary=True):
    """Validate; return mask and heat map of one shape, channels merged and summed."""
    mask = _check_mask(mask, binary=binary)
    relevance = _check_nd(relevance, "relevance", np.float64)
    channels = {a.shape[1] for a in (mask, relevance) if a.ndim == 4} - {1}
    merged = mask.max(axis=1) if mask.ndim == 4 else mask
    heat = _heat_map(relevance)
    if len(channels) > 1 or merged.shape != heat.shape:
        raise ValueError(
            "mask and relevance must have the same shape (the channels of images may "
            f"be left out), got {mask.shape} and {relevance.shape}."
        )
    return merged, heat


def _check_mask(mask, *, binary):
    mask = _check_nd(mask, "mask")
    if mask.dtype == bool:
        return mask
    low, high = mask.min(), mask.max()
    if low < 0:
        raise ValueError(f"mask must not be negative, got values down to {low}.")
    if not binary:
        return mask.astype(np.float64)
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"This metric needs a boolean or 0/1 mask, got {mask.dtype} values from "
            f"{low} to {high}: choose a threshold first, e.g. `mask > 0.1`."
        )
    return mask.astype(bool)


def _check_nd(array, name, dtype="numeric"):
    shape = np.shape(array)
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise ValueError(
            f"{name} must be a non-empty array of shape (n, d), (n, H, W) or "
            f"(n, C, H, W), got {shape}."
        )
    return check_array(array, dtype=dtype, allow_nd=True, input_name=name)


def _heat_map(relevance):
    return relevance.sum(axis=1) if relevance.ndim == 4 else relevance


def _scaled(rows):
    """Divide by each row's maximum, so that no square or sum over- or underflows."""
    top = rows.max(axis=1, keepdims=True)
    return rows / np.where(top > 0, top, 1)


def _unit(rows):
    """Divide non-negative rows by their Euclidean norm; rows of zeros stay so."""
    rows = _scaled(rows)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)


def _check_average(average, allowed):
    if average not in allowed:
        raise ValueError(f"average must be one of {allowed}, got {average!r}.")


def _reduce(score, average):
    """Mean over the rows that have a score; NaN with a warning if none has."""
    if average is None:
        return score
    score = score[~np.isnan(score)]
    if score.size:
        return float(score.mean())
    return _undefined("No row has a mask to compare with.")


def _undefined(reason):
    message = f"{reason} The score is not defined and set to nan."
    warn(message, UndefinedMetricWarning)
    return np.nan
