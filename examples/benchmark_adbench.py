"""Detectors that score well, and say why: all sets of ADBench at hand, one command.

    python examples/benchmark_adbench.py --data adbench --tables docs/tables
    python examples/benchmark_adbench.py --quick

Eighteen detectors of skad, scikit-learn and PyOD, with their own settings, train on half of
the normal rows of each set, and are compared by detection (ROC AUC), by how faithful their
explanations are (pixel flipping: does the outlier score fall, when the features that are
blamed give way to a normal row's?), and by time. It is `skad.benchmark.benchmark`, and
three tables made of its frame. Robust covariances and networks are left out on image
features of 512 columns, on which nobody is ranked.

Data: ``*.npz`` files of ADBench (github.com/Minqi824/ADBench) with arrays X and y (1 for
anomalies) in the folder ``--data``, or in ``adbench`` in the folder ``SKAD_DATA``; without
any, two of scikit-learn's own sets. Each run is kept in ``--cache``, so that a study that
was interrupted goes on where it was.
"""

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_wine

from skad.benchmark import benchmark, rank_table

FAST = [
    *("kde", "one_class_svm", "local_outlier_factor", "isolation_forest", "knn", "hbos"),
    *("ecod", "copod", "loda", "pca", "gmm", "pyod_kde"),
]
SLOW = [
    *("elliptic_envelope", "mcd", "autoencoder", "deep_svdd", "iocn", "normalizing_flow"),
]
# Image features of 512 columns, which take the slow ones from a minute to more than ten.
WIDE = {"CIFAR10_0", "SVHN_0"}


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    sets = find_sets(args)
    narrow = {name: data for name, data in sets.items() if name not in WIDE}
    frames = [
        benchmark(
            chosen,
            datasets,
            seeds=seeds,
            max_rows=args.max_rows,
            n_explained=args.explained,
            cache=args.cache,
            n_jobs=args.jobs,
        )
        for names, datasets, seeds in (
            (FAST, sets, args.seeds),
            (SLOW, narrow, args.seeds),
        )
        if (chosen := [name for name in names if name in args.detectors]) and datasets
    ]
    frame = pd.concat(frames, ignore_index=True)
    publish(args, "benchmark_adbench", summary(frame[~frame["dataset"].isin(WIDE)]))
    publish(args, "benchmark_adbench_detection", by_set(frame, "roc_auc"))
    publish(args, "benchmark_adbench_faithfulness", by_set(frame, "faithfulness"))
    failed = frame[frame["error"] != ""]
    for (name, error), rows in failed.groupby(["detector", "error"]):
        print(f"failed: {name}, {len(rows)} runs on {set(rows['dataset'])}: {error[:200]}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None, help="folder of .npz files")
    parser.add_argument("--sets", nargs="+", default=None, help="names; all")
    parser.add_argument("--detectors", nargs="+", default=[*FAST, *SLOW])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-rows", type=int, default=1000, help="of each kind")
    parser.add_argument("--explained", type=int, default=50, help="anomalies")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--cache", type=Path, default=Path("benchmark_adbench_cache"))
    parser.add_argument("--tables", type=Path, default=None, help="folder for .csv tables")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    if args.quick:
        args.max_rows, args.seeds, args.explained = 100, 1, 5
        args.detectors, args.cache = ["kde", "knn", "ecod"], args.cache / "quick"
    return args


def find_sets(args):
    """Give the path, or what loads it, of each set."""
    folder = args.data
    if folder is None and "SKAD_DATA" in os.environ:
        folder = Path(os.environ["SKAD_DATA"]) / "adbench"
    files = sorted(folder.glob("*.npz")) if folder and folder.is_dir() else []
    sets = {file.stem: file for file in files}
    if not sets:
        print("no sets of ADBench found: scikit-learn's own in their place")
        sets = {"breast_cancer": lambda: one_class(load_breast_cancer, 1)}
        sets["wine"] = lambda: one_class(load_wine, 1)
    if args.quick:
        sets = dict(list(sets.items())[:2])
    return {name: data for name, data in sets.items() if name in (args.sets or sets)}


def one_class(load, normal):
    X, y = load(return_X_y=True)
    return X, np.where(y == normal, 1, -1)


def summary(frame):
    """Means and ranks by detection, by faithfulness, and by both; times."""
    table = rank_table(frame, by=("roc_auc", "faithfulness"))
    by_seed = frame.groupby(["detector", "seed"])["roc_auc"].mean()
    table.insert(1, "standard error", by_seed.groupby("detector").sem())
    table["rank, detection alone"] = table["rank_roc_auc"].rank().astype(int)
    table["rank, both"] = table["both"].rank().astype(int)
    return table.round(3)


def by_set(frame, measure):
    """Means over the seeds: a set a row, a detector a column."""
    return frame.pivot_table(measure, "dataset", "detector", sort=False).round(3)


def publish(args, name, table):
    """Print a table, and write it for the documentation."""
    print(f"\n{name}\n{table.to_string()}\n", flush=True)
    if args.tables:
        table.to_csv(args.tables / f"{name}.csv")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    main()
