"""Deep SAD: Deep SVDD that learns from labelled rows too."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Literal

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
from skad.neural._centre import DistanceToCentre
from skad.neural._detector import NeuralDetector
from skad.neural._losses import SADLoss
from skad.neural._outlier_training import Augment, Outliers, OutlierTraining

__all__ = ["DeepSAD"]


class DeepSAD(DistanceToCentre, OutlierTraining, NeuralDetector):
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
        The trained network, which gives :math:`\phi(x) - c`.
    outliers_ : tuple of str
        The sources of anomalies: "labelled", "confetti", "uniform", "array", "callable".
    center_ : ndarray of shape (n_outputs,)
        The centre c.
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
    Rows labelled -1 take the place of others in a share of the batch, `outlier_share`,
    where the paper leaves them as rare as they are.

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
        **NeuralDetector._parameter_constraints,
        **DistanceToCentre._parameter_constraints,
        **OutlierTraining._parameter_constraints,
        "network": [StrOptions({"auto"}), callable],
        "n_outputs": [Interval(Integral, 1, None, closed="left")],
        "eta": [Interval(Real, 0, None, closed="neither")],
    }
    _learned = (*NeuralDetector._learned, *OutlierTraining._learned_here)
    _needs_anomalies = False

    def __init__(
        self,
        *,
        network: Network | Auto = "auto",
        n_outputs: int = 32,
        eta: float = 1.0,
        outliers: Outliers = None,
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
        self.network = network
        self.n_outputs = n_outputs
        self.eta = eta
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

    def _make_criterion(self):
        return SADLoss(self.eta)

    def _harmless_loss(self, net):
        # What a network costs that gives 0 for all rows, too.
        of_zeros = net.module_.centre.square().sum().item()
        return max(of_zeros, super()._harmless_loss(net))
