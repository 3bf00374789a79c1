"""FCDD: the map of a fully convolutional network is score and explanation at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from numbers import Integral, Real
from typing import Literal, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skad._sklearn import Interval, StrOptions, check_parameters, with_callbacks
from skad._typing import (
    ArrayLike,
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
from skad.detectors._fcdd._loss import MapLoss, heat_of
from skad.detectors._fcdd._map_network import MapNetwork, map_steps
from skad.detectors._fcdd._networks import MAP_NETWORKS
from skad.detectors._fcdd._normalization import find_constants, make_step
from skad.detectors._one_class._losses import harmless_loss
from skad.neural._backbones import Trunk
from skad.neural._detector import NeuralDetector
from skad.neural._outliers import (
    OUTLIER_CONSTRAINTS,
    Augment,
    Outliers,
    find_exposure,
    labelled,
)
from skad.neural._parts import EarlyStopping, Parts, Scoring
from skad.neural._training import Settings
from skad.neural._units import ScaledUnits
from skad.relevance._map_pooling import MapPooling
from skad.relevance._receptive_field import ReceptiveField

__all__ = ["FCDD"]

_UPSAMPLING = {"mass": "mass", "partition": "partition", "paper": "none"}


class FCDD(NeuralDetector):
    r"""Fully convolutional data description: a heat map whose mean is the outlier score.

    A network of convolutions and pooling gives a map :math:`\phi(x)` of u x v numbers, one
    for each place of the image. With the pseudo-Huber distance to the centre, which is the
    bias of the last layer,

    .. math::

        A(x) = \sqrt{\phi(x)^2 + 1} - 1, \qquad
        o(x) = \frac{1}{uv} \sum_{i,j} A_{ij}(x),

    entry by entry. The relevance of a pixel is what the map's entries bring to it, each
    spread over its receptive field by a Gaussian (Algorithm 1 of [1]_) that sums to 1 over
    the image: :math:`R(x) = K_h A(x) K_w^\top / (uv)`. It sums to the score; nothing is
    unattributed. Channels get equal shares.

    Trained on normal rows (:math:`y_i = 0` in the paper's terms) and anomalies (1),
    labelled, from a corpus, or synthetic. By image [1]_ (eq. 2), or by pixel (eq. 3), with
    m pixels, masks :math:`Y_i` and the map :math:`A'` at the size of the image:

    .. math::

        \frac{1}{n} \sum_i (1 - y_i)\,o(x_i) - y_i \log(1 - e^{-o(x_i)}), \qquad
        \frac{1}{n} \sum_i \frac{1}{m} \sum_j (1 - Y_{ij}) A'_{ij}
        - \log\Big(1 - e^{-\frac{1}{m} \sum_j Y_{ij} A'_{ij}}\Big),

    the last term only for rows with a mask that is not empty.

    Parameters
    ----------
    network : str, Trunk, torch.nn.Module or callable, default="auto"
        "auto" is a small network by the size of the images, with a map 1, 2, 4 or 8 times
        smaller than they are; "paper28", "paper32" and "paper224" are the paper's for
        images of so many pixels (its appendix D), untrained. A
        :class:`~skad.neural.Trunk` is the first layers of a pretrained network, VGG11-BN in
        the paper. A module of convolutions, pooling and functions of each entry gives maps
        (n, 1, u, v); it is copied, and trained on from those of its weights that require a
        gradient. A callable makes one from the shape of a row, (C, H, W), behind `resize`.
        Flat rows that are no images are tables, (1, 1, d): "auto" then looks at each
        standardised entry alone.
    resize : int, tuple of two ints or None, default=None
        Bring images to this size, (H, W), before the network sees them, bilinearly.
        Pretrained networks are made for 224.
    normalization : {"auto", "standard", "contrast"} or None, default="auto"
        ``"standard"``: images less the mean of the training rows, over their standard
        deviation, by channel. ``"contrast"``: global contrast normalisation, the paper's
        for Fashion-MNIST and MVTec; see :class:`skad.images.GlobalContrastNormalizer`.
        "auto" is standard. A `Trunk` has a scaling of its own in its place.
    outliers : str, array, callable, OutlierExposure or None, default="auto"
        Anomalies to train on beside rows with ``y = -1``. "auto"
        is None where rows are labelled so, else confetti for images and uniform for tables;
        an info message of the logger "skad" tells of that.
        ``"confetti"`` draws blobs on images, as :class:`skad.images.Confetti` says, which
        can be given too. ``"uniform"`` replaces a quarter of the entries of a row, one at
        least, by uniform numbers from twice the range of the training rows. An array is a
        corpus of rows like X, for outlier exposure. A callable makes anomalies
        of normal rows: ``(X, rng) -> X'`` or ``X', mask``, arrays in the units of X, with a
        :class:`numpy.random.Generator`. An :class:`~skad.neural.OutlierExposure` says how
        many of them there are, too.
    augment : callable or None, default=None
        Changes every batch before a step: from rows, a float32 tensor in [0, 1] of shape
        ``(n, C, H, W)``, and masks, a bool tensor ``(n, 1, H, W)`` or None, to such a pair.
        :class:`skad.neural.Augmentation` is one.
    objective : {"auto", "image", "pixel"}, default="auto"
        Equation 2, or 3, in which an anomaly without a mask counts as anomalous everywhere.
        "auto" is by pixel where any source gives masks: `mask`, confetti, uniform entries,
        a callable that gives them.
    pooling : {"mean", "max", "topk"}, default="mean"
        What makes the score of the map: its mean, as in the paper and in training; its
        greatest entry; or the mean of the greatest fiftieth. Defects that are small for the
        image stand out more by the last two. Relevance is that of the entries that count.
    sigma : float or None, default=None
        Standard deviation of the Gaussians, in pixels. None: see the notes. Set after
        `fit`, it changes the maps.
    [[lr, max_epochs, batch_size, lr_schedule, early_stopping, warm_start, callbacks]]
    [[net_params, device, contamination, false_alarm_rate, image_shape, random_state]]
    [[verbose]]

    Attributes
    ----------
    [[net_, outliers_]]
    objective_ : {"image", "pixel"}
        The objective in use.
    receptive_field_ : ReceptiveField
        What an entry of the map sees, in pixels of X: ``size``, ``jump`` and ``start``,
        the centre of the first, by axis.
    map_shape_ : tuple of two ints
        (u, v).
    sigma_ : tuple of two floats
        Standard deviation of the Gaussians in use, by axis.
    [[history_]]
    offset_ : float
        Threshold on `score_samples`, by the rows that are not labelled -1.
    [[image_shape_, n_features_in_, feature_names_in_]]

    See Also
    --------
    HSC : The same objective for a network that gives no map; for tables, too.
    skad.images.confetti : The synthetic anomalies.

    Notes
    -----
    The default of `sigma` is 0.19 r for a receptive field of r pixels, the 12 pixels of the
    paper for MVTec, and half the distance of two entries at least. The paper's 1.2 for
    Fashion-MNIST and CIFAR-10 is less than that, and draws dots.

    Equation 2 sums over the map; in equation 3 the map :math:`A'` is a mean of the entries
    around a pixel, where the paper's has sums of unnormalised Gaussians: a factor that
    depends on `sigma`. The paper's code trains on MVTec by equation 3 with masks that cover
    synthetic anomalies whole; here they cover what the confetti changed.

    Gradients are exact also where the map is nearly 0, so that a batch of anomalies is
    trained away from there.

    With contrast normalisation each entry depends on two numbers of the whole image.

    References
    ----------
    .. [1] P. Liznerski, L. Ruff, R. A. Vandermeulen, B. J. Franks, M. Kloft, K.-R. Mueller.
       "Explainable Deep One-Class Classification". ICLR 2021.

    Examples
    --------
    Textures with defects, found by training on confetti:

    >>> from sklearn.metrics import roc_auc_score
    >>> from skad import FCDD
    >>> from skad.datasets import make_textures
    >>> normal = make_textures(200, anomaly_share=0, texture="noise", random_state=0)
    >>> test = make_textures(100, texture="noise", random_state=1)
    >>> detector = FCDD(max_epochs=20, random_state=0).fit(normal.images)
    >>> detector.outliers_, detector.objective_
    (('confetti',), 'pixel')
    >>> bool(roc_auc_score(test.target, detector.score_samples(test.images)) > 0.8)
    True
    >>> detector.explain(test.images).shape
    (100, 32, 32)
    """

    objective_: Literal["image", "pixel"]
    outliers_: tuple[str, ...]

    _parameter_constraints = {
        **OUTLIER_CONSTRAINTS,
        "network": [StrOptions({"auto", *MAP_NETWORKS}), Trunk, callable],
        "resize": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "normalization": [StrOptions({"auto", "standard", "contrast"}), None],
        "objective": [StrOptions({"auto", "image", "pixel"})],
        "pooling": [StrOptions({"mean", "max", "topk"})],
        "sigma": [Interval(Real, 0, None, closed="neither"), None],
    }
    # An entry is judged by a function that is the same for all: 0 is no other than others.
    _ignores_constant_features = False
    # Masks have one meaning only, so that a search passes them on unasked.
    __metadata_request__fit = {"mask": True}
    __metadata_request__partial_fit = {"mask": True}

    def __init__(
        self,
        *,
        network: Network
        | Trunk
        | Literal["auto", "paper28", "paper32", "paper224"] = "auto",
        resize: int | Sequence[int] | None = None,
        normalization: Literal["auto", "standard", "contrast"] | None = "auto",
        outliers: Outliers = "auto",
        augment: Augment = None,
        objective: Literal["auto", "image", "pixel"] = "auto",
        pooling: Literal["mean", "max", "topk"] = "mean",
        sigma: float | None = None,
        lr: float = 1e-3,
        max_epochs: int = 50,
        batch_size: BatchSize = "auto",
        lr_schedule: Schedule = "cosine",
        early_stopping: EarlyStopping | None = None,
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
        self.resize = resize
        self.normalization = normalization
        self.outliers = outliers
        self.augment = augment
        self.objective = objective
        self.pooling = pooling
        self.sigma = sigma
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr_schedule = lr_schedule
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.net_params = net_params
        self.device = device
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(
        self, X: Rows, y: ArrayLike | None = None, *, mask: ArrayLike | None = None
    ) -> Self:
        """Train the network, and set the threshold.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Training rows, two at least that are not anomalies; finite numbers.
        y : array-like of shape (n,), default=None
            +1 normal, -1 anomaly, 0 unlabelled, which trains as normal.
        mask : array-like of shape (n, H, W), (n, H * W) or the shape of X, default=None
            Not 0 where a row labelled -1 is anomalous; all 0 in other rows. An anomaly
            whose mask is all 0 counts as anomalous everywhere.

        Returns
        -------
        self : object
            The detector itself, fitted.

        Raises
        ------
        TypeError
            For sparse `X`, or callbacks that are none of skorch's.
        ValueError
            For a bad parameter, NaN or infinite entries, images that do not have the shape
            `image_shape` or are smaller than the receptive field, a mask of another shape
            or on a row that is not labelled -1, no anomalies at all where
            ``outliers=None``, or a training that diverges. A failed fit leaves the detector
            as it was before.
        """
        return self._fit_rows(X, y, mask=mask)

    def partial_fit(
        self, X: Rows, y: ArrayLike | None = None, *, mask: ArrayLike | None = None
    ) -> Self:
        """Train one more epoch, on these rows; the first call starts the network.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows of this epoch.
        y : array-like of shape (n,), default=None
            Labels, as for `fit`.
        mask : array-like of shape (n, H, W), (n, H * W) or the shape of X, default=None
            Masks, as for `fit`.

        Returns
        -------
        self : object
            The detector itself.

        Raises
        ------
        ValueError
            As `fit`, and for rows of another shape than those of the first call.
        """
        return self._fit_more_rows(X, y, mask=mask)

    def heatmap(
        self,
        X: Rows,
        *,
        upsampling: Literal["partition", "mass", "paper"] | None = "partition",
    ) -> Floats:
        """Return the map A of each image, also at the size of the image.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Images to look at.
        upsampling : {"partition", "mass", "paper", None}, default="partition"
            ``"partition"``: each pixel has the mean of the entries around it, weighted by
            the Gaussians: in units of A, as bright at the border. ``"mass"``: each entry is
            spread as a whole, so that sums are kept, as in `explain`. ``"paper"``: sums of
            unnormalised Gaussians. None: A itself.

        Returns
        -------
        maps : ndarray of shape (n, H, W), or (n, u, v) for None, float64
            Higher is more abnormal; never negative.

        Raises
        ------
        ValueError
            As `score_samples`, and for another `upsampling`.
        """
        if upsampling is not None and upsampling not in _UPSAMPLING:
            raise ValueError(
                f"upsampling must be one of {[*_UPSAMPLING]} or None, got {upsampling!r}."
            )
        X = self._validate(X)
        check_parameters(self, "sigma")
        maps, net = _maps(self._trained, X), self._map_network
        if upsampling is None:
            return maps
        return _spread(maps, net.upsampling(self.sigma, _UPSAMPLING[upsampling]))

    @property
    def receptive_field_(self) -> ReceptiveField:
        """What an entry of the map sees, a ReceptiveField in pixels of X."""
        return self._map_network.receptive_field

    @property
    def map_shape_(self) -> tuple[int, int]:
        """Size of the map, (u, v), a tuple of two ints."""
        return self._map_network.map_shape

    @property
    def sigma_(self) -> tuple[float, float]:
        """Standard deviation of the Gaussians in use, by axis, in pixels."""
        return self._map_network.sigmas(self.sigma)

    @property
    def _map_network(self) -> MapNetwork:
        check_is_fitted(self, "net_")
        return self.net_.module_

    # Training.

    @property
    def _row_shape(self):
        shape = super()._row_shape
        return (1, 1, *shape) if len(shape) == 1 else shape

    def _data(self, X, y=None, mask=None):
        return labelled(super()._data(X), y, mask)

    def _parts(self, data, previous=None):
        units, device = ScaledUnits.of(data, previous), Settings.of(self).device
        constants = self._constants(data, units, previous)
        name = type(self).__name__
        exposure = find_exposure(name, self.outliers, data, units, device)
        objective = self._objective(data, exposure, previous)
        network = self._network(data, constants)
        by_pixel = objective == "pixel"
        learned = {"constants": constants, "objective_": objective}
        return Parts(
            network,
            MapLoss(network.upsampling(self.sigma, "partition") if by_pixel else None),
            units,
            exposure.batches(data, self.augment, with_masks=by_pixel),
            state={**learned, "outliers_": exposure.names},
            harmless_loss=harmless_loss,
        )

    def _constants(self, data, units, previous):
        """Return what the first step of the network is scaled by."""
        if previous is not None:
            return previous.state["constants"]
        return find_constants(self._first_step(data), data, units)

    def _objective(self, data, exposure, previous):
        if len(data) == 0:  # weights are loaded
            return previous.state["objective_"]
        if self.objective != "auto":
            return self.objective
        return "pixel" if exposure.give_masks else "image"

    def _network(self, data, constants):
        kind = self._first_step(data)
        first = {} if kind is None else {"normalization": make_step(kind, constants)}
        steps = first | map_steps(self.network, self.resize, data)
        return MapNetwork.of(steps, data.row_shape)

    def _first_step(self, data):
        """Return what normalises images; None for tables, and before a trunk."""
        if not data.is_image or isinstance(self.network, Trunk):
            return None
        return "standard" if self.normalization == "auto" else self.normalization

    # Score and explanation.

    def _scoring(self, trained):
        check_parameters(self, "pooling", "sigma")
        net = trained.module
        pooling = MapPooling(self.pooling, prod(net.map_shape))
        upsampling = net.upsampling(self.sigma, "mass")

        def relevance(X):
            maps = _spread(pooling.contributions(_maps(trained, X)), upsampling)
            n_channels = net.row_shape[0]
            return np.repeat(maps[:, None] / n_channels, n_channels, axis=1)

        return Scoring(
            score=lambda batch: pooling.score(heat_of(net(batch))),
            relevance=relevance,
            unattributed=lambda X: np.zeros(len(X)),
        )


def _maps(trained, X):
    return trained.in_blocks(lambda batch: heat_of(trained.module(batch)), X)


def _spread(maps, upsampling):
    return upsampling(torch.from_numpy(maps)).numpy()
