"""Drawing: grids of images and heat maps, and bars."""

from math import ceil

import numpy as np

from skad.plotting._common import BLUE, VERMILION

_CELL = 1.3  # inches: the longer side of an image
_LETTER = 0.085  # inches: the mean width
_BAR = 0.24  # inches: the height of one feature's bar


def maps_size(titles, shape, n_columns):
    """Inches of a figure with a row of pictures for each sample."""
    height, width = shape[-2:]
    cell = _CELL / max(height, width)
    beside = 1.1 + _LETTER * max(len(line) for t in titles for line in t.split("\n"))
    return (
        n_columns * (cell * width + 0.1) + beside,
        max(len(titles) * (cell * height + 0.1), 1.4) + 0.4,
    )


def color_scale(reference, quantile):
    """Lower and upper end of the colours, never the same."""
    low = reference.min()
    width = np.quantile(reference - low, quantile) or (reference - low).max()
    return low, low + (width or 1)


def beyond(maps, low, high):
    """On which sides the scale clips, in the words of a colour bar's `extend`."""
    below, above = maps.min() < low, maps.max() > high
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max"}.get((below, above), "both")


def pictures(X, shape):
    """Return the inputs as pictures in [0, 1] on one scale: RGB if three channels."""
    X = np.asarray(X, dtype=np.float64).reshape(len(X), -1, *shape[-2:])
    low, high = min(np.nanmin(X), 0), np.nanmax(X)
    # Values in [0, 1] stay what they are: pictures of two figures can be compared.
    high = 1 if low == 0 and high <= 1 else high
    X = (X - low) / ((high - low) or 1)
    return np.moveaxis(X, 1, -1) if X.shape[1] == 3 else X.mean(axis=1)


def draw_grid(figure, titles, columns):
    """One sample a row, one kind of picture a column; give axes and last column."""
    shape = (len(titles), len(columns))
    axes = figure.subplots(*shape, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for j, (name, pictures, options) in enumerate(columns):
        axes[0, j].set_title(name, fontsize="medium")
        shown = [
            ax.imshow(p, **options) for ax, p in zip(axes[:, j], pictures, strict=True)
        ]
    for ax, title in zip(axes[:, 0], titles, strict=True):
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
    return axes, shown


def bars_size(texts):
    """Inches of a figure with bars of these names."""
    rows, columns = _bars_grid(len(texts))
    width = 3 + _LETTER * max(len(text) for row in texts for text in row)
    return width * columns, rows * (_BAR * len(texts[0]) + 0.5) + 0.6


def _bars_grid(n):
    columns = 1 if n < 4 else 2
    return ceil(n / columns), columns


def column_names(names, inputs, X):
    """Names of the features: as given, else of the columns, else by number."""
    if names is None:
        names = getattr(inputs, "columns", [f"x{j}" for j in range(X.shape[1])])
    if len(names) != X.shape[1]:
        raise ValueError(
            f"feature_names has {len(names)} entries, but X has {X.shape[1]} features."
        )
    return list(names)


def bars_axes(figure, titles):
    """One set of axes for each sample, under its title."""
    grid = figure.subplots(*_bars_grid(len(titles)), squeeze=False).ravel()
    axes, spare = grid[: len(titles)], grid[len(titles) :]
    for ax in spare:
        ax.remove()
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title.replace("\n", ", "), loc="left", fontsize="medium")
    return axes


def draw_bars(axes, relevance, texts):
    """Signed bars from the top down."""
    place, bars = np.arange(relevance.shape[1]), []
    for ax, values, names in zip(axes, relevance, texts, strict=True):
        bars.append(ax.barh(place, values, color=np.where(values > 0, VERMILION, BLUE)))
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_yticks(place, names)
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    return bars


def share_scale(figure, axes, relevance):
    """Return all axes one range, and name it once."""
    low, high = min(relevance.min(), 0), max(relevance.max(), 0)
    room = 0.03 * ((high - low) or 1)
    for ax in axes:
        ax.set_xlim(low - room, high + room)
    figure.supxlabel("relevance (evidence for anomaly)", fontsize="medium")


def hatch(bars, mask):
    """Hatch the bars in the mask."""
    for container, row in zip(bars, mask, strict=True):
        for bar, masked in zip(container, row, strict=True):
            if masked:
                bar.set(hatch="////", edgecolor="black")


def mask_legend(figure):
    """Say what the hatching means."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    hatched = Patch(facecolor="white", edgecolor="black", hatch="////", label="in the mask")
    # Only a constrained layout can make room outside of the axes.
    room = isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)
    place = "outside upper right" if room else "upper right"
    return figure.legend(handles=[hatched], loc=place, frameon=False)
