"""IOCN on features of CIFAR-10, one class against the others: Table 1 of the paper.

    python examples/iocn_features.py --tables docs/tables
    python examples/iocn_features.py --quick
    pip install --no-deps deepod==0.2.0
    python examples/iocn_features.py --deepod DeepSVDD RCA "ICL, 10 epochs"

The paper's features are those of MoCo, 128 numbers an image. Here they are others of as
many numbers, so that the order of the methods can be compared with the paper's, not the
figures. Rows are scaled to length 1 for all methods, as there. "whitened" methods see them
with all directions alike (principal components of the training rows with variance 1).

Then, for some classes, the conditions of the paper's order: IOCN above the flow and above
KNN; and, with ``--deepod``, detectors of DeepOD (DeepSVDD, RCA, ICL, GOAD; its version on
PyPI has no SLAD), with so many epochs, or 100, its own number.

Data: ``cifar10_efficientnet_lite0_128.npz`` in ``SKAD_DATA`` (x_train, y_train, x_test,
y_test), else a file of such arrays by ``--data``, else scikit-learn's digits. Each run is
kept in ``--cache``, so that a study that was interrupted goes on where it was.
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
from pyod.models.deep_svdd import DeepSVDD
from pyod.models.iforest import IForest
from pyod.models.kde import KDE as PyODKDE
from pyod.models.knn import KNN
from pyod.models.pca import PCA as PyODPCA
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skad import IOCN, KDE, NormalizingFlow, PyODDetector

START = time.perf_counter()
CLASSES = (
    *("plane", "car", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
TABLE_1 = {  # ROC AUC in per cent, by class, of the paper's features
    "COPOD": (85.4, 97.6, 77.5, 83.3, 90.3, 84.6, 92.9, 91.3, 97.2, 96.3),
    "IForest": (92.8, 97.7, 85.3, 85.5, 91.0, 88.6, 93.4, 93.4, 97.3, 96.5),
    "KDE": (94.7, 99.1, 90.9, 90.7, 93.6, 92.2, 96.6, 95.4, 98.8, 98.3),
    "PCA": (94.5, 99.0, 91.1, 90.7, 93.7, 93.1, 97.0, 95.6, 98.8, 98.4),
    "KNN": (95.9, 98.7, 92.7, 90.9, 93.9, 95.7, 98.2, 96.2, 98.8, 97.7),
    "DeepSVDD": (91.2, 95.1, 84.7, 83.9, 84.4, 87.3, 94.2, 91.3, 94.5, 94.5),
    "GOAD": (94.6, 99.1, 90.7, 90.2, 93.7, 91.6, 96.4, 95.4, 98.7, 98.2),
    "ICL": (96.1, 98.8, 90.1, 89.8, 94.0, 95.5, 98.2, 96.3, 98.4, 98.4),
    "RCA": (95.9, 99.0, 93.1, 92.5, 93.7, 96.0, 98.3, 96.1, 98.8, 98.4),
    "NormalizingFlow": (95.5, 97.6, 93.3, 89.5, 93.4, 95.5, 97.8, 94.1, 98.1, 97.1),
    "IOCN": (96.7, 98.3, 94.6, 92.9, 94.5, 96.3, 98.7, 96.3, 98.4, 97.9),
}
# Detectors by name, made of a seed.
METHODS = {
    "IOCN": lambda seed: IOCN(random_state=seed),
    "NormalizingFlow": lambda seed: NormalizingFlow(random_state=seed),
    "skad KDE": lambda seed: KDE(),
    "KNN": lambda seed: PyODDetector(KNN()),
    "PCA": lambda seed: PyODDetector(PyODPCA()),
    "KDE": lambda seed: PyODDetector(PyODKDE()),
    "COPOD": lambda seed: PyODDetector(COPOD()),
    "IForest": lambda seed: PyODDetector(IForest(), random_state=seed),
    "DeepSVDD": lambda seed: PyODDetector(
        DeepSVDD(n_features=128, verbose=0), random_state=seed
    ),
    "Mahalanobis": lambda seed: EllipticEnvelope(support_fraction=1.0),
    "IOCN, whitened": lambda seed: whitened(IOCN(random_state=seed)),
    "NormalizingFlow, whitened": lambda seed: whitened(NormalizingFlow(random_state=seed)),
    "KNN, whitened": lambda seed: whitened(PyODDetector(KNN())),
    "skad KDE, whitened": lambda seed: whitened(KDE()),
}
SEEDS = {"IOCN": 5, "NormalizingFlow": 5, "IForest": 5, "DeepSVDD": 5}  # 1 for the others
# What may decide the order: network, members, length of the training, dimensions.
CONDITIONS = {
    "as it is": {},
    "one network": {"n_members": 1},
    "eight networks": {"n_members": 8},
    "the paper's network": {"n_blocks": 12, "hidden": 128, "n_members": 1},
    "a quarter of the steps": {"steps": 250},
    "three times the steps": {"steps": 3000},
    "no noise": {"noise": 0.0},
    "whitened": {"whiten": 128},
    "whitened, a quarter of the steps": {"whiten": 128, "steps": 250},
    "64 whitened components": {"whiten": 64},
    "32 whitened components": {"whiten": 32},
}


# A condition of these is run for the other methods too.
APPLIES_TO = {"NormalizingFlow": {"whiten", "n_members", "n_blocks", "hidden"}}
APPLIES_TO["KNN"] = {"whiten"}


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    args.cache.mkdir(parents=True, exist_ok=True)
    data = load(args)
    methods = {name: METHODS[name] for name in args.methods}
    jobs = [
        (name, label, seed, make)
        for seed in range(args.seeds)
        for label in args.classes
        for name, make in methods.items()
        if seed < SEEDS.get(name, 1)
    ]
    jobs += [
        (f"{kind} if {name}", label, 0, partial(conditioned, kind, condition))
        for label in args.some_classes
        for name, condition in CONDITIONS.items()
        for kind in ("IOCN", "NormalizingFlow", "KNN")
        if kind == "IOCN" or set(condition) <= APPLIES_TO[kind]
    ]
    jobs += [
        (f"DeepOD's {name}", label, 0, partial(deepod_detector, name))
        for label in args.classes
        for name in args.deepod
    ]
    runs = [once(args, *job[:3], partial(run, args, data, *job)) for job in jobs]
    runs = pd.concat(runs, ignore_index=True)
    publish(args, "iocn_features", detection_table(runs))
    if args.some_classes:
        publish(args, "iocn_features_conditions", condition_table(runs))
    if args.deepod:
        publish(args, "iocn_features_deepod", deepod_table(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--some-classes", type=int, nargs="*", default=[3])
    parser.add_argument("--methods", nargs="*", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--deepod", nargs="*", default=[], help="as 'RCA' 'ICL, 10 epochs'")
    parser.add_argument("--n-train", type=int, default=None, help="of a class; all")
    parser.add_argument("--epochs", default="auto", help="passes of IOCN and the flow")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("iocn_features_cache"))
    parser.add_argument("--tables", type=Path, default=None, help="folder for .csv tables")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    if args.quick:
        args.n_train, args.epochs, args.seeds = 300, 5, 1
        args.classes, args.some_classes = [0, 3], [3]
        args.cache = args.cache / "quick"
    return args


def load(args):
    """Give features and classes, of training and of test images."""
    file, folder = args.data, os.environ.get("SKAD_DATA")
    if file is None and folder:
        file = Path(folder) / "cifar10_efficientnet_lite0_128.npz"
    if file and file.exists():
        with np.load(file) as arrays:
            names = ("x_train", "y_train", "x_test", "y_test")
            arrays = [arrays[name] for name in names]
    else:
        say("no features found: scikit-learn's digits in their place")
        X, y = load_digits(return_X_y=True)
        X = np.pad(X, [(0, 0), (0, 64)])  # to 128
        arrays = [X[::2], y[::2], X[1::2], y[1::2]]
    X, y, X_test, y_test = arrays
    unit = Normalizer()
    X, X_test = (unit.fit_transform(part.astype(np.float64)) for part in (X, X_test))
    return X, y, X_test, y_test


def whitened(detector, n_components=None):
    return make_pipeline(PCA(n_components, whiten=True, random_state=0), detector)


def conditioned(kind, condition, seed):
    """Make a detector under a condition."""
    params = {k: v for k, v in condition.items() if k not in ("steps", "whiten")}
    if "steps" in condition:
        params["max_epochs"] = condition["steps"] // 20  # of 5,000 rows
    detector = {"KNN": lambda: PyODDetector(KNN())}.get(kind)
    if detector is None:
        make = {"IOCN": IOCN, "NormalizingFlow": NormalizingFlow}[kind]
        detector = partial(make, random_state=seed, **params)
    if "whiten" in condition:
        return whitened(detector(), condition["whiten"])
    return detector()


def deepod_detector(name, seed):
    """Make a detector of DeepOD, which has no common contract, with its own settings."""
    from deepod.models.dsvdd import DeepSVDD as DeepODSVDD
    from deepod.models.goad import GOAD
    from deepod.models.icl import ICL
    from deepod.models.rca import RCA

    kinds = {"DeepSVDD": DeepODSVDD, "RCA": RCA, "GOAD": GOAD, "ICL": ICL}
    kind, *epochs = name.split(", ")
    params = {"epochs": int(epochs[0].split()[0])} if epochs else {}
    return kinds[kind](device="cpu", verbose=0, random_state=seed, **params)


def run(args, data, name, label, seed, make):
    """Fit on one class, score all; give a table of one row."""
    X, y, X_test, y_test = data
    train = X[y == label][: args.n_train]
    detector, begin = make(seed), time.perf_counter()
    own = detector[-1] if hasattr(detector, "steps") else detector
    if args.epochs != "auto" and isinstance(own, IOCN | NormalizingFlow):
        own.set_params(max_epochs=int(args.epochs))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.fit(train)
    row = {"method": name, "class": label, "seed": seed}
    row["seconds"] = time.perf_counter() - begin
    row["warnings"] = "; ".join({str(w.message)[:60] for w in caught})
    # DeepOD's scores are higher for anomalies, and may be no numbers.
    sign = -1 if hasattr(detector, "score_samples") else 1
    score = detector.score_samples if sign < 0 else detector.decision_function
    scores = np.nan_to_num(sign * score(X_test), nan=-1e300)
    row["auc"] = 100 * roc_auc_score(y_test != label, scores)
    if isinstance(own, IOCN):
        row["round_trip"] = own.diagnostics_["round_trip"].max()
        row["inside"] = own.diagnostics_["inside"].mean()
        row["inside, held out"] = own.diagnostics_["inside_held_out"].mean()
    say(f"{name}, {CLASSES[label]}, seed {seed}: {row['auc']:.1f}")
    return pd.DataFrame([row])


def once(args, name, label, seed, make):
    """Give the table of a run, made now or by an earlier call."""
    words = name.replace(", ", "_").replace(" ", "_").replace("'", "")
    path = args.cache / f"{args.n_train}-{args.epochs}-{words}-{label}-{seed}.csv"
    if not path.exists():
        make().to_csv(path, index=False)
    return pd.read_csv(path)


def detection_table(runs):
    """Means over the seeds by class; the mean over the classes, its standard error."""
    known = [name for name in METHODS if name in set(runs["method"])]
    runs = runs[runs["method"].isin(known)]
    table = runs.pivot_table("auc", "method", "class").loc[known]
    by_seed = runs.groupby(["method", "seed"])["auc"].mean().unstack()
    n_seeds = by_seed.notna().sum(axis=1)
    error = by_seed.std(axis=1) / np.sqrt(n_seeds)
    table.columns = [CLASSES[label] for label in table.columns]
    means = {"mean": table.mean(axis=1), "standard error": error, "seeds": n_seeds}
    table = table.assign(**means)
    paper = pd.DataFrame(TABLE_1, index=CLASSES).T.mean(axis=1)
    table["paper, mean"] = paper.reindex(table.index)
    table["seconds a fit"] = runs.groupby("method")["seconds"].mean()
    return table.round({c: 2 if c == "standard error" else 1 for c in table})


def deepod_table(runs):
    """DeepOD's detectors by class, beside others."""
    theirs = sorted({name for name in runs["method"] if name.startswith("DeepOD")})
    known = ["IOCN", "NormalizingFlow", "KNN", "DeepSVDD"]
    labels = runs[runs["method"].isin(theirs)]["class"].unique()
    shown = runs[runs["method"].isin(theirs + known) & runs["class"].isin(labels)]
    table = shown.pivot_table("auc", "method", "class", sort=False)
    table.columns = [CLASSES[label] for label in table.columns]
    table["mean"] = table.mean(axis=1)
    table["paper, mean"] = pd.Series(
        {
            name: np.mean(TABLE_1.get(name.split("'s ")[-1].split(",")[0], np.nan))
            for name in table.index
        }
    )
    table["seconds a fit"] = shown.groupby("method")["seconds"].mean()
    return table.round(1)


def condition_table(runs):
    """Mean AUC over some classes, under each condition."""
    rows = []
    for name in CONDITIONS:
        row = {"condition": name}
        for kind in ("IOCN", "NormalizingFlow", "KNN"):
            own = runs[runs["method"] == f"{kind} if {name}"]
            if len(own):
                row[kind] = own["auc"].mean()
                row["classes"] = own["class"].nunique()
                if kind == "IOCN":
                    row["inside"] = own["inside"].mean()
                    row["inside, held out"] = own["inside, held out"].mean()
        rows.append(row)
    return pd.DataFrame(rows).set_index("condition").round(2)


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
