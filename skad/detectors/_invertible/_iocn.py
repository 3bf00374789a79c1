"""IOCN: invertible networks map normal rows onto a cube."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from skad._sklearn import StrOptions, check_parameters
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
from skad.neural._cube import DISTANCES, geometric_mean
from skad.neural._cube_training import CubeTraining
from skad.neural._detector import NeuralDetector

__all__ = ["IOCN"]

_JUST_INSIDE = 1 - 1e-4
_HALVINGS = 12
_ROUNDING = 1e-5


class IOCN(CubeTraining, NeuralDetector):
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
    noise : float, default=0.2
        Standard deviation of the noise that is added to rows in training, in units of
        what the network sees.
    clamp : float, default=2.0
        Bound of the logarithms of the scales in a block.
    held_out : float in [0, 1), default=0.1
        Share of the rows that do not train, for `diagnostics_`.
    max_refits : int, default=2
        How often networks that were fitted badly are trained again, each time with a
        third of the learning rate.
    n_references : int, default=8
        Training rows that a row is explained against. It may be set after `fit`.
    lr : float, default=1e-3
        Learning rate of the optimiser, Adam.
    max_epochs : int or "auto", default="auto"
        Passes over the training rows. "auto" makes 1,000 steps, in whole passes.
    batch_size : int or "auto", default="auto"
        Rows of a step, and as many samples of the cube. "auto" is 256 at most, and steps
        of one size.
    lr_schedule : {None, "cosine", "onecycle"}, default="cosine"
        How the learning rate changes within a fit: not; falling to 0; rising, then
        falling to 0.
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
        Seeds weights, rotations, batches, noise and samples. Global states are left
        alone.
    verbose : int, default=0
        1: a progress bar, one step an epoch. 2: skorch's table, and a bar in each epoch.

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
    references_ : ndarray of shape (n_rows, d)
        Up to 2,000 training rows, of the last call, of the half that scores lowest.
    history_ : dict of str to list of float
        "train_loss", mean losses by epoch: 0 at the optimum, but 0 elsewhere too, and
        negative where rows have too little room. It is no measure of the fit.
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
    two separate clusters drive some networks apart); gradients clipped to norm 1; and a
    rate that falls to 0. There is no early stopping, since the loss is no measure of the
    fit.

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
        **NeuralDetector._parameter_constraints,
        **CubeTraining._parameter_constraints,
        "distance": [StrOptions(set(DISTANCES))],
    }
    _learned = (*NeuralDetector._learned, *CubeTraining._learned_here)

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

    def _member_scores(self, batch):
        check_parameters(self, "distance")
        return DISTANCES[self.distance](self._net, batch)

    def _pool(self, scores):
        return geometric_mean(scores)

    # The normal row instead.

    def counterfactual(self, X: Rows) -> Floats:
        r"""Give a normal row instead of each abnormal one: z clipped to the cube.

        Only an invertible network can: :math:`z^{-1}(\mathrm{clip}(z(x), -1, 1))`. Where
        other networks take that for abnormal, it goes, on a straight line in z, so far back
        to the nearest normal row of `references_` that all of them together do not. Of the
        rows of all networks, that which is nearest to x, in the units that the networks
        see, is given.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows, abnormal or not.

        Returns
        -------
        normal : ndarray of the shape of X, float64
            Rows that score 0 at most, but for rounding; rows of X that do so already are
            given as they are.

        Raises
        ------
        ValueError
            If no row of `references_` scores 0 or less: then nothing is known to be within.
            As `score_samples`, too.

        Notes
        -----
        Nearest *in z* is not nearest to x: all features may change where one is at fault.
        As an explanation, `explain` is better; see the documentation for how much. With
        many features and few rows the networks agree on little but the training rows, and
        it is such a row, or nearly, that is given.
        """
        X, shape = self._validate(X, with_shape=True)
        X = np.asarray(X)  # of a map or a data set
        found = X.astype(np.float64)
        outside = np.flatnonzero(self._outlier_score(X) > 0)
        if len(outside):
            found[outside] = self._brought_inside(found[outside])
        return found.reshape(len(X), *shape)

    def _brought_inside(self, X):
        """Give the nearest of the rows that the networks clip each row to."""
        units, normal = self._units_of(X), self._nearest_normal(X)
        with torch.inference_mode():
            net, device = self._net, self._net.scale.device
            start = net(self._units_of(normal).to(device))
            step = net(units.to(device)).clamp(-_JUST_INSIDE, _JUST_INSIDE) - start

            def points(share):
                return net.inverse(start + share[..., None].to(device) * step).cpu()

            ends = points(self._longest(points, X))
        nearest = (ends - units).norm(dim=2).argmin(dim=0)
        found = self._as_rows(ends[nearest, torch.arange(len(X))], X)
        missed = self._outlier_score(found) > _ROUNDING
        found[missed] = normal[missed]  # which is known to be normal
        return found

    def _longest(self, points, X):
        """Give the largest shares, at most 1, whose points are normal: (n_members, n)."""

        def normal(share):
            scores = [self._outlier_score(self._as_rows(p, X)) for p in points(share)]
            return torch.from_numpy(np.stack(scores) <= 0)

        high = torch.ones(self._net.n_members, len(X), dtype=torch.float64)
        low, whole = torch.zeros_like(high), normal(high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            good = normal(middle)
            low, high = middle.where(good, low), high.where(good, middle)
        return low.where(~whole, 1.0)

    def _nearest_normal(self, X):
        """Give the nearest to each row of the references within the region."""
        within = self._outlier_score(self.references_) <= 0
        somewhere = self.references_.any(axis=1)
        if self._on_sphere and (within & somewhere).any():
            within &= somewhere  # a row of zeros has no direction to go to
        normal = self.references_[within]
        if not len(normal):
            raise ValueError(
                f"None of {len(self.references_)} training rows that score low lies within "
                "the region: there is no normal row to go to. See diagnostics_."
            )
        return normal[self._nearest_among(normal, X, 1)[:, 0]]
