"""Detectors that train a network: skorch inside, scikit-learn outside."""

from __future__ import annotations

import copy
from abc import abstractmethod
from numbers import Integral, Real
from typing import Self

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, ProgressBar
from skorch.dataset import ValidSplit

from skad._sklearn import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    _fit_context,
    fit_task,
    with_callbacks,
)
from skad._typing import (
    ArrayLike,
    FilePath,
    Rows,
)
from skad._warnings import warn
from skad.base import BaseDetector, all_or_nothing, cross_fitted_scores
from skad.neural._blocks import as_tensor, block_rows, in_blocks
from skad.neural._callbacks import EpochBar, FitTasks
from skad.neural._net import OneClassNet
from skad.neural._rows import LazyRows, PreparedRows, ReadsByPart, parts
from skad.neural._schedule import SCHEDULES
from skad.neural._seed import choose_device, draw_seed, seeded
from skad.neural._weights import load_weights, read_weights, write_weights

__all__ = ["NeuralDetector"]

_IMAGES_OF_A_BLOCK = 16
_TINY = np.finfo(np.float32).tiny

# What the detector sets by parameters of its own.
_OWN = {"module", "criterion", "lr", "max_epochs", "batch_size", "lr_schedule"} | {
    *("device", "callbacks", "verbose", "warm_start", "train_split")
}


class NeuralDetector(CallbackSupportMixin, ReadsByPart, BaseDetector):
    """Base class of the detectors that train a network.

    The network is trained by skorch: `net_` is a :class:`skorch.NeuralNet`, with its
    history, its callbacks, its ``save_params``. The rows are held once, in float32, on
    the device where they fit, unless they come from a file or a data set; batches are cut
    from them whole. Scores are computed in
    blocks of one size, so that a row has the same score, to the bit, alone and in any
    batch.

    A subclass writes

    - ``_prepare_fit(X, y)``: learn what the rows are scaled by and the like, before
      training; optional;
    - ``_make_module()``: the network, from the shape of a row, ``self._row_shape``;
    - ``_make_criterion()``: a module called as ``criterion(output, batch, y)``, which
      gives the mean loss of the batch;
    - ``_training_set(X, y, device)``: the rows that train, what the criterion gets as y (a
      tensor with an entry or a row for each; None by default), and what becomes of a batch
      of both before each step, ``(X, y) -> (X, y)`` (None: nothing);
    - ``_before_training(net, rows)``: set what depends on the untrained network; optional;
    - ``_prepare(X)``: rows of X as float32 tensors of ``self._row_shape``; by default a
      copy of them as they are;
    - ``_score_block(batch)``: outlier scores of a tensor of rows, a tensor ``(n,)``, by
      the trained network ``self.net_.module_``;
    - ``_relevance(X)``, as in :class:`skad.base.BaseDetector`: of flat rows, float64 or
      float32. ``self._in_blocks(function, X)`` gives a function of tensors of rows, as
      float64, in the blocks in which rows are scored;
    - ``_learned``, the names of the attributes that ``save_weights`` is to keep beside the
      network: those of this class, and what ``_prepare_fit`` sets.

    Module and criterion must be classes of a module, not of a function, to be pickled.
    Dense layers inside the network should have a multiple of 4 inputs for scores to be the
    same to the bit in any batch; otherwise they are the same up to rounding.

    See Also
    --------
    skad.AutoEncoder : One of them.

    Notes
    -----
    Parameters that subclasses offer in ``__init__``, beside those of
    :class:`skad.base.BaseDetector`:

    lr : float
        Learning rate of the optimiser, Adam.
    max_epochs : int
        Passes over the training rows.
    batch_size : int or "auto"
        Rows of a step. "auto" is a 64th of the rows, between 8 and 128, so that an epoch
        of a small set has as many steps as one of a large set at least.
    lr_schedule : {None, "cosine", "onecycle"}
        How the learning rate changes within a fit: not; falling to 0; rising, then
        falling to 0.
    early_stopping : bool
        Stop when the loss of held-out rows has not fallen for `patience` epochs, and
        take the weights of the best epoch.
    validation_fraction : float in (0, 1)
        Share of the rows that early stopping holds out.
    patience : int
        Epochs without progress that early stopping waits for.
    warm_start : bool
        Let `fit` go on from the weights of the last fit.
    callbacks : list or None
        Further callbacks of skorch.
    net_params : dict or None
        Further parameters of :class:`skorch.NeuralNet`, such as
        ``{"optimizer__weight_decay": 1e-4}``. With ``"accelerator"``, an
        ``accelerate.Accelerator``, it trains through :class:`skorch.hf.AccelerateMixin`:
        mixed precision, accumulated gradients, several processes.
    device : str
        Where to train and score; "auto" is a GPU where there is one.
    random_state : int, RandomState instance or None
        Seeds weights, batches and held-out rows. torch's and numpy's global states are
        left alone.
    verbose : int
        1: a progress bar, one step an epoch. 2: skorch's table of epochs, and a bar in
        each.

    Examples
    --------
    Distance to a linear reconstruction. The parameters are those of
    :class:`skad.AutoEncoder`, but for its own four:

    >>> import numpy as np
    >>> from torch import nn
    >>> from skad.neural import NeuralDetector
    >>> class Loss(nn.Module):
    ...     def forward(self, output, batch, y):
    ...         return (output - batch).square().mean()
    >>> class Linear(NeuralDetector):
    ...     def __init__(self, *, lr=0.01, max_epochs=50, batch_size="auto", device="cpu",
    ...                  lr_schedule=None, early_stopping=False, validation_fraction=0.1,
    ...                  patience=5, warm_start=False, callbacks=None, net_params=None,
    ...                  random_state=None, verbose=0):
    ...         vars(self).update({k: v for k, v in locals().items() if k != "self"})
    ...
    ...     def _make_module(self):
    ...         (d,) = self._row_shape
    ...         return nn.Sequential(nn.Linear(d, 1), nn.Linear(1, d))
    ...
    ...     def _make_criterion(self):
    ...         return Loss()
    ...
    ...     def _residual(self, batch):
    ...         return (batch - self.net_.module_(batch)).square()
    ...
    ...     def _score_block(self, batch):
    ...         return self._residual(batch).sum(dim=1)
    ...
    ...     def _relevance(self, X):
    ...         return self._in_blocks(self._residual, X)
    >>> X = np.random.default_rng(0).standard_normal((200, 1)) * [1, 2]
    >>> detector = Linear(random_state=0).fit(X)
    >>> detector.predict([[1.0, 2.0], [3.0, -6.0]])
    array([ 1, -1])
    """

    net_: NeuralNet
    offset_: float

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "lr": [Interval(Real, 0, None, closed="neither")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr_schedule": [StrOptions(SCHEDULES), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "net_params": [dict, None],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _dtype = (np.float64, np.float32)

    @with_callbacks
    def fit(self, X: Rows, y: ArrayLike | None = None) -> Self:
        """Train the network, and set the threshold.

        An interrupt (Ctrl-C) ends the training, not the fit: the detector is then fitted
        with the weights so far.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Training rows, at least two; finite numbers. float32 arrays are taken as they
            are, without a copy in float64. Memory-mapped arrays, data sets of torch (whose
            items are rows, or tuples that begin with one) and
            :class:`~skad.datasets.LazyImages` are read part by part, and never held
            whole; the same holds for the other methods.
        y : array-like of shape (n,), default=None
            +1 normal, -1 anomaly, 0 unlabelled. Ignored by detectors without labels.

        Returns
        -------
        self : object
            The detector itself, fitted.

        Raises
        ------
        TypeError
            For sparse `X`, or callbacks that are none of skorch's.
        ValueError
            For a bad parameter, NaN or infinite entries, fewer than two rows, images
            that do not have the shape `image_shape`, or a training that diverges. A
            failed fit leaves the detector as it was before.
        """
        known = isinstance(self.max_epochs, Integral)
        task = fit_task(self, X, y, self.max_epochs if known else None)
        super().fit(X, y)
        if task is not None:
            task.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Rows, y: ArrayLike | None = None) -> Self:
        """Train one more epoch, on these rows; the first call starts the network.

        The rows of the first call settle what the rows are scaled by; the threshold is
        that of the rows of the last call.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows of this epoch.
        y : array-like of shape (n,), default=None
            Labels, as for `fit`.

        Returns
        -------
        self : object
            The detector itself.

        Raises
        ------
        ValueError
            As `fit`, and for rows of another shape than those of the first call.
        """
        with all_or_nothing(self):
            started = hasattr(self, "net_")
            X = self._validate(X) if started else self._validate_first(X)
            self._train(X, y, go_on=started, epochs=1)
            self.offset_ = self._find_offset(self._normal_part(X, y))
        return self

    @property
    def history_(self) -> dict[str, list[float]]:
        """Learning curve: mean losses by epoch, dict of str to list of float."""
        if not hasattr(self, "net_"):
            raise AttributeError(f"This {type(self).__name__} has no history_: not fitted.")
        curves = {
            key: [row[key] for row in self.net_.history if key in row]
            for key in ("train_loss", "valid_loss")
        }
        return {key: curve for key, curve in curves.items() if curve}

    def save_weights(self, path: FilePath) -> None:
        """Save what was learned as tensors and plain values: nothing to unpickle.

        Parameters
        ----------
        path : str or path
            A name that ends in ``.safetensors`` needs the package safetensors; other
            names get torch's format.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        FileNotFoundError
            If there is no such folder.
        ImportError
            If safetensors is needed and missing.
        """
        check_is_fitted(self)
        state = {name: getattr(self, name) for name in self._learned if hasattr(self, name)}
        write_weights(path, self.net_.module_.state_dict(), state)

    def load_weights(self, path: FilePath) -> Self:
        """Become the fitted detector that `save_weights` saved.

        Parameters
        ----------
        path : str or path
            Of a detector of this class, with the same parameters of the network.

        Returns
        -------
        self : object
            The detector itself, fitted.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ImportError
            If safetensors is needed and missing.
        ValueError
            If the file is broken, or holds the weights of another network. The detector
            is then as it was before.
        """
        with all_or_nothing(self):
            weights, state = read_weights(path)
            self._take_learned(state, path)
            with seeded(0):
                self.net_ = self._make_net().initialize()
            load_weights(self.net_.module_, weights, path)
            self.net_.module_.eval()
        return self

    def _take_learned(self, state, path):
        optional = {"feature_names_in_"}
        missing = [n for n in self._learned if n not in state and n not in optional]
        unknown = [name for name in state if name not in self._learned]
        if missing or unknown:
            raise ValueError(
                f"{path} was saved by a detector of another kind than "
                f"{type(self).__name__}: missing {missing}, unknown {unknown}."
            )
        for name in self._learned:
            vars(self).pop(name, None)
        vars(self).update(state)

    # What subclasses write.

    # Attributes beside the network that make a fitted detector, for files of weights.
    _learned: tuple[str, ...] = (
        *("n_features_in_", "feature_names_in_", "image_shape_", "offset_"),
        "_start_loss",
    )

    def _prepare_fit(self, X, y):
        """Learn from all rows what `_make_module` and `_prepare` need."""

    def _training_set(self, X, y, device):
        """Give the rows that train, the criterion's y, and what changes a batch."""
        return X, None, None

    def _before_training(self, net, rows):
        """Set what depends on the untrained network."""

    @property
    def _epochs_of_a_fit(self):
        """The passes over the rows, once the rows are known."""
        return self.max_epochs

    def _harmless_loss(self, net):
        """Give a loss that is no divergence, however small that of the start is."""
        return 0.0

    @abstractmethod
    def _make_module(self):
        """Give the network for rows of ``self._row_shape``."""

    @abstractmethod
    def _make_criterion(self):
        """Give the loss, a module ``criterion(output, batch, y)``."""

    def _prepare(self, X):
        # A copy: a layer in place would write to the caller's rows.
        rows = as_tensor(X).to(torch.float32, copy=True)
        return rows.reshape(-1, *self._row_shape)

    @abstractmethod
    def _score_block(self, batch):
        """Give the outlier scores of a tensor of rows."""

    # What they get.

    def _fit(self, X, y):
        go_on = self.warm_start and hasattr(self, "net_")
        self._train(X, y, go_on=go_on)

    def _outlier_score(self, X):
        scores = self._in_blocks(self._score_block, X)
        if scores.shape != (len(X),):
            raise ValueError(
                f"_score_block must give one score a row; for {len(X)} rows it gave an "
                f"array of shape {scores.shape}."
            )
        return scores

    def _in_blocks(self, function, X):
        """Give a function of tensors of rows, for all rows: ndarray, float64."""
        module = self.net_.module_
        device = next(module.parameters()).device
        with torch.inference_mode():
            rows = self._rows_of_a_block(device)
            values = in_blocks(function, X, self._prepare, rows, device)
        return values.double().numpy()

    def _rows_of_a_block(self, device):
        # On a CPU, an image is so much work that many at once gain nothing, and a whole
        # block of them is too much for one.
        if self.image_shape_ is not None and device.type == "cpu":
            return _IMAGES_OF_A_BLOCK
        return block_rows(self.n_features_in_)

    def _out_of_sample_score(self, X, rows):
        copy = self._copy_to_cross_fit()
        score = self._score_by_copy
        return cross_fitted_scores(copy, X, rows, fit=self._fit_copy, score=score)

    def _score_by_copy(self, copy, X, train, test):
        return -copy.score_samples(X[test])

    def _fit_copy(self, copy, X, train):
        return copy.fit(X[train], None)

    def _copy_to_cross_fit(self):
        copy = super()._copy_to_cross_fit().set_params(warm_start=False, verbose=0)
        if not self.early_stopping:  # as long as this one was trained, in all its fits
            copy.set_params(max_epochs=max(1, len(self.history_.get("train_loss", []))))
        vars(copy).pop("_skl_callbacks", None)  # scikit-learn's: they watch one fit
        return copy

    def _train(self, X, y, *, go_on, epochs=None):
        seed, device = draw_seed(self.random_state), self._training_device
        if go_on:
            self._check_same_rows()
        else:
            self._prepare_fit(X, y)
        with seeded(seed, device):
            X, y, change = self._training_set(X, y, device)
            net = self._make_net().initialize()
            rows = self._training_rows(X, device)
            if go_on:
                _continue(net, self.net_)
            else:
                self._before_training(net, rows)
            with net.changing_batches(change):
                self._run(net, rows, y, epochs or self._epochs_of_a_fit, seed, go_on)
        net.module_.eval()
        self.net_ = net

    def _check_same_rows(self):
        if self._trained_shape != self._row_shape:
            raise ValueError(
                "warm_start=True goes on with a network for rows of shape "
                f"{self._trained_shape}; X has rows of shape {self._row_shape}."
            )

    def _make_net(self):
        self._trained_shape = self._row_shape
        callbacks = self._copied_callbacks()
        if self.early_stopping:
            callbacks.append(EarlyStopping(patience=self.patience, load_best=True))
        params = self._params_of_net
        if taken := _OWN.intersection(params):
            raise ValueError(
                f"net_params sets {sorted(taken)}, which {type(self).__name__} sets by "
                "parameters of its own."
            )
        module = self._make_module().float()
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                "The network has nothing to train: none of its parameters requires a "
                "gradient."
            )
        if "accelerator" in params:
            from skad.neural._accelerated import AcceleratedNet as Net
        else:
            Net, params["device"] = OneClassNet, str(self._training_device)
        return Net(
            module,
            self._make_criterion(),
            lr=self.lr,
            lr_schedule=self.lr_schedule,
            callbacks=callbacks,
            verbose=int(self.verbose > 1),
            **params,
        )

    @property
    def _training_device(self):
        accelerator = self._params_of_net.get("accelerator")
        return choose_device(self.device) if accelerator is None else accelerator.device

    @property
    def _params_of_net(self):
        """Further parameters of the skorch net, by name."""
        return dict(self.net_params or {})

    def _copied_callbacks(self):
        for callback in self.callbacks or []:
            named = isinstance(callback, tuple) and len(callback) == 2
            if not hasattr(callback[1] if named else callback, "on_epoch_end"):
                raise TypeError(f"callbacks must be skorch's; got {callback!r}.")
        return copy.deepcopy(list(self.callbacks or []))

    def _training_rows(self, X, device):
        """Give the rows that train: in memory, unless they are to stay where they are."""
        if isinstance(X, LazyRows):
            return PreparedRows(X, self._prepare, self._row_shape)
        return self._tensor(X, device)

    def _tensor(self, X, device):
        """Give all rows as one float32 tensor, on the device if they fit beside a net."""
        rows = torch.empty((len(X), *self._row_shape), dtype=torch.float32, device="cpu")
        for part in parts(X):
            rows[part] = self._prepare(X[part])
        if torch.device(device).type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if rows.nbytes < free / 2:
                return rows.to(device)
        return rows

    def _run(self, net, rows, labels, epochs, seed, go_on):
        net.batch_size = self._rows_a_step(len(rows))
        net.max_epochs = epochs
        net.train_split = None
        if self.early_stopping:
            net.train_split = ValidSplit(self.validation_fraction, random_state=seed)
        start = max(net.mean_loss(rows, labels), self._harmless_loss(net))
        # Of a network that goes on, that of its own start: it may be near 0 by now.
        self._start_loss = max(start, self._start_loss) if go_on else start
        before, own = len(net.history), net.callbacks_
        net.callbacks_ = [*own, *self._reporters(epochs)]
        try:
            net.partial_fit(rows, labels)
        finally:
            net.callbacks_ = own
        losses = [row["train_loss"] for row in net.history[before:] if "train_loss" in row]
        self._check_losses(losses)

    def _rows_a_step(self, n):
        return max(8, min(128, n // 64)) if self.batch_size == "auto" else self.batch_size

    def _reporters(self, epochs):
        reporters = []
        if self.verbose == 1:
            reporters.append(("epoch_bar", EpochBar(epochs, type(self).__name__)))
        elif self.verbose:
            reporters.append(("batch_bar", ProgressBar().initialize()))
        context = getattr(self, "_callback_fit_ctx", None)
        if context is not None:
            reporters.append(("fit_tasks", FitTasks(self, context)))
        return reporters

    def _check_losses(self, losses):
        if not losses:
            warn(
                "The training was interrupted in its first epoch: the network is hardly "
                "trained.",
                ConvergenceWarning,
            )
        elif not losses[-1] <= self._start_loss + max(abs(self._start_loss), _TINY):
            raise ValueError(
                f"The training diverged: the mean loss is {losses[-1]:.3g} after "
                f"{len(losses)} epochs, from {self._start_loss:.3g} at the start. Lower "
                f"lr, which is {self.lr}, or scale the features."
            )


def _continue(net, last):
    """Give a net the weights, the optimiser's state and the history of the last one."""
    load_weights(net.module_, last.module_.state_dict(), "the last fit")
    net.history = copy.copy(last.history)
    if type(getattr(last, "optimizer_", None)) is type(net.optimizer_):
        state = copy.deepcopy(last.optimizer_.state_dict())
        state["param_groups"] = net.optimizer_.state_dict()["param_groups"]
        net.optimizer_.load_state_dict(state)
