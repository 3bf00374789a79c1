"""GEO: a network tells by which view an image is shown; what it can't tell is abnormal."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from math import ceil, gcd
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches

from skad._sklearn import Interval, StrOptions, check_parameters
from skad._typing import (
    AnyArray,
    ArrayLike,
    BatchSize,
    Callbacks,
    Device,
    Floats,
    ImageShape,
    NetParams,
    Network,
    Schedule,
    Seed,
)
from skad._warnings import warn
from skad.base import calibration_rows, read_classes
from skad.detectors._dirichlet import SOLVERS
from skad.detectors._view_calibration import ViewCalibration
from skad.images import View, Views, geometric_views
from skad.neural._detector import NeuralDetector
from skad.neural._outlier_training import Augment, Outliers, OutlierTraining
from skad.neural._scaling import Scaling
from skad.neural._seed import choose_device
from skad.neural._view_networks import (
    VIEW_NETWORKS,
    ViewScorer,
    make_view_network,
    pointwise,
)
from skad.neural._view_relevance import ViewRelevance
from skad.neural._view_training import RandomViews, ViewLoss
from skad.relevance._view_score import VIEW_SCORES, ViewHeads, ViewScore

__all__ = ["GEO"]

_PAPER_EPOCHS = 200  # passes over the images that the paper's budget stands for
_VIEWS_AT_ONCE = {"cpu": 144, "cuda": 2048}
_CALIBRATION_ROWS = 1000
_GOLDEN = (5**0.5 - 1) / 2
_TINY, _ROUNDING = np.finfo(np.float64).tiny, 1e-6  # of scores that are float32 at bottom
_KINDS = {"geometric", "dihedral", "upright"}


class GEO(ViewRelevance, OutlierTraining, NeuralDetector):
    r"""Train a network to tell by which view an image is shown; score how well it can.

    Each image is mirrored or not, shifted and turned, k = 72 views :math:`T_i(x)`, and a
    network learns which view it sees [1]_. It learns what images like those of the
    training look like: of others it can't tell. With :math:`y` the softmax of the network,
    the outlier score is

    .. math::

        o(x) = -\frac{1}{k} \sum_i (\alpha_i - 1) \cdot \log y(T_i x),

    where :math:`\alpha_i` are the parameters of a Dirichlet distribution of what the
    network says of view i of normal images (section 4.2; the terms that are the same for
    all images are left out).

    The relevance of a pixel is that of the places of the feature maps around it. They are
    compared with their means :math:`a^0_i` over normal images: with :math:`W` the weights
    of the last layer and :math:`G_i` the gradient of the score of view i by the logits,
    averaged on the way to them from those of :math:`a^0_i`,

    .. math::

        R_i(p) = \frac{1}{k P} (a_i(p) - a_i^0(p)) \cdot W^\top G_i, \qquad
        R = \sum_i T_i^\top U R_i,

    where P is the number of places, U spreads a place over what it sees, and
    :math:`T_i^\top` takes the view back. All of it is kept on the way, so that the
    unattributed part is the score of the mean maps, :math:`u(x) = o(a^0)`,
    `reference_score_`.

    Parameters
    ----------
    transforms : {"geometric", "dihedral", "upright"} or list of View, default="geometric"
        The views, by :func:`skad.images.geometric_views`: all 72; the 8 without shifts;
        the 18 without turns. Or any, in pixels, such as ``[View(), View(mirrored=True)]``.
    heads : {"joint", "separate"}, default="joint"
        "joint": the network tells all views apart, each a class of its own. "separate":
        it tells turns, shifts up and shifts to the left apart, by a softmax each; mirrored
        images are further images to learn from, and are not scored. With
        ``normality="simple"`` that is what others call GEO+ [2]_.
    network : {"auto", "wrn-10-4", "wrn-16-8"}, torch.nn.Module or callable, default="auto"
        What makes the feature maps, whose means a linear layer classifies. "auto" is made
        for CPUs: four convolutions for images of 28 pixels, some 33,000 weights. The others
        are the paper's wide residual networks, for 32 and 64 pixels. A module is copied,
        and all of it trained on from its weights; a callable makes one from ``(C, H, W)``.
        Its output must be ``(n, D, u, v)``.
    normality : {"dirichlet", "simple", "log"}, default="dirichlet"
        "dirichlet" as above. "simple" and "log": the mean of :math:`-y_i` (the paper's
        :math:`\hat n_S`), and of :math:`-\log y_i`. With separate heads, their sum.
    solver : {"newton", "fixed_point"}, default="newton"
        How the Dirichlet parameters are found: by Newton's method to the maximum of the
        likelihood; or by the fixed point of the paper, at most 1000 steps, which are often
        not enough.
    held_out : float in [0, 1), default=0.0
        Share of the images that the network does not train on, for the Dirichlet parameters
        and `view_accuracy_`. 0: they are from 1000 of the training images.
    views : int, list of int or None, default=None
        Which views are scored: so many of them, of all kinds; by their position in
        `views_`; or all. The time of scoring and explaining goes with their number. This
        and `normality` may be set after fitting, for scores; the threshold is then void.
    labels : {"signs", "classes"}, default="signs"
        What y of `fit` holds. "signs": +1 normal, -1 anomaly, 0 unlabelled. "classes": the
        classes of rows that are all normal, numbers or strings; the network learns to tell
        them too, by a head that is not scored (section 5.5). A Bag gives none.
    outliers : array-like, "confetti", "uniform", Confetti, callable or None, default=None
        Images unlike the normal ones, which the network learns to tell nothing of: a corpus
        in the shape of X, :class:`skad.images.Confetti`, or a callable ``(X, rng) -> X'``.
        Rows with ``y = -1`` are used so too. "auto" is None where there are such rows, else
        "confetti", and "uniform" for tables.
    outlier_share : float in (0, 1), default=0.5
        Probability that a row of a batch gives its place to an outlier, if there are any.
    augment : callable or None, default=None
        Changes a batch before the views are made: ``(X, None) -> (X, None)``, tensors on
        the device, such as :class:`skad.neural.Augmentation`.
    explanation : {"cam", "expected_gradients"}, default="cam"
        "cam" as above, at one to three times the cost of the score. "expected_gradients":
        the gradient of the score by the pixels, averaged on straight lines from
        `n_references` training images :math:`x_r` to the image, times the differences, a
        mean over the references; then :math:`u(x)` is the mean of :math:`o(x_r)`. Of images
        it is spread by Gaussians too. It takes one or two hundred times as long.
    n_references : int, default=8
        Images that "expected_gradients" compares with.
    sigma : float or None, default=None
        Standard deviation, in pixels, of the Gaussians that relevance is spread by. None is
        0.19 of what a place of the maps sees, and half of the distance of two at least.
    lr : float, default=1e-3
        Learning rate of the optimiser, Adam.
    weight_decay : float, default=5e-4
        Times each weight, added to its gradient; the paper's.
    max_epochs : int or "paper", default="paper"
        Passes over the images, each of which shows every image by one view. "paper" is
        :math:`k \lceil 200 / k \rceil`, as many steps as the paper's epochs over all views.
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
        Let `fit` go on from the weights of the last fit.
    callbacks : list or None, default=None
        Callbacks of skorch.
    net_params : dict or None, default=None
        Further parameters of :class:`skorch.NeuralNet`, such as ``{"optimizer":
        torch.optim.SGD}``.
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
        Seeds weights, batches, views and held-out rows. Global states are left alone.
    verbose : int, default=0
        1: a progress bar, one step an epoch. 2: skorch's table, and a bar in each epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained network.
    views_ : list of View
        The views that the network tells apart.
    scored_views_ : list of View
        Those whose mean is the score.
    view_accuracy_ : dict of str to float
        Share of views of normal images that the network tells right: by "mirrored", "up",
        "left" and "turns", where views differ in it, and by all at once, "view". By head
        with separate heads.
    alpha_ : ndarray of shape (n_views, n_logits)
        Dirichlet parameters of the views that may be scored, the heads side by side.
    reference_score_ : float
        The score that relevance starts from, the unattributed part.
    mean_maps_ : ndarray of shape (n_views, D, u, v), float32
        :math:`a^0`.
    references_ : ndarray of shape (n_references, `n_features_in_`)
        Training rows that "expected_gradients" compares with.
    classes_ : tuple or None
        The classes that were learned, for ``labels="classes"``.
    outliers_ : tuple of str
        The sources of outliers.
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

    Raises
    ------
    TypeError
        By `fit`, when `transforms` are no views.
    ValueError
        By `fit`, when rows can't be seen by two views, `transforms` are no different views
        of such images, `views` are none of them, `held_out` leaves fewer than two rows on
        either side, classes can't be read or are fewer than two, `outliers` do not fit `X`,
        the network gives no maps, or the optimiser has no weight decay.

    Warns
    -----
    ConvergenceWarning
        When the network can't tell mirrored, shifted or turned images apart, as of digits 8
        that are their own mirror images; and when there is no Dirichlet distribution, since
        what the network says of a view is the same for all images. Such views are scored as
        by "log".

    See Also
    --------
    skad.images.Views : The views, and their adjoint.
    skad.plotting.ViewsDisplay : Which views failed.
    FCDD : Marks small defects better, where it can learn from anomalies.

    Notes
    -----
    GEO is made for images, and for signals: ``image_shape=(1, d)``. A table, flat rows
    without `image_shape`, has no geometry. Its columns are mirrored and shifted all the
    same, and the network of "auto" looks at each entry alone; it can hardly tell views
    apart, as a warning says, and other detectors are better there.

    Images that are not square are turned by 180 degrees only, 36 views. A convolution sees
    the border of each view anew, so that views share no work; the views that are the same,
    on sides of a pixel or two, are left out.

    Images come to the network with values in [-1, 1], as in the paper, which pads those of
    28 pixels to 32 with 0 first, and keeps the learning rate as it is. Training draws a
    view for each row of a batch; all views of all images are never in memory.

    The Dirichlet score has units of its own in every fit, those of the parameters, which
    are large where the network is certain. `partial_fit` finds them, and all that is said
    of normal images, by the rows of its last call.

    References
    ----------
    .. [1] I. Golan, R. El-Yaniv. "Deep Anomaly Detection Using Geometric Transformations".
       NeurIPS 2018.
    .. [2] D. Hendrycks, M. Mazeika, S. Kadavath, D. Song. "Using Self-Supervised Learning
       Can Improve Model Robustness and Uncertainty". NeurIPS 2019.

    Examples
    --------
    Slanted stripes, some with a patch of stripes across:

    >>> from sklearn.metrics import roc_auc_score
    >>> from skad import GEO
    >>> from skad.datasets import make_textures
    >>> kind = {"texture": "stripes", "defect": "patch", "size": 16}
    >>> normal = make_textures(200, anomaly_share=0, random_state=0, **kind)
    >>> test = make_textures(100, random_state=1, **kind)
    >>> detector = GEO(transforms="dihedral", max_epochs=40, random_state=0)
    >>> detector = detector.fit(normal.images)
    >>> bool(roc_auc_score(test.target, detector.score_samples(test.images)) > 0.8)
    True
    >>> detector.explain(test.images).shape
    (100, 16, 16)
    >>> detector.explain_views(test.images).shape
    (100, 8)
    """

    views_: list[View]
    view_accuracy_: dict[str, float]
    alpha_: Floats
    mean_maps_: npt.NDArray[np.float32]
    references_: AnyArray
    classes_: tuple[Any, ...] | None

    _parameter_constraints = {
        **NeuralDetector._parameter_constraints,
        **OutlierTraining._parameter_constraints,
        **ViewRelevance._parameter_constraints,
        "transforms": [StrOptions(_KINDS), list, tuple],
        "heads": [StrOptions({"joint", "separate"})],
        "network": [StrOptions(set(VIEW_NETWORKS)), callable],
        "normality": [StrOptions(set(VIEW_SCORES))],
        "solver": [StrOptions(set(SOLVERS))],
        "held_out": [Interval(Real, 0, 1, closed="left")],
        "views": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "labels": [StrOptions({"signs", "classes"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"paper"})],
    }
    _learned = (
        *NeuralDetector._learned,
        *OutlierTraining._learned_here,
        *("views_", "classes_", "alpha_", "view_accuracy_", "references_", "mean_maps_"),
    )
    _needs_anomalies = False

    def __init__(
        self,
        *,
        transforms: Literal["geometric", "dihedral", "upright"]
        | Sequence[View] = "geometric",
        heads: Literal["joint", "separate"] = "joint",
        network: Network | Literal["auto", "wrn-10-4", "wrn-16-8"] = "auto",
        normality: Literal["dirichlet", "simple", "log"] = "dirichlet",
        solver: Literal["newton", "fixed_point"] = "newton",
        held_out: float = 0.0,
        views: int | ArrayLike | None = None,
        labels: Literal["signs", "classes"] = "signs",
        outliers: Outliers = None,
        outlier_share: float = 0.5,
        augment: Augment = None,
        explanation: Literal["cam", "expected_gradients"] = "cam",
        n_references: int = 8,
        sigma: float | None = None,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        max_epochs: int | Literal["paper"] = "paper",
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
        self.transforms = transforms
        self.heads = heads
        self.network = network
        self.normality = normality
        self.solver = solver
        self.held_out = held_out
        self.views = views
        self.labels = labels
        self.outliers = outliers
        self.outlier_share = outlier_share
        self.augment = augment
        self.explanation = explanation
        self.n_references = n_references
        self.sigma = sigma
        self.lr = lr
        self.weight_decay = weight_decay
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

    @property
    def scored_views_(self) -> list[View]:
        """The views whose mean is the score, a list of `skad.images.View`."""
        if not hasattr(self, "net_"):
            raise AttributeError("This GEO has no scored_views_: not fitted.")
        return self._scorer.views.views

    # What the rows are, and their views.

    @property
    def _row_shape(self):
        shape = super()._row_shape
        return (1, 1, *shape) if len(shape) == 1 else shape

    def _prepare_fit(self, X, y):
        super()._prepare_fit(X, y)
        self._use(self._wanted_views())

    def _wanted_views(self):
        size, transforms = self._row_shape[1:], self.transforms
        if isinstance(transforms, str):
            transforms = geometric_views(size, transforms)
            if len(transforms) < 2:
                raise ValueError(
                    f"GEO needs rows that can be seen by two views at least; X has "
                    f"{self.n_features_in_} feature(s), {size[0]} x {size[1]} pixels, and "
                    f"transforms={self.transforms!r}."
                )
        return Views(transforms, size)

    def _use(self, views):
        """Make what depends on the views."""
        self._views, self.views_ = views, views.views
        self._heads = ViewHeads.of(self.views_, self.heads)
        self._candidates = np.arange(len(self.views_))
        if self.heads == "separate":  # mirrored images are more images, not other views
            mirrored = np.array([view.mirrored for view in self.views_])
            self._candidates = np.flatnonzero(~mirrored | mirrored.all())
        _ = self._scored  # raises for bad `views`

    def _check_same_views(self, wanted):
        """Raise where a network that is trained already was trained on other views."""
        known = [View(*view) for view in self.views_]  # which are lists in files
        if wanted != known:
            raise ValueError(
                f"The network tells {len(known)} views apart, {known[:3]} ...; "
                f"transforms={self.transforms!r} stands for {len(wanted)}, {wanted[:3]} ..."
            )

    @property
    def _scored(self):
        """Positions in `views_` of the views that are scored."""
        check_parameters(self, "views")
        wanted, candidates = self.views, self._candidates
        n = len(candidates)
        if wanted is None:
            return candidates
        if isinstance(wanted, Integral) and not isinstance(wanted, bool):
            if wanted > n:
                raise ValueError(f"views={wanted}, but there are {n} that are scored.")
            # Steps that share no divisor with the periods of turns and shifts.
            step = next(s for s in range(int(_GOLDEN * n), 2 * n) if gcd(s, n) == 1)
            return candidates[np.sort(np.arange(wanted) * step % n)]
        positions = np.asarray(wanted)
        if (
            positions.ndim != 1
            or positions.dtype.kind not in "iu"
            or not np.isin(positions, candidates).all()
            or len(np.unique(positions)) != max(1, len(positions))
        ):
            raise ValueError(
                "views must be None, a number, or different positions in views_ of views "
                f"that are scored, {candidates[0]} to {candidates[-1]}; got {wanted}."
            )
        return positions.astype(np.intp)

    # Training.

    @property
    def _epochs_of_a_fit(self):
        if self.max_epochs != "paper":
            return self.max_epochs
        k = len(self.views_)
        return ceil(_PAPER_EPOCHS / k) * k

    def _train(self, X, y, *, go_on, epochs=None):
        known = getattr(self, "classes_", None)
        self.classes_, self._class_numbers = None, None
        if self.labels == "classes" and y is not None:
            self.classes_, self._class_numbers = read_classes(y, len(X))
            y = None
        if go_on:
            self._take_known_classes(known)
        super()._train(X, y, go_on=go_on, epochs=epochs)
        self._calibrate(self._normal_part(X, y)[self._aside])
        del self._aside

    def _take_known_classes(self, known):
        """Give the classes the numbers that the network knows them by."""
        if known is None and self.classes_ is None:
            return
        if not set(self.classes_ or ()) <= set(known or ()) or self.classes_ is None:
            raise ValueError(
                f"The network goes on with the classes {known}, and labels='classes'; the "
                f"rows have the classes {self.classes_}."
            )
        numbers = np.array([known.index(name) for name in self.classes_])
        self.classes_, self._class_numbers = known, numbers[self._class_numbers]

    def _training_set(self, X, y, device):
        X, labels, expose = super()._training_set(X, y, device)
        if self._class_numbers is not None:
            labels = torch.from_numpy(self._class_numbers).float()
        order = torch.randperm(len(X)).numpy()
        n_aside = self._count_held_out(len(X))
        train = order[n_aside:]
        self._aside = np.sort(order[: n_aside or _CALIBRATION_ROWS])
        self.references_ = np.asarray(X[train[: self.n_references]])
        if n_aside:
            X, labels = X[np.sort(train)], labels[np.sort(train)]
        return X, labels, RandomViews(self._views, self._heads.targets, expose)

    def _count_held_out(self, n):
        n_held_out = round(self.held_out * n)
        if self.held_out and not 2 <= n_held_out <= n - 2:
            raise ValueError(
                f"held_out={self.held_out} holds {n_held_out} of {n} rows out; two at "
                "least must be held out, and two must train."
            )
        return n_held_out

    def _make_module(self):
        views = self._wanted_views()
        self._check_same_views(views.views)
        self._use(views)
        scaling = None
        if self.image_shape_ is not None:  # the paper's values, from -1 to 1
            scaling = Scaling(mean=0.5, std=0.5)
        network = self.network
        if network == "auto" and self.image_shape_ is None:
            network = pointwise
        n_outputs = self._heads.n_logits + self._n_classes
        net = make_view_network(network, self._row_shape, n_outputs, scaling=scaling)
        self._field = net.field(self._row_shape)
        self._map_shape = net.map_shape(self._row_shape)
        return net

    @property
    def _params_of_net(self):
        params, decay = super()._params_of_net, "optimizer__weight_decay"
        if decay in params:
            raise ValueError(f"net_params sets {decay}, which GEO sets by weight_decay.")
        if self.weight_decay == 0:
            return params
        optimizer = params.get("optimizer", torch.optim.Adam)
        if "weight_decay" not in signature(optimizer).parameters:
            raise ValueError(
                f"{optimizer.__name__} has no weight decay; set weight_decay=0, which is "
                f"{self.weight_decay}."
            )
        return {**params, decay: self.weight_decay}

    def _make_criterion(self):
        return ViewLoss(self._heads, self._n_classes)

    @property
    def _n_classes(self):
        return len(self.classes_ or ())

    def _calibrate(self, X):
        """Learn from normal rows what the network says of each view of them."""
        heads = self._heads.subset(self._candidates)
        calibration = ViewCalibration(heads, [self.views_[i] for i in self._candidates])
        n_logits = self.net_.module_.heads.out_features
        for part in gen_batches(len(X), self._rows_of_a_block(choose_device(self.device))):
            outputs = torch.from_numpy(self._in_blocks(self._outputs, X[part]))
            logits, maps = outputs[..., :n_logits], outputs[..., n_logits:]
            calibration.add(logits, maps.unflatten(-1, self._map_shape))
        self.mean_maps_ = calibration.mean_maps
        check_parameters(self, "solver")
        self.alpha_, n_failed = calibration.dirichlet(self.solver)
        self.view_accuracy_ = calibration.accuracy()
        complaints = [calibration.complaint()]
        if n_failed and self.normality == "dirichlet":
            complaints.append(
                f"There is no Dirichlet distribution for {n_failed} of "
                f"{len(self._candidates)} views: what the network says of them is all but "
                f'the same for {len(X)} rows. They are scored as by normality="log".'
            )
        for text in filter(None, complaints):
            warn(text, ConvergenceWarning)

    def _find_offset(self, X):
        try:
            return super()._find_offset(X)
        finally:
            del self._class_numbers

    def _fit_copy(self, copy, X, train):
        classes = getattr(self, "_class_numbers", None)
        if classes is None or len(np.unique(classes[train])) < 2:
            return super()._fit_copy(copy, X, train)
        return copy.fit(X[train], classes[train])

    def _score_by_copy(self, copy, X, train, test):
        """Bring scores of a copy to the units of this detector.

        Dirichlet parameters of another network differ by factors, and so do its scores.
        """
        some = train[calibration_rows(len(train), _CALIBRATION_ROWS)]
        own, others = self._outlier_score(X[some]), -copy.score_samples(X[some])
        spread = [scores.std() / max(abs(scores).max(), _TINY) for scores in (own, others)]
        factor = own.std() / others.std() if min(spread) > _ROUNDING else 1.0
        return own.mean() + factor * (-copy.score_samples(X[test]) - others.mean())

    # Score.

    def _rows_of_a_block(self, device):
        at_once = _VIEWS_AT_ONCE["cpu" if device.type == "cpu" else "cuda"]
        return max(1, at_once // len(self._candidates))

    def _outputs(self, batch):
        """Give logits and maps of all views, side by side."""
        net = self.net_.module_
        views = self._views.subset(self._candidates)
        maps = net.maps(views(batch).flatten(0, 1))
        outputs = torch.cat([net.classify(maps), maps.flatten(1)], dim=1)
        return outputs.unflatten(0, (len(batch), -1))

    @property
    def _scorer(self):
        """Give what scores a batch, and each view of it."""
        check_parameters(self, "normality")
        scored = self._scored
        own = np.searchsorted(self._candidates, scored)  # among those of `alpha_`
        alpha = torch.from_numpy(self.alpha_[own])
        score = ViewScore(self.normality, self._heads.subset(scored), alpha)
        return ViewScorer(self.net_.module_, self._views.subset(scored), score, own)

    def _outlier_score(self, X):
        return self._in_blocks(self._scorer, X)

    def _score_block(self, batch):
        return self._scorer(batch)
