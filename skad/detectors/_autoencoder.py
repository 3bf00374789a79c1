"""Autoencoder: distance to the row's own reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal

import numpy as np
import torch
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
from skad.neural._autoencoders import (
    Bounded,
    Constant,
    EncoderDecoder,
    convolutional,
    dense,
)
from skad.neural._blocks import as_tensor
from skad.neural._detector import NeuralDetector
from skad.neural._rows import extremes
from skad.neural._scaling import moments

__all__ = ["AutoEncoder"]

# Standard deviations beyond which a value is taken as lying there: its square, summed,
# stays within float32.
_FAR = 1e9
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
    lr : float, default=1e-3
        Learning rate of the optimiser, Adam.
    max_epochs : int, default=50
        Passes over the training rows.
    batch_size : int or "auto", default="auto"
        Rows of a step. "auto" is a 64th of the rows, between 8 and 128.
    lr_schedule : {None, "cosine", "onecycle"}, default="cosine"
        How the learning rate changes within a fit: not; falling to 0; rising, then
        falling to 0.
    early_stopping : bool, default=False
        Stop when the loss of held-out rows has not fallen for `patience` epochs, and
        take the weights of the best epoch.
    validation_fraction : float in (0, 1), default=0.1
        Share of the rows that early stopping holds out.
    patience : int, default=10
        Epochs without progress that early stopping waits for.
    warm_start : bool, default=False
        Let `fit` go on from the weights of the last fit.
    callbacks : list or None, default=None
        Callbacks of skorch.
    net_params : dict or None, default=None
        Further parameters of :class:`skorch.NeuralNet`, such as
        ``{"optimizer__weight_decay": 1e-4}``,
        or an ``"accelerator"``, as :class:`~skad.neural.NeuralDetector` says.
    device : str, default="auto"
        Where to train and score; "auto" is a GPU where there is one.
    contamination : float in (0, 0.5] or None, default=None
        Share of the training rows that `predict` flags. None is 0.1, unless
        `false_alarm_rate` is given.
    false_alarm_rate : float in (0, 0.5] or None, default=None
        Where `contamination` is None: share of fresh normal rows that `predict` flags, if
        the training rows are normal. The threshold is then a quantile of cross-fitted
        scores, which takes five more fits.
    image_shape : tuple or None, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, batches and held-out rows. Global states are left alone.
    verbose : int, default=0
        1: a progress bar, one step an epoch. 2: skorch's table, and a bar in each epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained network.
    history_ : dict of str to list of float
        Mean losses by epoch, "train_loss" and, with early stopping, "valid_loss": squared
        errors in units of the training values' variance.
    offset_ : float
        Threshold on `score_samples`.
    image_shape_ : tuple or None
        Shape of one image, when fitted on images.
    n_features_in_ : int
        Number of features; of pixels and channels together for images.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, when fitted on a data frame.

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
        **NeuralDetector._parameter_constraints,
        "network": [StrOptions({"auto", "dense", "convolutional"}), callable],
        "code_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "hidden": [tuple, list, StrOptions({"auto"})],
        "output": [StrOptions({"auto", "linear", "bounded"})],
    }
    _learned = (
        *NeuralDetector._learned,
        "_shift",
        "_scale",
        "_range",
        "_varies",
        "_first_row",
        "_loss_of_mean",
    )

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
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
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
        self.validation_fraction = validation_fraction
        self.patience = patience
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
        """Give the codes.

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
        return self._in_blocks(self._module.encoder, X)

    def reconstruct(self, X: Rows) -> Floats:
        """Give the reconstructions r(x), in the units of the features.

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
        rows = self._in_blocks(self._module, X).reshape(len(X), *self._row_shape)
        return (rows * self._scale + self._shift).reshape(len(X), *shape)

    def _prepare_fit(self, X, y):
        self._check_hidden()
        mean, variance = (values.reshape(self._row_shape) for values in moments(X))
        within = variance.mean()
        if self._convolves:  # one of each a channel
            variance = variance.mean(axis=(1, 2)) + mean.var(axis=(1, 2))
            mean = mean.mean(axis=(1, 2), keepdims=True)
        self._shift = mean
        self._scale = float(np.sqrt(variance[variance > 0].mean()) if variance.any() else 1)
        self._loss_of_mean = within / self._scale**2
        low, high = extremes(X)
        self._varies = (low < high).reshape(self._row_shape)
        self._first_row = self._prepare(X[:1])[0].numpy()
        self._range = np.array([low.min(), high.max()], dtype=np.float64)

    def _prepare(self, X):
        rows = as_tensor(X).reshape(-1, *self._row_shape)
        # In double until they are scaled: rows may be far from zero, and from one.
        rows = rows - as_tensor(self._shift)
        return rows.mul_(1 / self._scale).clamp_(-_FAR, _FAR).float()

    def _make_module(self):
        encoder, *decoder = self._make_halves()
        if self.output == "bounded" or (self.output == "auto" and self._convolves):
            low, high = ((end - self._shift) / self._scale for end in self._range)
            decoder.append(Bounded(low, high))
        if not self._varies.all():
            decoder.append(Constant(self._varies, self._first_row))
        net = EncoderDecoder(encoder, nn.Sequential(*decoder)).float()
        if callable(self.network):
            self._check_shapes(net)
        return net

    def _check_shapes(self, net):
        rows = torch.zeros((2, *self._row_shape), dtype=torch.float32)
        try:
            shape = tuple(net.eval()(rows).shape)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"The network that {self.network!r} made fails on rows of shape "
                f"{self._row_shape}: {error}"
            ) from error
        if shape != rows.shape:
            raise ValueError(
                f"The decoder that {self.network!r} made should give rows of shape "
                f"{self._row_shape}; it gives {shape[1:]}."
            )

    def _make_halves(self):
        code_size, shape = self._code_size, self._row_shape
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
        return self._of_flat(*dense(self.n_features_in_, code_size, hidden))

    def _of_flat(self, encoder, decoder):
        if len(self._row_shape) == 1:
            return encoder, decoder
        encoder = nn.Sequential(nn.Flatten(), encoder)
        return encoder, nn.Sequential(decoder, nn.Unflatten(1, self._row_shape))

    def _make_criterion(self):
        return SquaredError()

    def _check_losses(self, losses):
        super()._check_losses(losses)
        if losses and self._loss_of_mean and losses[-1] >= self._loss_of_mean:
            warn(
                "The network reconstructs the training rows no better than their mean: the "
                f"loss is {losses[-1]:.3g} after {len(losses)} epochs, the mean's is "
                f"{self._loss_of_mean:.3g}. Train longer (max_epochs={self.max_epochs}), "
                f"or at another rate (lr={self.lr}).",
                ConvergenceWarning,
            )

    def _score_block(self, batch):
        return self._relevance_block(batch).flatten(1).sum(dim=1)

    def _relevance_block(self, batch):
        return (batch - self._module(batch)).square_()

    def _outlier_score(self, X):
        return super()._outlier_score(X) * self._scale**2

    def _relevance(self, X):
        relevance = self._in_blocks(self._relevance_block, X).reshape(X.shape)
        return relevance * self._scale**2

    @property
    def _module(self):
        return self.net_.module_

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
        """Give the loss."""
        return mse_loss(output, batch)
