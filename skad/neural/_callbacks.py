"""skorch callbacks that report epochs: to a progress bar, and to scikit-learn."""

from skorch.callbacks import Callback
from tqdm.auto import tqdm

__all__ = ["EpochBar", "FitTasks"]


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
