"""Which features were swapped? Exact explanations beside sampled ones and SHAP's.

    pip install -c constraints.txt "shap>=0.46"
    python examples/explain_planted.py --tables docs/tables
    python examples/explain_planted.py --quick

In fresh normal rows of correlated data, 2 of d features get values of other training rows,
at least 2 standard deviations away: no value leaves the range of its feature, and only the
company that it keeps is odd. Twenty detectors of skad, scikit-learn and PyOD are fitted on
normal rows, and each is explained

- by its exact rule (`skad.explain`),
- by sampled Shapley values against the 4 nearest normal rows, and by occlusion
  (`skad.explanation.shapley_values` and `occlude`),
- by SHAP: KernelExplainer with 10 normal rows as background and 256 samples a row,
  TreeExplainer for isolation forests.

Counted is the area under the ROC curve, by row, of relevance against the swapped features
("pixel AUC"); beside it the ROC AUC of detection, and milliseconds a row.

Data: two made-up sets, and pendigits of ADBench, where ``--data``, or ``adbench`` in the
folder ``SKAD_DATA``, has it. The sets and the swaps are those of ``iocn_explanations.py``.
"""

import argparse
import os
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import shap
import torch
from iocn_explanations import factors, mixture, pendigits, swap
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.knn import KNN
from pyod.models.loda import LODA
from pyod.models.pca import PCA as PyODPCA
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skad import KDE, PyODDetector, explain
from skad.explanation import occlude, shapley_values
from skad.metrics import pixel_roc_auc_score

START = time.perf_counter()
BACKGROUND, SAMPLES = 10, 256  # of KernelExplainer
DETECTORS = {
    "skad KDE": lambda seed: KDE(),
    "KernelDensity": lambda seed: KernelDensity(bandwidth=0.6),
    "OneClassSVM": lambda seed: OneClassSVM(nu=0.1),
    "OneClassSVM, poly": lambda seed: OneClassSVM(kernel="poly", degree=2, coef0=1, nu=0.1),
    "GaussianMixture": lambda seed: GaussianMixture(5, random_state=seed),
    "GaussianMixture, diag": lambda seed: GaussianMixture(
        5, covariance_type="diag", random_state=seed
    ),
    "BayesianGaussianMixture": lambda seed: BayesianGaussianMixture(
        n_components=5, random_state=seed
    ),
    "EllipticEnvelope": lambda seed: EllipticEnvelope(random_state=seed),
    "PCA, likelihood": lambda seed: PCA(3),
    "FactorAnalysis": lambda seed: FactorAnalysis(3),
    "PCA, then skad KDE": lambda seed: make_pipeline(PCA(whiten=True), KDE()),
    "LocalOutlierFactor": lambda seed: LocalOutlierFactor(novelty=True),
    "IsolationForest": lambda seed: IsolationForest(random_state=seed),
    "PyOD KNN": lambda seed: PyODDetector(KNN()),
    "PyOD PCA": lambda seed: PyODDetector(PyODPCA()),
    "PyOD HBOS": lambda seed: PyODDetector(HBOS()),
    "PyOD ECOD": lambda seed: PyODDetector(ECOD()),
    "PyOD COPOD": lambda seed: PyODDetector(COPOD()),
    "PyOD LODA": lambda seed: PyODDetector(LODA(), random_state=seed),
    "PyOD AutoEncoder": lambda seed: PyODDetector(
        AutoEncoder(verbose=0), random_state=seed
    ),
}


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    runs = [
        run(args, set_name, make, name, seed)
        for set_name, make in find_sets(args).items()
        for seed in range(args.seeds)
        for name in args.detectors
    ]
    runs = pd.DataFrame([row for rows in runs for row in rows])
    publish(args, "explain_planted", by_detector(runs))
    publish(args, "explain_planted_sets", by_set(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None, help="28_pendigits.npz")
    parser.add_argument(
        "--detectors", nargs="+", choices=[*DETECTORS], default=[*DETECTORS]
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-train", type=int, default=1000)
    parser.add_argument("--n-test", type=int, default=50)
    parser.add_argument("--tables", type=Path, default=None, help="folder for .csv tables")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    if args.quick:
        args.n_train, args.n_test, args.seeds = 200, 5, 1
    return args


def find_sets(args):
    file, folder = args.data, os.environ.get("SKAD_DATA")
    if file is None and folder:
        file = Path(folder) / "adbench" / "28_pendigits.npz"
    sets = {"factors": factors, "mixture": mixture}
    if file and file.exists():
        sets["pendigits"] = partial(pendigits, file)
    return sets


def run(args, set_name, make, name, seed):
    """Fit one detector on one set, and explain swapped rows in each way."""
    rng = np.random.default_rng(100 + seed)
    rows = StandardScaler().fit_transform(make(rng, args.n_train + args.n_test))
    train, fresh = rows[: args.n_train], rows[args.n_train :]
    X, swapped = swap(fresh, train, 2, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = DETECTORS[name](seed).fit(train)
        scores = -detector.score_samples(np.concatenate([fresh, X]))
        ways = {
            "exact": lambda: explain(detector, X),
            "Shapley values": lambda: shapley_values(detector, X, train).relevance,
            "occlusion": lambda: occlude(detector, X, train),
            "SHAP": lambda: by_shap(detector, X, train, seed),
        }
        row = {"set": set_name, "detector": name, "seed": seed}
        row["detection"] = roc_auc_score(np.repeat([0, 1], len(X)), scores)
        results = []
        for way, explained in ways.items():
            begin = time.perf_counter()
            relevance = explained()
            seconds = (time.perf_counter() - begin) * 100 / len(X)
            auc = pixel_roc_auc_score(swapped, relevance)
            results.append({**row, "way": way, "pixel AUC": auc, "seconds": seconds})
    say(
        f"{set_name}, {name}, {seed}: " + " ".join(f"{r['pixel AUC']:.2f}" for r in results)
    )
    return results


def by_shap(detector, X, train, seed):
    """Shapley values of the outlier score by SHAP, higher for evidence of anomaly."""
    if isinstance(detector, IsolationForest):
        return -shap.TreeExplainer(detector).shap_values(X)
    background = train[np.random.default_rng(seed).choice(len(train), BACKGROUND)]
    np.random.seed(seed)  # noqa: NPY002 - KernelExplainer draws from the global state
    explainer = shap.KernelExplainer(detector.score_samples, background, silent=True)
    return -explainer.shap_values(X, nsamples=SAMPLES, silent=True)


def by_detector(runs):
    """Mean pixel AUC over the sets and seeds, the standard error of a difference, times."""
    means = runs.pivot_table("pixel AUC", "detector", "way", sort=False)
    means.insert(0, "detection", runs.groupby("detector")["detection"].mean())
    pairs = runs.pivot_table("pixel AUC", ["detector", "set", "seed"], "way")
    error = (pairs["exact"] - pairs["SHAP"]).groupby("detector").sem()
    means["standard error of exact - SHAP"] = error
    seconds = runs.pivot_table("seconds", "detector", "way", aggfunc="median")
    for way in ("exact", "Shapley values", "SHAP"):
        means[f"ms a row, {way}"] = 10 * seconds[way]
    means.loc["mean"] = means.mean()
    return means.round(3)


def by_set(runs):
    """Mean pixel AUC over the detectors, by set, and on how many a way is the best."""
    means = runs.pivot_table("pixel AUC", ["set", "detector"], "way", sort=False)
    table = means.groupby("set", sort=False).mean().round(3)
    above = means["exact"] > means["SHAP"]
    table["detectors with exact above SHAP"] = above.groupby("set").sum()
    table["detectors"] = means.groupby("set").size()
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
