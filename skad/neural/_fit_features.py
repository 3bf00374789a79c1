"""Features learned by telling labelled rows of another kind apart."""

from __future__ import annotations

from math import prod
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from torch import nn

from skad._images import as_rows, row_shape_of, same_image
from skad._typing import ArrayLike, Auto, Device, ImageShape, Network, Seed
from skad.neural._blocks import block_rows, in_blocks
from skad.neural._feature_net import FeatureNet, Scaling, make_module, output_of
from skad.neural._net import OneClassNet
from skad.neural._seed import choose_device, draw_seed, seeded
from skad.neural._training import EpochBar

__all__ = ["feature_layers", "fit_features"]


def feature_layers(channels=1):
    """Give the Clever Hans paper's layers: 640 features of an image of 28 x 28 pixels.

    The paper says three convolutions with L2 pooling between them, and 640; maps of 4 x 4
    with 40 channels come nearest to its results.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5),
        nn.ReLU(),
        nn.LPPool2d(2, 2),
        nn.Conv2d(32, 64, 5),
        nn.ReLU(),
        nn.LPPool2d(2, 2),
        nn.Conv2d(64, 40, 1),
        nn.ReLU(),
    )


def _dense_layers(n_features):
    return nn.Sequential(
        nn.Linear(n_features, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
    )


def fit_features(
    X: ArrayLike,
    y: ArrayLike,
    *,
    network: Network | Auto = "auto",
    image_shape: ImageShape = None,
    max_epochs: int = 10,
    lr: float = 1e-3,
    batch_size: int = 64,
    device: Device = "auto",
    random_state: Seed = None,
    verbose: int = 0,
) -> FeatureNet:
    """Train a classifier on an auxiliary labelled set, and give its features.

    The Clever Hans paper [1]_ trains on letters what then looks at digits. The classifier
    is the network, dropout of one half and a linear layer; the last two are in the
    training only. The least and the greatest entry of X are scaled to -1 and 1 as a
    first step of the network, so that features of a table should be on one scale.

    Parameters
    ----------
    X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Auxiliary rows, like those to detect anomalies in, and scaled alike.
    y : array-like of shape (n,)
        Any labels, of two classes at least, with two rows each.
    network : "auto", torch.nn.Module or callable, default="auto"
        "auto" is, for images, three convolutions with L2 pooling between them, made for
        28 x 28 pixels, 24 at least; for flat rows, two dense layers. A module is copied
        and trained from its weights on; its output is flattened. One that this function
        or `load_backbone` gave keeps its own scaling. A callable makes a module from the
        shape of a row, (d,) or (C, H, W).
    image_shape : tuple or None, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images.
    max_epochs : int, default=10
        Passes over the training rows.
    lr : float, default=1e-3
        Learning rate of the optimiser, Adam; it falls to 0 by a cosine.
    batch_size : int, default=64
        Rows of a step.
    device : str, default="auto"
        Where to train; "auto" is a GPU where there is one.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, batches, dropout and held-out rows. torch's and numpy's global
        states are left alone.
    verbose : int, default=0
        1: a progress bar, one step an epoch. 2: skorch's table of epochs.

    Returns
    -------
    net : torch.nn.Module
        On the CPU, in eval mode, its parameters frozen. `validation_accuracy` is the share
        of rows of a held-out tenth, stratified, that were classified right.

    Raises
    ------
    ValueError
        For bad parameters, NaN, labels of one class, a class of one row, a network that
        can't take the rows, or a training that diverges.

    See Also
    --------
    skad.DeepOneClass : Detects anomalies by these features.
    load_backbone : Features of a pretrained network.

    References
    ----------
    .. [1] J. Kauffmann, L. Ruff, G. Montavon, K.-R. Mueller. "The Clever Hans Effect in
       Anomaly Detection". arXiv:2006.10609, 2020, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skad.neural import fit_features
    >>> X, y = load_digits(return_X_y=True)
    >>> net = fit_features(X, y, random_state=0)
    >>> net.validation_accuracy > 0.9
    True
    """
    _check_training(max_epochs, lr, batch_size)
    X, y, row_shape = _check_rows(X, y, image_shape)
    train, held_out, seed = _split(y, random_state)
    X = torch.from_numpy(X.astype(np.float32)).reshape(-1, *row_shape)
    y = torch.from_numpy(y)
    device = choose_device(device)
    with seeded(seed, device):
        net = _make_net(network, X, row_shape).float()
        classifier = _classifier(net, row_shape, int(y.max()) + 1)
        training = OneClassNet(
            classifier,
            _CrossEntropy(),
            lr=lr,
            lr_schedule="cosine",
            max_epochs=max_epochs,
            batch_size=batch_size,
            device=str(device),
            callbacks=[EpochBar(max_epochs, "fit_features")] if verbose == 1 else [],
            verbose=int(verbose > 1),
        ).initialize()
        training.partial_fit(X[train], y[train])
    _check_loss(training.history, lr)
    classifier.cpu().eval().requires_grad_(False)
    net.validation_accuracy = _accuracy(classifier, X[held_out], y[held_out])
    return net


class _CrossEntropy(nn.Module):
    def forward(self, output, batch, y):
        return nn.functional.cross_entropy(output, y)


def _make_net(network, X, row_shape):
    low, high = X.min().item(), X.max().item()
    if not low < high:
        raise ValueError(f"All entries of X are {low}: there is nothing to learn from.")
    is_image = len(row_shape) == 3
    if network == "auto":
        layers = (feature_layers if is_image else _dense_layers)(row_shape[0])
    elif isinstance(network, str) or not callable(network):
        raise ValueError(
            'network must be "auto", a torch.nn.Module or a function that makes one; got '
            f"{network!r}."
        )
    else:
        layers = make_module(network, row_shape).requires_grad_(True)
        if isinstance(layers, FeatureNet):  # trained before: its scaling stays
            return layers
    scaling = Scaling((low + high) / 2, (high - low) / 2)
    return FeatureNet(layers, scaling, input_range=(low, high) if is_image else None)


def _classifier(net, row_shape, n_classes):
    n_features = output_of(net, row_shape).shape[1]
    return nn.Sequential(net, nn.Dropout(0.5), nn.Linear(n_features, n_classes)).float()


def _check_training(max_epochs, lr, batch_size):
    for name, value in (("max_epochs", max_epochs), ("batch_size", batch_size)):
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    if not isinstance(lr, Real) or not 0 < lr < np.inf:
        raise ValueError(f"lr must be a positive number, got {lr!r}.")


def _check_rows(X, y, image_shape):
    """Give valid rows, the classes by number, and the shape of a row for a network."""
    X, shape = as_rows(X)
    X = check_array(X, dtype=(np.float64, np.float32), input_name="X")
    y = column_or_1d(y)
    check_consistent_length(X, y)
    if image_shape is not None:
        image_shape = tuple(image_shape)
        if prod(image_shape) != X.shape[1] or (
            shape and not same_image(shape, image_shape)
        ):
            raise ValueError(
                f"image_shape={image_shape} does not fit X, whose rows have shape "
                f"{shape or X.shape[1:]}."
            )
        shape = image_shape
    return X, _class_numbers(y), row_shape_of(shape, X.shape[1])


def _class_numbers(y):
    classes, numbers, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"y needs two classes at least; all labels are {classes[0]!r}.")
    if counts.min() < 2:
        raise ValueError(
            f"y needs two rows of each class at least, one to train on and one held out; "
            f"{classes[counts.argmin()]!r} has one."
        )
    return numbers


def _split(y, random_state):
    """Give the rows to train on, a tenth to hold out, and a seed."""
    seed = draw_seed(random_state)
    n_held_out = max(-(-len(y) // 10), len(np.unique(y)))
    rows = np.arange(len(y))
    split = train_test_split(rows, test_size=n_held_out, stratify=y, random_state=seed)
    return *map(torch.from_numpy, split), seed


def _check_loss(history, lr):
    losses = [row["train_loss"] for row in history if "train_loss" in row]
    if losses and not np.isfinite(losses[-1]):
        raise ValueError(
            f"The training diverged: the loss is {losses[-1]} after {len(losses)} epochs. "
            f"Lower lr, which is {lr}, or scale the features."
        )


def _accuracy(classifier, X, y):
    rows = block_rows(X[0].numel())
    with torch.inference_mode():
        output = in_blocks(classifier, X, lambda block: block, rows, "cpu")
    return (output.argmax(1) == y).double().mean().item()
