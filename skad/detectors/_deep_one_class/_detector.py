"""Deep one-class detection: whitened features of a trained network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import pad

from skad._decomposition import Decomposition, refuse_space
from skad._labels import read_labels, zero_one_complaint
from skad._sklearn import Interval, StrOptions
from skad._thresholds import TrainingScores, folds
from skad._typing import Auto, Device, Floats, ImageShape, Network, Preprocessing, Weights
from skad.base import BaseDetector
from skad.neural._backbones import BACKBONES, PREPROCESSING, load_backbone
from skad.neural._blocks import (
    ALIGNMENT,
    as_tensor,
    block_rows,
    in_blocks,
    in_small_parts,
)
from skad.neural._feature_net import FeatureNet, make_module, output_of
from skad.neural._rows import LazyRows, check_lazy, extremes, lazy_rows
from skad.neural._seed import choose_device, seeded
from skad.neural._units import find_input_range, fit_to_range
from skad.relevance._whitening import Spectrum, best_regularization, second_moment

__all__ = ["DeepOneClass"]


class DeepOneClass(BaseDetector):
    r"""Deep one-class model: the norm of whitened features of a trained network.

    With features :math:`\phi(x)` of a network, D of them, and their second moment over
    the n training rows, uncentred,

    .. math:: o(x) = \|W \phi(x)\|^2, \qquad
              W = \Big(\tfrac{1}{n} \sum_i \phi(x_i) \phi(x_i)^\top + \lambda I\Big)^{-1/2}

    (section 3 of [1]_): about D for normal rows, more where features are combined as they
    never were. :math:`\lambda` is `regularization` times the mean of the :math:`\phi_j^2`.
    The score has no units.

    Relevance of a feature is :math:`R_j = \phi_j (W^\top W \phi)_j` (appendix A.4), which
    sums to the score. It is propagated to the input by layer-wise relevance propagation:
    the :math:`\gamma` rule in the layers (appendix A.5) and, in the one that sees the
    input, the rule for pixels :math:`z^B` or that for unbounded features, :math:`w^2`.
    Unattributed is what biases and zero padding keep (as ``o - relevance.sum()``; it has
    no simpler form), and nothing in a network without biases.

    Parameters
    ----------
    features : torch.nn.Module or callable, default=None
        A trained network, such as :func:`skad.neural.fit_features` gives; its output is
        flattened. `fit` copies it, so it is never changed. A callable makes one from the
        shape of a row, (d,) or (C, H, W).
    backbone : str, default=None
        In place of `features`, a pretrained network by name, as for
        :func:`skad.neural.load_backbone`.
    weights : str, path or dict, default=None
        The backbone's weights: a file or a state dict.
        :func:`skad.neural.download_weights` gets torchvision's; `fit` downloads nothing.
    preprocessing : {"imagenet", "caffe"}, default="imagenet"
        What the backbone's weights were trained with.
    regularization : float or "auto", default=1e-4
        :math:`\lambda`, relative to the mean second moment of a feature. "auto" is the
        best of a grid from 1e-8 to 10 by the ROC AUC of a held-out fifth of the normal
        rows against rows with ``y = -1``, as in [1]_. 0 needs independent features.
        See the notes for the default.
    gamma : float or dict, default=0.25
        How much the :math:`\gamma` rule favours what speaks for a neuron; [1]_ states no
        value. A dict gives it by name of the layer.
    input_rule : {"auto", "zbox", "wsquare", "gamma"}, default="auto"
        Rule of the layer that sees the input. "auto" is "zbox" where there is an input
        range, else "wsquare"; "gamma" needs input that is not negative, and gives entries
        that are 0 no relevance.
    input_range : "auto", (float, float) or None, default="auto"
        Least and greatest value a feature can have. "auto" is (0, 1) or (0, 255) if the
        training rows lie in it, the range that the network was trained on if they are
        images in that, else None. Images are brought to the range of the network.
    contamination : float in (0, 0.5] or None, default=None
        Share of the *training* rows that `predict` flags. None is 0.1, unless
        `false_alarm_rate` is given. Fresh rows score higher where there are few training
        rows for each of the D features: with 1.5 of them, a threshold for 5 % of the
        training rows flagged two thirds of fresh ones.
    false_alarm_rate : float in (0, 0.5] or None, default=None
        Where `contamination` is None: share of *fresh* normal rows that `predict` flags.
        The threshold is then a quantile of scores by whitenings of four other fifths of
        the training rows.
    [[image_shape]]
    device : str, default="auto"
        Where the network runs; "auto" is a GPU where there is one.

    Attributes
    ----------
    whitening_ : ndarray of shape (D, D)
        W, symmetric.
    regularization_ : float
        The regularisation in use.
    input_range_ : tuple of two floats or None
        The range in use.
    input_rule_ : str
        The rule in use.
    [[offset_, image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    ValueError
        By `fit`, when there is not exactly one of `features` and `backbone`, a backbone has
        no weights, the network does not take the rows or gives NaN, rows leave
        `input_range`, features are dependent at ``regularization=0``, or there are no rows
        labelled -1 to choose "auto" by.
    TypeError
        By `explain`, when the network has a layer that relevance can't be propagated
        through.

    See Also
    --------
    skad.neural.fit_features, skad.neural.load_backbone : Give networks.
    DeepSVDD : Trains the network to bring normal rows together.

    Notes
    -----
    Rows labelled -1 choose ``regularization="auto"``, and have no other influence: neither
    on the whitening nor on the threshold.

    The default of `regularization` was the best of powers of ten from 1e-8 to 10 by ROC AUC
    for magnetic tiles with SqueezeNet's features, and within 0.01 of the best mean for
    corrupted MNIST digits with features of letters, at 200 to 20,000 training rows. There
    smaller values gained 0.01 at most, 1e-2 lost up to 0.04.

    The network runs in float32, the whitening in float64, at O(D^2) a row and O(D^3) a fit:
    average features over space where they are more than some thousands. A row's score is
    the same, to the bit, alone and in any batch, unless the network has dense layers whose
    number of inputs is no multiple of 4.

    Relevance needs a network of linear and convolutional layers, ReLU, batch norm and
    pooling; scoring does not. One that takes its input's scaling along, as those of
    :func:`skad.neural.fit_features` do, is explained through it.

    References
    ----------
    .. [1] J. Kauffmann, L. Ruff, G. Montavon, K.-R. Mueller. "The Clever Hans Effect in
       Anomaly Detection". arXiv:2006.10609, 2020.

    Examples
    --------
    Features that tell the digits 0 to 4 apart, to find what is no 5:

    >>> from sklearn.datasets import load_digits
    >>> from skad import DeepOneClass
    >>> from skad.neural import fit_features
    >>> X, y = load_digits(return_X_y=True)
    >>> features = fit_features(X[y < 5], y[y < 5], random_state=0)
    >>> fives, eights = X[y == 5], X[y == 8]
    >>> detector = DeepOneClass(features=features, false_alarm_rate=0.05).fit(fives)
    >>> bool((detector.predict(eights) == -1).mean() > 0.5)
    True
    >>> detector.explain(eights).shape
    (174, 64)
    """

    whitening_: Floats
    regularization_: float
    input_range_: tuple[float, float] | None
    input_rule_: str

    _parameter_constraints = {
        "features": [callable, None],
        "backbone": [StrOptions(set(BACKBONES)), None],
        "weights": [str, os.PathLike, dict, None],
        "preprocessing": [StrOptions(set(PREPROCESSING))],
        "regularization": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "gamma": [Interval(Real, 0, None, closed="left"), dict],
        "input_rule": [StrOptions({"auto", "zbox", "wsquare", "gamma"})],
        "input_range": [StrOptions({"auto"}), tuple, list, None],
        "device": [str, torch.device],
    }
    _dtype = (np.float64, np.float32)
    # Uncentred, a feature that never varies is what the others are compared with.
    _ignores_constant_features = False

    def __init__(
        self,
        *,
        features: Network | None = None,
        backbone: str | None = None,
        weights: Weights = None,
        preprocessing: Preprocessing = "imagenet",
        regularization: float | Auto = 1e-4,
        gamma: float | Mapping[str, float] = 0.25,
        input_rule: Literal["auto", "zbox", "wsquare", "gamma"] = "auto",
        input_range: Sequence[float] | Auto | None = "auto",
        contamination: float | None = None,
        false_alarm_rate: float | None = None,
        image_shape: ImageShape = None,
        device: Device = "auto",
    ):
        self.features = features
        self.backbone = backbone
        self.weights = weights
        self.preprocessing = preprocessing
        self.regularization = regularization
        self.gamma = gamma
        self.input_rule = input_rule
        self.input_range = input_range
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.device = device

    def _fit(self, X, y):
        normal = self._normal_rows(y, len(X))
        self._net, self._explainers = self._make_net(), {}
        self._choose_input(X if normal.all() else X[normal])
        phi = self._features(X)
        self.regularization_ = self._choose_regularization(phi[normal], phi[~normal])
        own = phi[normal]
        spectrum = Spectrum(second_moment(own))
        self.whitening_ = spectrum.whitening(self.regularization_)
        return TrainingScores(
            len(own),
            in_sample=lambda: self._score(own),
            out_of_sample=lambda rows: self._cross_fitted_score(own, rows),
        )

    def _outlier_score(self, X):
        return self._score(self._features(X))

    def _decompose(self, X, space=None):
        refuse_space(self, space)
        # In that mode of the caller's, W would be what autograd can't take.
        with torch.inference_mode(False):
            relevance = self._propagated(X)
        rest = self._outlier_score(X) - relevance.sum(axis=1)
        return Decomposition(relevance, rest, "outlier score")

    def _propagated(self, X):
        net, W = self._net.to(self._device), self._whitening()

        def top(phi):
            z = phi.double() @ W
            return (z * z.detach()).sum(dim=1)

        explain = self._kept_explainer(net)
        return in_small_parts(lambda rows: explain(rows, top), X, self._prepared)

    def _prepared(self, X):
        return self._prepare(X).to(self._device)

    def _kept_explainer(self, net):
        """Make what propagates relevance once: it costs more than to explain a row."""
        key = (str(self._device), repr(self.gamma))
        if key not in self._explainers:
            self._explainers[key] = net.explainer(**self._rules())
        return self._explainers[key]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"_explainers": {}} if "_explainers" in state else state

    def _out_of_sample_score(self, X, rows):
        return self._cross_fitted_score(self._features(X), rows)

    def _cross_fitted_score(self, phi, rows):
        """Score rows, each by a whitening of four other fifths of all."""
        scores = np.empty(len(phi))
        for train, test in folds(len(phi)):
            test = np.intersect1d(test, rows, assume_unique=True)
            spectrum = Spectrum(second_moment(phi[train]))
            scores[test] = spectrum.scores(phi[test], [self.regularization_])[:, 0]
        return scores[rows]

    def _score(self, phi):
        """Score features; like them in blocks, so that a row always has the same bits."""
        short = -phi.shape[1] % ALIGNMENT  # for the product, as for the rows of blocks
        W = pad(self._whitening(), (0, short, 0, short))
        with torch.inference_mode():
            return in_blocks(
                lambda block: (pad(block, (0, short)) @ W).square().sum(dim=1),
                phi,
                lambda part: torch.from_numpy(part.astype(np.float64)),
                block_rows(phi.shape[1]),
                self._device,
            ).numpy()

    def _features(self, X):
        """Return the features of rows: float32, (n, D)."""
        net, rows = self._net.to(self._device), block_rows(X.shape[1])
        with torch.inference_mode():
            phi = in_blocks(net, X, self._prepare, rows, self._device).numpy()
        self._check_finite(phi)
        return phi

    def _check_finite(self, phi):
        broken = ~np.isfinite(phi).all(axis=1)
        if broken.any():
            raise ValueError(
                f"The network gives NaN or infinite features for {broken.sum()} of "
                f"{len(phi)} rows, the first being row {broken.argmax()}."
            )

    def _normal_rows(self, y, n):
        """Tell which rows are not labelled -1."""
        if self.regularization == "auto" and (complaint := zero_one_complaint(y)):
            raise ValueError(complaint)
        normal = read_labels(y, n) != -1
        if normal.sum() < 2:
            raise ValueError(
                f"Two rows at least must not be labelled -1; got {normal.sum()} of {n}."
            )
        return normal

    def _choose_regularization(self, normal, anomalous):
        if self.regularization != "auto":
            return float(self.regularization)
        if len(anomalous):
            return best_regularization(normal, anomalous)
        raise ValueError(
            'regularization="auto" chooses by anomalies: label some rows of fit with '
            "y = -1, which do not train. Without any, give a number; the default is one."
        )

    def _make_net(self):
        if (self.features is None) == (self.backbone is None):
            raise ValueError(
                "Give one of features, a torch module or a function that makes one, and "
                f"backbone, a name; got features={self.features!r} and "
                f"backbone={self.backbone!r}."
            )
        if self.backbone is not None:
            net = self._load_backbone()
        else:
            with seeded(0):
                net = make_module(self.features, self._row_shape)
        if not isinstance(net, FeatureNet):
            net = FeatureNet(net)
        advice = "" if self.image_shape_ else " For images, set image_shape."
        output_of(net, self._row_shape, advice=advice)
        return net.eval().requires_grad_(False)

    def _load_backbone(self):
        if self.weights is None:
            raise ValueError(
                f"backbone={self.backbone!r} needs weights, a file or a state dict; "
                "skad.neural.download_weights gets torchvision's."
            )
        return load_backbone(self.backbone, self.weights, preprocessing=self.preprocessing)

    def _choose_input(self, X):
        """Choose range and rule of the input, and whether it is scaled to the network's."""
        known = self._net.input_range if len(self._row_shape) == 3 else None
        given = find_input_range(X, self.input_range, known)
        self.input_range_, self.input_rule_ = given, self.input_rule
        if self.input_rule == "auto":
            self.input_rule_ = "zbox" if given else "wsquare"
        elif self.input_rule == "zbox" and not given:
            low, high = (end(extremes(X)) for end in (np.min, np.max))
            raise ValueError(
                'input_rule="zbox" needs the range that features can have; give '
                f"input_range, or choose another rule. X goes from {low:.4g} to "
                f"{high:.4g}."
            )
        chosen = self.input_range not in ("auto", None)
        fits = known is None or not fit_to_range(X, given, known, certain=chosen)
        self._scaled_to = None if fits else known

    def _prepare(self, X):
        x = as_tensor(X).float().reshape(-1, *self._row_shape)
        if self._scaled_to is None:
            return x
        (low, high), (start, end) = self.input_range_, self._scaled_to
        return (x - low) / (high - low) * (end - start) + start

    def _rules(self):
        """Return the arguments of the propagation of relevance."""
        rules = {"gamma": self.gamma, "input_rule": self.input_rule_}
        if self.input_rule_ == "zbox":
            bounds = np.repeat([self.input_range_], self.n_features_in_, axis=0).T
            rules["low"], rules["high"] = self._prepare(bounds).to(self._device)
        return rules

    def _whitening(self):
        return torch.from_numpy(self.whitening_).to(self._device)

    @property
    def _device(self):
        return choose_device(self.device)

    # Rows that are read part by part.

    def _flattened(self, X):
        return lazy_rows(X, self._dtype) or super()._flattened(X)

    def _checked(self, X, *, reset):
        if isinstance(X, LazyRows):
            return check_lazy(self, X, reset=reset)
        return super()._checked(X, reset=reset)
