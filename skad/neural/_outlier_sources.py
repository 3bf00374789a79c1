"""Sources of anomalies: from normal rows to as many anomalous ones, and their masks."""

from math import prod

import numpy as np
import torch

__all__ = ["CalledOutliers", "RowsOfOutliers", "UniformEntries", "masks_by_pixel"]


class RowsOfOutliers:
    """Rows of a corpus, drawn with replacement.

    Parameters
    ----------
    rows : tensor of shape (m, ...)
    masks : bool tensor of shape (m, 1, H, W) or None
    """

    def __init__(self, rows, masks=None):
        self.rows, self.masks = rows, masks

    def __call__(self, X):
        """Draw as many as there are rows in X."""
        chosen = torch.randint(len(self.rows), (len(X),), device=X.device)
        at = chosen.to(self.rows.device)
        masks = None if self.masks is None else self.masks[at].to(X.device)
        return self.rows[at].to(X.device), masks


class UniformEntries:
    """Rows with some entries drawn anew, from a range wider than that of the data.

    What confetti are for images: an entry that is replaced is uniform between a half of
    its range below the least and a half above the greatest training value.

    Parameters
    ----------
    low, high : tensor of the shape of a row
        Least and greatest training values.
    share : float
        Of the entries that are replaced; one at least.
    """

    def __init__(self, low, high, share=0.25):
        self.low = low - (high - low) / 2
        self.width = 2 * (high - low)
        self.share = share

    def __call__(self, X):
        """Replace entries of each of the rows."""
        draws = torch.rand_like(X)
        flat = draws.flatten(1)
        replaced = flat <= flat.amin(dim=1, keepdim=True).clamp(min=self.share)
        replaced = replaced.view(X.shape)
        fresh = self.low.to(X) + self.width.to(X) * torch.rand_like(X)
        mask = replaced.any(dim=1, keepdim=True) if X.ndim == 4 else None
        return torch.where(replaced, fresh, X), mask


class CalledOutliers:
    """Anomalies that a user's function makes of arrays: ``(X, rng) -> X'[, mask]``.

    Parameters
    ----------
    function : callable
        Of rows in the user's units and shape, and a numpy Generator.
    prepare, unprepare : callable
        From arrays of rows to tensors, and back.
    """

    def __init__(self, function, prepare, unprepare):
        self.function, self.prepare, self.unprepare = function, prepare, unprepare

    def __call__(self, X):
        """Call it, with a generator seeded by torch's."""
        seed = int(torch.randint(2**31 - 1, (1,), device=X.device))
        rows = self.unprepare(X.cpu())
        made = self.function(rows, np.random.default_rng(seed))
        made, mask = self._pair(made)
        made = np.asarray(made, dtype=np.float64)
        if made.shape != rows.shape or not np.isfinite(made).all():
            given = "NaN or inf" if made.shape == rows.shape else f"shape {made.shape}"
            raise ValueError(
                f"outliers={self.function!r} must give finite rows of shape {rows.shape}, "
                f"as many as it got; it gave {given}."
            )
        if mask is not None:
            mask = self._mask(mask, X)
        return self.prepare(made).to(X.device), mask

    def _pair(self, made):
        if not isinstance(made, tuple):
            return made, None
        if len(made) != 2:
            raise ValueError(
                f"outliers={self.function!r} must give rows, or a pair of rows and masks; "
                f"it gave a tuple of {len(made)}."
            )
        return made

    def _mask(self, mask, X):
        row_shape = X.shape[1:] if X.ndim == 4 else (1, 1, X.shape[1])
        try:
            by_pixel = masks_by_pixel(mask, len(X), row_shape)
        except ValueError as error:
            raise ValueError(
                f"outliers={self.function!r} gave masks of shape {np.shape(mask)} for rows "
                f"of shape {tuple(X.shape)}: {error}"
            ) from error
        return torch.from_numpy(by_pixel).to(X.device)


def masks_by_pixel(mask, n, row_shape):
    """Return masks as bool (n, 1, H, W); those of channels are merged.

    Raises
    ------
    ValueError
        If they are not numbers, one for each pixel or each feature of n rows.
    """
    mask = np.asarray(mask)
    channels, *size = row_shape
    wanted = [(n, *size), (n, prod(size)), (n, 1, *size)]
    wanted += [(n, channels, *size), (n, prod(row_shape))]
    if mask.shape not in wanted:
        raise ValueError(
            f"mask must have shape {wanted[0]}, or that of X; got {mask.shape}."
        )
    if mask.dtype.kind not in "biuf" or (mask != mask).any():
        raise ValueError(f"mask must hold numbers or bools, no NaN; got {mask.dtype}.")
    return (mask != 0).reshape(n, -1, *size).any(axis=1, keepdims=True)
