"""Does removing the relevant features remove the anomaly? Needs no masks."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from scipy.integrate import trapezoid
from sklearn.utils import Bunch, check_array, check_random_state

from skad._estimators import normality
from skad._typing import ArrayLike, Seed
from skad.explanation import explain
from skad.metrics._checks import _check_nd, _heat_map, _undefined

# Perturbed copies are scored in blocks of about this many numbers (32 MB).
_BLOCK = 2**22


def pixel_flipping_curve(
    estimator: Any,
    X: ArrayLike,
    relevance: ArrayLike | None = None,
    *,
    reference: ArrayLike,
    steps: int | None = None,
    n_random: int = 10,
    random_state: Seed = 0,
) -> Bunch:
    r"""Track the outlier score while relevant features give way to normal values.

    After step k, the most relevant features of each row (of an image: pixels, all
    channels at once) hold the values of `reference`. The curve is

    .. math:: (o_k - o_{ref}) / (o_0 - o_{ref}),

    which falls from 1 (the untouched row) to 0 (the reference): the faster, the more
    faithful is the explanation. It may leave [0, 1] in between. Higher
    ``estimator.score_samples`` means more normal, as in scikit-learn, and
    ``o = -score_samples`` (``decision_function`` where there is no ``score_samples``;
    PyOD's opposite sign is known).

    Parameters
    ----------
    estimator : fitted estimator
        With ``score_samples`` or ``decision_function``.
    X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        Abnormal rows. A pandas DataFrame reaches the estimator as a DataFrame.
    relevance : array-like, default=None
        Evidence for anomaly, shaped as `X`; for 4-D `X` also (n, H, W). The channels
        are summed. None: ``skad.explain(estimator, X)``.
    reference : array-like of shape (d,) or (n, d), or an image or n images
        Normal values, such as the training mean or each row's nearest normal row. Black
        is no normal value for most data.
    steps : int, default=None
        Number of steps, as even as whole features allow. None: one for each feature,
        at most 20.
    n_random : int, default=10
        Random orders behind `random_auc`; 0 for none.
    random_state : int, RandomState instance or None, default=0
        For random orders and for ties of relevance, which are broken at random.

    Returns
    -------
    result : Bunch
        With the attributes

        fractions : float64 ndarray of shape (n_steps + 1,)
            Fraction of features replaced, from 0 to 1.
        curve : float64 ndarray of shape (n, n_steps + 1)
            NaN for a row which scores no higher than its reference: there is no
            anomaly to remove.
        mean : float64 ndarray of shape (n_steps + 1,)
            Mean of the rows' curves, without NaN.
        auc : float
            Area under `mean`: lower is better. NaN (with an
            ``UndefinedMetricWarning``) if every curve is.
        random_auc : float
            The baseline: the area with features in random order. A constant map scores
            this on average. NaN if `n_random` is 0.

    Raises
    ------
    TypeError
        If `estimator` has neither ``score_samples`` nor ``decision_function``.
    ValueError
        If shapes do not fit, values are NaN or infinite, or `steps` or `n_random` is
        out of range.

    See Also
    --------
    cosine_similarity_score, pixel_roc_auc_score : With masks of what is abnormal.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.covariance import EmpiricalCovariance
    >>> from skad.metrics import pixel_flipping_curve
    >>> class Distance:
    ...     def score_samples(self, X):
    ...         return -(X**2).sum(axis=1)
    >>> X = np.array([[3.0, 0.0, 1.0, 2.0]])
    >>> flips = pixel_flipping_curve(Distance(), X, X**2, reference=np.zeros(4))
    >>> flips.mean.round(3)
    array([1.   , 0.357, 0.071, 0.   , 0.   ])
    >>> flips.auc < flips.random_auc
    True
    """
    values, reference = _check_inputs(X, _in_order_of(X, reference, "reference"))
    if relevance is None:
        relevance = explain(estimator, X)
    heat = _check_heat(_in_order_of(X, relevance, "relevance"), values)
    counts = _step_counts(heat.shape[1], steps)
    if not isinstance(n_random, Integral) or n_random < 0:
        raise ValueError(f"n_random must be an integer >= 0, got {n_random!r}.")
    rng = check_random_state(random_state)
    score = _scorer(estimator, X)
    low, high = score(reference), score(values)
    span = np.where(high > low, high - low, np.nan)

    def curve(heat):
        raw = _flip_scores(score, values, reference, _places(heat, rng), counts)
        return (raw - low[:, None]) / span[:, None]

    return _summary(
        counts / heat.shape[1],
        curve(heat),
        [curve(np.zeros_like(heat)) for _ in range(n_random)],
    )


def _in_order_of(X, other, name):
    """Return a frame, or a series of a row, with its columns in the order of those of X."""
    names = getattr(other, "columns", getattr(other, "index", None))
    if not hasattr(X, "columns") or not hasattr(other, "iloc"):
        return other
    if set(names) != set(X.columns):
        raise ValueError(f"{name} has the names {list(names)}, X has {list(X.columns)}.")
    return other[X.columns]


def _check_inputs(X, reference):
    """Return X and the reference of each row, both (n, channels, pixels)."""
    values = _check_nd(X, "X", np.float64)
    reference = check_array(
        reference,
        dtype=np.float64,
        allow_nd=True,
        ensure_2d=False,
        input_name="reference",
    )
    if reference.shape not in (values.shape[1:], (1, *values.shape[1:]), values.shape):
        raise ValueError(
            f"reference must have the shape of X, {values.shape}, or of one row, "
            f"{values.shape[1:]}, got {reference.shape}."
        )
    reference = np.broadcast_to(reference, values.shape)
    channels = values.shape[1] if values.ndim == 4 else 1
    shape = (len(values), channels, -1)
    return values.reshape(shape), reference.reshape(shape)


def _check_heat(relevance, values):
    """Return one relevance for each pixel, (n, pixels)."""
    relevance = _check_nd(relevance, "relevance", np.float64)
    heat = _heat_map(relevance).reshape(len(relevance), -1)
    if heat.shape != (values.shape[0], values.shape[2]):
        raise ValueError(
            f"relevance must have the shape of X, got {relevance.shape} for "
            f"{values.shape[0]} rows of {values.shape[2]} features or pixels."
        )
    return heat


def _step_counts(n_features, steps):
    """How many features are replaced after each step, from none to all."""
    if steps is None:
        steps = min(n_features, 20)
    if not isinstance(steps, Integral) or not 1 <= steps <= n_features:
        raise ValueError(
            f"steps must be an integer from 1 to the {n_features} features, got {steps!r}."
        )
    return np.linspace(0, n_features, steps + 1).round()


def _places(heat, rng):
    """Place of each pixel in its row's order, 0 for the most relevant."""
    order = np.lexsort((rng.random(heat.shape), -heat), axis=1)
    return np.argsort(order, axis=1)


def _flip_scores(score, values, reference, places, counts):
    """Outlier scores (n, len(counts)) with the first ``counts`` pixels replaced."""

    def perturbed(pairs):
        row, step = np.divmod(pairs, len(counts))
        flipped = places[row] < counts[step][:, None]
        return np.where(flipped[:, None], reference[row], values[row])

    n_pairs = len(values) * len(counts)
    return _blockwise(score, n_pairs, perturbed, values[0].size).reshape(len(values), -1)


def _blockwise(score, n_rows, make_rows, row_size):
    """Score ``make_rows(arange(n_rows))`` in blocks of bounded memory."""
    step = max(1, _BLOCK // row_size)
    blocks = (np.arange(i, min(i + step, n_rows)) for i in range(0, n_rows, step))
    return np.concatenate([score(make_rows(rows)) for rows in blocks])


def _scorer(estimator, X):
    """Map perturbed rows to outlier scores, handing them over in the form of X."""

    def score(rows):
        rows = rows.reshape(len(rows), *np.shape(X)[1:])
        if hasattr(X, "iloc"):
            rows = type(X)(rows, columns=X.columns)
        return -normality(estimator, rows)

    return score


def _summary(fractions, curve, random_curves):
    defined = ~np.isnan(curve).any(axis=1)
    if defined.any():
        mean = curve[defined].mean(axis=0)
        auc = float(trapezoid(mean, fractions))
    else:
        mean = np.full(len(fractions), np.nan)
        auc = _undefined("No row scores higher than its reference.")
    areas = [trapezoid(c[defined], fractions, axis=1) for c in random_curves]
    random_auc = float(np.mean(areas)) if areas and defined.any() else np.nan
    return Bunch(
        fractions=fractions, curve=curve, mean=mean, auc=auc, random_auc=random_auc
    )
