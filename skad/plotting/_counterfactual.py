"""Value and normal value: what would have to change for a row to be normal."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skad._estimators import normality
from skad._typing import AnyArray, ArrayLike, ImageShape
from skad.plotting._checks import (
    check_rows_shown,
    dense,
    finite,
    image_shape_of,
    planes,
    row_titles,
    table,
)
from skad.plotting._common import BLUE, VERMILION, import_pyplot, short
from skad.plotting._draw import (
    bars_axes,
    bars_size,
    column_names,
    draw_grid,
    maps_size,
    pictures,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.text import Annotation

    from skad.detectors import IOCN

__all__ = ["CounterfactualDisplay"]


class CounterfactualDisplay:
    """Show, for each row, the values that change on the way to a normal row.

    Make one by `from_estimator` or `from_predictions`; `__init__` stores and checks
    nothing, `plot` draws.

    A row of a table gets an arrow for each of the features that change most, in units of
    `scale`, from its value to the normal one, under the words *value -> normal value*. An
    image is shown beside the normal one and the difference of both.

    Parameters
    ----------
    inputs : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        The rows to show.
    normal : array-like of the shape of inputs
        A normal row for each, by ``IOCN.counterfactual``.
    scale : array-like of shape (d,), default=None
        What a change of each feature is measured by, such as its standard deviation.
        None: 1.
    scores : array-like of shape (n,), default=None
        Outlier scores, for the rows' labels.
    labels : sequence of n objects, default=None
        What else to write beside each row.
    feature_names : sequence of str, default=None
        Names of the features. None: those of the columns, else numbers.
    image_shape : tuple, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows that are images.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes
        One a row of a table; of shape (n, 3) for images.
    arrows_ : list of n lists of Annotation
        Of tables.

    See Also
    --------
    skad.IOCN.counterfactual : Where the normal rows come from.
    ExplanationDisplay : What speaks for an anomaly, of any detector.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skad.plotting import CounterfactualDisplay
    >>> display = CounterfactualDisplay.from_predictions(
    ...     [[20.0, 7.0]], [[21.0, 2.0]], feature_names=["age", "dose"]
    ... )
    >>> [tick.get_text() for tick in display.axes_[0].get_yticklabels()]
    ['dose: 7 → 2', 'age: 20 → 21']
    >>> plt.close(display.figure_)
    """

    figure_: Figure | Any  # a SubFigure, where one was given
    axes_: AnyArray
    arrows_: list[list[Annotation]]

    def __init__(
        self,
        inputs: ArrayLike,
        normal: ArrayLike,
        *,
        scale: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        image_shape: ImageShape = None,
    ):
        self.inputs = inputs
        self.normal = normal
        self.scale = scale
        self.scores = scores
        self.labels = labels
        self.feature_names = feature_names
        self.image_shape = image_shape

    @classmethod
    def from_estimator(
        cls,
        estimator: IOCN,
        X: ArrayLike,
        *,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        max_rows: int = 20,
        **plot_options: Any,
    ) -> Self:
        """Find normal rows by a fitted IOCN, and plot them.

        Changes are measured by the standard deviations of its `references_`.

        Parameters
        ----------
        estimator : IOCN
            Fitted.
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            The rows to show.
        labels : sequence of n objects, default=None
            As in the class.
        feature_names : sequence of d str, default=None
            As in the class.
        max_rows : int, default=20
            As in `plot`. Too many rows are refused before any is scored.
        **plot_options
            Passed on to `plot`.

        Returns
        -------
        display : CounterfactualDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If `estimator` has no ``counterfactual``.
        ValueError
            As `plot`.
        """
        import_pyplot()
        if not hasattr(estimator, "counterfactual"):
            raise TypeError(
                "A detector with counterfactual is needed, such as IOCN; got a "
                f"{type(estimator).__name__}. Of a Pipeline or a search, give the detector "
                "itself, and the rows that it sees."
            )
        check_rows_shown(X, max_rows)
        normal = estimator.counterfactual(X)
        scale = estimator.references_.std(axis=0, dtype=np.float64)
        return cls.from_predictions(
            X,
            normal,
            scale=np.where(scale > 0, scale, 1.0),
            scores=-normality(estimator, X),
            labels=labels,
            feature_names=feature_names,
            image_shape=estimator.image_shape_,
            max_rows=max_rows,
            **plot_options,
        )

    @classmethod
    def from_predictions(
        cls,
        X: ArrayLike,
        normal: ArrayLike,
        *,
        scale: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        image_shape: ImageShape = None,
        **plot_options: Any,
    ) -> Self:
        """Plot normal rows that are already there.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            The rows to show.
        normal : array-like of the shape of X
            As in the class.
        scale : array-like of shape (d,), default=None
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
        display : CounterfactualDisplay
            Drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            As `plot`.
        """
        display = cls(
            X,
            normal,
            scale=scale,
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
        max_features: int = 10,
        max_rows: int = 20,
    ) -> Self:
        """Draw the rows.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; it should be empty. None: a new figure.
        figsize : tuple of two float, default=None
            Inches, of a new figure. None: grows with the rows.
        max_features : int, default=10
            How many features of a table are shown for each row.
        max_rows : int, default=20
            More rows than that are refused.

        Returns
        -------
        self : CounterfactualDisplay
            With the attributes of the class.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no row or more than `max_rows`, shapes do not agree, values are
            NaN or infinite, `scale` is not positive, or `max_features` is below 1.
        """
        plt = import_pyplot()
        check_rows_shown(self.inputs, max_rows)
        if not isinstance(max_features, Integral) or max_features < 1:
            raise ValueError(
                f"max_features must be an integer, 1 or more; got {max_features}."
            )
        X = dense(self.inputs)
        shape = image_shape_of(X, self.image_shape)
        labels = self.labels
        if labels is None and hasattr(self.inputs, "iloc"):
            labels = list(self.inputs.index)
        titles = row_titles(len(X), self.scores, labels)

        def new_figure(size):
            if figure is not None:
                return figure
            return plt.figure(figsize=figsize or size, layout="compressed")

        if shape is None:
            return self._plot_arrows(new_figure, X, titles, max_features)
        return self._plot_images(new_figure, X, titles, shape)

    def _plot_arrows(self, new_figure, X, titles, max_features):
        normal = table(self.normal, "normal", X)
        X = finite(X, "X")
        names = column_names(self.feature_names, self.inputs, X)
        with np.errstate(over="ignore"):
            change = finite((normal - X) / self._checked_scale(X), "normal less X")
        top = np.argsort(-abs(change), axis=1, kind="stable")[:, :max_features]
        texts = [
            [f"{names[j]}: {short(x[j])} → {short(z[j])}" for j in chosen]
            for x, z, chosen in zip(X, normal, top, strict=True)
        ]
        self.figure_ = new_figure(bars_size(texts))
        self.axes_ = bars_axes(self.figure_, titles)
        shown = np.take_along_axis(change, top, axis=1)
        self.arrows_ = [
            _draw_arrows(ax, row, names)
            for ax, row, names in zip(self.axes_, shown, texts, strict=True)
        ]
        _share_scale(self.figure_, self.axes_, shown, self.scale is not None)
        return self

    def _checked_scale(self, X):
        if self.scale is None:
            return 1.0
        scale = finite(self.scale, "scale")
        if scale.shape != X.shape[1:] or not (scale > 0).all():
            raise ValueError(
                f"scale must hold {X.shape[1]} positive numbers, one a feature; got "
                f"{scale}."
            )
        return scale

    def _plot_images(self, new_figure, X, titles, shape):
        normal, own = (
            planes(a, n, X, shape) for a, n in ((self.normal, "normal"), (X, "X"))
        )
        if normal.shape != own.shape:
            raise ValueError(
                f"normal has shape {normal.shape}, but X has shape {own.shape}."
            )
        change = (normal - own).sum(axis=1)
        both = np.concatenate([X.reshape(len(X), -1), normal.reshape(len(X), -1)])
        shown = pictures(both, shape)  # on one scale
        grey, reach = {"cmap": "gray", "vmin": 0, "vmax": 1}, abs(change).max() or 1
        columns = [
            ("input", shown[: len(X)], grey),
            ("normal", shown[len(X) :], grey),
            ("change", change, {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}),
        ]
        self.figure_ = new_figure(maps_size(titles, shape, len(columns)))
        self.axes_, _ = draw_grid(self.figure_, titles, columns)
        return self


def _draw_arrows(ax, change, texts):
    """Draw an arrow for each feature, from its value to the normal one, at 0."""
    place, arrows = np.arange(len(change)), []
    for y, length in zip(place, change, strict=True):
        arrow = {"arrowstyle": "-|>", "color": BLUE, "linewidth": 1.5, "shrinkA": 0}
        arrows.append(ax.annotate("", (0, y), (-length, y), arrowprops=arrow))
    ax.plot(-change, place, "o", color=VERMILION, markersize=4)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(place, texts)
    ax.set_ylim(len(change) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return arrows


def _share_scale(figure, axes, change, scaled):
    """Return all axes one range, and name it once."""
    low, high = min((-change).min(), 0), max((-change).max(), 0)
    room = 0.05 * ((high - low) or 1)
    for ax in axes:
        ax.set_xlim(low - room, high + room)
    units = "standard deviations" if scaled else "units of the feature"
    figure.supxlabel(f"value less the normal value ({units})", fontsize="medium")
