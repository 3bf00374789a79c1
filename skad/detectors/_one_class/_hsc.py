"""Classifiers of normal against anomalous rows: hypersphere, cross-entropy, focal."""

from __future__ import annotations

from numbers import Integral
from typing import Literal

from torch.nn.functional import softplus

from skad._sklearn import Interval, StrOptions
from skad._typing import (
    Auto,
    BatchSize,
    Callbacks,
    Device,
    ImageShape,
    NetParams,
    Network,
    Schedule,
    Seed,
)
from skad.neural._detector import NeuralDetector
from skad.neural._losses import ClassifierLoss, HypersphereLoss, pseudo_huber
from skad.neural._network_relevance import NetworkRelevance
from skad.neural._one_class_networks import make_network, n_outputs_of
from skad.neural._outlier_training import Augment, Outliers, OutlierTraining

__all__ = ["HSC"]

_FOCUS = {"cross_entropy": 0.0, "focal": 2.0}


class HSC(NetworkRelevance, OutlierTraining, NeuralDetector):
    r"""Hypersphere classifier: normal rows near 0, anomalies far from it.

    The network's output :math:`z(x)` is the deviation from the centre, whose negative is
    the bias of the last layer. The outlier score is the pseudo-Huber distance, and
    relevance is propagated from its terms by layer-wise relevance propagation:

    .. math::

        o(x) = \sqrt{\|z(x)\|^2 + 1} - 1, \qquad
        R_j = \frac{z_j(x)^2}{\sqrt{\|z(x)\|^2 + 1} + 1}

    at the outputs, which sum to the score, and on to the features by the :math:`\gamma`
    rule. Biases keep a share, which is unattributed: :math:`u(x) = o(x) - \sum_i R_i(x)`.
    With :math:`y_i = 1` for anomalies, [1]_ (equation 1) minimises

    .. math:: \frac{1}{n} \sum_i (1 - y_i)\,o(x_i) - y_i \log(1 - e^{-o(x_i)}).

    ``loss="cross_entropy"`` and ``"focal"`` train an ordinary classifier on the same rows
    instead: :math:`f(x)`, the logit of being an anomaly. Its score is :math:`o(x) =
    \log(1 + e^{f(x)})`, minus the log probability of being normal; relevance is propagated
    from :math:`f(x)`, and what is left of the score is unattributed.

    Parameters
    ----------
    loss : {"hypersphere", "cross_entropy", "focal"}, default="hypersphere"
        What is minimised; the focal loss [2]_ has the exponent 2.
    network : "auto", torch.nn.Module or callable, default="auto"
        "auto": for images, convolutions 5 x 5 with batch norm and ReLU, each with
        max-pooling, down to 7 pixels a side, and a linear layer; for tables, hidden layers
        of 128 and 64. A module is copied and trained on from its weights; a callable makes
        one from the shape of a row, ``(d,)`` or ``(C, H, W)``. Its output is flattened; for
        a classifier it is one number.
    n_outputs : int, default=32
        Numbers that the network of "auto" gives for the hypersphere.
    outliers : {"auto", "confetti", "uniform"}, array, callable or None, default="auto"
        Anomalies to train on beside rows with ``y = -1``. "auto"
        is None where rows are labelled so, else confetti for images and uniform for tables;
        an info message of the logger "skad" tells of that.
        ``"confetti"`` draws blobs on images, as :class:`skad.images.Confetti` says, which
        can be given too. ``"uniform"`` replaces a quarter of the entries of a row, one at
        least, by uniform numbers from twice the range of the training rows. An array is a
        corpus of rows like X, for outlier exposure. A callable makes anomalies
        of normal rows: ``(X, rng) -> X'``, arrays in the units of X, with a
        :class:`numpy.random.Generator`.
    outlier_share : float in (0, 1), default=0.5
        Probability with which a normal row of a batch gives its place to an anomaly.
        Where there are several sources, labelled rows and `outliers`, each is as likely.
    augment : callable or None, default=None
        Changes every batch before a step: from rows, a float32 tensor in [0, 1] of shape
        ``(n, C, H, W)`` for images (``(n, d)``, standardised, for tables), and None, to
        such a pair. :class:`skad.neural.Augmentation` is one.
    explanation : {"lrp", "gradient"}, default="lrp"
        ``"lrp"`` as above, with the :math:`z^B` rule at the pixels of images, and LRP-0
        at the columns of tables. ``"gradient"`` shares the score out in proportion to
        :math:`|\partial o / \partial x_i|`, by standardised columns of tables; nothing is
        unattributed.
        In images, this is the heat map that [1]_ compares FCDD with, before it is blurred.
    gamma : float, default=0.25
        How much the :math:`\gamma` rule favours what speaks for a neuron.
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
    ValueError
        By `fit`, when there is nothing to learn from (no row labelled -1 and
        ``outliers=None``), fewer than two rows are not labelled -1, `outliers` do not fit
        `X`, or the network does not take the rows or gives a classifier several numbers.
    TypeError
        By `explain`, when the network has a layer that relevance can't be propagated
        through.

    See Also
    --------
    FCDD : The same loss, with a heat map for an output.
    DeepSAD : Labelled rows with a weight, beside unlabelled ones.

    References
    ----------
    .. [1] P. Liznerski et al. "Explainable Deep One-Class Classification". ICLR 2021.
    .. [2] T.-Y. Lin et al. "Focal Loss for Dense Object Detection". ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import HSC
    >>> X = np.random.default_rng(0).standard_normal((200, 3))
    >>> detector = HSC(max_epochs=20, random_state=0).fit(X)
    >>> detector.outliers_
    ('uniform',)
    >>> detector.predict([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    array([ 1, -1])
    """

    _parameter_constraints = {
        **NeuralDetector._parameter_constraints,
        **NetworkRelevance._parameter_constraints,
        **OutlierTraining._parameter_constraints,
        "loss": [StrOptions({"hypersphere", *_FOCUS})],
        "network": [StrOptions({"auto"}), callable],
        "n_outputs": [Interval(Integral, 1, None, closed="left")],
    }
    _learned = (*NeuralDetector._learned, *OutlierTraining._learned_here)

    def __init__(
        self,
        *,
        loss: Literal["hypersphere", "cross_entropy", "focal"] = "hypersphere",
        network: Network | Auto = "auto",
        n_outputs: int = 32,
        outliers: Outliers = "auto",
        outlier_share: float = 0.5,
        augment: Augment = None,
        explanation: Literal["lrp", "gradient"] = "lrp",
        gamma: float = 0.25,
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
        self.loss = loss
        self.network = network
        self.n_outputs = n_outputs
        self.outliers = outliers
        self.outlier_share = outlier_share
        self.augment = augment
        self.explanation = explanation
        self.gamma = gamma
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

    def _make_module(self):
        n_outputs = 1 if self._classifies else self.n_outputs
        net = make_network(self.network, self._row_shape, n_outputs, bias=True)
        found = n_outputs_of(net, self._row_shape)
        if self._classifies and found != 1:
            raise ValueError(
                f'loss="{self.loss}" needs a network that gives one number a row, the '
                f"logit; this one gives {found}."
            )
        return net

    def _make_criterion(self):
        return ClassifierLoss(_FOCUS[self.loss]) if self._classifies else HypersphereLoss()

    @property
    def _classifies(self):
        return self.loss in _FOCUS

    @property
    def _feature_net(self):
        return self.net_.module_

    def _score_of(self, features):
        if self._classifies:
            return softplus(features[:, 0].double(), threshold=40)
        return pseudo_huber(features.square().sum(dim=1))

    def _top(self, features):
        if self._classifies:
            return features[:, 0]
        squared = features.square().sum(dim=1, keepdim=True)
        c = features / ((squared + 1).sqrt() + 1)
        return (features * c.detach()).sum(dim=1)
