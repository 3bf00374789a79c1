"""Which features were swapped: how well IOCN's explanations tell, and who else's.

    python examples/iocn_explanations.py --tables docs/tables
    python examples/iocn_explanations.py --quick

In fresh normal rows of correlated data, 1, 2 or 3 of d features get values of other
training rows, at least 2 standard deviations away: no value leaves the range of its
feature, and only the company that it keeps is odd. Counted is the share of the swapped
features among as many that rank first (precision at m).

"nearest rows" knows no detector: it is the squared difference to the 8 nearest training
rows, by feature. Whether sums of relevance are complete is measured with and without the
correction that makes them so.

Data: three made-up sets, and pendigits of ADBench, where ``--data``, or ``adbench`` in the
folder ``SKAD_DATA``, has it.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skad import IOCN, KDE, NormalizingFlow
from skad.relevance._path import ByAutograd

START = time.perf_counter()
D = 10
SWAPPED = (1, 2, 3)
N_NODES = 16
FAR = 2.0  # standard deviations


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    runs = [
        run(args, name, make, seed)
        for seed in range(args.seeds)
        for name, make in find_sets(args).items()
    ]
    ranks, checks = (
        pd.concat(tables, ignore_index=True) for tables in zip(*runs, strict=True)
    )
    publish(args, "iocn_explanations", rank_table(ranks))
    publish(args, "iocn_explanations_checks", check_table(checks))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None, help="28_pendigits.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-train", type=int, default=2000)
    parser.add_argument("--n-test", type=int, default=300)
    parser.add_argument("--epochs", default="auto", help="passes over the rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tables", type=Path, default=None, help="folder for .csv tables")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    if args.quick:
        args.n_train, args.n_test, args.seeds, args.epochs = 200, 30, 1, 20
    return args


# --- data ------------------------------------------------------------------------------


def find_sets(args):
    """Give what makes each set, by name: of a generator and a number of rows."""
    sets = {"factors": factors, "mixture": mixture, "curve": curve}
    file = args.data
    if file is None and "SKAD_DATA" in os.environ:
        file = Path(os.environ["SKAD_DATA"]) / "adbench" / "28_pendigits.npz"
    if file and file.exists():
        sets["pendigits"] = partial(pendigits, file)
    return sets


def factors(rng, n):
    """Three factors behind ten features, and noise."""
    loadings = np.random.default_rng(0).standard_normal((3, D))
    return rng.standard_normal((n, 3)) @ loadings + 0.3 * rng.standard_normal((n, D))


def mixture(rng, n):
    """Three clusters, each with two factors of its own."""
    shape = np.random.default_rng(1)
    centres = 2 * shape.standard_normal((3, D))
    loadings = shape.standard_normal((3, 2, D))
    which = rng.integers(3, size=n)
    away = np.einsum("nk,nkd->nd", rng.standard_normal((n, 2)), loadings[which])
    return centres[which] + away + 0.3 * rng.standard_normal((n, D))


def curve(rng, n):
    """A closed curve in ten dimensions, and noise."""
    shape = np.random.default_rng(2)
    speed, phase = shape.integers(1, 4, D), shape.uniform(0, 2 * np.pi, D)
    t = rng.uniform(0, 2 * np.pi, (n, 1))
    return np.sin(speed * t + phase) + 0.1 * rng.standard_normal((n, D))


def pendigits(file, rng, n):
    with np.load(file) as arrays:
        X = arrays["X"][arrays["y"] == 0].astype(np.float64)
    return X[rng.permutation(len(X))[:n]]


def swap(X, train, m, rng):
    """Give m features of each row values of training rows that are far from theirs."""
    X, swapped = X.copy(), np.zeros(X.shape, dtype=bool)
    for row, marks in zip(X, swapped, strict=True):
        for feature in rng.permutation(X.shape[1]):
            others = train[abs(train[:, feature] - row[feature]) > FAR, feature]
            if len(others):
                row[feature], marks[feature] = rng.choice(others), True
            if marks.sum() == m:
                break
    return X, swapped


# --- explanations ----------------------------------------------------------------------


def run(args, name, make, seed):
    """Fit on a set, swap features of fresh rows, and explain them in many ways."""
    rng = np.random.default_rng(100 + seed)
    rows = StandardScaler().fit_transform(make(rng, args.n_train + args.n_test))
    train, fresh = rows[: args.n_train], rows[args.n_train :]
    epochs = args.epochs if args.epochs == "auto" else int(args.epochs)
    settings = {"max_epochs": epochs, "random_state": seed}
    iocn, flow = IOCN(**settings).fit(train), NormalizingFlow(**settings).fit(train)
    kde, search = KDE().fit(train), NearestNeighbors(n_neighbors=8).fit(train)
    methods = {
        "IOCN": iocn.explain,
        "IOCN, distance in data": partial(in_data, iocn),
        "IOCN, from the mean": partial(from_the_mean, iocn),
        "IOCN, counterfactual": lambda X: abs(X - iocn.counterfactual(X)),
        "IOCN, gradient": partial(gradient, iocn),
        "NormalizingFlow": flow.explain,
        "KDE": kde.explain,
        "nearest rows": lambda X: ((X[:, None] - train[near(search, X)]) ** 2).mean(1),
        "absolute value": np.abs,
        "at random": lambda X: np.random.default_rng(seed).random(X.shape),
    }
    ranks, checks = [], []
    for m in SWAPPED:
        X, swapped = swap(fresh, train, m, rng)
        y = np.repeat([0, 1], len(X))
        both = np.concatenate([fresh, X])
        for method, explain in methods.items():
            row = {"set": name, "seed": seed, "method": method, "swapped": m}
            ranks.append({**row, "precision": precision(explain(X), swapped, m)})
        for method, detector in (("IOCN", iocn), ("NormalizingFlow", flow)):
            row = {"set": name, "seed": seed, "method": method, "swapped": m}
            row["AUC"] = roc_auc_score(y, -detector.score_samples(both))
            checks.append(row | completeness(detector, X))
        checks[-2] |= about_counterfactuals(iocn, X, fresh, search)
        say(f"{name}, seed {seed}, {m} swapped: {ranks[-len(methods)]['precision']:.2f}")
    return pd.DataFrame(ranks), pd.DataFrame(checks)


def precision(relevance, swapped, m):
    """Share of the m features that rank first that were swapped."""
    first = np.argsort(-relevance, axis=1)[:, :m]
    return np.take_along_axis(swapped, first, axis=1).mean()


def near(search, X):
    return search.kneighbors(X, return_distance=False)


def in_data(iocn, X):
    """Explain the distance in the space of the rows."""
    try:
        return iocn.set_params(distance="data").explain(X)
    finally:
        iocn.set_params(distance="latent")


def from_the_mean(iocn, X):
    """Integrate gradients from the mean of the training rows."""
    return path_integral(iocn, X, np.zeros_like(X), 64)


def path_integral(detector, X, start, n_nodes):
    """Integrate gradients of the score along lines, by the midpoint rule."""
    score, prepare = differentiable(detector)
    end, start = prepare(X), prepare(start)
    times = (torch.arange(n_nodes) + 0.5) / n_nodes
    mean = sum(score.gradient(start + t * (end - start)) for t in times) / n_nodes
    return ((end - start) * mean).numpy()


def gradient(iocn, X):
    score, prepare = differentiable(iocn)
    return score.gradient(prepare(X)).abs().numpy()


def differentiable(detector):
    """Return the score of rows in the networks' units, and what brings rows to these."""
    trained = detector._trained
    score = ByAutograd(detector._scoring(trained).score, trained.units.row_shape)
    return score, lambda X: trained.units.prepare(X).double()


def completeness(detector, X):
    """Errors of the sum of relevance, with and without the correction, of the score."""
    scores, u = -detector.score_samples(X), detector.unattributed(X)
    scale = np.maximum(abs(scores - u), 1e-3)
    k, prepare = detector.n_references, differentiable(detector)[1]
    search = NearestNeighbors(n_neighbors=k).fit(prepare(detector.references_))
    references = detector.references_[near(search, prepare(X))]
    raw = np.mean(
        [path_integral(detector, X, references[:, j], N_NODES) for j in range(k)], axis=0
    )
    missed = abs(raw.sum(1) + u - scores) / scale
    error = abs(detector.explain(X).sum(1) + u - scores) / scale
    return {
        "error of the sum": error.max(),
        "uncorrected, median": np.median(missed),
        "uncorrected, 95 %": np.quantile(missed, 0.95),
    }


def about_counterfactuals(iocn, X, original, search):
    """How far they are, beside the row as it was and the nearest training row."""
    odd = iocn.score_samples(X) < 0
    X, original = X[odd], original[odd]
    found = iocn.counterfactual(X)
    moved, shift = (np.linalg.norm(Z - X, axis=1) for Z in (found, original))
    nearest = search.kneighbors(X)[0][:, 0]
    return {
        "worst score of counterfactuals": -iocn.score_samples(found).min(),
        "distance, of that of the swap": np.median(moved / shift),
        "nearest row, of that of the swap": np.median(nearest / shift),
        "left to the row as it was": np.median(
            np.linalg.norm(found - original, axis=1) / shift
        ),
    }


# --- tables ----------------------------------------------------------------------------


def rank_table(ranks):
    """Mean precision, by set and number of swapped features."""
    table = ranks.pivot_table("precision", "method", ["set", "swapped"], sort=False)
    table.columns = [f"{name}, {m}" for name, m in table.columns]
    table["mean"] = table.mean(axis=1)
    return table.round(3)


def check_table(checks):
    """Means over the seeds, but the worst of the errors of sums and of scores."""
    worst = {"error of the sum", "worst score of counterfactuals"}
    keys = ["set", "method", "swapped"]
    how = {c: "max" if c in worst else "mean" for c in checks if c not in [*keys, "seed"]}
    table = checks.groupby(keys, sort=False).agg(how)
    for name in how:
        style = "{:.1e}" if name in worst else "{:.3f}"
        table[name] = table[name].map(style.format).replace("nan", "")
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
