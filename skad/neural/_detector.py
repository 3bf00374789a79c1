"""Detectors that train a network: skorch inside, scikit-learn outside."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from skad._decomposition import Decomposition, refuse_space
from skad._sklearn import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    _fit_context,
    fit_task,
    with_callbacks,
)
from skad._thresholds import TrainingScores, cross_fitted_scores
from skad._typing import ArrayLike, FilePath, Floats, Ints, Rows
from skad._values import check_values
from skad.base import BaseDetector, all_or_nothing
from skad.neural._net import SCHEDULES
from skad.neural._parts import (
    COMMON,
    Batches,
    EarlyStopping,
    Parts,
    Scoring,
    Trained,
    TrainingData,
)
from skad.neural._rows import LazyRows, check_lazy, lazy_rows
from skad.neural._seed import draw_seed, seeded
from skad.neural._training import Settings, Training, make_net
from skad.neural._units import Units, training_rows
from skad.neural._weights import load_weights, read_weights, write_weights

__all__ = ["NeuralDetector"]


class NeuralDetector(BaseDetector, CallbackSupportMixin):
    """Base class of the detectors that train a network.

    The network is trained by skorch: `net_` is a :class:`skorch.NeuralNet`, with its
    history, its callbacks, its ``save_params``. The rows are held once, in float32, on
    the device where they fit, unless they come from a file or a data set; batches are cut
    from them whole. Scores are computed in blocks of one size, so that a row has the same
    score, to the bit, alone and in any batch.

    A subclass writes two functions, which change nothing in the detector:

    - ``_parts(data, previous=None)``: what it is made of, as `Parts`: the network, the
      criterion, called as ``criterion(output, batch, y)``, and what else the training
      needs. `data` is the `TrainingData`, with ``data.row_shape``; `previous`, where the
      training goes on (`warm_start`, `partial_fit`) or weights are loaded, the `Trained`
      network. When weights are loaded, `data` holds no rows.
    - ``_scoring(trained)``: how the trained network scores, as `Scoring`: outlier scores
      of a tensor of prepared rows, and the relevance of flat rows. ``trained.in_blocks``
      applies a function of tensors to rows. Parameters that may be set after `fit` are
      read here.

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

    [[lr, max_epochs, batch_size, lr_schedule, early_stopping, warm_start, callbacks]]
    net_params : dict or None
        Further parameters of :class:`skorch.NeuralNet`, such as
        ``{"optimizer__weight_decay": 1e-4}``. With ``"accelerator"``, an
        ``accelerate.Accelerator``, it trains through :class:`skorch.hf.AccelerateMixin`:
        mixed precision, accumulated gradients, several processes.
    [[device, random_state, verbose]]

    Examples
    --------
    Distance to a linear reconstruction:

    >>> import numpy as np
    >>> from torch import nn
    >>> from skad.neural import NeuralDetector, Parts, Scoring
    >>> class Loss(nn.Module):
    ...     def forward(self, output, batch, y):
    ...         return (output - batch).square().mean()
    >>> class Linear(NeuralDetector):
    ...     def __init__(self, *, lr=0.01, max_epochs=50, batch_size="auto", device="cpu",
    ...                  lr_schedule=None, early_stopping=None, warm_start=False,
    ...                  callbacks=None, net_params=None, random_state=None, verbose=0):
    ...         self.lr = lr
    ...         self.max_epochs = max_epochs
    ...         self.batch_size = batch_size
    ...         self.device = device
    ...         self.lr_schedule = lr_schedule
    ...         self.early_stopping = early_stopping
    ...         self.warm_start = warm_start
    ...         self.callbacks = callbacks
    ...         self.net_params = net_params
    ...         self.random_state = random_state
    ...         self.verbose = verbose
    ...
    ...     def _parts(self, data, previous=None):
    ...         (d,) = data.row_shape
    ...         return Parts(nn.Sequential(nn.Linear(d, 1), nn.Linear(1, d)), Loss())
    ...
    ...     def _scoring(self, trained):
    ...         def squares(batch):
    ...             return (batch - trained.module(batch)).square()
    ...
    ...         return Scoring(
    ...             score=lambda batch: squares(batch).sum(dim=1),
    ...             relevance=lambda X: trained.in_blocks(squares, X),
    ...         )
    >>> X = np.random.default_rng(0).standard_normal((200, 1)) * [1, 2]
    >>> detector = Linear(random_state=0).fit(X)
    >>> detector.predict([[1.0, 2.0], [3.0, -6.0]])
    array([ 1, -1])
    >>> int(detector.explain([[3.0, -6.0]]).argmax())
    1
    """

    net_: NeuralNet
    offset_: float

    if TYPE_CHECKING:  # more rows than the base class takes

        def score_samples(self, X: Rows) -> Floats: ...
        def decision_function(self, X: Rows) -> Floats: ...
        def predict(self, X: Rows) -> Ints: ...
        def explain(self, X: Rows) -> Floats: ...
        def unattributed(self, X: Rows) -> Floats: ...

    _parameter_constraints = {
        "lr": [Interval(Real, 0, None, closed="neither")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr_schedule": [StrOptions(SCHEDULES), None],
        "early_stopping": [EarlyStopping, None],
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
        return self._fit_rows(X, y)

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
        return self._fit_more_rows(X, y)

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
        common = {name: getattr(self, name) for name in COMMON if hasattr(self, name)}
        state = {"detector": type(self).__name__, **common, **self._trained.state}
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
            state = self._take_common(state, path)
            data = self._data(np.empty((0, self.n_features_in_)))
            untrained = Trained(None, Units(data.row_shape, data.image_shape), state)
            with seeded(0):
                try:
                    parts = self._made_parts(data, untrained)
                except KeyError as error:
                    raise ValueError(f"{path} lacks {error}.") from error
                net = make_net(self._settings(parts), parts.module, parts.criterion)
            load_weights(net.module_, weights, path)
            net.module_.eval()
            self._become(replace(untrained, net=net, units=parts.units))
        return self

    def _take_common(self, state, path):
        """Take on the attributes that all detectors have; return the rest of a file."""
        own, kind = type(self).__name__, state.get("detector")
        if kind != own:
            raise ValueError(
                f"{path} was saved by a detector of another kind than {own}: {kind}."
            )
        if missing := {"n_features_in_", "image_shape_", "offset_"} - state.keys():
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}.")
        for name in COMMON:
            vars(self).pop(name, None)
            if name in state:
                setattr(self, name, state[name])
        return {k: v for k, v in state.items() if k not in {"detector", *COMMON}}

    # What subclasses write.

    @abstractmethod
    def _parts(self, data: TrainingData, previous: Trained | None = None) -> Parts:
        """Return what the detector is made of, for a training on `data`."""

    @abstractmethod
    def _scoring(self, trained: Trained) -> Scoring:
        """Return how a trained network scores, and how its scores are explained."""

    def _data(
        self, X: Any, y: ArrayLike | None = None, mask: ArrayLike | None = None
    ) -> TrainingData:
        """Return validated rows, with what is read of their labels: nothing here."""
        return TrainingData(X, self._row_shape, self.image_shape_)

    def _score_of_copy(self, copy: Any, data: TrainingData, test: Ints) -> Floats:
        """Score rows by a copy that was fitted on some of the others, in own units.

        Parameters
        ----------
        copy : object
            A fitted copy of this detector.
        data : TrainingData
            The rows that the copy was fitted on.
        test : rows
            The rows to score.
        """
        return -copy.score_samples(test)

    # Training.

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_rows(self, X, y, **given):
        """Fit, with what else a subclass's `fit` takes."""
        known = isinstance(self.max_epochs, Integral)
        task = fit_task(self, X, y, self.max_epochs if known else None)
        with all_or_nothing(self):
            check_values(self)
            data = self._data(self._validate_first(X), y, **given)
            goes_on = self.warm_start and hasattr(self, "net_")
            self._train(data, self._trained if goes_on else None)
            self.offset_ = self._find_offset(self._scores_of(data))
        if task is not None:
            task.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_more_rows(self, X, y, **given):
        """Train one more epoch, with what else a subclass's `partial_fit` takes."""
        with all_or_nothing(self):
            check_values(self)
            started = hasattr(self, "net_")
            X = self._validate(X) if started else self._validate_first(X)
            data = self._data(X, y, **given)
            self._train(data, self._trained if started else None, epochs=1)
            self.offset_ = self._find_offset(self._scores_of(data))
        return self

    def _train(self, data, previous, epochs=None):
        """Train on data, and become what was trained."""
        if previous is not None:
            _check_same_rows(data, previous)
        seed, device = draw_seed(self.random_state), Settings.of(self).device
        with seeded(seed, device):
            parts = self._made_parts(data, previous)
            training = self._training(parts, data, seed, previous, epochs)
            train = parts.train or _train_once
            net, state = train(training)
        net.module_.eval()
        trained = Trained(net, parts.units, dict(parts.units.state))
        trained = trained.with_state(parts.state).with_state(state)
        self._become(trained.with_state(parts.finish(trained, data)))

    def _made_parts(self, data, previous):
        """Return the parts, with units."""
        parts = self._parts(data, previous)
        if not isinstance(parts, Parts):
            raise TypeError(f"_parts must return Parts, got a {type(parts).__name__}.")
        units = parts.units or Units(data.row_shape, data.image_shape)
        return replace(parts, units=units)

    def _training(self, parts, data, seed, previous, epochs):
        settings = self._settings(parts)
        batches = parts.batches or Batches(data.X)
        rows = training_rows(batches.rows, parts.units, settings.device)
        whole = previous is None and epochs is None
        epochs = epochs or batches.epochs or self.max_epochs
        return Training(settings, parts, batches, rows, seed, previous, epochs, whole)

    def _settings(self, parts):
        return Settings.of(self, parts.net_params)

    def _become(self, trained):
        """Take on what was trained; public attributes are what ends in an underscore."""
        before = self._trained.state if hasattr(self, "net_") else {}
        for name in filter(_is_public, before):
            vars(self).pop(name, None)
        for name in filter(_is_public, trained.state):
            setattr(self, name, trained.state[name])
        self._trained, self.net_ = trained, trained.net

    # The threshold, by the rows that are not labelled -1.

    def _scores_of(self, data):
        return TrainingScores(
            len(data.normal),
            in_sample=lambda: self._outlier_score(data.normal),
            out_of_sample=lambda rows: self._cross_fitted_score(data, rows),
        )

    def _out_of_sample_score(self, X, rows):
        unlabelled = NeuralDetector._data(self, X)  # a Bag, which asks, has no labels
        return self._cross_fitted_score(unlabelled, rows)

    def _cross_fitted_score(self, data, rows):
        def fit(copy, X, train):
            return data.fold(train).fit(copy)

        def score(copy, X, train, test):
            return self._score_of_copy(copy, data.fold(train), X[test])

        copy = self._copy_to_cross_fit()
        return cross_fitted_scores(copy, data.normal, rows, fit=fit, score=score)

    def _copy_to_cross_fit(self):
        copy = super()._copy_to_cross_fit().set_params(warm_start=False, verbose=0)
        # As long as this one was trained, in all its fits.
        if getattr(self, "early_stopping", None) is None:
            copy.set_params(max_epochs=max(1, len(self.history_.get("train_loss", []))))
        vars(copy).pop("_skl_callbacks", None)  # scikit-learn's: they watch one fit
        return copy

    # Scores.

    def _outlier_score(self, X):
        scoring = self._scoring(self._trained)
        scores = self._trained.in_blocks(scoring.score, X, scoring.block_rows)
        if scores.shape != (len(X),):
            raise ValueError(
                f"_scoring must give one score a row; for {len(X)} rows it gave an "
                f"array of shape {scores.shape}."
            )
        return scores

    def _decompose(self, X, space=None):
        refuse_space(self, space)
        scoring = self._scoring(self._trained)
        relevance = _by_feature(scoring.relevance(X), X.shape)
        if scoring.unattributed is None:
            rest = self._outlier_score(X) - relevance.sum(axis=1)
        else:
            rest = _by_row(scoring.unattributed(X), len(X))
        return Decomposition(relevance, rest, "outlier score")

    # Rows that are read part by part.

    def _flattened(self, X):
        return lazy_rows(X, self._dtype) or super()._flattened(X)

    def _checked(self, X, *, reset):
        if isinstance(X, LazyRows):
            return check_lazy(self, X, reset=reset)
        return super()._checked(X, reset=reset)


def _train_once(training: Training) -> tuple[NeuralNet, dict[str, Any]]:
    return training.run(training.begin())


def _check_same_rows(data, previous):
    if previous.units.row_shape != data.row_shape:
        raise ValueError(
            "warm_start=True goes on with a network for rows of shape "
            f"{previous.units.row_shape}; X has rows of shape {data.row_shape}."
        )


def _is_public(name):
    return name.endswith("_") and not name.startswith("_")


def _by_feature(relevance, shape):
    """Return relevance in the shape of flat rows."""
    relevance = np.asarray(relevance, dtype=np.float64)
    if len(relevance) != shape[0] or relevance.size != shape[0] * shape[1]:
        raise ValueError(
            f"The relevance of {shape[0]} rows of {shape[1]} features must be an array "
            f"with a number for each; _scoring gave an array of shape {relevance.shape}."
        )
    return relevance.reshape(shape)


def _by_row(unattributed, n):
    """Return an unattributed part, if it has a number for each row."""
    unattributed = np.asarray(unattributed, dtype=np.float64)
    if unattributed.shape != (n,):
        raise ValueError(
            f"What is unattributed of {n} rows must have shape ({n},); _scoring gave an "
            f"array of shape {unattributed.shape}."
        )
    return unattributed
