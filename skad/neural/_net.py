"""A skorch net that trains on whole batches, and keeps its own loop short."""

from contextlib import contextmanager
from inspect import signature
from math import cos, pi

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog
from torch.utils.data import Subset

from skad.neural._seed import seeded

__all__ = ["SCHEDULES", "BatchLoader", "OneClassNet"]

SCHEDULES = {"cosine", "onecycle"}
_RISE = 0.3  # share of the steps in which "onecycle" rises
_START = 0.04  # what it starts from

_ENTRIES_AT_ONCE = 2**18
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class BatchLoader:
    """Serve the rows of a data set of tensors in whole batches.

    A last batch of one row, which batch norm can't train on, joins the one before. A
    ``DataLoader`` fetches and collates row by row, which costs more than a step of a
    small net; indexing one tensor once a batch does not.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset, or a Subset of one
        With tensors ``X`` and, or None, ``y``.
    batch_size : int, default=128
    shuffle : bool, default=False
        Draw a new order, from torch's global generator, in every epoch.
    """

    def __init__(self, dataset, batch_size=128, shuffle=False):
        self.rows = torch.arange(len(dataset), device="cpu")
        while isinstance(dataset, Subset):
            self.rows = torch.as_tensor(dataset.indices)[self.rows]
            dataset = dataset.dataset
        self.X, self.y = dataset.X, dataset.y
        self.batch_size = int(batch_size)  # numpy's integers too
        self.shuffle = shuffle

    def __len__(self):
        return len(self._sizes())

    def __iter__(self):
        rows, sizes = self.rows, self._sizes()
        if self.shuffle:
            rows = rows[torch.randperm(len(rows), device="cpu")]
        rows = rows.to(self.X.device)
        # Small batches are gathered several at once.
        at_once = max(1, _ENTRIES_AT_ONCE // (self.batch_size * self.X[:1].numel()))
        for start in range(0, len(sizes), at_once):
            part = sizes[start : start + at_once]
            taken, rows = rows[: sum(part)], rows[sum(part) :]
            X = self.X[taken].split(part)
            y = [None] * len(X)
            if self.y is not None:  # which may be on another device
                y = self.y[taken.to(self.y.device)].split(part)
            yield from zip(X, y, strict=True)

    def _sizes(self):
        whole, rest = divmod(len(self.rows), self.batch_size)
        sizes = [self.batch_size] * whole + [rest] * (rest > 0)
        if rest == 1 and whole:
            sizes[-2:] = [self.batch_size + 1]
        return sizes


class ChangedBatches:
    """Batches of a loader, each changed on its device before it is seen.

    Parameters
    ----------
    loader : iterable of (X, y)
    change : callable
        ``(X, y) -> (X, y)``. What it draws comes from torch's generator.
    device : str
    fixed : bool
        Draw the same in every pass, and leave torch's generator alone.
    """

    def __init__(self, loader, change, device, *, fixed):
        self.loader, self.change, self.device, self.fixed = loader, change, device, fixed

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for i, (X, y) in enumerate(self.loader):
            X, y = X.to(self.device), None if y is None else y.to(self.device)
            if self.fixed:
                with seeded(i, self.device):
                    X, y = self.change(X, y)
            else:
                X, y = self.change(X, y)
            yield X, y


class OneClassNet(NeuralNet):
    """A skorch net whose loss sees the batch: ``criterion(output, X, y)``.

    Where no callback watches single batches, an epoch runs in a loop without skorch's
    bookkeeping, which on small nets costs more than the training step; the losses are
    those of skorch's loop. ``history`` has the mean losses of every epoch either way.

    Parameters
    ----------
    module, criterion : torch.nn.Module, or classes of it
        As for :class:`skorch.NeuralNet`.
    lr_schedule : {None, "cosine", "onecycle"}, default=None
        How the learning rate changes, step by step, over one call of `fit`.
    **kwargs : dict
        Further parameters of :class:`skorch.NeuralNet`.
    """

    _change = None

    def __init__(
        self,
        module,
        criterion,
        *,
        optimizer=torch.optim.Adam,
        iterator_train=BatchLoader,
        iterator_train__shuffle=True,
        iterator_valid=BatchLoader,
        train_split=None,
        lr_schedule=None,
        **kwargs,
    ):
        self.lr_schedule = lr_schedule
        if "fused" in signature(optimizer).parameters:
            kwargs.setdefault("optimizer__fused", True)
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            iterator_train=iterator_train,
            iterator_train__shuffle=iterator_train__shuffle,
            iterator_valid=iterator_valid,
            train_split=train_split,
            **kwargs,
        )

    @property
    def _default_callbacks(self):
        return [("epoch_timer", EpochTimer()), ("print_log", PrintLog())]

    @property
    def _place(self):
        """The device of network and batches."""
        return self.device

    def initialize_module(self):
        """Initialise the module; on a CPU, where that is faster, with the channels last."""
        super().initialize_module()
        if torch.device(self._place).type == "cpu":
            self.module_.to(memory_format=torch.channels_last)
        return self

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return the loss of a batch by the criterion, which sees the batch too."""
        return self.criterion_(y_pred, X, y_true)

    @contextmanager
    def changing_batches(self, change):
        """Change batches within the block: ``change(X, y) -> (X, y)``; None for nothing."""
        self._change = change
        try:
            yield
        finally:
            self._change = None  # it may hold rows, and functions that no file keeps

    def get_iterator(self, dataset, training=False):
        """Return the batches of an epoch."""
        batches = super().get_iterator(dataset, training=training)
        if self._change is None:
            return batches
        return ChangedBatches(batches, self._change, self._place, fixed=not training)

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Run the epochs of one call of `fit`."""
        self._epochs = self.max_epochs if epochs is None else epochs
        self._step = 0
        self._full_rates = [group["lr"] for group in self.optimizer_.param_groups]
        try:
            return super().fit_loop(X, y, epochs=self._epochs, **fit_params)
        finally:
            self._set_rates(1.0)

    def train_step(self, batch, **fit_params):
        """Make one step of the optimiser, in skorch's own loop."""
        self._schedule_step()
        return super().train_step(batch, **fit_params)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Run one epoch of training or validation, and record its mean loss."""
        if iterator is None:
            return
        self._steps = len(iterator) * self._epochs if training else None
        if self._batches_are_watched():
            super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
            loss = self._recorded_mean(prefix)
        else:
            loss = self._quick_epoch(iterator, training)
        key = f"{prefix}_loss"
        before = [row[key] for row in self.history[:-1] if key in row]
        self.history.record(key, loss)
        self.history.record(f"{key}_best", loss <= min(before, default=loss))

    def mean_loss(self, X, y):
        """Return the mean loss of all rows, without training."""
        batches = self.get_iterator(self.get_dataset(X, y))
        return self._quick_epoch(batches, training=False)

    def _quick_epoch(self, iterator, training):
        self._set_training(training)
        module, criterion, optimizer = self.module_, self.criterion_, self.optimizer_
        # Not a list of tensors: small ones, kept between large ones, keep memory in pieces.
        losses = torch.zeros(len(iterator), dtype=torch.float32, device=self._place)
        sizes = []
        with torch.set_grad_enabled(training):
            for X, y in iterator:
                X = X.to(self._place)
                y = y.to(self._place) if isinstance(y, torch.Tensor) else y
                loss = criterion(module(X), X, y)
                if training:
                    self._schedule_step()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                losses[len(sizes)] = loss.detach()  # reading it would wait for the device
                sizes.append(len(X))
        return float(np.average(losses.double().cpu().numpy(), weights=sizes))

    def _schedule_step(self):
        if self.lr_schedule is not None:
            self._set_rates(
                learning_rate_factor(self.lr_schedule, self._step / self._steps)
            )
            self._step += 1

    def _set_rates(self, factor):
        for group, rate in zip(self.optimizer_.param_groups, self._full_rates, strict=True):
            group["lr"] = rate * factor

    def _batches_are_watched(self):
        return any(
            getattr(type(callback), hook) is not getattr(Callback, hook)
            for _, callback in self.callbacks_
            for hook in _BATCH_HOOKS
        )

    def _recorded_mean(self, prefix):
        keys = [f"{prefix}_batch_size", f"{prefix}_loss"]
        batches = [
            [b[k] for k in keys] for b in self.history[-1]["batches"] if keys[0] in b
        ]
        return sum(size * loss for size, loss in batches) / sum(s for s, _ in batches)


def learning_rate_factor(schedule, progress):
    """Return the factor of the learning rate at a share `progress` in [0, 1) of the steps.

    ``"cosine"`` falls from 1 to 0 (Loshchilov & Hutter 2017). ``"onecycle"`` first rises
    to 1 over three tenths of the steps (Smith & Topin 2018).
    """
    if schedule == "cosine":
        return _half_wave(1.0, 0.0, progress)
    if progress < _RISE:
        return _half_wave(_START, 1.0, progress / _RISE)
    return _half_wave(1.0, 0.0, (progress - _RISE) / (1 - _RISE))


def _half_wave(start, end, progress):
    return end + (start - end) * (1 + cos(pi * progress)) / 2
