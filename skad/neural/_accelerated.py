"""Training through Hugging Face's accelerate: mixed precision, several processes."""

from skorch.hf import AccelerateMixin

from skad.neural._net import OneClassNet

__all__ = ["AcceleratedNet"]


class AcceleratedNet(AccelerateMixin, OneClassNet):
    """A `OneClassNet` that an ``accelerate.Accelerator`` trains.

    Network and optimiser are handed to the accelerator when a training begins, and are
    plain ones again after it. Of several processes, which draw the same batches, each
    takes its share of every batch; the held-out rows are seen by all.

    Parameters
    ----------
    module, criterion : torch.nn.Module, or classes of it
        As for :class:`skorch.NeuralNet`.
    accelerator : accelerate.Accelerator
    **kwargs : dict
        As for `OneClassNet`, but for the device, which is the accelerator's.
    """

    def __init__(self, module, criterion, *, accelerator, **kwargs):
        if not kwargs.get("verbose"):  # the table would be printed nevertheless
            kwargs.setdefault("callbacks__print_log__sink", _print_nothing)
        super().__init__(module, criterion=criterion, accelerator=accelerator, **kwargs)

    @property
    def _place(self):
        return self.accelerator.device

    def initialize(self):
        """Initialise all, on the accelerator's device; the training hands it over."""
        OneClassNet.initialize(self)
        self.module_.to(self._place)
        self.criterion_.to(self._place)
        return self

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Run the epochs of one call of `fit`, with all in the accelerator's hands."""
        # Not the criterion: it has nothing to train, which DistributedDataParallel refuses.
        self.module_ = self.accelerator.prepare(self.module_)
        self.optimizer_ = self.accelerator.prepare(self.optimizer_)
        self._wrapped_with_accelerator = self._stepped = True
        return super().fit_loop(X, y, epochs, **fit_params)

    # skorch empties the gradients before a step, accelerate only before one that ends an
    # accumulation: those of the batches before it would be lost.

    def _zero_grad_optimizer(self, set_to_none=None):
        if self._stepped:
            self.optimizer_.optimizer.zero_grad()

    def _step_optimizer(self, step_fn):
        super()._step_optimizer(step_fn)
        self._stepped = self.accelerator.sync_gradients

    def on_train_end(self, net, X=None, y=None, **kwargs):
        """Take network and optimiser back."""
        super().on_train_end(net, X=X, y=y, **kwargs)
        self.optimizer_ = getattr(self.optimizer_, "optimizer", self.optimizer_)
        return self

    def get_iterator(self, dataset, training=False):
        """Give the batches of an epoch, or this process's share of them."""
        batches = super().get_iterator(dataset, training=training)
        first, step = 0, 1
        if training:
            first, step = self.accelerator.process_index, self.accelerator.num_processes
        return _Shares(batches, slice(first, None, step), self._place)

    def _batches_are_watched(self):
        return True  # skorch's own loop calls the accelerator


def _print_nothing(*args, **kwargs):
    pass


class _Shares:
    """Batches of a loader, on a device, and of each a share of the rows."""

    def __init__(self, loader, share, device):
        self.loader, self.share, self.device = loader, share, device

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for X, y in self.loader:
            share = self.share if self.share.start < len(X) else slice(1)
            yield self._take(X, share), self._take(y, share)

    def _take(self, values, share):
        if isinstance(values, tuple):  # what a criterion is given, by name
            return type(values)(*(self._take(value, share) for value in values))
        return None if values is None else values[share].to(self.device)
