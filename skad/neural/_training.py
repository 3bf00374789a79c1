"""The training of a network: settings, a net of skorch, its epochs, and what they cost."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.callbacks import Callback, ProgressBar
from skorch.callbacks import EarlyStopping as StopEarly
from skorch.dataset import ValidSplit
from torch import nn
from tqdm.auto import tqdm

from skad._warnings import warn
from skad.neural._net import OneClassNet
from skad.neural._parts import Batches, EarlyStopping, Parts, Trained
from skad.neural._seed import choose_device
from skad.neural._weights import load_weights

__all__ = ["EpochBar", "Settings", "Training", "make_net"]

_TINY = np.finfo(np.float32).tiny
# What a detector sets by parameters of its own.
_OWN = {"module", "criterion", "lr", "max_epochs", "batch_size", "lr_schedule"} | {
    *("device", "callbacks", "verbose", "warm_start", "train_split")
}


@dataclass(frozen=True)
class Settings:
    """How a detector trains: its parameters, and who watches.

    Parameters
    ----------
    name : str
        Of the detector's class, for messages.
    lr, lr_schedule, max_epochs, batch_size, early_stopping, callbacks, verbose
        Parameters of the detector.
    net_params : dict
        Further parameters of the skorch net.
    device : torch.device
    watch : Callback or None
        Reports the epochs to scikit-learn's callbacks.
    """

    name: str
    lr: float
    lr_schedule: str | None
    max_epochs: int | str
    batch_size: int | str
    early_stopping: EarlyStopping | None
    callbacks: Any
    verbose: int
    net_params: dict[str, Any]
    device: torch.device
    watch: Callback | None = None

    @classmethod
    def of(cls, detector: Any, net_params: dict[str, Any] | None = None) -> Self:
        """Read the parameters of a detector."""
        if net_params is None:
            net_params = dict(detector.net_params or {})
        accelerator = net_params.get("accelerator")
        context = getattr(detector, "_callback_fit_ctx", None)
        return cls(
            type(detector).__name__,
            detector.lr,
            detector.lr_schedule,
            detector.max_epochs,
            detector.batch_size,
            getattr(detector, "early_stopping", None),
            detector.callbacks,
            detector.verbose,
            net_params,
            choose_device(detector.device) if accelerator is None else accelerator.device,
            None if context is None else FitTasks(detector, context),
        )

    def rows_a_step(self, n: int) -> int:
        """Return the rows of a step, of n rows that train."""
        return (
            max(8, min(128, n // 64)) if self.batch_size == "auto" else int(self.batch_size)
        )

    def checked_callbacks(self) -> list[Any]:
        """Return copies of the callbacks."""
        for callback in self.callbacks or []:
            named = isinstance(callback, tuple) and len(callback) == 2
            if not hasattr(callback[1] if named else callback, "on_epoch_end"):
                raise TypeError(f"callbacks must be skorch's; got {callback!r}.")
        return copy.deepcopy(list(self.callbacks or []))

    def reporters(self, epochs: int) -> list[tuple[str, Callback]]:
        """Return what reports a run of so many epochs."""
        reporters: list[tuple[str, Callback]] = []
        if self.verbose == 1:
            reporters.append(("epoch_bar", EpochBar(epochs, self.name)))
        elif self.verbose:
            reporters.append(("batch_bar", ProgressBar().initialize()))
        if self.watch is not None:
            reporters.append(("fit_tasks", self.watch))
        return reporters


def make_net(
    settings: Settings, module: nn.Module, criterion: nn.Module, lr: float | None = None
) -> OneClassNet:
    """Make a net of skorch, initialised.

    Raises
    ------
    ValueError
        If `net_params` holds what the detector sets, or there is nothing to train.
    TypeError
        If callbacks are none of skorch's.
    """
    callbacks = settings.checked_callbacks()
    if (stopping := settings.early_stopping) is not None:
        callbacks.append(StopEarly(patience=stopping.patience, load_best=True))
    params = dict(settings.net_params)
    if taken := _OWN.intersection(params):
        raise ValueError(
            f"net_params sets {sorted(taken)}, which {settings.name} sets by "
            "parameters of its own."
        )
    module = module.float()
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError(
            "The network has nothing to train: none of its parameters requires a gradient."
        )
    make: Any = OneClassNet
    if "accelerator" in params:
        from skad.neural._accelerated import AcceleratedNet as make
    else:
        params["device"] = str(settings.device)
    return make(
        module,
        criterion,
        lr=settings.lr if lr is None else lr,
        lr_schedule=settings.lr_schedule,
        callbacks=callbacks,
        verbose=int(settings.verbose > 1),
        **params,
    ).initialize()


@dataclass(frozen=True, eq=False)
class Training:
    """One training: what is needed to begin nets, and to run them.

    Parameters
    ----------
    settings : Settings
    parts : Parts
    batches : Batches
    rows : tensor or PreparedRows
        The rows that train, prepared.
    seed : int
    previous : Trained or None
        What the training goes on from.
    epochs : int
    whole : bool
        Whether this is a fit from the start: neither one that goes on, nor an epoch of
        `partial_fit`.
    """

    settings: Settings
    parts: Parts
    batches: Batches
    rows: Any
    seed: int
    previous: Trained | None
    epochs: int
    whole: bool

    def begin(self, module: nn.Module | None = None, lr: float | None = None) -> NeuralNet:
        """Return a net that starts, or goes on from the previous one.

        Parameters
        ----------
        module : torch.nn.Module or None, default=None
            Another network than that of the parts, to start anew.
        lr : float or None, default=None
            Another learning rate than that of the settings.
        """
        criterion = self.parts.criterion
        net = make_net(self.settings, module or self.parts.module, criterion, lr)
        if self.previous is not None and module is None:
            _continue(net, self.previous.net)
        else:
            self.parts.start(net, self.rows)
        return net

    def run(
        self, net: NeuralNet, *, watched: bool = True
    ) -> tuple[NeuralNet, dict[str, Any]]:
        """Run the epochs on a net.

        Parameters
        ----------
        net : NeuralNet
        watched : bool, default=True
            Whether scikit-learn's callbacks count the epochs.

        Returns
        -------
        net : NeuralNet
            The same.
        state : dict
            The loss that its end is compared with, ``start_loss``.
        """
        settings, targets = self.settings, self.batches.targets
        net.batch_size = self.batches.size or settings.rows_a_step(len(self.rows))
        net.max_epochs = self.epochs
        net.train_split = None
        if (stopping := settings.early_stopping) is not None:
            fraction = stopping.validation_fraction
            net.train_split = ValidSplit(fraction, random_state=self.seed)
        before, own = len(net.history), net.callbacks_
        with net.changing_batches(self.batches.change):
            start = self._start_loss(net)
            net.callbacks_ = [*own, *self._reporters(watched)]
            try:
                net.partial_fit(self.rows, targets)
            finally:
                net.callbacks_ = own
        losses = [row["train_loss"] for row in net.history[before:] if "train_loss" in row]
        self._check_losses(losses, start)
        return net, {"start_loss": start}

    def interrupted(self, net: NeuralNet, before: int = 0) -> bool:
        """Return whether a run of a net ended before its last epoch."""
        return len(net.history) - before < self.epochs

    def _reporters(self, watched):
        reporters = self.settings.reporters(self.epochs)
        return [r for r in reporters if watched or r[0] != "fit_tasks"]

    def _start_loss(self, net):
        start = net.mean_loss(self.rows, self.batches.targets)
        # After that, which leaves the criterion in evaluation mode.
        harmless = self.parts.harmless_loss
        start = max(start, 0.0 if harmless is None else harmless(net))
        if self.previous is None:
            return start
        # Of a network that goes on, that of its own start: it may be near 0 by now.
        return max(start, self.previous.state["start_loss"])

    def _check_losses(self, losses, start):
        if not losses:
            warn(
                "The training was interrupted in its first epoch: the network is hardly "
                "trained.",
                ConvergenceWarning,
            )
        elif self.parts.harmless_loss is None:
            return
        elif not losses[-1] <= start + max(abs(start), _TINY):
            raise ValueError(
                f"The training diverged: the mean loss is {losses[-1]:.3g} after "
                f"{len(losses)} epochs, from {start:.3g} at the start. Lower lr, which is "
                f"{self.settings.lr}, or scale the features."
            )


def _continue(net, last):
    """Give a net the weights, the optimiser's state and the history of the last one."""
    load_weights(net.module_, last.module_.state_dict(), "the last fit")
    net.history = copy.copy(last.history)
    if type(getattr(last, "optimizer_", None)) is type(net.optimizer_):
        state = copy.deepcopy(last.optimizer_.state_dict())
        state["param_groups"] = net.optimizer_.state_dict()["param_groups"]
        net.optimizer_.load_state_dict(state)


class EpochBar(Callback):
    """One progress bar a fit, one step an epoch, with the last losses."""

    def __init__(self, n_epochs, title):
        self.n_epochs = n_epochs
        self.title = title

    def on_train_begin(self, net, **kwargs):
        """Draw the bar."""
        self.bar = tqdm(total=self.n_epochs, desc=self.title, unit="epoch")

    def on_epoch_end(self, net, **kwargs):
        """Move on by an epoch."""
        last = net.history[-1]
        losses = {key: last[key] for key in ("train_loss", "valid_loss") if key in last}
        self.bar.set_postfix({key: f"{loss:.4g}" for key, loss in losses.items()})
        self.bar.update()

    def on_train_end(self, net, **kwargs):
        """Leave the bar as it is."""
        self.bar.close()


class FitTasks(Callback):
    """Report each epoch as a task of scikit-learn's callbacks, which may stop the fit."""

    def __init__(self, detector, context):
        self.detector = detector
        self.context = context

    def on_epoch_begin(self, net, **kwargs):
        """Open a task."""
        self.task = self.context.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.detector)

    def on_epoch_end(self, net, **kwargs):
        """Close the task, and stop if a callback says so."""
        if self.task.call_on_fit_task_end(estimator=self.detector):
            raise KeyboardInterrupt  # skorch's own way to stop training
