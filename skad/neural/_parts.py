"""What is handed on in a training: the data, the parts of a detector, what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skorch import NeuralNet
from torch import nn

from skad._sklearn import Interval
from skad._typing import AnyArray, Floats, Ints
from skad._values import ParameterValue
from skad.neural._blocks import block_rows, in_blocks
from skad.neural._rows import joined
from skad.neural._units import Units

__all__ = ["Batches", "EarlyStopping", "Parts", "Scoring", "Trained", "TrainingData"]

# What weight files keep of every detector, beside the state of its training.
COMMON = ("n_features_in_", "feature_names_in_", "image_shape_", "offset_")
RESERVED = {*COMMON, "detector", "net_", "history_"}
_IMAGES_OF_A_BLOCK = 16


class EarlyStopping(ParameterValue):
    """Stop a training when the loss of held-out rows no longer falls.

    The network gets the weights of the best epoch.

    Parameters
    ----------
    validation_fraction : float in (0, 1), default=0.1
        Share of the training rows that is held out.
    patience : int, default=10
        Epochs without progress before the training stops.

    See Also
    --------
    NeuralDetector : Takes one as `early_stopping`.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import AutoEncoder
    >>> from skad.neural import EarlyStopping
    >>> X = np.random.default_rng(0).standard_normal((100, 3))
    >>> stopping = EarlyStopping(patience=3)
    >>> detector = AutoEncoder(early_stopping=stopping, random_state=0).fit(X)
    >>> sorted(detector.history_)
    ['train_loss', 'valid_loss']
    >>> detector.set_params(early_stopping__patience=5).early_stopping
    EarlyStopping(patience=5)
    """

    _parameter_constraints = {
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, validation_fraction: float = 0.1, patience: int = 10):
        self.validation_fraction = validation_fraction
        self.patience = patience


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a detector is fitted on: rows, and what is known of each.

    Parameters
    ----------
    X : ndarray of shape (n, d), or LazyRows
        Flat rows.
    row_shape : tuple
        Of a row for the network.
    image_shape : tuple or None
        Of an image as it came; None for tables.
    labels : ndarray of shape (n,), int8, or None
        +1 normal, -1 anomaly, 0 unlabelled; None for detectors that read none.
    mask : ndarray of shape (n, 1, H, W), bool, or None
        Where anomalies are abnormal.
    classes : tuple or None
        Classes of the rows.
    class_numbers : ndarray of shape (n,), int, or None
        Number of each row's class.

    See Also
    --------
    NeuralDetector : Hands it to ``_parts``.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.neural import TrainingData
    >>> labels = np.array([0, 1, -1, 0], dtype=np.int8)
    >>> data = TrainingData(np.arange(8.0).reshape(4, 2), (2,), labels=labels)
    >>> data.normal.tolist(), data.anomalies.tolist()
    ([[0.0, 1.0], [2.0, 3.0], [6.0, 7.0]], [[4.0, 5.0]])
    """

    X: Any
    row_shape: tuple[int, ...]
    image_shape: tuple[int, ...] | None = None
    labels: npt.NDArray[np.int8] | None = None
    mask: AnyArray | None = None
    classes: tuple[Any, ...] | None = None
    class_numbers: Ints | None = None

    def __len__(self) -> int:
        return len(self.X)

    @property
    def is_image(self) -> bool:
        """Whether the rows are images."""
        return self.image_shape is not None

    @cached_property
    def anomalous(self) -> AnyArray:
        """Which rows are labelled -1: bool (n,)."""
        if self.labels is None:
            return np.zeros(len(self), dtype=bool)
        return self.labels == -1

    @cached_property
    def normal(self) -> Any:
        """The rows that are not labelled -1, as X holds them."""
        return self.X[~self.anomalous] if self.anomalous.any() else self.X

    @cached_property
    def anomalies(self) -> Any:
        """The rows that are labelled -1, as X holds them."""
        return self.X[self.anomalous]

    @cached_property
    def anomaly_masks(self) -> AnyArray | None:
        """Masks of the rows that are labelled -1, (m, 1, H, W); None without any."""
        if self.mask is None or not self.anomalous.any():
            return None
        return self.mask[self.anomalous]

    def fold(self, train: Ints) -> TrainingData:
        """Return some of the normal rows, and all anomalies.

        Parameters
        ----------
        train : ndarray of int
            Numbers of rows of `normal`.

        Returns
        -------
        fold : TrainingData
            With the labels, masks and classes of its rows.
        """
        if self.class_numbers is not None:
            return replace(self, X=self.X[train], class_numbers=self.class_numbers[train])
        if self.labels is None:
            return replace(self, X=self.X[train])
        if not self.anomalous.any():
            return replace(self, X=self.X[train], labels=self.labels[train], mask=None)
        n_anomalies = self.anomalous.sum()
        labels = np.append(
            self.labels[~self.anomalous][train], np.full(n_anomalies, -1, np.int8)
        )
        mask = self.anomaly_masks
        if mask is not None:
            none = np.zeros((len(train), *mask.shape[1:]), dtype=bool)
            mask = np.concatenate([none, mask])
        rows = joined(self.normal[train], self.anomalies)
        return replace(self, X=rows, labels=labels, mask=mask)

    def fit(self, detector: Any) -> Any:
        """Fit a detector on these rows, by its public method.

        Parameters
        ----------
        detector : object
            With ``fit(X, y)``, and `mask`, where there are masks.

        Returns
        -------
        detector : object
            The same, fitted.
        """
        if self.class_numbers is not None:
            several = len(np.unique(self.class_numbers)) > 1
            return detector.fit(self.X, self.class_numbers if several else None)
        given = {} if self.mask is None else {"mask": self.mask}
        return detector.fit(self.X, self.labels, **given)


@dataclass(frozen=True, eq=False)
class Batches:
    """What the batches of a training are made of.

    Parameters
    ----------
    rows : ndarray of shape (n, d), or LazyRows
        The rows that train, as `TrainingData` holds them, not prepared.
    targets : tensor of shape (n, ...) or None, default=None
        What the criterion gets as y, an entry for each row.
    change : callable or None, default=None
        What becomes of a batch of prepared rows before each step: ``(X, y) -> (X, y)``,
        tensors of as many rows. The criterion gets the changed batch; what it needs of the
        batch as it was is handed on as y. Batches that are held out are changed too, each
        in every epoch alike.
    size : int or None, default=None
        Rows of a step; None: by the detector's `batch_size`.
    epochs : int or None, default=None
        Passes over the rows; None: the detector's `max_epochs`.

    See Also
    --------
    Parts : Takes one as `batches`.

    Examples
    --------
    Rows that are noisy anew in every batch:

    >>> import numpy as np
    >>> import torch
    >>> from skad.neural import Batches
    >>> def add_noise(X, y):
    ...     return X + 0.1 * torch.randn_like(X), y
    >>> batches = Batches(np.zeros((10, 2)), change=add_noise)
    >>> batches.change(torch.zeros(3, 2), None)[0].shape
    torch.Size([3, 2])
    """

    rows: Any
    targets: torch.Tensor | None = None
    change: Callable[..., Any] | None = None
    size: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("size", "epochs"):
            value = getattr(self, name)
            counts = value is None or (isinstance(value, Integral) and int(value) > 0)
            if not counts:
                raise ValueError(
                    f"{name} must be a positive integer or None, got {value!r}."
                )


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, and what it takes to apply it to rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        None, where weights are yet to be loaded.
    units : Units
        What makes tensors of rows.
    state : dict
        What was learned beside the weights, numbers, tuples or arrays by name: exactly
        what weight files keep.

    See Also
    --------
    NeuralDetector : Hands it to ``_scoring``, and to ``_parts`` where training goes on.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.neural import Trained, Units
    >>> trained = Trained(None, Units((3,)), {"radius_": 2.0})
    >>> trained.units.prepare(np.ones((2, 3))).shape, trained.state["radius_"]
    (torch.Size([2, 3]), 2.0)
    """

    net: NeuralNet
    units: Units
    state: dict[str, Any]

    @property
    def module(self) -> Any:
        """The network, a torch.nn.Module."""
        return self.net.module_

    @property
    def device(self) -> torch.device:
        """Where the network is, a torch.device."""
        return next(self.module.parameters()).device

    def in_blocks(
        self, function: Callable[..., Any], X: Any, rows: int | None = None
    ) -> Floats:
        """Apply a function of tensors of rows, block by block.

        Parameters
        ----------
        function : callable
            From a tensor (rows, ...) to a tensor (rows, ...).
        X : ndarray of shape (n, d), or LazyRows
            Rows as they came, flat.
        rows : int or None, default=None
            Rows of a block; None: by their size.

        Returns
        -------
        values : ndarray of shape (n, ...), float64
            The same for a row alone and in any company.
        """
        rows = rows or self._rows_of_a_block()
        with torch.inference_mode():
            values = in_blocks(function, X, self.units.prepare, rows, self.device)
        return values.double().numpy()

    def _rows_of_a_block(self):
        # On a CPU, an image is so much work that many at once gain nothing, and a whole
        # block of them is too much for one.
        if self.units.image_shape is not None and self.device.type == "cpu":
            return _IMAGES_OF_A_BLOCK
        return block_rows(self.units.n_features)

    def with_state(self, learned: dict[str, Any]) -> Trained:
        """Return the same network with more that was learned.

        Parameters
        ----------
        learned : dict
            Numbers, strings, tuples, dicts of such, or arrays of numbers, by name.

        Returns
        -------
        trained : Trained
            With both in its state.

        Raises
        ------
        TypeError
            For what no weight file keeps.
        ValueError
            For a name that is known already, or that all detectors have.
        """
        if not isinstance(learned, dict) or not all(isinstance(n, str) for n in learned):
            raise TypeError(f"A state must be a dict of values by name; got {learned!r}.")
        for name, value in learned.items():
            if name in self.state or name in RESERVED:
                raise ValueError(f"The state has {name!r} already: choose another name.")
            if not _can_be_kept(value):
                raise TypeError(
                    f"state[{name!r}] is a {type(value).__name__}, which weight files do "
                    "not keep; numbers, strings, tuples, dicts by name, and arrays of "
                    "numbers they do."
                )
        return replace(self, state=self.state | learned)


def _can_be_kept(value):
    if isinstance(value, tuple):
        return all(map(_can_be_kept, value))
    if isinstance(value, dict):
        names, values = value.keys(), value.values()
        return all(isinstance(n, str) for n in names) and all(map(_can_be_kept, values))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiub"
    return value is None or isinstance(value, str | bool | int | float | np.generic)


def _nothing(*args: Any) -> None:
    return None


def _no_loss(net: NeuralNet) -> float:
    return 0.0


def _nothing_learned(trained: Trained, data: TrainingData) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Parts:
    """What a detector is made of, for one training.

    Parameters
    ----------
    module : torch.nn.Module
        The network, untrained.
    criterion : torch.nn.Module
        Called as ``criterion(output, batch, y)``; returns the mean loss of the batch.
    units : Units or None, default=None
        What makes tensors of rows; None: float32 copies of them as they are. What they
        have learned is part of the state.
    batches : Batches or None, default=None
        None: all rows, without targets.
    state : dict, default={}
        What was learned before the training, by name.
    start : callable, default=nothing
        ``start(net, rows)`` sets what depends on the untrained network, by the prepared
        rows that train.
    train : callable or None, default=None
        ``train(training) -> (net, state)``, for what is more than one fit of one network;
        it gets the `Training`.
    finish : callable, default=nothing
        ``finish(trained, data) -> state``: what is learned after the training, in addition
        to the state before.
    harmless_loss : callable or None, default=0
        ``harmless_loss(net)`` is a loss that is no divergence, however small that of the
        start is. None: the loss is no measure of the training.
    net_params : dict or None, default=None
        Parameters of the skorch net; None: the detector's own `net_params`.

    See Also
    --------
    Scoring : How the network scores, once it is trained.

    Examples
    --------
    >>> from torch import nn
    >>> from skad.neural import Parts
    >>> parts = Parts(nn.Linear(3, 1), nn.MSELoss(), state={"radius_": 1.0})
    >>> parts.batches is None  # all rows, without targets
    True
    """

    module: nn.Module
    criterion: nn.Module
    units: Units | None = None
    batches: Batches | None = None
    state: dict[str, Any] = field(default_factory=dict)
    start: Callable[[NeuralNet, Any], None] = field(default_factory=lambda: _nothing)
    train: Callable[[Any], tuple[NeuralNet, dict[str, Any]]] | None = None
    finish: Callable[[Trained, TrainingData], dict[str, Any]] = field(
        default_factory=lambda: _nothing_learned
    )
    harmless_loss: Callable[[NeuralNet], float] | None = field(
        default_factory=lambda: _no_loss
    )
    net_params: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Scoring:
    """How a trained network scores, and how its scores are explained.

    Parameters
    ----------
    score : callable
        From a tensor of prepared rows to their outlier scores, a tensor (n,).
    relevance : callable
        From flat rows as they came to the relevance of each feature: an array (n, d).
    unattributed : callable or None, default=None
        From flat rows to what belongs to no feature, (n,); None: what relevance leaves of
        the score.
    block_rows : int or None, default=None
        Rows that are scored at once; None: by their size.

    See Also
    --------
    Parts : What the network was trained as.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skad.neural import Scoring
    >>> length = Scoring(
    ...     score=lambda batch: batch.square().sum(dim=1), relevance=np.square
    ... )
    >>> length.score(torch.tensor([[3.0, 4.0]]))
    tensor([25.])
    """

    score: Callable[[torch.Tensor], torch.Tensor]
    relevance: Callable[[Any], AnyArray]
    unattributed: Callable[[Any], AnyArray] | None = None
    block_rows: int | None = None
