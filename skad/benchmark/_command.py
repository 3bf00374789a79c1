"""The command line: ``python -m skad.benchmark``."""

import argparse
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

from skad.benchmark._catalog import describe_names
from skad.benchmark._data import import_pandas, load_table, table_name
from skad.benchmark._inputs import read_dataset, read_detectors
from skad.benchmark._run import benchmark
from skad.benchmark._table import rank_table

_DETECTORS = "kde,knn,iforest,ecod"
_QUALITY = {
    "roc_auc": "roc_auc",
    "average_precision": "avg_prec",
    "explanation": "explanation",
    "baseline": "baseline",
    "pixel_roc_auc": "pixel_auc",
    "clever_hans": "clever_hans",
    "faithfulness": "faithfulness",
}
_COST = {
    "fit_seconds": "fit_s",
    "score_seconds": "score_s",
    "explain_seconds": "explain_s",
    "peak_mib": "peak_mib",
}


def main(argv=None):
    """Run the command.

    Parameters
    ----------
    argv : list of str, default=None
        The arguments. None: those of the process.

    Returns
    -------
    code : int
        0; 1 when every run failed; 2 after a mistake in what was asked for; 130 when
        interrupted.
    """
    args = _parser().parse_args(argv)
    if args.list:
        print("\n".join(describe_names()))
        return 0
    try:
        _check_outputs(args)
        detectors = read_detectors([d.strip() for d in args.detectors.split(",")])
        datasets = _read_files(args)
        if args.plot and all(data.mask is None for data in datasets.values()):
            raise ValueError("--plot needs masks, and no file has any.")
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        frame = _compare(args, detectors, datasets)
    except KeyboardInterrupt:
        kept = "Nothing is kept; --cache FOLDER would keep what is done."
        if args.cache:
            kept = f"What is done is kept in {args.cache}: the same command goes on there."
        print(f"\nInterrupted. {kept}", file=sys.stderr)
        return 130
    _report(args, frame)
    return int((frame["error"] != "").all())


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m skad.benchmark",
        description="Compare anomaly detectors, trained on normal rows, on labelled data.",
    )
    add = parser.add_argument
    add("--detectors", default=_DETECTORS, help=f"names, by commas ({_DETECTORS})")
    add("--list", action="store_true", help="list the names of detectors, and stop")
    add("--data", type=Path, nargs="+", metavar="PATH", help=".npz, .csv[.gz], .parquet")
    add("--label", metavar="NAME", help="column of labels (label, y, target, class, ...)")
    add("--seeds", type=_count, default=5, metavar="N", help="how many seeds (5)")
    add("--max-rows", type=_count, default=5000, metavar="N", help="of each kind (5000)")
    add("--explained", type=_count, default=100, metavar="N", help="anomalies (100)")
    add("--no-scale", action="store_true", help="don't standardise the columns")
    add("--jobs", type=_count, metavar="N", help="processes (1)")
    add("--cache", type=Path, metavar="FOLDER", help="keep runs; go on from there")
    add("--output", type=Path, metavar="FILE.csv", help="write a row for each run")
    add("--plot", type=Path, metavar="FILE.png", help="detection against explanation")
    return parser


def _count(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def _check_outputs(args):
    """Find out before the runs what would fail after them."""
    import_pandas("The comparison")
    if args.plot and find_spec("matplotlib") is None:
        raise ImportError("--plot needs matplotlib: pip install 'skad[plot]'.")
    for path in filter(None, (args.output, args.plot)):
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a file.")
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}.")
    if args.cache and args.cache.exists() and not args.cache.is_dir():
        raise ValueError(f"--cache {args.cache} is a file, not a folder.")
    if args.max_rows < 2:
        raise ValueError("--max-rows must be 2 or more.")


def _read_files(args):
    if args.data is None:
        from skad.datasets import load_corrupted_digits

        print("No --data: corrupted digits, with masks of what is wrong, not scaled.\n")
        digits = load_corrupted_digits("all")
        return {"digits": read_dataset("digits", digits)}
    datasets = {}
    for path in args.data:
        name = table_name(path)
        name = str(path) if name in datasets else name
        datasets[name] = read_dataset(name, load_table(path, label=args.label))
    return datasets


def _compare(args, detectors, datasets):
    with warnings.catch_warnings():
        # What failed is printed below the tables.
        warnings.filterwarnings("ignore", r"\d+ of \d+ runs failed", UserWarning)
        return benchmark(
            detectors,
            datasets,
            seeds=args.seeds,
            scale=not args.no_scale,
            max_rows=args.max_rows,
            n_explained=args.explained,
            n_jobs=args.jobs,
            cache=args.cache,
        )


def _report(args, frame):
    for _, rows in frame.groupby("dataset", sort=False):
        _print_dataset(rows)
    _print_ranks(frame)
    _print_errors(frame)
    if args.output:
        frame.to_csv(args.output, index=False)
        print(f"Rows: {args.output}")
    else:
        print("Rows: not written; --output FILE.csv writes them.")
    if args.plot:
        _plot(frame, args.plot)


def _print_dataset(rows):
    first = rows.iloc[0]
    print(
        f"{first['dataset']}: {first['n_train']} normal rows train, "
        f"{first['n_test']} test, {first['n_anomalies']} of them anomalies; "
        f"{first['n_features']} features, {rows['seed'].nunique()} seeds"
    )
    groups = rows.groupby("detector")
    # Medians, since the first run of a detector pays for what it imports and compiles.
    table = groups[list(_QUALITY)].mean().join(groups[list(_COST)].median())
    table = table.dropna(axis=1, how="all").rename(columns=_QUALITY | _COST)
    if table.empty:
        print("No detector has results.\n")
        return
    table = table.sort_values("roc_auc", ascending=False)
    print(f"{table.round(3).to_string()}\n")


def _print_ranks(frame):
    masks = frame.groupby("dataset")["explanation"].count().all()
    by = ("roc_auc", "explanation" if masks else "faithfulness")
    datasets = frame["dataset"].nunique()
    print(f"Mean ranks by {' and '.join(by)} over {datasets} dataset(s); 1 is best")
    table = rank_table(frame, by=by).rename(columns=_COST)
    print(f"{table.round(3).to_string()}\n")


def _print_errors(frame):
    failed = frame[frame["error"] != ""]
    for (detector, dataset, error), rows in failed.groupby(
        ["detector", "dataset", "error"], sort=False
    ):
        print(f"FAILED {detector} on {dataset}, {len(rows)} run(s): {error[:300]}")
    if len(failed):
        print()


def _plot(frame, path):
    from skad.plotting import CleverHansDisplay

    if frame["explanation"].notna().any():
        display = CleverHansDisplay.from_benchmark(frame)
        display.figure_.savefig(path, bbox_inches="tight")
        print(f"Plot: {path}")
    else:
        print("Plot: none, since no run has an explanation.")
