"""Autoencoder: distance to the row's own reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.nn.functional import mse_loss

from skad._sklearn import Interval, StrOptions
from skad._typing import (
    Auto,
    BatchSize,
    Callbacks,
    Device,
    Floats,
    ImageShape,
    NetParams,
    Network,
    Rows,
    Schedule,
    Seed,
)
from skad._warnings import warn
from skad.detectors._autoencoder._networks import (
    Bounded,
    Constant,
    EncoderDecoder,
    convolutional,
    dense,
)
from skad.neural._detector import NeuralDetector
from skad.neural._feature_net import output_of
from skad.neural._parts import EarlyStopping, Parts, Scoring
from skad.neural._rows import extremes
from skad.neural._units import ScaledUnits, moments

__all__ = ["AutoEncoder"]

_LEARNED = ("loss_of_mean", "varies", "first_row", "range")
_SMALLEST_IMAGE = 10  # pixels a side from which "auto" convolves


class AutoEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NeuralDetector):
    r"""Reconstruct each row from a short code; what can't be reconstructed is abnormal.

    With the reconstruction :math:`r(x)` of a network that was trained to reconstruct the
    training rows, the outlier score is the squared distance (section 2 of [1]_), and
    relevance its terms (appendix A.3, with :math:`r(x)` taken as constant):

    .. math:: o(x) = \|x - r(x)\|^2, \qquad R_i(x) = (x_i - r_i(x))^2.

    Relevance sums to the score; nothing is unattributed. Both have the units of a squared
    feature, so features on larger scales count for more: put a scaler before it where
    they should not.

    Parameters
    ----------
    network : {"auto", "dense", "convolutional"} or callable, default="auto"
        ``"auto"`` is convolutional for images of 10 pixels a side and more, else dense.
        The convolutional network is that of [1]_ at 28 x 28 pixels: two convolutions,
        each with max-pooling, two linear layers to the code, and a mirrored decoder. It
        is deeper for larger images, and takes flat rows for signals. A callable gets the
        shape of a row, ``(d,)`` or ``(C, H, W)``, and the size of the code, and gives two
        modules, encoder and decoder.
    code_size : int or "auto", default="auto"
        Numbers in the code. "auto" is 64 for a convolutional network; for a dense one,
        half the features, from 1 to 32.
    hidden : tuple of int or "auto", default="auto"
        Widths of the linear layers before the code, in reverse after it. "auto" is
        ``(256,)`` for a convolutional network, ``(128, 64)`` for a dense one.
    output : {"auto", "linear", "bounded"}, default="auto"
        ``"bounded"`` squashes the reconstruction into the range of the training values by
        a sigmoid, which images fill to both ends; ``"linear"`` does not. "auto" is
        bounded for a convolutional network.
    [[lr, max_epochs, batch_size, lr_schedule, early_stopping, warm_start, callbacks]]
    [[net_params, device, contamination, false_alarm_rate, image_shape, random_state]]
    [[verbose]]

    Attributes
    ----------
    [[net_]]
    history_ : dict of str to list of float
        Mean losses by epoch, "train_loss" and, with early stopping, "valid_loss": squared
        errors in units of the training values' variance.
    [[offset_, image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    ValueError
        By `fit`, when `hidden` are no widths, or what `network` makes does not take rows or
        does not give them back in their shape.

    Warns
    -----
    ConvergenceWarning
        When the network reconstructs the training rows no better than their mean.

    See Also
    --------
    KDE : Distance to the training rows instead.
    pyod.models.auto_encoder.AutoEncoder : Without explanation, and for flat rows only.

    Notes
    -----
    The network sees the rows less their mean (of each feature; of each channel for a
    convolutional one) and divided by one number, the root mean variance, so that `lr`
    does not depend on the units, and the weights of the features are left as they are.

    References
    ----------
    .. [1] J. Kauffmann, L. Ruff, G. Montavon, K.-R. Mueller. "The Clever Hans Effect in
       Anomaly Detection". arXiv:2006.10609, 2020.

    Examples
    --------
    The second feature is the negative of the first in all training rows, not in this:

    >>> import numpy as np
    >>> from skad import AutoEncoder
    >>> a = np.random.default_rng(0).standard_normal((200, 1))
    >>> X = np.hstack([a, -a, np.zeros_like(a)])
    >>> detector = AutoEncoder(code_size=1, random_state=0).fit(X)
    >>> detector.predict([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])
    array([ 1, -1])
    >>> detector.transform([[1.0, -1.0, 0.0]]).shape
    (1, 1)
    """

    _parameter_constraints = {
        "network": [StrOptions({"auto", "dense", "convolutional"}), callable],
        "code_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "hidden": [tuple, list, StrOptions({"auto"})],
        "output": [StrOptions({"auto", "linear", "bounded"})],
    }

    def __init__(
        self,
        *,
        network: Network | Literal["auto", "dense", "convolutional"] = "auto",
        code_size: int | Auto = "auto",
        hidden: Sequence[int] | Auto = "auto",
        output: Literal["auto", "linear", "bounded"] = "auto",
        lr: float = 1e-3,
        max_epochs: int = 50,
        batch_size: BatchSize = "auto",
        lr_schedule: Schedule = "cosine",
        early_stopping: EarlyStopping | None = None,
        warm_start: bool = False,
        callbacks: Callbacks = None,
        net_params: NetParams = None,
        device: Device = "auto",
        contamination: float | None = None,
        false_alarm_rate: float | None = None,
        image_shape: ImageShape = None,
        random_state: Seed = None,
        verbose: int = 0,
    ):
        self.network = network
        self.code_size = code_size
        self.hidden = hidden
        self.output = output
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr_schedule = lr_schedule
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.net_params = net_params
        self.device = device
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.random_state = random_state
        self.verbose = verbose

    def transform(self, X: Rows) -> Floats:
        """Return the codes.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to encode.

        Returns
        -------
        codes : ndarray of shape (n, code_size), float64
            What the encoder gives.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        X = self._validate(X)
        return self._trained.in_blocks(self._trained.module.encoder, X)

    def reconstruct(self, X: Rows) -> Floats:
        """Return the reconstructions r(x), in the units of the features.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to reconstruct.

        Returns
        -------
        reconstructions : ndarray of the shape of X, float64
            What the decoder makes of the codes.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        X, shape = self._validate(X, with_shape=True)
        trained = self._trained
        rows = trained.in_blocks(trained.module, X).reshape(len(X), *self._row_shape)
        return (rows * trained.units.scale + trained.units.shift).reshape(len(X), *shape)

    # Training.

    def _parts(self, data, previous=None):
        self._check_hidden()
        known = _learn(data, self._convolves) if previous is None else previous.state
        units = ScaledUnits.from_state(data, known)
        return Parts(
            self._network(units, known),
            SquaredError(),
            units,
            state={name: known[name] for name in _LEARNED},
            finish=self._judge,
        )

    def _network(self, units, known):
        encoder, *decoder = self._make_halves(units.row_shape)
        if self.output == "bounded" or (self.output == "auto" and self._convolves):
            low, high = ((end - units.shift) / units.scale for end in known["range"])
            decoder.append(Bounded(low, high))
        if not known["varies"].all():
            first = units.prepare(known["first_row"][None])[0].numpy()
            decoder.append(Constant(known["varies"].reshape(units.row_shape), first))
        net = EncoderDecoder(encoder, nn.Sequential(*decoder)).float()
        if callable(self.network):
            self._check_shape(net, units.row_shape)
        return net

    def _check_shape(self, net, row_shape):
        network = f"The network that {self.network!r} made"
        shape = tuple(output_of(net, row_shape, network).shape[1:])
        if shape != row_shape:
            raise ValueError(
                f"The decoder that {self.network!r} made should give rows of shape "
                f"{row_shape}; it gives {shape}."
            )

    def _make_halves(self, shape):
        code_size = self._code_size
        if callable(self.network):
            halves = self.network(shape, code_size)
            if not (isinstance(halves, tuple | list) and len(halves) == 2):
                raise ValueError(
                    f"network={self.network!r} should give two modules, encoder and "
                    f"decoder; it gave {type(halves).__name__}."
                )
            return halves
        if self._convolves:
            hidden = (256,) if self.hidden == "auto" else tuple(self.hidden)
            return convolutional(shape, code_size, hidden)
        hidden = (128, 64) if self.hidden == "auto" else tuple(self.hidden)
        return _of_flat(shape, *dense(self.n_features_in_, code_size, hidden))

    def _judge(self, trained, data):
        """Warn where the network is no better than the mean of the rows."""
        losses = [row["train_loss"] for row in trained.net.history if "train_loss" in row]
        bound = trained.state["loss_of_mean"]
        if losses and bound and losses[-1] >= bound:
            warn(
                "The network reconstructs the training rows no better than their mean: the "
                f"loss is {losses[-1]:.3g} after {len(losses)} epochs, the mean's is "
                f"{bound:.3g}. Train longer (max_epochs={self.max_epochs}), or at another "
                f"rate (lr={self.lr}).",
                ConvergenceWarning,
            )
        return {}

    # Score and explanation.

    def _scoring(self, trained):
        unit = trained.units.scale**2

        def squares(batch):
            return (batch - trained.module(batch)).square_()

        return Scoring(
            score=lambda batch: squares(batch).flatten(1).sum(dim=1).double() * unit,
            relevance=lambda X: trained.in_blocks(squares, X) * unit,
            unattributed=lambda X: np.zeros(len(X)),
        )

    @property
    def _n_features_out(self):
        return self._code_size

    @property
    def _code_size(self):
        if self.code_size != "auto":
            return self.code_size
        return 64 if self._convolves else max(1, min(32, self.n_features_in_ // 2))

    @property
    def _convolves(self):
        if self.network == "auto":
            return min((self.image_shape_ or (0,))[-2:]) >= _SMALLEST_IMAGE
        return self.network == "convolutional"

    @property
    def _row_shape(self):
        shape = super()._row_shape
        # Flat rows that are to be convolved are signals: images one pixel high.
        return (1, 1, *shape) if self._convolves and len(shape) == 1 else shape

    def _check_hidden(self):
        if self.hidden != "auto" and not all(
            isinstance(width, Integral) and width > 0 and width is not True
            for width in self.hidden
        ):
            raise ValueError(
                f"hidden must be widths, positive integers; got {self.hidden}."
            )


class SquaredError(nn.Module):
    """The loss: mean squared error of all values of a batch."""

    def forward(self, output, batch, y):
        """Return the loss."""
        return mse_loss(output, batch)


def _learn(data, convolves):
    """Learn from the rows what they are scaled by, and what the network can't learn.

    They are taken less their mean (of each feature; of each channel, to be convolved) and
    over one number, the root mean variance.
    """
    mean, variance = (values.reshape(data.row_shape) for values in moments(data.X))
    within = variance.mean()
    if convolves:
        variance = variance.mean(axis=(1, 2)) + mean.var(axis=(1, 2))
        mean = mean.mean(axis=(1, 2), keepdims=True)
    scale = float(np.sqrt(variance[variance > 0].mean()) if variance.any() else 1)
    low, high = extremes(data.X)
    return {
        "shift": mean,
        "scale": scale,
        "loss_of_mean": within / scale**2,
        "varies": low < high,
        "first_row": np.asarray(data.X[:1])[0],
        "range": np.array([low.min(), high.max()], dtype=np.float64),
    }


def _of_flat(shape, encoder, decoder):
    """Make halves for flat rows take rows of a shape."""
    if len(shape) == 1:
        return encoder, decoder
    encoder = nn.Sequential(nn.Flatten(), encoder)
    return encoder, nn.Sequential(decoder, nn.Unflatten(1, shape))
