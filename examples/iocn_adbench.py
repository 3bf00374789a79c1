"""IOCN and the flow on tables: the sets of ADBench, trained on normal rows alone.

    python examples/iocn_adbench.py --data adbench --tables docs/tables
    python examples/iocn_adbench.py --quick

Half of the normal rows train, the other half and all anomalies test, each 5,000 rows at
most, drawn anew for every seed; all detectors see columns standardised by the training
rows. "literal" is Algorithm 1 as it stands, with what the paper leaves open as a first
guess: one network of its size (12 blocks of 128), Adam with its own settings at a constant
rate, nothing else.

Data: ``*.npz`` files of ADBench (github.com/Minqi824/ADBench) with arrays X and y (1 for
anomalies) in the folder ``--data``, or in ``adbench`` in the folder ``SKAD_DATA``; without
any, two of scikit-learn's own sets. Each run is kept in ``--cache``, so that a study that
was interrupted goes on where it was.
"""

import argparse
import os
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyod.models.copod import COPOD
from pyod.models.deep_svdd import DeepSVDD as PyODDeepSVDD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.pca import PCA
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from skad import IOCN, KDE, NormalizingFlow, PyODDetector

START = time.perf_counter()
LITERAL = {
    "n_blocks": 12,
    "hidden": 128,
    "n_members": 1,
    "noise": 0.0,
    "held_out": 0.0,
    "max_refits": 0,
    "lr_schedule": None,
    "net_params": {"optimizer": torch.optim.Adam},
}
# By which the defaults of IOCN were chosen: the others are a test of them.
CHOSEN_BY = {
    *("14_glass", "18_Ionosphere", "20_letter", "28_pendigits"),
    *("37_Stamps", "41_Waveform", "45_wine", "6_cardio"),
}
# What makes a detector, by name: of a seed and of the number of features.
METHODS = {
    "IOCN": lambda seed, d: IOCN(random_state=seed),
    "IOCN, literal": lambda seed, d: IOCN(**LITERAL, random_state=seed),
    "NormalizingFlow": lambda seed, d: NormalizingFlow(random_state=seed),
    "skad KDE": lambda seed, d: KDE(),
    "KNN": lambda seed, d: PyODDetector(KNN()),
    "PCA": lambda seed, d: PyODDetector(PCA()),
    "IForest": lambda seed, d: PyODDetector(IForest(), random_state=seed),
    "COPOD": lambda seed, d: PyODDetector(COPOD()),
    "DeepSVDD": lambda seed, d: PyODDetector(
        PyODDeepSVDD(n_features=d, verbose=0), random_state=seed
    ),
}


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    args.cache.mkdir(parents=True, exist_ok=True)
    runs = [
        once(args, name, method, seed, partial(run, args, load, name, method, seed))
        for seed in range(args.seeds)
        for name, load in find_sets(args).items()
        for method in args.methods
    ]
    runs = pd.concat(runs, ignore_index=True)
    publish(args, "iocn_adbench", set_table(runs))
    publish(args, "iocn_adbench_summary", summary_table(runs))
    publish(args, "iocn_adbench_health", health_table(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None, help="folder of .npz files")
    parser.add_argument("--sets", nargs="+", default=None, help="names; all")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, default=5000, help="rows of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("iocn_adbench_cache"))
    parser.add_argument("--tables", type=Path, default=None, help="folder for .csv tables")
    parser.add_argument("--quick", action="store_true", help="two small sets, one seed")
    args = parser.parse_args()
    if args.quick:
        args.most, args.seeds, args.cache = 200, 1, args.cache / "quick"
    return args


def find_sets(args):
    """Give what loads each set, by name; sets of deep features are left out."""
    folder = args.data
    if folder is None and "SKAD_DATA" in os.environ:
        folder = Path(os.environ["SKAD_DATA"]) / "adbench"
    files = sorted(folder.glob("*.npz")) if folder and folder.is_dir() else []
    sets = {f.stem: partial(read, f) for f in files if f.stem[0].isdigit()}
    if not sets:
        say("no sets of ADBench found: scikit-learn's own in their place")
        sets = {"breast_cancer": partial(one_class, load_breast_cancer, 1)}
        sets["wine"] = partial(one_class, load_wine, 1)
    if args.quick:
        sets = dict(sorted(sets.items(), key=lambda item: item[0])[:2])
    return {name: load for name, load in sets.items() if name in (args.sets or sets)}


def read(file):
    with np.load(file) as arrays:
        return arrays["X"].astype(np.float64), arrays["y"] == 1


def one_class(load, normal):
    X, y = load(return_X_y=True)
    return X, y != normal


def run(args, load, name, method, seed):
    """Fit on normal rows, score the others; give a table of one row."""
    X, anomalous = load()
    rng = np.random.default_rng(seed)
    normal = rng.permutation(np.flatnonzero(~anomalous))
    odd = rng.permutation(np.flatnonzero(anomalous))[: args.most]
    half = len(normal) // 2
    train, fresh = normal[:half][: args.most], normal[half:][: args.most]
    scaler = StandardScaler().fit(X[train])
    own, others = scaler.transform(X[train]), scaler.transform(X[np.r_[fresh, odd]])
    y = np.repeat([0, 1], [len(fresh), len(odd)])
    detector, begin = METHODS[method](seed, X.shape[1]), time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.fit(own)
    row = {"set": name, "method": method, "seed": seed, "n": len(own), "d": X.shape[1]}
    row["seconds"] = time.perf_counter() - begin
    row["warnings"] = "; ".join({str(w.message)[:60] for w in caught})
    scores = -detector.score_samples(others)
    row["auc"] = auc(y, scores)
    rows = [row]
    if isinstance(detector, IOCN):
        row |= {k: np.max(v) for k, v in detector.diagnostics_.items()}
        row["inside"] = detector.diagnostics_["inside"].mean()
        row["inside, fresh"] = (detector.member_scores(others[y == 0]) <= 0).mean()
    if method == "IOCN":
        other = -detector.set_params(distance="data").score_samples(others)
        variant = {"method": "IOCN, distance in data", "auc": auc(y, other)}
        rows.append({**row, **variant})
    say(f"{name}, {method}, seed {seed}: {row['auc']:.3f}")
    return pd.DataFrame(rows)


def auc(y, scores):
    """ROC AUC; a score that is no number comes last, since it says nothing."""
    scores = np.clip(np.nan_to_num(scores, nan=-1e300), -1e300, 1e300)
    return roc_auc_score(y, scores)


def once(args, name, method, seed, make):
    """Give the table of a run, made now or by an earlier call."""
    words = method.replace(", ", "_").replace(" ", "_")
    path = args.cache / f"{args.most}-{name}-{words}-{seed}.csv"
    if not path.exists():
        make().to_csv(path, index=False)
    return pd.read_csv(path)


def set_table(runs):
    """Mean ROC AUC over the seeds, a set a row."""
    table = runs.pivot_table("auc", ["set", "n", "d"], "method", sort=False)
    return table.round(3).reset_index().set_index("set")


def summary_table(runs):
    """Mean ROC AUC and mean rank over the sets, and differences to IOCN."""
    by_set = runs.pivot_table("auc", "set", "method", sort=False)
    ranks = by_set.rank(axis=1, ascending=False)
    away = by_set.sub(by_set["IOCN"], axis=0) if "IOCN" in by_set else by_set * np.nan
    unseen = ~by_set.index.isin(CHOSEN_BY)
    seeds = runs.groupby(["method", "set"])["auc"].std().groupby("method").mean()
    table = pd.DataFrame({"mean AUC": by_set.mean(), "median AUC": by_set.median()})
    table["mean rank"] = ranks.mean()
    table["less IOCN"], table["standard error over sets"] = away.mean(), away.sem()
    table["mean AUC, unseen sets"] = by_set[unseen].mean()
    table["less IOCN, unseen sets"] = away[unseen].mean()
    table["its standard error"] = away[unseen].sem()
    table["spread of seeds"] = seeds
    table["seconds a fit"] = runs.groupby("method")["seconds"].mean()
    return table.round(3).sort_values("mean AUC", ascending=False)


def health_table(runs):
    """What the diagnostics of IOCN say, the worst of the sets and seeds."""
    runs = runs[runs["method"].isin(["IOCN", "IOCN, literal"])]
    if runs.empty:
        return runs
    groups = runs.groupby("method")
    table = pd.DataFrame(
        {
            "runs": groups.size(),
            "worst round trip": groups["round_trip"].max().map("{:.1e}".format),
            "round trips above 1e-3": groups["round_trip"].agg(
                lambda e: (~(e < 1e-3)).sum()
            ),
            "worst gradient norm": groups["gradient_norm"].max().round(1),
            "runs with networks trained again": groups["refitted"].agg(
                lambda n: (n > 0).sum()
            ),
            "inside, trained": groups["inside"].mean().round(2),
            "inside, fresh": groups["inside, fresh"].mean().round(2),
            "least inside, fresh": groups["inside, fresh"].min().round(2),
        }
    )
    return table


def publish(args, name, table):
    """Print a table, and write it for the documentation."""
    print(f"\n{name}\n{table.to_string()}\n", flush=True)
    if args.tables:
        table.to_csv(args.tables / f"{name}.csv")
        say(f"wrote {args.tables / name}.csv")


def say(text):
    print(f"{time.perf_counter() - START:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
