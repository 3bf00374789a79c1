"""The Clever Hans plane: how well detectors detect, and how well they explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from skad._typing import ArrayLike
from skad.plotting._common import COLORS, import_pyplot

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

__all__ = ["CleverHansDisplay"]

# Of like area; seven colours and ten markers make seventy pairs.
_MARKERS = {
    "o": 8,
    "s": 8,
    "D": 8,
    "^": 9,
    "v": 9,
    "P": 10,
    "*": 13,
    "X": 10,
    "<": 9,
    ">": 9,
}

Values: TypeAlias = "Mapping[str, float] | ArrayLike"


class CleverHansDisplay:
    """Show detection against explanation accuracy, one point for each detector.

    Make one by `from_report`, `from_benchmark` or `from_predictions`; `__init__` stores
    and checks nothing, `plot` draws. On the grey diagonals the Clever Hans score, which
    is the difference of the two, is the same; a Clever Hans is found at the lower right.
    The legend lists the detectors by their score, the highest first.

    Parameters
    ----------
    detection : dict of str to float, or array-like of shape (m,)
        ROC AUC of each detector.
    explanation : dict of str to float, or array-like of shape (m,)
        Mean cosine between masks and relevance, for the same detectors.
    names : sequence of m str, default=None
        Names of the detectors. None: the keys, or "detector 0", "detector 1", ...
    baseline : float, default=None
        Explanation accuracy of a constant map.

    Attributes
    ----------
    ax_ : Axes
    figure_ : matplotlib Figure
    points_ : dict of str to Line2D
        The marker of each detector.
    diagonals_ : list of Line2D
        Lines of equal Clever Hans score.
    baseline_ : Line2D or None
        The constant map.
    legend_ : Legend

    See Also
    --------
    skad.metrics.clever_hans_report : The numbers, of your detectors on one data set.
    skad.benchmark.benchmark : The numbers, on several.
    ExplanationDisplay : The rows one by one.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skad.plotting import CleverHansDisplay
    >>> display = CleverHansDisplay.from_predictions(
    ...     {"KDE": 0.9, "Deep SVDD": 0.95}, {"KDE": 0.7, "Deep SVDD": 0.3}, baseline=0.3
    ... )
    >>> [text.get_text() for text in display.legend_.get_texts()][:2]
    ['Deep SVDD (0.65)', 'KDE (0.20)']
    >>> plt.close(display.figure_)
    """

    ax_: Axes
    figure_: Figure | Any  # a SubFigure, where one was given
    points_: dict[str, Line2D]
    diagonals_: list[Line2D]
    baseline_: Line2D | None
    legend_: Legend

    def __init__(
        self,
        detection: Values,
        explanation: Values,
        *,
        names: Sequence[str] | None = None,
        baseline: float | None = None,
    ):
        self.detection = detection
        self.explanation = explanation
        self.names = names
        self.baseline = baseline

    @classmethod
    def from_report(
        cls,
        report: pd.DataFrame,
        *,
        kind: str = "all",
        ax: Axes | None = None,
        figsize: tuple[float, float] = (6.4, 4.2),
    ) -> Self:
        """Plot one kind of anomaly of a report.

        Parameters
        ----------
        report : pandas.DataFrame
            Of :func:`skad.metrics.clever_hans_report`.
        kind : str, default="all"
            The kind of anomaly.
        ax : Axes, default=None
            As in `plot`.
        figsize : tuple of two float, default=(6.4, 4.2)
            As in `plot`.

        Returns
        -------
        display : CleverHansDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the report has no such kind, or no anomaly of that kind has a mask.
        """
        rows = report[report["kind"] == kind]
        if not len(rows):
            kinds = sorted(set(report["kind"]))
            raise ValueError(f"The report has no kind {kind!r}; it has {kinds}.")
        return cls.from_predictions(
            rows["detection"].to_numpy(),
            rows["explanation"].to_numpy(),
            names=list(rows["detector"]),
            baseline=float(rows["baseline"].iloc[0]),
            ax=ax,
            figsize=figsize,
        )

    @classmethod
    def from_benchmark(
        cls,
        frame: pd.DataFrame,
        *,
        dataset: str | None = None,
        ax: Axes | None = None,
        figsize: tuple[float, float] = (6.4, 4.2),
    ) -> Self:
        """Plot the detectors of a benchmark, each by its mean.

        Seeds are averaged first, then datasets. Runs without an explanation, for want of
        masks or because they failed, are left out.

        Parameters
        ----------
        frame : pandas.DataFrame
            Of :func:`skad.benchmark.benchmark`.
        dataset : str, default=None
            One dataset. None: the mean over those with masks.
        ax : Axes, default=None
            As in `plot`.
        figsize : tuple of two float, default=(6.4, 4.2)
            As in `plot`.

        Returns
        -------
        display : CleverHansDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such dataset, or no row has an explanation.
        """
        rows = frame if dataset is None else frame[frame["dataset"] == dataset]
        if not len(rows):
            known = list(dict.fromkeys(frame["dataset"]))
            raise ValueError(f"The frame has no dataset {dataset!r}; it has {known}.")
        rows = rows[rows["explanation"].notna()]
        if not len(rows):
            raise ValueError("No row has an explanation to plot: that takes masks.")
        measures = ["roc_auc", "explanation", "baseline"]
        means = rows.groupby(["detector", "dataset"], sort=False)[measures].mean()
        means = means.groupby("detector", sort=False).mean()
        return cls.from_predictions(
            means["roc_auc"].to_numpy(),
            means["explanation"].to_numpy(),
            names=list(means.index),
            baseline=float(rows.groupby("dataset")["baseline"].mean().mean()),
            ax=ax,
            figsize=figsize,
        )

    @classmethod
    def from_predictions(
        cls,
        detection: Values,
        explanation: Values,
        *,
        names: Sequence[str] | None = None,
        baseline: float | None = None,
        ax: Axes | None = None,
        figsize: tuple[float, float] = (6.4, 4.2),
    ) -> Self:
        """Plot accuracies that are already there.

        Parameters
        ----------
        detection, explanation : dict of str to float, or array-like of shape (m,)
            As in the class.
        names : sequence of m str, default=None
            As in the class.
        baseline : float, default=None
            As in the class.
        ax : Axes, default=None
            As in `plot`.
        figsize : tuple of two float, default=(6.4, 4.2)
            As in `plot`.

        Returns
        -------
        display : CleverHansDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            As `plot`.
        """
        display = cls(detection, explanation, names=names, baseline=baseline)
        return display.plot(ax=ax, figsize=figsize)

    def plot(
        self, *, ax: Axes | None = None, figsize: tuple[float, float] = (6.4, 4.2)
    ) -> Self:
        """Draw the detectors.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None: a new figure.
        figsize : tuple of two float, default=(6.4, 4.2)
            Inches, of a new figure.

        Returns
        -------
        self : CleverHansDisplay
            With the attributes of the class.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no detector, two have one name, lengths or keys differ, or an
            accuracy is NaN or infinite.
        """
        plt = import_pyplot()
        names, x, y = _named_points(self.detection, self.explanation, self.names)
        if ax is None:
            _, ax = plt.subplots(figsize=figsize, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.points_ = _draw_points(ax, names, x, y)
        self.baseline_ = None
        if self.baseline is not None and np.isfinite(self.baseline):
            self.baseline_ = ax.axhline(
                self.baseline, color="0.35", linestyle=":", label="constant map", zorder=0.5
            )
        _set_limits(ax, x, y if self.baseline_ is None else [*y, self.baseline])
        self.diagonals_ = _draw_diagonals(ax)
        self.legend_ = _draw_legend(ax, self.points_, x - y, self.baseline_)
        return self


def _named_points(detection, explanation, names):
    if hasattr(detection, "keys") != hasattr(explanation, "keys"):
        raise ValueError("detection and explanation must both be dicts, or neither.")
    if hasattr(detection, "keys"):
        names, detection, explanation = _from_dicts(detection, explanation, names)
    x, y = (np.array(a, dtype=np.float64, ndmin=1) for a in (detection, explanation))
    if names is None:
        names = [f"detector {i}" for i in range(len(x))]
    if not (x.shape == y.shape == (len(names),) and len(names)):
        raise ValueError(
            "detection, explanation and names must be of one length, at least 1, got "
            f"{x.shape}, {y.shape} and {len(names)}."
        )
    _check_points(names, x, y)
    return list(map(str, names)), x, y


def _from_dicts(detection, explanation, names):
    if set(detection) != set(explanation):
        raise ValueError(
            "detection and explanation must have the same keys, got "
            f"{list(detection)} and {list(explanation)}."
        )
    keys = list(detection)
    columns = [[column[key] for key in keys] for column in (detection, explanation)]
    return (keys if names is None else names), *columns


def _check_points(names, x, y):
    if len(set(names)) < len(names):
        raise ValueError(f"Two detectors have the same name: {list(names)}.")
    unknown = [n for n, ok in zip(names, np.isfinite(x + y), strict=True) if not ok]
    if unknown:
        raise ValueError(
            f"No point for {unknown}: an accuracy is NaN or infinite. Explanation "
            "accuracy is NaN where no anomaly has a mask."
        )


def _draw_points(ax, names, x, y):
    points, markers = {}, list(_MARKERS.items())
    for i, name in enumerate(names):
        marker, size = markers[i % len(markers)]
        (points[name],) = ax.plot(
            x[i],
            y[i],
            linestyle="none",
            marker=marker,
            color=COLORS[i % len(COLORS)],
            markersize=size,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=3,
            clip_on=False,
        )
    ax.set(xlabel="detection (ROC AUC)", ylabel="explanation (cosine with the mask)")
    ax.spines[["top", "right"]].set_visible(False)
    return points


def _set_limits(ax, x, y):
    """Whole tenths around the points, and not so close that noise looks large."""
    left = np.clip(np.floor(10 * min(x) - 0.5) / 10, None, 0.7)
    ax.set_xlim(left, max(1, max(x)))
    ax.set_ylim(min(0, min(y)), min(1, np.ceil(10 * max(y) + 0.5) / 10))


def _draw_diagonals(ax):
    """Lines of equal Clever Hans score, each with its value where it leaves the axes."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    step = 0.1 if (right - left) + (top - bottom) < 1 else 0.2
    first, last = (
        np.ceil((left - top) / step + 0.1),
        np.floor((right - bottom) / step - 0.1),
    )
    lines = []
    for score in (step * np.arange(first, last + 1)).round(1) + 0.0:
        lines.append(ax.axline((score, 0), slope=1, color="0.85", linewidth=0.8, zorder=0))
        start = max(left, score + bottom)
        x = start + 0.06 * (right - left)
        ax.text(
            x,
            x - score,
            f"{score:.1f}",
            color="0.5",
            fontsize="small",
            ha="center",
            va="center",
            rotation=45,
            transform_rotates_text=True,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            clip_on=True,
            zorder=1,
        )
    return lines


def _draw_legend(ax, points, score, baseline):
    """List the detectors beside the axes, where nothing can overlap."""
    from matplotlib.lines import Line2D

    names = list(points)
    order = np.argsort(-score, kind="stable")
    handles = [points[names[i]] for i in order]
    texts = [f"{names[i]} ({score[i]:.2f})" for i in order]
    handles.append(Line2D([], [], color="0.85", label="equal Clever Hans score"))
    handles += [] if baseline is None else [baseline]
    texts += [handle.get_label() for handle in handles[len(texts) :]]
    return ax.legend(
        handles,
        texts,
        title="Clever Hans score",
        loc="upper left",
        bbox_to_anchor=(1.04, 1),
        alignment="left",
        frameon=False,
    )
