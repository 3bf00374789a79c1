"""Which views of an image failed: one square for each, by its shift and its turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skad._estimators import normality
from skad._typing import AnyArray, ArrayLike, ImageShape
from skad.explanation import explain
from skad.plotting._checks import (
    check_rows_shown,
    dense,
    finite,
    heat_maps,
    image_shape_of,
    row_titles,
)
from skad.plotting._common import import_pyplot
from skad.plotting._draw import color_scale, draw_grid, maps_size, pictures

if TYPE_CHECKING:
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

    from skad.detectors import GEO
    from skad.images import View

__all__ = ["ViewsDisplay"]

_ARROWS = {"up": ("↑", "↓"), "left": ("←", "→")}


class ViewsDisplay:
    """Show what each geometric view of an image adds to its outlier score.

    Make one by `from_estimator` or `from_predictions`; `__init__` stores and checks
    nothing, `plot` draws.

    Each image is shown with its heat map, if there is one, and a square for each view:
    red where the network took the view for another more than it does for normal images,
    blue where less. Rows are the shifts, columns the quarter turns, of the image and then
    of the mirrored image. The last picture is the view that adds most.

    Parameters
    ----------
    inputs : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
        The images to show.
    contributions : array-like of shape (n, n_views)
        What each view adds, by ``GEO.explain_views``.
    views : list of View
        The views.
    relevance : array-like of the shape of inputs, default=None
        Heat maps.
    scores : array-like of shape (n,), default=None
        Outlier scores, for the rows' labels.
    labels : sequence of n objects, default=None
        What else to write beside each row.
    image_shape : tuple, default=None
        ``(H, W)`` or ``(C, H, W)`` of flat rows.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes of shape (n, 3), or (n, 4) with heat maps
    squares_ : list of n AxesImage
        The contributions; their ``get_array()`` is masked where there is no such view.
    colorbar_ : Colorbar
        Of the contributions.

    See Also
    --------
    skad.GEO : The detector.
    ExplanationDisplay : Heat maps of any detector.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from skad.images import geometric_views
    >>> from skad.plotting import ViewsDisplay
    >>> images = np.random.default_rng(0).random((2, 8, 8))
    >>> contributions = np.random.default_rng(1).standard_normal((2, 72))
    >>> display = ViewsDisplay.from_predictions(
    ...     images, contributions, views=geometric_views((8, 8))
    ... )
    >>> display.squares_[0].get_array().shape
    (9, 8)
    >>> plt.close(display.figure_)
    """

    figure_: Figure | Any  # a SubFigure, where one was given
    axes_: AnyArray
    squares_: list[AxesImage]
    colorbar_: Colorbar

    def __init__(
        self,
        inputs: ArrayLike,
        contributions: ArrayLike,
        *,
        views: Sequence[View],
        relevance: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        labels: Sequence[Any] | None = None,
        image_shape: ImageShape = None,
    ):
        self.inputs = inputs
        self.contributions = contributions
        self.views = views
        self.relevance = relevance
        self.scores = scores
        self.labels = labels
        self.image_shape = image_shape

    @classmethod
    def from_estimator(
        cls,
        estimator: GEO,
        X: ArrayLike,
        *,
        labels: Sequence[Any] | None = None,
        max_rows: int = 20,
        **plot_options: Any,
    ) -> Self:
        """Score and explain images by a fitted GEO, and plot them.

        Parameters
        ----------
        estimator : GEO
            Fitted.
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            The images to show.
        labels : sequence of n objects, default=None
            As in the class.
        max_rows : int, default=20
            As in `plot`. Too many rows are refused before any is explained.
        **plot_options
            Passed on to `plot`.

        Returns
        -------
        display : ViewsDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If `estimator` has no ``explain_views``.
        ValueError
            As `plot`.
        """
        import_pyplot()
        if not hasattr(estimator, "explain_views"):
            raise TypeError(
                f"A detector with explain_views is needed, such as GEO; got a "
                f"{type(estimator).__name__}. Of a Pipeline or a search, give the detector "
                "itself, and the rows that it sees."
            )
        check_rows_shown(X, max_rows)
        _image_shape(dense(X), estimator.image_shape_)
        return cls.from_predictions(
            X,
            estimator.explain_views(X),
            views=estimator.scored_views_,
            relevance=explain(estimator, X),
            scores=-normality(estimator, X),
            labels=labels,
            image_shape=estimator.image_shape_,
            max_rows=max_rows,
            **plot_options,
        )

    @classmethod
    def from_predictions(
        cls,
        X: ArrayLike,
        contributions: ArrayLike,
        *,
        views: Sequence[View],
        relevance: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        labels: Sequence[Any] | None = None,
        image_shape: ImageShape = None,
        **plot_options: Any,
    ) -> Self:
        """Plot contributions that are already there.

        Parameters
        ----------
        X : array-like of shape (n, d), (n, H, W) or (n, C, H, W)
            The images to show.
        contributions : array-like of shape (n, n_views)
            As in the class.
        views : list of View
            As in the class.
        relevance : array-like of the shape of X, default=None
            As in the class.
        scores : array-like of shape (n,), default=None
            As in the class.
        labels : sequence of n objects, default=None
            As in the class.
        image_shape : tuple, default=None
            As in the class.
        **plot_options
            Passed on to `plot`.

        Returns
        -------
        display : ViewsDisplay
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
            contributions,
            views=views,
            relevance=relevance,
            scores=scores,
            labels=labels,
            image_shape=image_shape,
        )
        return display.plot(**plot_options)

    def plot(
        self,
        *,
        figure: Figure | SubFigure | None = None,
        figsize: tuple[float, float] | None = None,
        cmap: str | Colormap = "RdBu_r",
        max_rows: int = 20,
    ) -> Self:
        """Draw the images.

        All squares share one scale, from minus to plus the largest contribution.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; it should be empty. None: a new figure.
        figsize : tuple of two float, default=None
            Inches, of a new figure. None: grows with the rows.
        cmap : str or Colormap, default="RdBu_r"
            Of the contributions.
        max_rows : int, default=20
            More rows than that are refused.

        Returns
        -------
        self : ViewsDisplay
            With the attributes of the class.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no row or more than `max_rows`, rows are no images, or shapes do not
            agree.
        """
        plt = import_pyplot()
        check_rows_shown(self.inputs, max_rows)
        inputs = dense(self.inputs)
        shape = _image_shape(inputs, self.image_shape)
        views = _views_of(self.views, shape)
        contributions = self._checked_contributions(inputs)
        titles = row_titles(len(inputs), self.scores, self.labels)
        places, rows, turns = _grid(views.views)
        squares = np.ma.masked_all((len(inputs), len(rows), len(turns)))
        squares[:, places[:, 0], places[:, 1]] = contributions
        reach = np.abs(contributions).max() or 1
        options = {"cmap": cmap, "vmin": -reach, "vmax": reach}
        columns = [*self._pictures(inputs, shape, views), ("views", squares, options)]
        if figure is None:
            size = maps_size(titles, shape, len(columns) + 1)
            figure = plt.figure(figsize=figsize or size, layout="compressed")
        self.figure_ = figure
        self.axes_, self.squares_ = draw_grid(figure, titles, columns)
        _label(self.axes_[:, -1], rows, turns)
        self.colorbar_ = figure.colorbar(
            self.squares_[0],
            ax=self.axes_,
            aspect=9 * len(inputs),
            label="added to the score",
        )
        return self

    def _checked_contributions(self, X):
        contributions = np.asarray(self.contributions, dtype=np.float64)
        if contributions.shape != (len(X), len(self.views)):
            raise ValueError(
                f"contributions must have shape ({len(X)}, {len(self.views)}), a row for "
                f"each image and a column for each view; got {contributions.shape}."
            )
        return finite(contributions, "contributions")

    def _pictures(self, X, shape, views):
        """Return the columns of pictures: images, heat maps, the view that adds most."""
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
        shown = pictures(X, shape)
        yield "input", shown, grey
        if self.relevance is not None:
            heat = heat_maps(self.relevance, "relevance", X, shape)
            low, high = color_scale(heat, 0.99)
            yield "relevance", heat, {"cmap": "inferno", "vmin": low, "vmax": high}
        worst = np.argmax(self.contributions, axis=1)
        seen = [_seen(p, views.subset([i])) for p, i in zip(shown, worst, strict=True)]
        yield "worst view", seen, grey


def _image_shape(X, wanted):
    shape = image_shape_of(X, wanted)
    if shape is None:
        raise ValueError(
            "Views are of images: give (n, H, W), (n, C, H, W), or image_shape; got flat "
            f"rows of shape {X.shape}."
        )
    return shape


def _views_of(views, shape):
    from skad.images import Views  # which brings torch

    return Views(views, shape[-2:])


def _seen(picture, view):
    """Show a picture (H, W) or (H, W, 3) by a view."""
    planes = np.moveaxis(picture[..., None] if picture.ndim == 2 else picture, -1, 0)
    seen = np.moveaxis(view(planes)[:, 0], 0, -1)
    return seen[..., 0] if picture.ndim == 2 else seen


def _grid(views):
    """Return row and column of each view, and the names of both."""
    rows = list(dict.fromkeys(_shift(view) for view in views))
    columns = list(dict.fromkeys(_turn(view) for view in views))
    places = [[rows.index(_shift(view)), columns.index(_turn(view))] for view in views]
    return np.array(places), rows, columns


def _shift(view):
    parts = [
        _ARROWS[name][value < 0] + str(abs(value))
        for name in ("up", "left")
        if (value := getattr(view, name))
    ]
    return " ".join(parts) or "0"


def _turn(view):
    return f"{90 * view.turns}°" + "\nmirrored" * view.mirrored


def _label(axes, rows, columns):
    """Name shifts on the right, turns below the last row."""
    for ax in axes:
        ax.set_yticks(range(len(rows)), rows, fontsize="xx-small")
        ax.yaxis.tick_right()
        ax.tick_params(length=0)
        ax.set_aspect("auto")
    names = [name.replace("\nmirrored", " m.") for name in columns]
    axes[-1].set_xticks(range(len(columns)), names, fontsize="xx-small", rotation=90)
