"""Deep SVDD: distance to a centre that a network was trained to bring all rows to."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning

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
from skad._warnings import warn
from skad.neural._centre import DistanceToCentre
from skad.neural._detector import NeuralDetector
from skad.neural._losses import SVDDLoss
from skad.neural._scaling import ScaledRows

__all__ = ["DeepSVDD"]

# Relative spread of the training scores below which all rows are at the same place.
_COLLAPSED = 1e-3
_WARM_UP = 0.1  # share of the steps before the soft boundary moves


class DeepSVDD(DistanceToCentre, ScaledRows, NeuralDetector):
    r"""Train a network to map the rows near a centre; what it maps elsewhere is abnormal.

    The centre :math:`c` is the mean output :math:`\phi(x)` of the untrained network. The
    outlier score is the squared distance to it [1]_, and relevance is propagated from the
    terms of that by layer-wise relevance propagation:

    .. math::

        o(x) = \|\phi(x) - c\|^2, \qquad
        R_j = \phi_j(x)\,(\phi_j(x) - c_j)

    at the outputs, and on to the features by the :math:`\gamma` rule. The network of
    ``network="auto"`` has no biases, which could map all rows to the centre whatever they
    are. Nothing is lost in it on the way to the pixels of images, and the unattributed part
    is :math:`u(x) = -c \cdot (\phi(x) - c)`. Columns of a table get :math:`R_i = (x_i -
    \bar x_i)\,c_i`, with :math:`c_i` what LRP brings to the column and :math:`\bar x_i` its
    mean, and what the means would have got is unattributed too. A network with biases keeps
    their share. With ``objective="soft-boundary"`` the score is :math:`o(x) = \|\phi(x) -
    c\|^2 - \rho^2`, and :math:`u(x)` less by the squared radius.

    Parameters
    ----------
    network : "auto", torch.nn.Module or callable, default="auto"
        "auto": for images, convolutions 5 x 5 with ReLU, each with max-pooling, down to 7
        pixels a side, and a linear layer; for tables, hidden layers of 128 and 64. A
        module is copied and trained on from its weights; a callable makes one from the
        shape of a row, ``(d,)`` or ``(C, H, W)``. Its output is flattened.
    n_outputs : int, default=32
        Numbers that the network of "auto" gives.
    objective : {"one-class", "soft-boundary"}, default="one-class"
        Minimise the mean squared distance, or :math:`\rho^2 + \frac{1}{\nu n} \sum_i
        \max(0, \|\phi(x_i) - c\|^2 - \rho^2)`, with :math:`\rho^2` the :math:`1 - \nu`
        quantile of the squared distances of the last batch, 0 in the first tenth of the
        steps.
    nu : float in (0, 1), default=0.1
        Share of the training rows outside of the soft boundary.
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
    center_ : ndarray of shape (n_outputs,)
        The centre c.
    squared_radius_ : float
        :math:`\rho^2`; 0 for the one-class objective.
    history_ : dict of str to list of float
        Mean losses by epoch, "train_loss" and, with early stopping, "valid_loss".
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
        By `fit`, when the network does not take the rows, or its mean output, the centre,
        is 0 or not finite.
    TypeError
        By `explain`, when the network has a layer that relevance can't be propagated
        through.

    Warns
    -----
    ConvergenceWarning
        When the training rows all get the same score: the network has collapsed.

    See Also
    --------
    DeepSAD : Learns from labelled anomalies too.
    HSC, FCDD : Learn from anomalies, labelled or synthetic.
    DeepOneClass : Features of a network that is trained already.

    Notes
    -----
    Columns of a table come to the network standardised, and shifted by 3, since a network
    without biases keeps 0 where it is; images come with values in [0, 1]. The paper first
    trains the network as an encoder, and pushes components of the centre to at least 0.1
    from 0; here there is no such training, and the least is a tenth of the root mean square
    of the components, whatever their units. A network of your own should have no biases
    and an unbounded activation.

    References
    ----------
    .. [1] L. Ruff et al. "Deep One-Class Classification". ICML 2018, equations 3 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import DeepSVDD
    >>> X = np.random.default_rng(0).standard_normal((200, 3))
    >>> detector = DeepSVDD(max_epochs=20, random_state=0).fit(X)
    >>> detector.predict([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    array([ 1, -1])
    >>> int(detector.explain([[0.0, 9.0, 0.0]]).argmax())
    1
    """

    squared_radius_: float

    _parameter_constraints = {
        **NeuralDetector._parameter_constraints,
        **DistanceToCentre._parameter_constraints,
        "network": [StrOptions({"auto"}), callable],
        "n_outputs": [Interval(Integral, 1, None, closed="left")],
        "objective": [StrOptions({"one-class", "soft-boundary"})],
        "nu": [Interval(Real, 0, 1, closed="neither")],
    }
    _learned = (*NeuralDetector._learned, *ScaledRows._own_units, "squared_radius_")

    def __init__(
        self,
        *,
        network: Network | Auto = "auto",
        n_outputs: int = 32,
        objective: Literal["one-class", "soft-boundary"] = "one-class",
        nu: float = 0.1,
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
        self.objective = objective
        self.nu = nu
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

    def _train(self, X, y, *, go_on, epochs=None):
        self.squared_radius_ = 0.0
        super()._train(X, y, go_on=go_on, epochs=epochs)
        scores = self._outlier_score(X)
        if scores.std() <= _COLLAPSED * scores.mean():
            warn(
                f"The network has collapsed: the {len(X)} training rows are all "
                f"{scores.mean():.3g} from the centre, give or take {scores.std():.3g}. "
                "Take a network without biases, a smaller lr, or fewer epochs.",
                ConvergenceWarning,
            )
        if self.objective == "soft-boundary":
            self.squared_radius_ = float(np.quantile(scores, 1 - self.nu))

    def _make_criterion(self):
        return SVDDLoss(self.nu if self.objective == "soft-boundary" else None)

    def _before_training(self, net, rows):
        super()._before_training(net, rows)
        steps = self.max_epochs * len(rows) // self._rows_a_step(len(rows))
        net.criterion_.warm_up = int(_WARM_UP * steps)

    def _harmless_loss(self, net):
        # What a network costs that gives 0 for all rows.
        return net.criterion_(-net.module_.centre[None], None, None).item()

    def _score_of(self, features):
        return super()._score_of(features) - self.squared_radius_
