"""Heat maps of images and bars of tabular rows: where the evidence lies."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from skad._estimators import normality
from skad._typing import AnyArray, AnyRows, ArrayLike, ImageShape
from skad.explanation import explain
from skad.plotting._checks import (
    check_rows_shown,
    dense,
    fitted_shape,
    heat_maps,
    image_shape_of,
    model_input,
    planes,
    row_titles,
    table,
)
from skad.plotting._common import import_pyplot, short
from skad.plotting._draw import (
    bars_axes,
    bars_size,
    beyond,
    color_scale,
    column_names,
    draw_bars,
    draw_grid,
    hatch,
    maps_size,
    mask_legend,
    pictures,
    share_scale,
)

if TYPE_CHECKING:
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage
    from matplotlib.legend import Legend

__all__ = ["ExplanationDisplay"]


class ExplanationDisplay:
    """Show inputs beside their relevance: images as heat maps, other rows as bars.

    Make one by `from_estimator` or `from_predictions`; `__init__` stores and checks
    nothing, `plot` draws.

    Each image is shown with its mask, if it has one, and its heat map: the relevance,
    summed over channels and rectified. All heat maps share one scale, so that a normal
    image stays dark beside an anomaly. Of a tabular row, the features of the largest
    absolute relevance are shown as signed bars, on one scale for all rows too.

    Parameters
    ----------
    inputs : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        The rows to show.
    relevance : array-like of the shape of inputs
        Evidence for anomaly. Of images it may also be flat, or have no channels.
    mask : array-like, default=None
        Ground truth, boolean or non-negative, in any shape that `relevance` may have.
    scores : array-like of shape (n,), default=None
        Outlier scores, higher is more abnormal, for the rows' labels.
    labels : sequence of n objects, default=None
        What else to write beside each row.
    feature_names : sequence of d str, default=None
        None: the columns of `inputs`, or "x0", "x1", ...
    image_shape : tuple, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes
        Of shape (n, 2), or (n, 3) with masks, for images; of shape (n,) for bars.
    maps_ : list of n AxesImage
        The heat maps, in the units of `skad.explain`; their ``get_clim()`` is the common
        scale.
    colorbar_ : Colorbar
        Of the heat maps. `maps_` and `colorbar_` exist for images only.
    bars_ : list of n BarContainer
        For tabular rows only; the largest absolute relevance comes first.
    legend_ : Legend or None
        For tabular rows only: what the hatching means, where there is a mask.

    See Also
    --------
    skad.explain : The relevance.
    CleverHansDisplay : Detection against explanation accuracy.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skad import KDE
    >>> from skad.datasets import load_corrupted_digits
    >>> from skad.plotting import ExplanationDisplay
    >>> digits = load_corrupted_digits("stripe")
    >>> kde = KDE(bandwidth=0.4).fit(digits.images[digits.target == 1][:200])
    >>> odd = digits.target == -1
    >>> display = ExplanationDisplay.from_estimator(
    ...     kde, digits.images[odd][:4], mask=digits.mask[odd][:4]
    ... )
    >>> [ax.get_title() for ax in display.axes_[0]]
    ['input', 'mask', 'relevance']
    >>> plt.close(display.figure_)
    """

    figure_: Figure | Any  # a SubFigure, where one was given
    axes_: AnyArray
    maps_: list[AxesImage]
    colorbar_: Colorbar
    bars_: list[BarContainer]
    legend_: Legend | None

    def __init__(
        self,
        inputs: Any,
        relevance: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        image_shape: ImageShape = None,
    ):
        self.inputs: Any = inputs
        self.relevance = relevance
        self.mask = mask
        self.scores = scores
        self.labels = labels
        self.feature_names = feature_names
        self.image_shape = image_shape

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: AnyRows,
        *,
        mask: ArrayLike | None = None,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        image_shape: ImageShape = None,
        space: Literal["input", "model"] = "input",
        references: AnyRows | None = None,
        max_rows: int = 20,
        **plot_options: Any,
    ) -> Self:
        """Score and explain the rows by a fitted detector, and plot them.

        Parameters
        ----------
        estimator : object
            A fitted detector, a Pipeline ending in one, or a search over either.
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            The rows to show.
        mask : array-like, default=None
            As in the class.
        labels : sequence of n objects, default=None
            As in the class.
        feature_names : sequence of d str, default=None
            None: the names of the columns, where `X` or `estimator` knows them.
        image_shape : tuple, default=None
            None: the shape the detector was fitted on, also inside pipelines, searches and
            wrappers, if there is one and it fits the rows.
        space : {"input", "model"}, default="input"
            Show `X`, or what the Pipeline's last step sees.
        references : array-like of shape (m, d), default=None
            Normal rows, for detectors without an explanation of their own.
        max_rows : int, default=20
            As in `plot`. Too many rows are refused before any is explained.
        **plot_options
            Passed on to `plot`.

        Returns
        -------
        display : ExplanationDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            As :func:`skad.explain` and `plot`.
        """
        import_pyplot()
        check_rows_shown(X, max_rows)
        relevance = explain(estimator, X, space=space, references=references)
        scores = -normality(estimator, X)
        if space == "input":
            known = None if hasattr(X, "columns") else estimator
            inputs, names = X, getattr(known, "feature_names_in_", None)
        else:
            inputs, names = model_input(estimator, X)
        relevance = np.asarray(relevance)
        if image_shape is None:
            image_shape = fitted_shape(estimator, prod(relevance.shape[1:]))
        return cls.from_predictions(
            inputs,
            relevance,
            mask=mask,
            scores=scores,
            labels=labels,
            feature_names=names if feature_names is None else feature_names,
            image_shape=image_shape,
            max_rows=max_rows,
            **plot_options,
        )

    @classmethod
    def from_predictions(
        cls,
        X: AnyRows,
        relevance: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        image_shape: ImageShape = None,
        **plot_options: Any,
    ) -> Self:
        """Plot relevance that is already there.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            The rows to show.
        relevance : array-like of the shape of X
            As in the class.
        mask : array-like, default=None
            As in the class.
        scores : array-like of shape (n,), default=None
            As in the class.
        labels : sequence of n objects, default=None
            As in the class.
        feature_names : sequence of d str, default=None
            As in the class.
        image_shape : tuple, default=None
            As in the class.
        **plot_options
            Passed on to `plot`.

        Returns
        -------
        display : ExplanationDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            As `plot`.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from skad.plotting import ExplanationDisplay
        >>> display = ExplanationDisplay.from_predictions(
        ...     [[20.0, 7.0]], [[0.5, -2.0]], scores=[-1.5], feature_names=["age", "dose"]
        ... )
        >>> [tick.get_text() for tick in display.axes_[0].get_yticklabels()]
        ['dose = 7', 'age = 20']
        >>> plt.close(display.figure_)
        """
        display = cls(
            X,
            relevance,
            mask=mask,
            scores=scores,
            labels=labels,
            feature_names=feature_names,
            image_shape=image_shape,
        )
        return display.plot(**plot_options)

    def plot(
        self,
        *,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
        quantile: float = 0.99,
        reference_maps: ArrayLike | None = None,
        cmap: str | Colormap = "inferno",
        max_features: int = 10,
        max_rows: int = 20,
    ) -> Self:
        """Draw the rows.

        Heat maps go from the colour map's lowest colour at ``m``, the least value of the
        reference maps, to its highest at ``m`` plus the quantile of the reference maps
        less ``m``; what lies beyond is clipped. Where that quantile is zero since nearly
        all pixels are, the greatest value takes its place. If the reference maps are
        constant, so is the picture: no contrast is made up.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; it should be empty. None: a new figure.
        figsize : tuple of two float, default=None
            Inches, of a new figure. None: grows with the rows.
        quantile : float in (0, 1], default=0.99
            Share of the reference maps' pixels that the scale does not clip.
        reference_maps : array-like, default=None
            Relevance that sets the scale, as (m, d), (m, H, W) or (m, C, H, W): say of a
            test set, to compare several figures. None: the maps shown.
        cmap : str or Colormap, default="inferno"
            Of the heat maps.
        max_features : int, default=10
            How many bars a tabular row gets.
        max_rows : int, default=20
            More rows than that are refused.

        Returns
        -------
        self : ExplanationDisplay
            With the attributes of the class.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no row or more than `max_rows`, shapes or lengths do not agree,
            relevance is NaN or infinite, or `quantile` or `max_features` is out of range.
        """
        plt = import_pyplot()
        check_rows_shown(self.inputs, max_rows)
        if not 0 < quantile <= 1 or max_features < 1:
            raise ValueError(
                "quantile must be in (0, 1] and max_features at least 1, got "
                f"{quantile} and {max_features}."
            )

        def new_figure(size):
            size = size if figsize is None else figsize
            return (
                plt.figure(figsize=size, layout="compressed") if figure is None else figure
            )

        inputs = dense(self.inputs)
        shape = image_shape_of(inputs, self.image_shape)
        labels = self.labels
        if labels is None and hasattr(self.inputs, "iloc"):
            labels = list(self.inputs.index)
        titles = row_titles(len(inputs), self.scores, labels)
        if shape is None:
            return self._plot_bars(new_figure, inputs, titles, max_features)
        heat, low, high = self._color_options(inputs, shape, quantile, reference_maps)
        return self._plot_maps(new_figure, inputs, titles, shape, heat, low, high, cmap)

    def _color_options(self, X, shape, quantile, reference_maps):
        """Heat maps, and the lower and upper end of their colours."""
        heat = heat_maps(self.relevance, "relevance", X, shape)
        reference = heat
        if reference_maps is not None:
            reference = heat_maps(
                reference_maps, "reference_maps", X, shape, any_length=True
            )
        return heat, *color_scale(reference, quantile)

    def _plot_maps(self, new_figure, X, titles, shape, heat, low, high, cmap):
        grey = {"cmap": "gray", "vmin": 0}
        columns = [("input", pictures(X, shape), {**grey, "vmax": 1})]
        if self.mask is not None:
            mask = planes(self.mask, "mask", X, shape).max(axis=1)
            columns.append(("mask", mask, {**grey, "vmax": mask.max() or 1}))
        columns.append(("relevance", heat, {"cmap": cmap, "vmin": low, "vmax": high}))
        self.figure_ = new_figure(maps_size(titles, shape, len(columns)))
        self.axes_, self.maps_ = draw_grid(self.figure_, titles, columns)
        self.colorbar_ = self.figure_.colorbar(
            self.maps_[0],
            ax=self.axes_,
            extend=beyond(heat, low, high),
            # In shares of the bar's length, which grows with the rows.
            aspect=9 * len(X),
            extendfrac=0.09 / len(X),
            label="relevance (evidence for anomaly)",
        )
        return self

    def _plot_bars(self, new_figure, X, titles, max_features):
        relevance = table(self.relevance, "relevance", X)
        mask = None if self.mask is None else table(self.mask, "mask", X) > 0
        names = column_names(self.feature_names, self.inputs, X)
        top = np.argsort(-np.abs(relevance), axis=1, kind="stable")[:, :max_features]
        texts = [
            [f"{names[j]} = {short(x[j])}" for j in chosen]
            for x, chosen in zip(X, top, strict=True)
        ]
        self.figure_ = new_figure(bars_size(texts))
        self.axes_ = bars_axes(self.figure_, titles)
        shown = np.take_along_axis(relevance, top, axis=1)
        self.bars_ = draw_bars(self.axes_, shown, texts)
        share_scale(self.figure_, self.axes_, shown)
        self.legend_ = None
        if mask is not None:
            hatch(self.bars_, np.take_along_axis(mask, top, axis=1))
            self.legend_ = mask_legend(self.figure_)
        return self
