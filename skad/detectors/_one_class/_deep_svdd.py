"""Deep SVDD: distance to a centre that a network was trained to bring all rows to."""

from __future__ import annotations

from numbers import Real
from typing import Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skad._sklearn import Interval, StrOptions
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
from skad._warnings import warn
from skad.detectors._one_class._centre import (
    centred_network,
    distance_scoring,
    set_centre,
)
from skad.detectors._one_class._losses import SVDDLoss
from skad.detectors._one_class._networks import NETWORK_CONSTRAINTS
from skad.detectors._one_class._relevance import EXPLANATION_CONSTRAINTS
from skad.neural._detector import NeuralDetector
from skad.neural._parts import EarlyStopping, Parts
from skad.neural._training import Settings
from skad.neural._units import ScaledUnits

__all__ = ["DeepSVDD"]

# Relative spread of the training scores below which all rows are at the same place.
_COLLAPSED = 1e-3
_WARM_UP = 0.1  # share of the steps before the soft boundary moves


class DeepSVDD(NeuralDetector):
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
    [[explanation, gamma]]
    [[lr, max_epochs, batch_size, lr_schedule, early_stopping, warm_start, callbacks]]
    [[net_params, device, contamination, false_alarm_rate, image_shape, random_state]]
    [[verbose]]

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained network, which gives :math:`\phi(x) - c`.
    center_ : ndarray of shape (n_outputs,)
        The centre c.
    squared_radius_ : float
        :math:`\rho^2`; 0 for the one-class objective.
    [[history_, offset_, image_shape_, n_features_in_, feature_names_in_]]

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
        **NETWORK_CONSTRAINTS,
        **EXPLANATION_CONSTRAINTS,
        "objective": [StrOptions({"one-class", "soft-boundary"})],
        "nu": [Interval(Real, 0, 1, closed="neither")],
    }

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
        self.objective = objective
        self.nu = nu
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

    def _parts(self, data, previous=None):
        units = ScaledUnits.of(data, previous)
        warm_up = self._warm_up(len(data)) if previous is None else 0
        return Parts(
            centred_network(self.network, data.row_shape, self.n_outputs),
            SVDDLoss(self.nu if self._is_soft else None, warm_up),
            units,
            start=set_centre,
            finish=self._judge,
            harmless_loss=_loss_of_zeros,
        )

    def _warm_up(self, n):
        steps = self.max_epochs * n // Settings.of(self).rows_a_step(n)
        return int(_WARM_UP * steps)

    def _judge(self, trained, data):
        """Warn of a collapse, and return the radius of the training rows."""
        scoring = distance_scoring(trained, self.explanation, self.gamma)
        scores = trained.in_blocks(scoring.score, data.X)
        if scores.std() <= _COLLAPSED * scores.mean():
            warn(
                f"The network has collapsed: the {len(data)} training rows are all "
                f"{scores.mean():.3g} from the centre, give or take {scores.std():.3g}. "
                "Take a network without biases, a smaller lr, or fewer epochs.",
                ConvergenceWarning,
            )
        radius = float(np.quantile(scores, 1 - self.nu)) if self._is_soft else 0.0
        return {"squared_radius_": radius}

    def _scoring(self, trained):
        radius = trained.state["squared_radius_"]
        return distance_scoring(trained, self.explanation, self.gamma, radius)

    @property
    def _is_soft(self):
        return self.objective == "soft-boundary"

    @property
    def _ignores_constant_features(self):
        return self.explanation == "lrp"  # such a column lies at its mean


def _loss_of_zeros(net):
    """Return the loss of a network whose outputs are all 0."""
    return net.criterion_(-net.module_.centre[None], None, None).item()
