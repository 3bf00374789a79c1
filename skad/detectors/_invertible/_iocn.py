"""IOCN: invertible networks map normal rows onto a cube."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from skad._sklearn import Interval, StrOptions, check_parameters
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
from skad.detectors._invertible._counterfactual import Counterfactuals
from skad.detectors._invertible._cube import DISTANCES, geometric_mean
from skad.detectors._invertible._cube_training import (
    CubeTraining,
    hold_out,
    scale_to_the_cube,
)
from skad.detectors._invertible._health import FIGURES
from skad.detectors._invertible._losses import PULLS, CubeNet, PullAndPush
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
from skad.neural._parts import Parts

__all__ = ["IOCN"]


class IOCN(NeuralDetector):
    r"""Map normal rows onto a cube by invertible networks; what lands outside is abnormal.

    An invertible network :math:`z(x)` is trained so that normal rows fill the cube
    :math:`[-1, 1]^d`: rows :math:`x_i` are pulled to the origin, samples of the cube,
    mapped back to :math:`\tilde x_i = z^{-1}(u_i)` and then held fixed, are pushed away
    (Algorithm 1 and equation 1 of [1]_):

    .. math::

        \mathcal L = \sum_i f(z(x_i)) - f(z(\tilde x_i)), \qquad f(z) = \max_k |z_k|.

    Where rows and samples lie alike, the two cancel. No determinant is needed. The outlier
    score is the signed distance to the surface of the cube (equations 2 to 4):

    .. math::

        s(x) = \sum_k \max(|z_k| - 1, 0) + \min(\max_k |z_k| - 1, 0),

    above 0 outside, and of `n_members` networks, which are trained at once,
    :math:`s = \bigl(\prod_m (1 + s_m)\bigr)^{1/M} - 1`.

    Relevance is that of expected gradients (integrated gradients [2]_ from each of the
    `n_references` nearest of the training rows that score low, :math:`x_j`, averaged):

    .. math::

        R_i(x) = \frac1k \sum_j (x_i - x_{j,i}) \int_0^1
        \frac{\partial s}{\partial x_i}\bigl(x_j + t\,(x - x_j)\bigr)\,dt, \qquad
        u(x) = \frac1k \sum_j s(x_j),

    so that :math:`\sum_i R_i(x) + u(x) = s(x)`. `counterfactual` gives the row that
    belongs to z clipped to the cube.

    Parameters
    ----------
    n_blocks : int, default=8
        Coupling blocks of a network. The paper has 12.
    hidden : int, default=64
        Width of the hidden layer in each block. The paper has 128.
    n_members : int, default=4
        Networks, each with weights, rotations and samples of the cube of its own.
    pull : {"max", "p_norm", "logsumexp"} or callable, default="max"
        The function f: the largest absolute value, as in the paper; the 8-norm; a smooth
        maximum. A callable takes tensors (..., d) to (...), and should have level sets
        near to cubes.
    distance : {"latent", "data"}, default="latent"
        "latent" is the score above. "data" is, outside of the cube, the Euclidean
        distance, in the units that the network sees, to the row of clipped z. It may be
        set after `fit`, which leaves `offset_` as it is.
    preprocessing : {"standardize", "sphere"}, default="standardize"
        What the network sees: columns with mean 0 and variance 1. "sphere" first scales
        rows to length 1, as the paper does: the length of a row then does not count.
    [[noise, clamp]]
    held_out : float in [0, 1), default=0.1
        Share of the rows that do not train, for `diagnostics_`.
    max_refits : int, default=2
        How often networks that were fitted badly are trained again, each time with a
        third of the learning rate.
    [[n_references, lr]]
    max_epochs : int or "auto", default="auto"
        Passes over the training rows. "auto" makes 1,000 steps, in whole passes.
    batch_size : int or "auto", default="auto"
        Rows of a step, and as many samples of the cube. "auto" is 256 at most, and steps
        of one size.
    [[lr_schedule, warm_start, callbacks, net_params, device, contamination]]
    [[false_alarm_rate]]
    image_shape : tuple or None, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images. The networks see images
        as rows of pixels.
    [[random_state, verbose]]

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained networks; ``net_.module_.net`` is the
        :class:`skad.neural.InvertibleNet`, which maps rows in its units.
    diagnostics_ : dict
        How well each network was fitted, arrays of shape (n_members,): "round_trip", the
        largest error of 1,000 samples of the cube mapped back and forth in float32 (below
        1e-4 where all is well); "gradient_norm", the median in the last tenth of the
        steps, before clipping (below 10); "inside" and "inside_held_out", the shares of up
        to 1,000 rows that trained, and that did not, within the cube. And "refitted", how
        many networks have been trained again.
    [[references_]]
    history_ : dict of str to list of float
        "train_loss", mean losses by epoch: 0 at the optimum, but 0 elsewhere too, and
        negative where rows have too little room. It is no measure of the fit.
    [[offset_, image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    ValueError
        By `fit`, when `held_out` leaves fewer than two rows to train on, values are too
        large or too small for the variance of a feature, or the training diverges.

    Warns
    -----
    ConvergenceWarning
        When networks were fitted badly, whether training them again helped or not; and
        when hardly any held-out row lies within the cube, so that the sign of the score
        says nothing.

    See Also
    --------
    NormalizingFlow : The same network, trained by likelihood.
    skad.plotting.CounterfactualDisplay : Each value, and the normal one.

    Notes
    -----
    The paper leaves the training open. Here it is: networks start as rotations, scaled so
    that the median row is as far from the origin as samples of the cube are; 1,000 steps of
    Adam, whose `eps` is so large that small gradients make small steps (with Adam's own,
    two separate clusters drive some networks apart); gradients clipped to norm 1 (set by
    ``net_params={"optimizer__max_norm": 1.0}``); and a rate that falls to 0. There is no
    early stopping, since the loss is no measure of the fit.

    The region is connected, whatever the data: between clusters there are bridges, thin
    from three features on. One feature has one interval. How many normal rows lie within
    the cube depends on the data (`diagnostics_` tells), so that 0 is no threshold;
    `predict` goes by `offset_`. Rotations take 8 d^2 bytes in each block of each network:
    157 MB for 784 features.

    References
    ----------
    .. [1] R. Schmier, U. Koethe, C.-N. Straehle. "Towards Reliable Outlier Detection Using
       Invertible One-Class Networks". TPM workshop, UAI 2024.
    .. [2] M. Sundararajan, A. Taly, Q. Yan. "Axiomatic Attribution for Deep Networks".
       ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import IOCN
    >>> X = np.random.default_rng(0).standard_normal((300, 3))
    >>> X[:, 2] = X[:, 0]
    >>> detector = IOCN(max_epochs=100, random_state=0).fit(X)
    >>> detector.predict([[1.0, 0.0, 1.0], [1.0, 4.0, 1.0]])
    array([ 1, -1])
    >>> int(detector.explain([[1.0, 4.0, 1.0]]).argmax())
    1
    >>> normal = detector.counterfactual([[1.0, 4.0, 1.0]])
    >>> bool(detector.score_samples(normal)[0] >= 0)
    True
    """

    _parameter_constraints = {
        **CONSTRAINTS,
        "pull": [StrOptions(set(PULLS)), callable],
        "distance": [StrOptions(set(DISTANCES))],
        "held_out": [Interval(Real, 0, 1, closed="left")],
        "max_refits": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        n_blocks: int = 8,
        hidden: int = 64,
        n_members: int = 4,
        pull: Literal["max", "p_norm", "logsumexp"] | Callable[..., Any] = "max",
        distance: Literal["latent", "data"] = "latent",
        preprocessing: Literal["standardize", "sphere"] = "standardize",
        noise: float = 0.2,
        clamp: float = 2.0,
        held_out: float = 0.1,
        max_refits: int = 2,
        n_references: int = 8,
        lr: float = 1e-3,
        max_epochs: int | Auto = "auto",
        batch_size: BatchSize = "auto",
        lr_schedule: Schedule = "cosine",
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
        self.pull = pull
        self.distance = distance
        self.preprocessing = preprocessing
        self.noise = noise
        self.clamp = clamp
        self.held_out = held_out
        self.max_refits = max_refits
        self.n_references = n_references
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr_schedule = lr_schedule
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
    def diagnostics_(self) -> dict[str, Any]:
        """How well each network was fitted: arrays of shape (n_members,), by name."""
        if not hasattr(self, "net_"):
            raise AttributeError(
                f"This {type(self).__name__} has no diagnostics_: not fitted."
            )
        state = self._trained.state
        figures = dict(zip(FIGURES, state["health"], strict=True))
        return {"refitted": state["n_refitted"], **figures}

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

    def counterfactual(self, X: Rows) -> Floats:
        r"""Return a normal row instead of each abnormal one: z clipped to the cube.

        It is :math:`z^{-1}(\mathrm{clip}(z(x), -1, 1))`, which takes an invertible network.
        Where the other networks score that row as abnormal, it moves back, on a straight
        line in z, towards the nearest normal row of `references_`, until all networks
        together score it as normal. Each network finds one such row; the one nearest to x,
        in the units that the networks see, is returned.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows, abnormal or not.

        Returns
        -------
        normal : ndarray of the shape of X, float64
            Rows that score 0 at most, up to rounding; rows of X that do so already are
            returned as they are.

        Raises
        ------
        ValueError
            If no row of `references_` scores 0 or less, so that no normal row is known.
            As `score_samples`, too.

        Notes
        -----
        Nearest *in z* is not nearest to x: all features may change where one is at fault.
        As an explanation, `explain` is better; see the documentation for how much. With
        many features and few rows the networks agree on little but the training rows, and
        the result is one of these, or close to one.
        """
        X, shape = self._validate(X, with_shape=True)
        X = np.asarray(X)  # of a map or a data set
        found = X.astype(np.float64)
        outside = np.flatnonzero(self._outlier_score(X) > 0)
        if len(outside):
            bring_inside = Counterfactuals(self._trained, self._outlier_score)
            found[outside] = bring_inside(found[outside])
        return found.reshape(len(X), *shape)

    # Training.

    def _parts(self, data, previous=None):
        on_sphere = self.preprocessing == "sphere"
        units = DirectedUnits.of(data, previous, on_sphere=on_sphere)
        rows, aside = hold_out(data.X, self.held_out, 2 if previous is None else 1)
        return Parts(
            self._make_module(),
            PullAndPush(self.pull if callable(self.pull) else PULLS[self.pull]),
            units,
            make_batches(self, rows),
            start=scale_to_the_cube,
            train=CubeTraining(self._make_module, aside, self.max_refits),
            finish=self._keep_references,
            harmless_loss=None,
            net_params=with_member_adam(self.net_params),
        )

    def _make_module(self):
        return CubeNet(make_net(self, self.n_features_in_))

    def _keep_references(self, trained, data):
        scoring = self._scoring(trained)
        return {"references_": rows_that_score_low(trained, scoring, data.X)}

    # Score and explanation.

    def _scoring(self, trained):
        check_parameters(self, "n_references")
        score = self._score_of_members(trained)
        return scoring_of(
            trained, lambda batch: geometric_mean(score(batch)), self.n_references
        )

    def _score_of_members(self, trained):
        """Return what scores a tensor of rows by each network, (n_members, n)."""
        check_parameters(self, "distance")
        distance = partial(DISTANCES[self.distance], trained.module.net)
        return lambda batch: bounded(distance(batch))

    @property
    def _row_shape(self):
        return (self.n_features_in_,)  # of images too

    @property
    def _ignores_constant_features(self):
        # On the sphere, the share of a constant feature in the length of a row varies.
        return self.preprocessing != "sphere"
