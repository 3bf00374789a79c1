"""Normalizing flow: the likelihood of a row under an invertible network."""

from __future__ import annotations

from typing import Literal

from skad._sklearn import check_parameters
from skad._typing import (
    Auto,
    BatchSize,
    Callbacks,
    Device,
    Floats,
    ImageShape,
    NetParams,
    Rows,
    Schedule,
    Seed,
)
from skad.detectors._invertible._losses import (
    DensityNet,
    Likelihood,
    negative_log_likelihood,
)
from skad.detectors._invertible._member_adam import MemberAdam
from skad.detectors._invertible._references import rows_that_score_low, scoring_of
from skad.detectors._invertible._shared import (
    CONSTRAINTS,
    bounded,
    make_batches,
    make_net,
    with_member_adam,
)
from skad.detectors._invertible._units import DirectedUnits
from skad.neural._blocks import block_rows
from skad.neural._detector import NeuralDetector
from skad.neural._parts import EarlyStopping, Parts

__all__ = ["NormalizingFlow"]


class NormalizingFlow(NeuralDetector):
    r"""Score each row by its likelihood under a normalizing flow; unlikely is abnormal.

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
    [[noise, clamp, n_references, lr]]
    max_epochs : int or "auto", default="auto"
        Passes over the training rows. "auto" makes 1,000 steps, in whole passes.
    batch_size : int or "auto", default="auto"
        Rows of a step. "auto" is 256 at most, and steps of one size.
    [[lr_schedule, early_stopping, warm_start, callbacks, net_params, device]]
    [[contamination, false_alarm_rate]]
    image_shape : tuple or None, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images. The networks see images
        as rows of pixels.
    [[random_state, verbose]]

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained networks; ``net_.module_.net`` is the
        :class:`skad.neural.InvertibleNet`, which maps rows in its units.
    [[references_]]
    history_ : dict of str to list of float
        Mean losses by epoch, "train_loss" and, with early stopping, "valid_loss": nats a
        row.
    [[offset_, image_shape_, n_features_in_, feature_names_in_]]

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
        **CONSTRAINTS,
    }

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
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.net_params = net_params
        self.device = device
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.random_state = random_state
        self.verbose = verbose

    def member_scores(self, X: Rows) -> Floats:
        """Score rows by each network alone.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n, n_members), float64
            Outlier scores, higher is more abnormal.

        Raises
        ------
        ValueError
            As `score_samples`.
        """
        X, score = self._validate(X), self._score_of_members(self._trained)
        rows = block_rows(self.n_features_in_)
        return self._trained.in_blocks(lambda batch: score(batch).T, X, rows)

    # Training.

    def _parts(self, data, previous=None):
        on_sphere = self.preprocessing == "sphere"
        units = DirectedUnits.of(data, previous, on_sphere=on_sphere)
        net_params = with_member_adam(self.net_params)
        if net_params["optimizer"] is MemberAdam:
            # Adam's own: small gradients may make large steps in a likelihood.
            net_params.setdefault("optimizer__eps", 1e-8)
        return Parts(
            DensityNet(make_net(self, units.n_features)),
            Likelihood(),
            units,
            make_batches(self, data.X),
            finish=self._keep_references,
            net_params=net_params,
        )

    def _keep_references(self, trained, data):
        scoring = self._scoring(trained)
        return {"references_": rows_that_score_low(trained, scoring, data.X)}

    # Score and explanation.

    def _scoring(self, trained):
        check_parameters(self, "n_references")
        score = self._score_of_members(trained)
        return scoring_of(
            trained, lambda batch: score(batch).mean(dim=0), self.n_references
        )

    def _score_of_members(self, trained):
        """Return what scores a tensor of rows by each network, (n_members, n)."""
        net = trained.module.net

        def score(batch):
            z, log_det = net(batch, log_det=True)
            return bounded(negative_log_likelihood(z.double(), log_det))

        return score

    @property
    def _row_shape(self):
        return (self.n_features_in_,)  # of images too

    @property
    def _ignores_constant_features(self):
        # On the sphere, the share of a constant feature in the length of a row varies.
        return self.preprocessing != "sphere"
