"""Units: what makes tensors of rows, and rows of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from skad._typing import AnyArray
from skad.neural._blocks import as_tensor
from skad.neural._rows import LazyRows, PreparedRows, arrays, extremes, parts

__all__ = [
    "ScaledUnits",
    "Units",
    "find_input_range",
    "fit_to_range",
    "moments",
    "tensor_of",
    "training_rows",
]

# Units beyond which a value is taken as lying there: its square, summed, stays within
# float32.
FAR = 1e9
UNIT, BYTES = (0.0, 1.0), (0.0, 255.0)


@dataclass(frozen=True, eq=False)
class Units:
    """Rows as they are: float32 copies.

    Parameters
    ----------
    row_shape : tuple
        Of a row for the network.
    image_shape : tuple or None, default=None
        Of an image as it came; None for tables.

    See Also
    --------
    ScaledUnits : Rows less a shift, over a scale.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.neural import Units
    >>> Units((1, 2, 2)).prepare(np.ones((5, 4))).shape
    torch.Size([5, 1, 2, 2])
    """

    row_shape: tuple[int, ...]
    image_shape: tuple[int, ...] | None = None

    @property
    def n_features(self) -> int:
        """How many numbers a row has, an int."""
        return prod(self.row_shape)

    @property
    def state(self) -> dict[str, Any]:
        """What was learned, a dict of str to numbers or arrays."""
        return {}

    def prepare(self, X: Any) -> torch.Tensor:
        """Make a tensor of flat rows.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Flat rows, as they came.

        Returns
        -------
        rows : tensor of shape ``(n, *row_shape)``, float32
            What the network takes.
        """
        # A copy: a layer in place would write to the caller's rows.
        rows = as_tensor(X).to(torch.float32, copy=True)
        return rows.reshape(-1, *self.row_shape)


@dataclass(frozen=True, eq=False)
class ScaledUnits(Units):
    """Rows less a shift, over a scale.

    Parameters
    ----------
    row_shape : tuple
        Of a row for the network.
    image_shape : tuple or None, default=None
        Of an image as it came; None for tables.
    shift : float or ndarray, default=0.0
        What is subtracted; it broadcasts with `row_shape`.
    scale : float or ndarray, default=1.0
        What is divided by.

    See Also
    --------
    Units : Rows as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.neural import ScaledUnits, TrainingData
    >>> X = np.array([[0.0, 10.0], [2.0, 30.0]])
    >>> units = ScaledUnits.of(TrainingData(X, (2,)))
    >>> units.prepare(X)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> units.restore(units.prepare(X))
    array([[ 0., 10.],
           [ 2., 30.]])
    """

    shift: Any = 0.0
    scale: Any = 1.0

    @classmethod
    def of(cls, data: Any, previous: Any = None) -> Self:
        """Learn what normal rows are scaled by, or take what was learned before.

        Images come to the network with values in [0, 1]: by (0, 1) or (0, 255) where the
        training rows lie in it (and not in the lower half of the latter), else by their
        own least and greatest value. Columns of a table come standardised.

        Parameters
        ----------
        data : TrainingData
            Its rows that are not labelled -1 count.
        previous : Trained or None, default=None
            What a training goes on from, with the state of its units.

        Returns
        -------
        units : ScaledUnits
            For the rows of `data`.
        """
        if previous is not None:
            return cls.from_state(data, previous.state)
        return cls.from_state(data, cls._learned(data))

    @classmethod
    def from_state(cls, data: Any, state: dict[str, Any]) -> Self:
        """Return the units that a state describes.

        Parameters
        ----------
        data : TrainingData
            With the shapes of a row.
        state : dict
            With "shift" and "scale".

        Returns
        -------
        units : ScaledUnits
            For the rows of `data`.
        """
        return cls(data.row_shape, data.image_shape, state["shift"], state["scale"])

    @property
    def state(self) -> dict[str, Any]:
        """What was learned, a dict of str to numbers or arrays."""
        return {"shift": self.shift, "scale": self.scale}

    def prepare(self, X: Any) -> torch.Tensor:
        """Make a tensor of flat rows.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Flat rows, as they came.

        Returns
        -------
        rows : tensor of shape ``(n, *row_shape)``, float32
            What the network takes.
        """
        # In double until they are scaled: rows may be far from zero, and from one. One
        # number does not make float32 rows double, but needs the digits.
        shift, factor = (
            torch.as_tensor(unit, dtype=torch.float64)
            for unit in (self.shift, 1 / self.scale)
        )
        rows = (as_tensor(X).reshape(-1, *self.row_shape) - shift).mul_(factor)
        return rows.clamp_(-FAR, FAR).float()

    def restore(self, rows: torch.Tensor) -> AnyArray:
        """Return rows in the units and the shape in which they came.

        Parameters
        ----------
        rows : tensor of shape ``(n, *row_shape)``
            Prepared rows, on the CPU.

        Returns
        -------
        X : ndarray of shape (n, d), (n, H, W) or (n, C, H, W), float64
            Rows in their own units.
        """
        shape = self.image_shape or (self.n_features,)
        return rows.double().reshape(-1, *shape).numpy() * self.scale + self.shift

    @classmethod
    def _learned(cls, data):
        if not data.is_image:
            mean, variance = moments(data.normal)
            scale = np.sqrt(variance)
            return {"shift": mean, "scale": np.where(scale > 0, scale, 1.0)}
        ends = extremes(data.normal)
        low, high = float(ends.min()), float(ends.max())
        known = find_input_range(ends, "auto", None)
        if known and high > (known[1] / 2 if known == BYTES else 0):
            low, high = known
        return {"shift": float(low), "scale": float(high - low) or 1.0}


def find_input_range(X, wanted, known):
    """Give the range of the features: as wanted, or one of those that X lies in.

    Parameters
    ----------
    X : ndarray
    wanted : "auto", pair of floats or None
    known : tuple of two floats or None
        The range of what the network was trained on.

    Returns
    -------
    range : tuple of two floats or None

    Raises
    ------
    ValueError
        If `wanted` is no range, or X leaves it.
    """
    if wanted is None:
        return None
    ends = extremes(X)
    low, high = float(ends.min()), float(ends.max())
    candidates = [r for r in (UNIT, known, BYTES) if r]
    if wanted != "auto":
        candidates = [_checked_range(wanted)]
    for candidate in candidates:
        if candidate[0] <= low and high <= candidate[1]:
            return candidate
    if wanted == "auto":
        return None
    raise ValueError(f"X goes from {low:.4g} to {high:.4g}, out of input_range={wanted}.")


def _checked_range(pair):
    if (
        len(pair) != 2
        or not all(isinstance(bound, Real) and np.isfinite(bound) for bound in pair)
        or not pair[0] < pair[1]
    ):
        raise ValueError(f"input_range must be two numbers, low < high; got {pair}.")
    return tuple(map(float, pair))


def fit_to_range(X, given, known, certain):
    """Tell whether images are to be brought from their range to that of the network.

    Parameters
    ----------
    X : ndarray
        Images.
    given : tuple of two floats or None
        Their range.
    known : tuple of two floats
        The range of what the network was trained on.
    certain : bool
        Whether a user gave the range.

    Returns
    -------
    differs : bool

    Raises
    ------
    ValueError
        If they are so unlike that one of them must be scaled wrongly.
    """
    if certain or {given, known} <= {UNIT, BYTES}:
        return given is not None and given != known
    ends, width = extremes(X), known[1] - known[0]
    low, high = float(ends.min()), float(ends.max())
    beyond = max(known[0] - low, high - known[1])
    if beyond > width / 2 or high - low < width / 10:
        raise ValueError(
            f"The network is made for images with values from {known[0]:.4g} to "
            f"{known[1]:.4g}; those of X go from {low:.4g} to {high:.4g}. Scale them "
            "alike, or give input_range, the values of black and white in X."
        )
    return False


def moments(X: Any) -> tuple[AnyArray, AnyArray]:
    """Return mean and variance of each feature, with a part of the rows in memory."""
    scaler = StandardScaler()
    for part in arrays(X):
        scaler.partial_fit(part)
    return scaler.mean_, scaler.var_


def training_rows(X: Any, units: Units, device: Any) -> Any:
    """Return the rows that train: in memory, unless they are to stay where they are."""
    if isinstance(X, LazyRows):
        return PreparedRows(X, units.prepare, units.row_shape)
    return tensor_of(X, units, device)


def tensor_of(X: Any, units: Units, device: Any) -> torch.Tensor:
    """Return all rows as one float32 tensor, on the device if they fit beside a net."""
    rows = torch.empty((len(X), *units.row_shape), dtype=torch.float32, device="cpu")
    for part in parts(X):
        rows[part] = units.prepare(X[part])
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if rows.nbytes < free / 2:
            return rows.to(device)
    return rows
