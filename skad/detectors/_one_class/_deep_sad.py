"""Deep SAD: Deep SVDD that learns from labelled rows too."""

from __future__ import annotations

from numbers import Real
from typing import Literal

from skad._sklearn import Interval
from skad._typing import (
    Auto,
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
from skad.detectors._one_class._centre import (
    centred_network,
    distance_scoring,
    set_centre,
)
from skad.detectors._one_class._losses import SADLoss, harmless_loss
from skad.detectors._one_class._networks import NETWORK_CONSTRAINTS
from skad.detectors._one_class._relevance import EXPLANATION_CONSTRAINTS
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

__all__ = ["DeepSAD"]


class DeepSAD(NeuralDetector):
    r"""Train a network to map normal rows near a centre, and anomalies far from it.

    The outlier score is the squared distance to the centre :math:`c`, and relevance is
    propagated from its terms, as in :class:`DeepSVDD`:

    .. math::

        o(x) = \|\phi(x) - c\|^2, \qquad
        R_j = \phi_j(x)\,(\phi_j(x) - c_j).

    The loss [1]_ of a row is :math:`o(x)` where it is unlabelled, :math:`\eta\,o(x)` where
    it is labelled +1, and :math:`\eta\,(o(x) + 10^{-6})^{-1}` where it is labelled -1. The
    centre is the mean output of the untrained network over the rows not labelled -1; what
    is unattributed is as for :class:`DeepSVDD`. Without labels and `outliers` it is that
    detector.

    Parameters
    ----------
    network : "auto", torch.nn.Module or callable, default="auto"
        "auto": for images, convolutions 5 x 5 with ReLU, each with max-pooling, down to 7
        pixels a side, and a linear layer; for tables, hidden layers of 128 and 64. A
        module is copied and trained on from its weights; a callable makes one from the
        shape of a row, ``(d,)`` or ``(C, H, W)``. Its output is flattened.
    n_outputs : int, default=32
        Numbers that the network of "auto" gives.
    eta : float, default=1.0
        Weight of labelled rows, :math:`\eta`.
    outliers : {"confetti", "uniform"}, array, callable or None, default=None
        Anomalies to train on beside rows with ``y = -1``.
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
    net_ : skorch.NeuralNet
        The trained network, which gives :math:`\phi(x) - c`.
    [[outliers_]]
    center_ : ndarray of shape (n_outputs,)
        The centre c.
    [[history_]]
    offset_ : float
        Threshold on `score_samples`, by the rows that are not labelled -1.
    [[image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    ValueError
        By `fit`, when fewer than two rows are not labelled -1, `outliers` do not fit `X`,
        the network does not take the rows, or its mean output, the centre, is 0 or not
        finite.
    TypeError
        By `explain`, when the network has a layer that relevance can't be propagated
        through.

    See Also
    --------
    DeepSVDD : Reads no labels.
    HSC : The same idea with a loss that weighs both sides alike.

    Notes
    -----
    Rows labelled -1 take the place of others in a share of the batch, one half or that of
    an :class:`~skad.neural.OutlierExposure`, where the paper leaves them as rare as they
    are.

    References
    ----------
    .. [1] L. Ruff et al. "Deep Semi-Supervised Anomaly Detection". ICLR 2020, equation 8.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import DeepSAD
    >>> X = np.random.default_rng(0).standard_normal((500, 3))
    >>> y = np.where(X[:, 0] > 1.5, -1, 0)  # the anomalies that were recognised
    >>> detector = DeepSAD(random_state=0).fit(X, y)
    >>> bool((detector.predict(X)[y == -1] == -1).mean() > 0.9)
    True
    """

    _parameter_constraints = {
        **NETWORK_CONSTRAINTS,
        **EXPLANATION_CONSTRAINTS,
        **OUTLIER_CONSTRAINTS,
        "eta": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        network: Network | Auto = "auto",
        n_outputs: int = 32,
        eta: float = 1.0,
        outliers: Outliers = None,
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
        self.network = network
        self.n_outputs = n_outputs
        self.eta = eta
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

    @property
    def center_(self) -> Floats:
        """The centre c, ndarray of shape (n_outputs,)."""
        return self.net_.module_.centre.cpu().numpy()

    def _data(self, X, y=None, mask=None):
        return labelled(super()._data(X), y)

    def _parts(self, data, previous=None):
        units, device = ScaledUnits.of(data, previous), Settings.of(self).device
        exposure = find_exposure(
            "DeepSAD", self.outliers, data, units, device, needed=False
        )
        return Parts(
            centred_network(self.network, data.row_shape, self.n_outputs),
            SADLoss(self.eta),
            units,
            exposure.batches(data, self.augment),
            state={"outliers_": exposure.names},
            start=set_centre,
            harmless_loss=_harmless_loss,
        )

    def _scoring(self, trained):
        return distance_scoring(trained, self.explanation, self.gamma)

    @property
    def _ignores_constant_features(self):
        return self.explanation == "lrp"  # such a column lies at its mean


def _harmless_loss(net):
    # A network whose outputs are all 0 is harmless, too.
    return max(net.module_.centre.square().sum().item(), harmless_loss(net))
