"""GEO: a network tells by which view an image is shown; what it can't tell is abnormal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning

from skad._labels import read_classes
from skad._sklearn import Interval, StrOptions, check_parameters
from skad._thresholds import calibration_rows
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
    Rows,
    Schedule,
    Seed,
)
from skad._values import check_values
from skad._warnings import warn
from skad.detectors._geo._calibration import (
    CALIBRATION_ROWS,
    calibrated,
    in_own_units,
    rows_at_once,
)
from skad.detectors._geo._networks import VIEW_NETWORKS, make_view_network, pointwise
from skad.detectors._geo._relevance import AgainstImages, AgainstMaps, ViewScorer
from skad.detectors._geo._task import ViewTask
from skad.detectors._geo._training import (
    RandomViews,
    RowsAside,
    ViewLoss,
    numbered_classes,
    with_weight_decay,
)
from skad.images import View
from skad.neural._detector import NeuralDetector
from skad.neural._feature_net import Scaling
from skad.neural._outliers import (
    OUTLIER_CONSTRAINTS,
    Augment,
    ExposedBatches,
    Exposure,
    Outliers,
    find_exposure,
    labelled,
)
from skad.neural._parts import Batches, EarlyStopping, Parts, Scoring
from skad.neural._training import Settings
from skad.neural._units import ScaledUnits
from skad.relevance._view_explanations import ActivationMap, ExpectedGradients
from skad.relevance._view_score import VIEW_SCORES

__all__ = ["GEO"]

_PAPER_EPOCHS = 200  # passes over the images that the paper's budget stands for
_HARMLESS_LOSS = 10.0  # an anomaly alone may cost so much
_KINDS = {"geometric", "dihedral", "upright"}


class GEO(NeuralDetector):
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
    held_out : float in [0, 1), default=0.0
        Share of the images that the network does not train on, for the Dirichlet parameters
        and `view_accuracy_`. 0: they are from 1000 of the training images.
    views : int, list of int or None, default=None
        Which views are scored: so many of them, of all kinds; by their position in
        `views_`; or all. Scoring and explaining take time in proportion to their number.
        This, `normality` and `explanation` may be set after fitting, for scores and
        explanations; with other scores the threshold is void.
    labels : {"signs", "classes"}, default="signs"
        What y of `fit` holds. "signs": +1 normal, -1 anomaly, 0 unlabelled. "classes": the
        classes of rows that are all normal, numbers or strings; the network learns to tell
        them too, by a head that is not scored (section 5.5). A Bag gives none.
    outliers : str, array, Confetti, callable, OutlierExposure or None, default=None
        Images unlike the normal ones, which the network learns to tell nothing of: a corpus
        in the shape of X, :class:`skad.images.Confetti`, or a callable ``(X, rng) -> X'``.
        Rows with ``y = -1`` are used so too. "auto" is None where there are such rows, else
        "confetti", and "uniform" for tables. :class:`skad.neural.OutlierExposure` also
        says how many of them train.
    augment : callable or None, default=None
        Changes a batch before the views are made: ``(X, None) -> (X, None)``, tensors on
        the device, such as :class:`skad.neural.Augmentation`.
    explanation : ActivationMap, ExpectedGradients or None, default=None
        :class:`~skad.neural.ActivationMap`, and None, which is one of the default spread:
        as above, at one to three times the cost of the score.
        :class:`~skad.neural.ExpectedGradients`: the gradient of the score by the pixels,
        averaged on straight lines from some training images :math:`x_r` to the image, times
        the differences, a mean over the references; then :math:`u(x)` is the mean of
        :math:`o(x_r)`. Of images it is spread by Gaussians too. It takes one or two
        hundred times as long.
    [[lr]]
    max_epochs : int or "paper", default="paper"
        Passes over the images, each of which shows every image by one view. "paper" is
        :math:`k \lceil 200 / k \rceil`, as many steps as the paper's epochs over all views.
    [[batch_size, lr_schedule, early_stopping, warm_start, callbacks]]
    net_params : dict or None, default=None
        Further parameters of :class:`skorch.NeuralNet`, such as ``{"optimizer":
        torch.optim.SGD}``. "optimizer__weight_decay" is the paper's 5e-4 unless it is set
        here, where the optimiser has such a parameter.
    [[device, contamination, false_alarm_rate, image_shape, random_state, verbose]]

    Attributes
    ----------
    [[net_]]
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
        The outlier score that relevance starts from, the unattributed part.
    mean_maps_ : ndarray of shape (n_views, D, u, v), float32
        :math:`a^0`.
    references_ : ndarray of shape (n_references, `n_features_in_`)
        Training rows that `ExpectedGradients` compares with.
    classes_ : tuple or None
        The classes that were learned, for ``labels="classes"``.
    [[outliers_, history_]]
    offset_ : float
        Threshold on `score_samples`, by the rows that are not labelled -1.
    [[image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    TypeError
        By `fit`, when `transforms` are no views.
    ValueError
        By `fit`, when rows can't be seen by two views, `transforms` are no different views
        of such images, `views` are none of them, `held_out` leaves fewer than two rows on
        either side, classes can't be read or are fewer than two, `outliers` do not fit `X`,
        or the network gives no maps.

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

    view_accuracy_: dict[str, float]
    alpha_: Floats
    mean_maps_: npt.NDArray[np.float32]
    references_: AnyArray
    classes_: tuple[Any, ...] | None
    outliers_: tuple[str, ...]

    _parameter_constraints = {
        **OUTLIER_CONSTRAINTS,
        "transforms": [StrOptions(_KINDS), list, tuple],
        "heads": [StrOptions({"joint", "separate"})],
        "network": [StrOptions(set(VIEW_NETWORKS)), callable],
        "normality": [StrOptions(set(VIEW_SCORES))],
        "held_out": [Interval(Real, 0, 1, closed="left")],
        "views": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "labels": [StrOptions({"signs", "classes"})],
        "explanation": [ActivationMap, ExpectedGradients, None],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"paper"})],
    }

    def __init__(
        self,
        *,
        transforms: Literal["geometric", "dihedral", "upright"]
        | Sequence[View] = "geometric",
        heads: Literal["joint", "separate"] = "joint",
        network: Network | Literal["auto", "wrn-10-4", "wrn-16-8"] = "auto",
        normality: Literal["dirichlet", "simple", "log"] = "dirichlet",
        held_out: float = 0.0,
        views: int | ArrayLike | None = None,
        labels: Literal["signs", "classes"] = "signs",
        outliers: Outliers = None,
        augment: Augment = None,
        explanation: ActivationMap | ExpectedGradients | None = None,
        lr: float = 1e-3,
        max_epochs: int | Literal["paper"] = "paper",
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
        self.transforms = transforms
        self.heads = heads
        self.network = network
        self.normality = normality
        self.held_out = held_out
        self.views = views
        self.labels = labels
        self.outliers = outliers
        self.augment = augment
        self.explanation = explanation
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

    @property
    def views_(self) -> list[View]:
        """The views that the network tells apart, a list of `skad.images.View`."""
        return self._fitted("views_").module.task.views.views

    @property
    def scored_views_(self) -> list[View]:
        """The views whose mean is the score, a list of `skad.images.View`."""
        scorer, _ = self._scored(self._fitted("scored_views_"))
        return scorer.views.views

    @property
    def reference_score_(self) -> float:
        """The outlier score that relevance starts from."""
        _, explainer = self._scored(self._fitted("reference_score_"))
        return float(explainer.start.mean())

    def _fitted(self, name):
        if not hasattr(self, "net_"):
            raise AttributeError(f"This GEO has no {name}: not fitted.")
        return self._trained

    def explain_views(self, X: Rows) -> Floats:
        """Attribute the outlier score of each row to the views of it.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to explain.

        Returns
        -------
        contributions : ndarray of shape (n, n_scored_views), float64
            By view of `scored_views_`, what it adds to the outlier score over what it adds
            in the reference: ``explain_views(X).sum(axis=1) + reference_score_`` is the
            outlier score.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        X, trained = self._validate(X), self._trained
        scorer, explainer = self._scored(trained)
        scores = trained.in_blocks(scorer.by_view, X, rows_at_once(trained))
        return (scores - explainer.start) / scores.shape[1]

    # Training.

    @property
    def _row_shape(self):
        shape = super()._row_shape
        return (1, 1, *shape) if len(shape) == 1 else shape

    def _data(self, X, y=None, mask=None):
        data = super()._data(X)
        if self.labels != "classes" or y is None:
            return labelled(data, y)
        classes, numbers = read_classes(y, len(data))
        return replace(data, classes=classes, class_numbers=numbers)

    def _parts(self, data, previous=None):
        units = ScaledUnits.of(data, previous)
        task = self._task(data, previous)
        classes, numbers = numbered_classes(data, previous)
        if len(data):
            device = Settings.of(self).device
            given = type(self).__name__, self.outliers, data, units, device
            exposure = find_exposure(*given, needed=False)
            rows = RowsAside.drawn(len(data.normal), self.held_out)
        else:  # weights are loaded
            exposure, rows = Exposure(), RowsAside.drawn(0, 0)
        n_classes = len(classes or ())
        return Parts(
            self._network(data, task, n_classes),
            ViewLoss(task.heads, n_classes),
            units,
            self._batches(data, task, numbers, exposure, rows),
            state={
                "views": task.plain_views,
                "classes_": classes,
                "outliers_": exposure.names,
                "references_": np.asarray(data.normal[rows.order[: self._n_references]]),
            },
            finish=partial(self._calibrate, aside=rows.aside),
            harmless_loss=lambda net: _HARMLESS_LOSS,
            net_params=with_weight_decay(self.net_params),
        )

    def _task(self, data, previous):
        task = ViewTask.of(self.transforms, self.heads, data.row_shape)
        if previous is not None:
            task.check_known(previous.state["views"], self.transforms)
        task.chosen(self.views)  # raises for bad `views`
        return task

    @property
    def _n_references(self):
        """Rows to keep: by default as many, should `explanation` be set later."""
        own = self.explanation
        own = own if isinstance(own, ExpectedGradients) else ExpectedGradients()
        return own.n_references

    def _batches(self, data, task, numbers, exposure, rows):
        labels = data.labels[~data.anomalous] if numbers is None else numbers
        expose = ExposedBatches(
            list(exposure.sources), share=exposure.share, augment=self.augment
        )
        epochs, k = None, len(task.views)
        if self.max_epochs == "paper":
            epochs = ceil(_PAPER_EPOCHS / k) * k
        return Batches(
            data.normal[rows.train],
            torch.from_numpy(labels).float()[rows.train],
            RandomViews(task.views, task.heads.targets, expose),
            epochs=epochs,
        )

    def _network(self, data, task, n_classes):
        network, scaling = self.network, None
        if data.is_image:  # the paper's values, from -1 to 1
            scaling = Scaling(mean=0.5, std=0.5)
        elif network == "auto":
            network = pointwise
        n_outputs = task.heads.n_logits + n_classes
        given = {"scaling": scaling, "task": task}
        return make_view_network(network, data.row_shape, n_outputs, **given)

    def _calibrate(self, trained, data, aside):
        """Learn from normal rows what the network says of each view of them."""
        calibration = calibrated(trained, data.normal[aside])
        alpha, n_failed = calibration.dirichlet()
        complaints = [calibration.complaint()]
        if n_failed and self.normality == "dirichlet":
            complaints.append(
                f"There is no Dirichlet distribution for {n_failed} of {len(alpha)} views: "
                "what the network says of them is all but the same for "
                f'{len(aside)} rows. They are scored as by normality="log".'
            )
        for text in filter(None, complaints):
            warn(text, ConvergenceWarning)
        return {
            "mean_maps_": calibration.mean_maps,
            "alpha_": alpha,
            "view_accuracy_": calibration.accuracy(),
        }

    # Score and explanation.

    def _scoring(self, trained):
        scorer, explainer = self._scored(trained)
        return Scoring(
            score=scorer,
            relevance=explainer.relevance,
            unattributed=lambda X: np.full(len(X), float(explainer.start.mean())),
            block_rows=rows_at_once(trained),
        )

    def _scored(self, trained):
        """Return what scores views, and what explains the scores."""
        check_parameters(self, "normality", "views", "explanation")
        check_values(self)
        scorer = ViewScorer.of(trained, self.views, self.normality)
        sigma = None if self.explanation is None else self.explanation.sigma
        by_images = isinstance(self.explanation, ExpectedGradients)
        kind = AgainstImages if by_images else AgainstMaps
        return scorer, kind(trained, scorer, sigma)

    def _score_of_copy(self, copy, data, test):
        normal = data.normal
        some = normal[calibration_rows(len(normal), CALIBRATION_ROWS)]
        scores, others = -copy.score_samples(test), -copy.score_samples(some)
        return in_own_units(scores, others, self._outlier_score(some))

    @property
    def _ignores_constant_features(self):
        return isinstance(self.explanation, ExpectedGradients)  # a map smears
