"""Global contrast normalisation, the preprocessing of Deep SVDD and FCDD."""

from __future__ import annotations

from math import prod
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

from skad._sklearn import StrOptions, _fit_context
from skad._typing import AnyArray, ArrayLike, ImageShape

_ENTRIES = 2**22  # pixels that are computed at once, in float64


class GlobalContrastNormalizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Give all images the same brightness and contrast, then scale to [0, 1].

    Each row :math:`x` on its own, over all of its pixels and channels, then with the
    extremes that the training rows have after that step, as in [1]_ and [2]_:

    .. math::

        v = \frac{x - \operatorname{mean}(x)}{s(x)}, \qquad
        z = \frac{v - \min_{\text{train}} v}{\max_{\text{train}} v - \min_{\text{train}} v}

    with :math:`s(x)` the mean absolute value (``"l1"``) or the standard deviation
    (``"l2"``) of :math:`x - \operatorname{mean}(x)`. A constant row has :math:`v = 0`. If
    all training rows are constant, :math:`z = v`. New rows may leave [0, 1].

    Each output depends on all inputs of its row, so relevance can't be pulled back
    through it exactly: :func:`skad.explain` refuses to, unless it explains in the space
    of the normalised images (``space="model"``) or from outside (``references``).

    Parameters
    ----------
    scale : {"l1", "l2"}, default="l1"
        What the contrast :math:`s(x)` is: mean absolute or standard deviation.
    image_shape : tuple or None, default=None
        ``(H, W)`` or ``(C, H, W)`` that images must have. The result does not depend on
        it; None takes any in `fit`.

    Attributes
    ----------
    min_, max_ : float
        Least and greatest :math:`v` of the training rows.
    image_shape_ : tuple or None
        Shape of one image, when known.
    n_features_in_ : int
        Number of features; of pixels and channels together for images.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, when fitted on a data frame.

    See Also
    --------
    sklearn.preprocessing.Normalizer : Scales each row without centring it.
    sklearn.preprocessing.MinMaxScaler : Scales each feature.

    References
    ----------
    .. [1] L. Ruff et al. "Deep One-Class Classification". ICML 2018, section 4.
    .. [2] P. Liznerski et al. "Explainable Deep One-Class Classification". ICLR 2021.

    Examples
    --------
    The second image is the first one, darker and with less contrast:

    >>> import numpy as np
    >>> from skad.images import GlobalContrastNormalizer
    >>> images = np.array([[[0.0, 0.4], [0.8, 0.4]], [[0.1, 0.2], [0.3, 0.2]]])
    >>> GlobalContrastNormalizer().fit_transform(images).round(6)
    array([[[0. , 0.5],
            [1. , 0.5]],
           [[0. , 0.5],
            [1. , 0.5]]])
    """

    min_: float
    max_: float
    image_shape_: ImageShape
    n_features_in_: int
    feature_names_in_: AnyArray

    _parameter_constraints = {
        "scale": [StrOptions({"l1", "l2"})],
        "image_shape": [tuple, list, None],
    }

    def __init__(
        self, *, scale: Literal["l1", "l2"] = "l1", image_shape: ImageShape = None
    ):
        self.scale = scale
        self.image_shape = image_shape

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn the extremes of the normalised training rows.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Training rows; finite numbers.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
            The transformer itself, fitted.

        Raises
        ------
        ValueError
            For a bad parameter, NaN or infinite entries, or images that do not have the
            shape `image_shape`.
        """
        X, shape = self._rows(X, self.image_shape, reset=True)
        self.image_shape_ = self.image_shape if shape is None else shape
        extremes = [_extremes(self._normalized(X[rows])) for rows in _batches(X)]
        self.min_ = min(low for low, _ in extremes)
        self.max_ = max(high for _, high in extremes)
        return self

    def transform(self, X: ArrayLike) -> AnyArray:
        """Normalise rows.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            Rows to normalise.

        Returns
        -------
        normalized : ndarray of the shape of X
            In float32 if `X` is, else in float64; of training rows from 0 to 1.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            For NaN or infinite entries, or another number of features or shape of
            images than in `fit`.
        """
        check_is_fitted(self)
        X, shape = self._rows(X, self.image_shape_, reset=False)
        out = np.empty_like(X)
        for rows in _batches(X):
            out[rows] = (self._normalized(X[rows]) - self.min_) / self._span
        return out if shape is None else out.reshape(len(X), *shape)

    @property
    def _span(self):
        return self.max_ - self.min_ if self.max_ > self.min_ else 1.0

    def _normalized(self, X):
        centred = X - X.mean(axis=1, keepdims=True, dtype=np.float64)
        # Rounding of the mean would be blown up to a contrast of 1.
        centred[X.max(axis=1) == X.min(axis=1)] = 0
        spread = np.abs(centred) if self.scale == "l1" else centred**2
        scale = spread.mean(axis=1, keepdims=True)
        scale = scale if self.scale == "l1" else np.sqrt(scale)
        return np.divide(centred, scale, out=centred, where=scale > 0)

    def _rows(self, X, image_shape, reset):
        """Validate and flatten; give also the shape of one image, None for flat rows."""
        X, shape = _flat(X)
        X = validate_data(self, X, dtype=[np.float64, np.float32], order="C", reset=reset)
        if image_shape is not None:
            _check_shape(X, shape, tuple(image_shape))
        return X, shape

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _batches(X):
    return gen_batches(len(X), max(1, _ENTRIES // X.shape[1]))


def _extremes(values):
    return float(values.min()), float(values.max())


def _flat(X):
    if isinstance(X, list | tuple) and len(X) and np.ndim(X[0]) > 1:
        X = np.asarray(X)
    if getattr(X, "ndim", 2) <= 2:
        return X, None
    X = np.asarray(X)
    if X.ndim > 4:
        raise ValueError(
            "X must be rows (n, d) or images (n, H, W) or (n, C, H, W), got an array of "
            f"shape {X.shape}."
        )
    return X.reshape(len(X), prod(X.shape[1:])), X.shape[1:]


def _check_shape(X, shape, wanted):
    """Refuse images of another shape; (H, W) and (1, H, W) are the same."""
    if shape is not None and (1, *shape)[-3:] != (1, *wanted)[-3:]:
        raise ValueError(f"X holds images of shape {shape}, but {wanted} are expected.")
    if prod(wanted) != X.shape[1]:
        raise ValueError(
            f"image_shape={wanted} needs {prod(wanted)} features a row; X has {X.shape[1]}."
        )
