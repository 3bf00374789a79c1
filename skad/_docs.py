"""Texts that the docstrings of many classes share, each written once."""

from __future__ import annotations

import re
from textwrap import indent

__all__ = ["filled"]

_MARK = re.compile(r"^    \[\[(?P<names>[\w, \n]+)\]\]\n", re.MULTILINE)


def filled(docstring: str | None) -> str | None:
    """Return a docstring of a class, with the shared texts in place of their names.

    A line such as ``[[lr, max_epochs]]``, indented like a parameter, stands for the texts
    of these parameters or attributes.

    Raises
    ------
    KeyError
        For a name without a text.
    """
    if docstring is None:
        return None
    return _MARK.sub(lambda found: _texts(found["names"]), docstring)


def _texts(names):
    texts = (_TEXTS[name.strip()] for name in names.split(","))
    return "".join(indent(text, "    ") + "\n" for text in texts)


_PARAMETERS = r"""
explanation : {"lrp", "gradient"}, default="lrp"
    ``"lrp"`` as above, with the :math:`z^B` rule at the pixels of images, and LRP-0 at the
    columns of tables. ``"gradient"`` shares the score out in proportion to
    :math:`|\partial o / \partial x_i|`, by standardised columns of tables; nothing is
    unattributed.

gamma : float, default=0.25
    How much the :math:`\gamma` rule favours what speaks for a neuron.

lr : float, default=1e-3
    Learning rate of the optimiser, Adam.

max_epochs : int, default=50
    Passes over the training rows.

batch_size : int or "auto", default="auto"
    Rows of a step. "auto" is a 64th of the rows, between 8 and 128.

lr_schedule : {None, "cosine", "onecycle"}, default="cosine"
    How the learning rate changes within a fit: not; falling to 0; rising, then falling
    to 0.

early_stopping : EarlyStopping or None, default=None
    Stop when the loss of held-out rows no longer falls; see
    :class:`skad.neural.EarlyStopping`. None: train for `max_epochs`.

warm_start : bool, default=False
    Let `fit` go on from what the last fit learned.

callbacks : list or None, default=None
    Callbacks of skorch.

net_params : dict or None, default=None
    Further parameters of :class:`skorch.NeuralNet`, such as
    ``{"optimizer__weight_decay": 1e-4}``, or an ``"accelerator"``, as
    :class:`~skad.neural.NeuralDetector` says.

device : str, default="auto"
    Where to train and score; "auto" is a GPU where there is one.

contamination : float in (0, 0.5] or None, default=None
    Share of the training rows that `predict` flags. None is 0.1, unless
    `false_alarm_rate` is given.

false_alarm_rate : float in (0, 0.5] or None, default=None
    Where `contamination` is None: share of fresh normal rows that `predict` flags, if the
    training rows are normal. The threshold is then a quantile of cross-fitted scores,
    which takes five more fits.

image_shape : tuple or None, default=None
    ``(H, W)`` or ``(C, H, W)`` of flat rows that are images.

noise : float, default=0.2
    Standard deviation of the noise that is added to rows in training, in units of what the
    network sees.

clamp : float, default=2.0
    Bound of the logarithms of the scales in a block.

n_references : int, default=8
    Training rows that a row is explained against. It may be set after `fit`.

random_state : int, RandomState instance or None, default=None
    Seeds weights, batches and held-out rows. Global states are left alone.

verbose : int, default=0
    1: a progress bar, one step an epoch. 2: skorch's table, and a bar in each epoch.

net_ : skorch.NeuralNet
    The trained network.

history_ : dict of str to list of float
    Mean losses by epoch, "train_loss" and, with early stopping, "valid_loss".

references_ : ndarray of shape (n_rows, d)
    Up to 2,000 training rows, of the last call, of the half that scores lowest.

outliers_ : tuple of str
    The sources of anomalies: "labelled", "confetti", "uniform", "array", "callable".

offset_ : float
    Threshold on `score_samples`.

image_shape_ : tuple or None
    Shape of one image, when fitted on images.

n_features_in_ : int
    Number of features; of pixels and channels together for images.

feature_names_in_ : ndarray of shape (`n_features_in_`,)
    Names of the columns, when fitted on a data frame.
"""
_TEXTS = {
    text.partition(" :")[0].strip(): text for text in _PARAMETERS.strip().split("\n\n")
}
