"""FCDD: the map of a fully convolutional network is score and explanation at once."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import contextmanager
from math import ceil, prod
from numbers import Integral, Real
from typing import Literal, Self

import numpy as np
import torch
from torch import nn

from skad._sklearn import Interval, StrOptions
from skad._typing import (
    ArrayLike,
    Auto,
    BatchSize,
    Callbacks,
    Device,
    Floats,
    ImageShape,
    NetParams,
    Network,
    Preprocessing,
    Rows,
    Schedule,
    Seed,
    Weights,
)
from skad.neural._backbones import BACKBONES, PREPROCESSING, load_backbone
from skad.neural._detector import NeuralDetector
from skad.neural._features import make_module
from skad.neural._losses import MapLoss, pseudo_huber
from skad.neural._map_networks import (
    MAP_NETWORKS,
    auto_network,
    find_map_shape,
    paper_network,
    pointwise_layers,
    trunk_steps,
)
from skad.neural._normalization import contrast_constants, make_step, standard_constants
from skad.neural._outlier_training import Augment, Outliers, OutlierTraining
from skad.neural._outliers import masks_by_pixel
from skad.neural._rows import parts
from skad.relevance._map_pooling import MapPooling
from skad.relevance._receptive_field import ReceptiveField, receptive_field
from skad.relevance._upsampling import GaussianUpsampling, default_sigma

__all__ = ["FCDD"]

_UPSAMPLING = {"mass": "mass", "partition": "partition", "paper": "none"}


class FCDD(OutlierTraining, NeuralDetector):
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
    network : {"auto", "paper28", "paper32", "paper224"}, Module or callable, default="auto"
        "auto" is a small network by the size of the images, with a map 1, 2, 4 or 8 times
        smaller than they are; the others are the paper's for images of 28, 32 and 224
        pixels (its appendix D), untrained. A module of convolutions, pooling and functions
        of each entry gives maps (n, 1, u, v); it is copied, and trained on from those of
        its weights that require a gradient. A callable makes one from the shape of a row,
        (C, H, W), behind `resize`. Flat rows that are no images are tables, (1, 1, d):
        "auto" then looks at each standardised entry alone.
    backbone : str, default=None
        Take the first layers of a pretrained network instead, as for
        :func:`skad.neural.load_backbone`: "vgg11_bn" is what the paper does.
    weights : str, path or dict, default=None
        The backbone's weights: a file or a state dict.
        :func:`skad.neural.download_weights` gets torchvision's; `fit` downloads nothing.
    preprocessing : {"imagenet", "caffe"}, default="imagenet"
        What the backbone's weights were trained with.
    n_layers : int or None, default=None
        How many layers of the backbone, counting each convolution, norm, function, pooling
        and block. None is 21 of VGG11-BN, as the paper; 8 of SqueezeNet, up to fire5; two
        stages of ResNet18; three blocks of others.
    freeze : bool, int or "auto", default="auto"
        How many of the backbone's layers are not trained, batch-norm statistics included.
        "auto" is 15 of VGG11-BN's, as the paper, else all.
    head : {"mlp", "linear"} or callable, default="mlp"
        What makes the map of the backbone's features: a hidden layer of 64 for each place,
        or none, as in the paper. A callable makes a module from the number of channels.
    resize : int, tuple of two ints or None, default=None
        Bring images to this size, (H, W), before the network sees them, bilinearly.
        Backbones are made for 224.
    normalization : {"auto", "standard", "contrast"} or None, default="auto"
        ``"standard"``: images less the mean of the training rows, over their standard
        deviation, by channel. ``"contrast"``: global contrast normalisation, the paper's
        for Fashion-MNIST and MVTec; see :class:`skad.images.GlobalContrastNormalizer`.
        "auto" is standard, and with a backbone what that needs.
    outliers : {"auto", "confetti", "uniform"}, array, callable or None, default="auto"
        Anomalies to train on beside rows with ``y = -1``. "auto"
        is None where rows are labelled so, else confetti for images and uniform for tables;
        an info message of the logger "skad" tells of that.
        ``"confetti"`` draws blobs on images, as :class:`skad.images.Confetti` says, which
        can be given too. ``"uniform"`` replaces a quarter of the entries of a row, one at
        least, by uniform numbers from twice the range of the training rows. An array is a
        corpus of rows like X, for outlier exposure. A callable makes anomalies
        of normal rows: ``(X, rng) -> X'`` or ``X', mask``, arrays in the units of X, with a
        :class:`numpy.random.Generator`.
    outlier_share : float in (0, 1), default=0.5
        Probability with which a normal row of a batch gives its place to an anomaly.
        Where there are several sources, labelled rows and `outliers`, each is as likely.
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
    lr : float, default=1e-3
        Learning rate of the optimiser, Adam.
    max_epochs : int, default=50
        Passes over the training rows.
    batch_size : int or "auto", default="auto"
        Rows of a step. "auto" is a 64th of the rows, between 8 and 128.
    lr_schedule : {None, "cosine", "onecycle"}, default="cosine"
        How the learning rate changes within a fit: not; falling to 0; rising, then
        falling to 0.
    early_stopping : bool, default=False
        Stop when the loss of held-out rows has not fallen for `patience` epochs, and
        take the weights of the best epoch.
    validation_fraction : float in (0, 1), default=0.1
        Share of the rows that early stopping holds out.
    patience : int, default=10
        Epochs without progress that early stopping waits for.
    warm_start : bool, default=False
        Let `fit` go on from the weights, and the centre, of the last fit.
    callbacks : list or None, default=None
        Callbacks of skorch.
    net_params : dict or None, default=None
        Further parameters of :class:`skorch.NeuralNet`, such as
        ``{"optimizer__weight_decay": 1e-6}``,
        or an ``"accelerator"``, as :class:`~skad.neural.NeuralDetector` says.
    device : str, default="auto"
        Where to train and score; "auto" is a GPU where there is one.
    contamination : float in (0, 0.5] or None, default=None
        Share of the training rows that `predict` flags. None is 0.1, unless
        `false_alarm_rate` is given.
    false_alarm_rate : float in (0, 0.5] or None, default=None
        Where `contamination` is None: share of fresh normal rows that `predict` flags, if
        the training rows are normal. The threshold is then a quantile of cross-fitted
        scores, which takes five more fits.
    image_shape : tuple or None, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, batches and held-out rows. Global states are left alone.
    verbose : int, default=0
        1: a progress bar, one step an epoch. 2: skorch's table, and a bar in each epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained network.
    outliers_ : tuple of str
        The sources of anomalies: "labelled", "confetti", "uniform", "array", "callable".
    objective_ : {"image", "pixel"}
        The objective in use.
    receptive_field_ : ReceptiveField
        What an entry of the map sees, in pixels of X: ``size``, ``jump`` and ``start``,
        the centre of the first, by axis.
    map_shape_ : tuple of two ints
        (u, v).
    sigma_ : tuple of two floats
        Standard deviation of the Gaussians in use, by axis.
    history_ : dict of str to list of float
        Mean losses by epoch, "train_loss" and, with early stopping, "valid_loss".
    offset_ : float
        Threshold on `score_samples`, by the rows that are not labelled -1.
    image_shape_ : tuple or None
        Shape of one image, when fitted on images.
    n_features_in_ : int
        Number of features; of pixels and channels together for images.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, when fitted on a data frame.

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
    receptive_field_: ReceptiveField
    map_shape_: tuple[int, int]

    _parameter_constraints = {
        **NeuralDetector._parameter_constraints,
        **OutlierTraining._parameter_constraints,
        "network": [StrOptions({"auto", *MAP_NETWORKS}), callable],
        "backbone": [StrOptions(set(BACKBONES)), None],
        "weights": [str, os.PathLike, dict, None],
        "preprocessing": [StrOptions(set(PREPROCESSING))],
        "n_layers": [Interval(Integral, 1, None, closed="left"), None],
        "freeze": [
            "boolean",
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "head": [StrOptions({"mlp", "linear"}), callable],
        "resize": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "normalization": [StrOptions({"auto", "standard", "contrast"}), None],
        "objective": [StrOptions({"auto", "image", "pixel"})],
        "pooling": [StrOptions({"mean", "max", "topk"})],
        "sigma": [Interval(Real, 0, None, closed="neither"), None],
    }
    _learned = (
        *NeuralDetector._learned,
        *OutlierTraining._learned_here,
        *("objective_", "_constants"),
    )
    # An entry is judged by a function that is the same for all: 0 is no other than others.
    _ignores_constant_features = False
    # Masks have one meaning only, so that a search passes them on unasked.
    __metadata_request__fit = {"mask": True}
    __metadata_request__partial_fit = {"mask": True}

    def __init__(
        self,
        *,
        network: Network | Literal["auto", "paper28", "paper32", "paper224"] = "auto",
        backbone: str | None = None,
        weights: Weights = None,
        preprocessing: Preprocessing = "imagenet",
        n_layers: int | None = None,
        freeze: bool | int | Auto = "auto",
        head: Network | Literal["mlp", "linear"] = "mlp",
        resize: int | Sequence[int] | None = None,
        normalization: Literal["auto", "standard", "contrast"] | None = "auto",
        outliers: Outliers = "auto",
        outlier_share: float = 0.5,
        augment: Augment = None,
        objective: Literal["auto", "image", "pixel"] = "auto",
        pooling: Literal["mean", "max", "topk"] = "mean",
        sigma: float | None = None,
        lr: float = 1e-3,
        max_epochs: int = 50,
        batch_size: BatchSize = "auto",
        lr_schedule: Schedule = "cosine",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
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
        self.backbone = backbone
        self.weights = weights
        self.preprocessing = preprocessing
        self.n_layers = n_layers
        self.freeze = freeze
        self.head = head
        self.resize = resize
        self.normalization = normalization
        self.outliers = outliers
        self.outlier_share = outlier_share
        self.augment = augment
        self.objective = objective
        self.pooling = pooling
        self.sigma = sigma
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr_schedule = lr_schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.net_params = net_params
        self.device = device
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.random_state = random_state
        self.verbose = verbose

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
        with self._given(mask):
            return super().fit(X, y)

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
        with self._given(mask):
            return super().partial_fit(X, y)

    def heatmap(
        self,
        X: Rows,
        *,
        upsampling: Literal["partition", "mass", "paper"] | None = "partition",
    ) -> Floats:
        """Give the map A of each image, also at the size of the image.

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
        maps = self._maps(self._validate(X))
        if upsampling is None:
            return maps
        return self._upsampled(maps, _UPSAMPLING[upsampling])

    @contextmanager
    def _given(self, mask):
        self._mask = mask
        try:
            yield
        finally:
            vars(self).pop("_mask", None)

    # How rows come in.

    @property
    def _row_shape(self):
        shape = super()._row_shape
        return (1, 1, *shape) if len(shape) == 1 else shape

    def _learn_units(self, X):
        super()._learn_units(X)
        self._constants = self._find_constants(X)

    def _find_constants(self, X):
        """Learn what the network's first step is scaled by."""
        if self._normalization == "contrast":
            return contrast_constants(self._prepare(X[part]) for part in parts(X))
        if self._normalization == "standard":
            return standard_constants(X, self._row_shape, self._shift, self._scale)
        return np.zeros((2, 0))

    @property
    def _normalization(self):
        """What the first step of the network is."""
        if self.image_shape_ is None or self.backbone is not None:
            return None
        return "standard" if self.normalization == "auto" else self.normalization

    def _masks_of(self, rows):
        mask = getattr(self, "_mask", None)
        if mask is None:
            return None
        mask = masks_by_pixel(mask, len(rows), self._row_shape)
        marked = mask.any(axis=(1, 2, 3)) & (self._labels != -1)
        if marked.any():
            first = int(marked.argmax())
            raise ValueError(
                f"mask marks pixels of {marked.sum()} rows that are not labelled -1; the "
                f"first is row {first}, labelled {self._labels[first]}."
            )
        return torch.from_numpy(mask[rows]) if rows.any() else None

    def _choose_objective(self, sources):
        self.objective_ = self.objective
        if self.objective == "auto":
            self.objective_ = "pixel" if any(masks for _, masks in sources) else "image"

    @property
    def _with_masks(self):
        return self.objective_ == "pixel"

    # The network.

    def _make_module(self):
        steps = OrderedDict()
        if (kind := self._normalization) is not None:
            steps["normalization"] = make_step(kind, self._constants)
        if self.resize is not None:
            steps["resize"] = nn.Upsample(size=self._seen_shape[1:], mode="bilinear")
        steps |= self._trunk() if self.backbone is not None else self._whole_network()
        net = nn.Sequential(steps)
        self.map_shape_ = find_map_shape(net, self._row_shape)
        self.receptive_field_ = receptive_field(net, self._row_shape)
        self._upsampling("mass")  # raises where the image is smaller than the field
        return net

    @property
    def _seen_shape(self):
        """The shape of a row behind `resize`."""
        if self.resize is None:
            return self._row_shape
        size = (self.resize,) * 2 if isinstance(self.resize, Integral) else self.resize
        if len(size) != 2 or not all(isinstance(n, Integral) and n > 0 for n in size):
            raise ValueError(
                f"resize must be (H, W), positive integers, or one for both; got {size}."
            )
        return (self._row_shape[0], *size)

    @property
    def _shape_to_fit(self):
        channels, *size = self._seen_shape
        if self.resize is not None:  # which sees a pixel more on each side
            own = zip(size, self._row_shape[1:], strict=True)
            size = [max(1, n - 2 * ceil(max(1, n / before))) for n, before in own]
        return (channels, *size)

    def _whole_network(self):
        if isinstance(self.network, str) and self.network != "auto":
            net = paper_network(self.network, self._row_shape[0])
        elif not isinstance(self.network, str):
            net = make_module(self.network, self._seen_shape)
        elif self.image_shape_ is None:
            net = nn.Sequential(*pointwise_layers())
        else:
            net = auto_network(self._shape_to_fit)
        return {"layers": net}

    def _trunk(self):
        if self.weights is None:
            raise ValueError(
                f"backbone={self.backbone!r} needs weights, a file or a state dict; "
                "skad.neural.download_weights gets torchvision's."
            )
        backbone = load_backbone(
            self.backbone, self.weights, preprocessing=self.preprocessing
        )
        cut = {"n_layers": self.n_layers, "freeze": self.freeze, "head": self.head}
        return trunk_steps(backbone, self.backbone, **cut)

    def _make_criterion(self):
        return MapLoss(self._upsampling("partition") if self._with_masks else None)

    # Score and explanation.

    def _heat(self, batch):
        return pseudo_huber(self.net_.module_(batch).square())[:, 0]

    def _score_block(self, batch):
        return self._map_pooling.score(self._heat(batch))

    @property
    def _map_pooling(self):
        return MapPooling(self.pooling, prod(self.map_shape_))

    def _maps(self, X):
        return self._in_blocks(self._heat, X)

    def _relevance(self, X):
        maps = self._upsampled(self._map_pooling.contributions(self._maps(X)), "mass")
        n_channels = self._row_shape[0]
        relevance = np.repeat(maps[:, None] / n_channels, n_channels, axis=1)
        return relevance.reshape(X.shape)

    @property
    def sigma_(self) -> tuple[float, float]:
        """Standard deviation of the Gaussians in use, by axis, in pixels."""
        field = self.receptive_field_
        if self.sigma is not None:
            return (float(self.sigma),) * 2
        return tuple(map(default_sigma, field.size, field.jump))

    def _upsampled(self, maps, normalize):
        return self._upsampling(normalize)(torch.from_numpy(maps)).numpy()

    def _upsampling(self, normalize):
        return GaussianUpsampling(
            self.receptive_field_,
            self._row_shape[1:],
            self.map_shape_,
            sigma=self.sigma,
            normalize=normalize,
        )
