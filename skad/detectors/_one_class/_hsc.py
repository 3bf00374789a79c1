"""Classifiers of normal against anomalous rows: hypersphere, cross-entropy, focal."""

from __future__ import annotations

from typing import Literal

from torch.nn.functional import softplus

from skad._sklearn import StrOptions
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
from skad.detectors._one_class._losses import (
    ClassifierLoss,
    HypersphereLoss,
    harmless_loss,
    pseudo_huber,
)
from skad.detectors._one_class._networks import (
    NETWORK_CONSTRAINTS,
    make_network,
    n_outputs_of,
)
from skad.detectors._one_class._relevance import EXPLANATION_CONSTRAINTS, scoring_of
from skad.neural._detector import NeuralDetector
from skad.neural._outliers import (
    OUTLIER_CONSTRAINTS,
    Augment,
    Outliers,
    find_exposure,
    labelled,
)
from skad.neural._parts import EarlyStopping, Parts
from skad.neural._training import Settings
from skad.neural._units import ScaledUnits

__all__ = ["HSC"]

_FOCUS = {"cross_entropy": 0.0, "focal": 2.0}


class HSC(NeuralDetector):
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
        :class:`numpy.random.Generator`. An :class:`~skad.neural.OutlierExposure` says how
        many of them there are, too.
    augment : callable or None, default=None
        Changes every batch before a step: from rows, a float32 tensor in [0, 1] of shape
        ``(n, C, H, W)`` for images (``(n, d)``, standardised, for tables), and None, to
        such a pair. :class:`skad.neural.Augmentation` is one.
    [[explanation, gamma]]
    [[lr, max_epochs, batch_size, lr_schedule, early_stopping, warm_start, callbacks]]
    [[net_params, device, contamination, false_alarm_rate, image_shape, random_state]]
    [[verbose]]

    Attributes
    ----------
    [[net_, outliers_, history_]]
    offset_ : float
        Threshold on `score_samples`, by the rows that are not labelled -1.
    [[image_shape_, n_features_in_, feature_names_in_]]

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

    Notes
    -----
    Of images, relevance with ``explanation="gradient"`` is the heat map that [1]_ compares
    FCDD with, before it is blurred.

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
        **NETWORK_CONSTRAINTS,
        **EXPLANATION_CONSTRAINTS,
        **OUTLIER_CONSTRAINTS,
        "loss": [StrOptions({"hypersphere", *_FOCUS})],
    }

    def __init__(
        self,
        *,
        loss: Literal["hypersphere", "cross_entropy", "focal"] = "hypersphere",
        network: Network | Auto = "auto",
        n_outputs: int = 32,
        outliers: Outliers = "auto",
        augment: Augment = None,
        explanation: Literal["lrp", "gradient"] = "lrp",
        gamma: float = 0.25,
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
        self.loss = loss
        self.network = network
        self.n_outputs = n_outputs
        self.outliers = outliers
        self.augment = augment
        self.explanation = explanation
        self.gamma = gamma
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

    def _data(self, X, y=None, mask=None):
        return labelled(super()._data(X), y)

    def _parts(self, data, previous=None):
        units, device = ScaledUnits.of(data, previous), Settings.of(self).device
        exposure = find_exposure("HSC", self.outliers, data, units, device)
        return Parts(
            self._network(data.row_shape),
            ClassifierLoss(_FOCUS[self.loss]) if self._classifies else HypersphereLoss(),
            units,
            exposure.batches(data, self.augment),
            state={"outliers_": exposure.names},
            harmless_loss=harmless_loss,
        )

    def _network(self, row_shape):
        n_outputs = 1 if self._classifies else self.n_outputs
        net = make_network(self.network, row_shape, n_outputs, bias=True)
        found = n_outputs_of(net, row_shape)
        if self._classifies and found != 1:
            raise ValueError(
                f'loss="{self.loss}" needs a network that gives one number a row, the '
                f"logit; this one gives {found}."
            )
        return net

    def _scoring(self, trained):
        score, top = _hypersphere_score, _hypersphere_top
        if self._classifies:
            score, top = _classifier_score, _classifier_top
        given = {"explanation": self.explanation, "gamma": self.gamma}
        return scoring_of(trained, trained.module, score, top, **given)

    @property
    def _classifies(self):
        return self.loss in _FOCUS

    @property
    def _ignores_constant_features(self):
        return self.explanation == "lrp"  # such a column lies at its mean


def _classifier_score(features):
    return softplus(features[:, 0].double(), threshold=40)


def _classifier_top(features):
    return features[:, 0]


def _hypersphere_score(features):
    return pseudo_huber(features.square().sum(dim=1))


def _hypersphere_top(features):
    squared = features.square().sum(dim=1, keepdim=True)
    c = features / ((squared + 1).sqrt() + 1)
    return (features * c.detach()).sum(dim=1)
