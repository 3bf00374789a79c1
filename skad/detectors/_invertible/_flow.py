"""Normalizing flow: the likelihood of a row under an invertible network."""

from __future__ import annotations

from typing import Literal

from skad._typing import (
    Auto,
    BatchSize,
    Callbacks,
    Device,
    ImageShape,
    NetParams,
    Schedule,
    Seed,
)
from skad.neural._detector import NeuralDetector
from skad.neural._invertible_detector import InvertibleDetector
from skad.neural._invertible_training import (
    DensityNet,
    Likelihood,
    MemberAdam,
    negative_log_likelihood,
)

__all__ = ["NormalizingFlow"]


class NormalizingFlow(InvertibleDetector, NeuralDetector):
    r"""Give each row its likelihood under a normalizing flow; what is unlikely is abnormal.

    An invertible network :math:`z(x)` is trained so that normal rows have a standard
    normal z, by the likelihood of the rows [1]_, which is the outlier score:

    .. math::

        o(x) = -\log p(x) = \tfrac12 \|z(x)\|^2 + \tfrac d2 \log 2 \pi
        - \log\Bigl|\det \frac{\partial z}{\partial x}\Bigr|,

    in nats, of rows in the units that the network sees; of several networks the mean. It is
    the flow that the paper of :class:`IOCN` [2]_ compares with: the same network, another
    loss.

    Relevance is that of expected gradients, as for :class:`IOCN`, and :math:`\sum_i R_i(x)
    + u(x) = o(x)` with u the mean score of the `n_references` nearest of the training rows
    that score low.

    Parameters
    ----------
    n_blocks : int, default=8
        Coupling blocks of a network.
    hidden : int, default=64
        Width of the hidden layer in each block.
    n_members : int, default=4
        Networks, trained at once, each with weights and rotations of its own.
    preprocessing : {"standardize", "sphere"}, default="standardize"
        What the network sees: columns with mean 0 and variance 1. "sphere" first scales
        rows to length 1, as the paper does: the length of a row then does not count.
    noise : float, default=0.2
        Standard deviation of the noise that is added to rows in training, in units of
        what the network sees.
    clamp : float, default=2.0
        Bound of the logarithms of the scales in a block.
    n_references : int, default=8
        Training rows that a row is explained against. It may be set after `fit`.
    lr : float, default=1e-3
        Learning rate of the optimiser, Adam.
    max_epochs : int or "auto", default="auto"
        Passes over the training rows. "auto" makes 1,000 steps, in whole passes.
    batch_size : int or "auto", default="auto"
        Rows of a step. "auto" is 256 at most, and steps of one size.
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
        Further parameters of :class:`skorch.NeuralNet`, such as
        ``{"optimizer__max_norm": 0.5}``,
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
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images. The networks see images
        as rows of pixels.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, rotations, batches, noise and held-out rows. Global states are
        left alone.
    verbose : int, default=0
        1: a progress bar, one step an epoch. 2: skorch's table, and a bar in each epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained networks; ``net_.module_.net`` is the
        :class:`skad.neural.InvertibleNet`, which maps rows in its units.
    references_ : ndarray of shape (n_rows, d)
        Up to 2,000 training rows, of the last call, of the half that scores lowest.
    history_ : dict of str to list of float
        Mean losses by epoch, "train_loss" and, with early stopping, "valid_loss": nats a
        row.
    offset_ : float
        Threshold on `score_samples`.
    image_shape_ : tuple or None
        Shape of one image, when fitted on images.
    n_features_in_ : int
        Number of features; of pixels and channels together for images.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, when fitted on a data frame.

    Raises
    ------
    ValueError
        By `fit`, when values are too large or too small for the variance of a feature, or
        the training diverges.

    See Also
    --------
    IOCN : The same network, trained onto a cube.
    KDE : Another density, whose explanation is a closed form.

    Notes
    -----
    A density depends on the units: of two rows, another choice of units may call the other
    one less likely. Without `noise`, rows that repeat, or whole numbers, have a density
    that grows without end. In training an entry of z beyond 10 costs linearly more, not by
    its square, so that one row of a heavy tail does not rule the gradient. Far from the
    training rows z grows fast, and scores of many millions are no error.

    References
    ----------
    .. [1] L. Dinh, J. Sohl-Dickstein, S. Bengio. "Density Estimation Using Real NVP". ICLR
       2017.
    .. [2] R. Schmier, U. Koethe, C.-N. Straehle. "Towards Reliable Outlier Detection Using
       Invertible One-Class Networks". TPM workshop, UAI 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import NormalizingFlow
    >>> X = np.random.default_rng(0).standard_normal((300, 3))
    >>> X[:, 2] = X[:, 0]
    >>> detector = NormalizingFlow(max_epochs=100, random_state=0).fit(X)
    >>> detector.predict([[1.0, 0.0, 1.0], [1.0, 4.0, 1.0]])
    array([ 1, -1])
    >>> int(detector.explain([[1.0, 4.0, 1.0]]).argmax())
    1
    """

    _parameter_constraints = {
        **NeuralDetector._parameter_constraints,
        **InvertibleDetector._parameter_constraints,
    }
    _learned = (*NeuralDetector._learned, *InvertibleDetector._learned_here)

    def __init__(
        self,
        *,
        n_blocks: int = 8,
        hidden: int = 64,
        n_members: int = 4,
        preprocessing: Literal["standardize", "sphere"] = "standardize",
        noise: float = 0.2,
        clamp: float = 2.0,
        n_references: int = 8,
        lr: float = 1e-3,
        max_epochs: int | Auto = "auto",
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
        self.n_blocks = n_blocks
        self.hidden = hidden
        self.n_members = n_members
        self.preprocessing = preprocessing
        self.noise = noise
        self.clamp = clamp
        self.n_references = n_references
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
        return DensityNet(self._invertible_net())

    def _make_criterion(self):
        return Likelihood()

    @property
    def _params_of_net(self):
        params = super()._params_of_net
        if params["optimizer"] is MemberAdam:
            # Adam's own: a likelihood does not mind the steps that small gradients make.
            params.setdefault("optimizer__eps", 1e-8)
        return params

    def _member_scores(self, batch):
        z, log_det = self._net(batch, log_det=True)
        return negative_log_likelihood(z.double(), log_det)

    def _pool(self, scores):
        return scores.mean(dim=0)
