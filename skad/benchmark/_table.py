"""Means and ranks of detectors over datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skad.benchmark._data import import_pandas

if TYPE_CHECKING:
    import pandas as pd


_SECONDS = ("fit_seconds", "score_seconds", "explain_seconds")
_LOWER_IS_BETTER = {"clever_hans", "peak_mib", *_SECONDS}


def rank_table(
    frame: pd.DataFrame, *, by: str | Sequence[str] = ("roc_auc", "faithfulness")
) -> pd.DataFrame:
    """Summarise a benchmark: one row for each detector, the best first.

    Seeds are averaged first. On each dataset, the best detector has rank 1 and ties have
    their mean rank; a detector without a value there, because all its runs failed or the
    measure is undefined, has the worst rank. A dataset on which a measure is undefined
    for all detectors does not count for that measure.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of :func:`benchmark`.
    by : str or sequence of str, default=("roc_auc", "faithfulness")
        The measures. Higher is better, but for ``clever_hans``, seconds and
        ``peak_mib``.

    Returns
    -------
    table : pandas.DataFrame
        Indexed by detector, with columns

        - each measure: its mean over the datasets where it is defined
        - ``rank_<measure>``: its mean rank over the datasets
        - ``both``: the mean of these ranks; the table is sorted by it
        - ``fit_seconds``, ``score_seconds``, ``explain_seconds``: medians over the runs
        - ``failures``: how many runs have an error, "explain: ..." among them

    Raises
    ------
    ImportError
        If pandas is not installed.
    ValueError
        If the frame is empty or has no such measure.

    See Also
    --------
    benchmark : Gives the frame.

    Examples
    --------
    >>> import pandas as pd
    >>> from skad.benchmark import rank_table
    >>> frame = pd.DataFrame({
    ...     "detector": ["KDE", "KNN"], "dataset": "pumps", "seed": 0, "error": "",
    ...     "roc_auc": [0.9, 0.8], "faithfulness": [0.2, 0.2],
    ...     "fit_seconds": 1.0, "score_seconds": 1.0, "explain_seconds": 1.0,
    ... })
    >>> rank_table(frame)[["rank_roc_auc", "rank_faithfulness", "both"]]
              rank_roc_auc  rank_faithfulness  both
    detector
    KDE                1.0                1.5  1.25
    KNN                2.0                1.5  1.75
    """
    pd = import_pandas("rank_table")
    by = (by,) if isinstance(by, str) else tuple(by)
    _check(frame, by)
    groups = frame.groupby("detector", sort=False)
    means = {measure: _by_dataset(frame, measure) for measure in by}
    ranks = {f"rank_{m}": _ranks(means[m], m).mean() for m in by}
    table = pd.DataFrame({m: means[m].mean() for m in by} | ranks)
    table["both"] = table[list(ranks)].mean(axis=1)
    for seconds in _SECONDS:
        if seconds not in table:
            table[seconds] = groups[seconds].median()
    table["failures"] = _failed(frame).groupby(frame["detector"]).sum()
    return table.rename_axis(index="detector", columns=None).sort_values(
        "both", kind="stable"
    )


def _check(frame, by):
    if not len(frame):
        raise ValueError("The frame has no rows.")
    unknown = [measure for measure in by if measure not in frame]
    if unknown or not by:
        raise ValueError(
            f"by must name columns of the frame, got {list(by)}; it has {list(frame)}."
        )


def _by_dataset(frame, measure):
    """Mean over the seeds: a dataset a row, a detector a column, in the frame's order."""
    means = frame.groupby(["dataset", "detector"], sort=False)[measure].mean()
    return means.unstack("detector")[list(dict.fromkeys(frame["detector"]))]


def _ranks(means, measure):
    means = means[means.notna().any(axis=1)]
    ranks = means.rank(axis=1, ascending=measure in _LOWER_IS_BETTER)
    return ranks.fillna(means.shape[1])


def _failed(frame):
    return frame["error"].fillna("") != ""  # read back from CSV, no error is NaN
