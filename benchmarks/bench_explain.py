"""Speed of exact explanations, one thread, against SHAP's.

    pip install -c constraints.txt "shap>=0.46"
    python benchmarks/bench_explain.py             # some 3 minutes
    python benchmarks/bench_explain.py --quick     # tiny sizes: does it run?

Markdown goes to stdout, progress to stderr. What is compared, and how: README.md.
"""

import _common  # noqa: F401 - first: it sets one thread before numpy and torch load

# isort: split
from dataclasses import dataclass

import numpy as np
import shap
from _common import (
    Bound,
    columns,
    interleaved,
    make_parser,
    progress,
    ratio,
    ratios,
    report,
    seconds,
    side_by_side,
    table,
)
from pyod.models.kde import KDE as PyODKDE
from pyod.models.knn import KNN
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.svm import OneClassSVM

from skad import KDE, explain
from skad.explanation import shapley_values

BACKGROUND = 20  # rows that SHAP replaces features from
PACKAGES = ["numpy", "scikit-learn", "pyod", "shap", "torch"]


@dataclass
class Sizes:
    n_train: int = 1000
    n_rows: int = 500
    n_shap_rows: int = 2  # of KernelExplainer
    features: tuple = (16, 64)


def rows_of(n, d, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ np.random.default_rng(d).standard_normal((d, d))


def _scorer(detector):
    if hasattr(detector, "score_samples"):
        return detector.score_samples
    return detector.decision_function


def kernels(sizes, repeats):
    """Explain kernel methods and neighbours, against KernelExplainer."""
    bounds, body = [], []
    for d in sizes.features:
        X, fresh = rows_of(sizes.n_train, d, 0), rows_of(sizes.n_rows, d, 1) * 1.5
        width = np.sqrt(d)
        for name, detector, asked in (
            ("OneClassSVM", OneClassSVM(gamma="scale"), True),
            ("KernelDensity", KernelDensity(bandwidth=width), True),
            ("PyOD KDE", PyODKDE(bandwidth=width), True),
            ("skad KDE", KDE(bandwidth=width), True),
            ("PyOD KNN", KNN(), False),
            ("LocalOutlierFactor", LocalOutlierFactor(novelty=True), False),
        ):
            progress(f"{name}, {d} features")
            detector.fit(X)
            score = _scorer(detector)
            shap_rows = fresh[: sizes.n_shap_rows]
            explainer = shap.KernelExplainer(score, X[:BACKGROUND], silent=True)
            timings = interleaved(
                {
                    "skad": lambda m=detector, x=fresh: explain(m, x),
                    "score": lambda f=score, x=fresh: f(x),
                    "shap": lambda e=explainer, x=shap_rows: e.shap_values(x, silent=True),
                    "sampled": lambda m=detector, x=fresh[:20], r=X: shapley_values(
                        m, x, r
                    ),
                },
                repeats,
            )
            per_row = {
                "skad": len(fresh),
                "score": len(fresh),
                "shap": len(shap_rows),
                "sampled": 20,
            }
            best = {k: timings[k].best / per_row[k] for k in timings}
            if asked:
                what = f"KernelExplainer / exact, {name}, {d} features"
                bounds.append(Bound(what, best["shap"] / best["skad"], 1000))
            body.append(
                [
                    name,
                    d,
                    seconds(best["skad"]),
                    ratio(best["score"], best["skad"]),
                    ratio(best["sampled"], best["skad"]),
                    ratio(best["shap"], best["skad"]),
                ]
            )
    header = [
        *("detector", "features", "exact, a row", "scoring / exact"),
        *("sampled Shapley values / exact", "KernelExplainer / exact"),
    ]
    return bounds, [table("Seconds a row, minima, and ratios", header, body)]


def forest(sizes, repeats):
    """Explain isolation forests, against TreeExplainer."""
    bounds, body = [], []
    for d in sizes.features:
        X, fresh = rows_of(sizes.n_train, d, 0), rows_of(sizes.n_rows, d, 1) * 1.5
        model = IsolationForest(random_state=0).fit(X)
        explainer = shap.TreeExplainer(model)
        for n in (1, sizes.n_rows):
            progress(f"IsolationForest, {d} features, {n} rows")
            timings = interleaved(
                {
                    "skad": lambda m=model, x=fresh[:n]: explain(m, x),
                    "shap": lambda e=explainer, x=fresh[:n]: e.shap_values(x),
                    "score": lambda m=model, x=fresh[:n]: m.score_samples(x),
                },
                5 * repeats if n == 1 else repeats,
            )
            own, theirs = timings["skad"], timings["shap"]
            what = f"TreeExplainer / exact, {d} features, {n} rows"
            bounds.append(Bound(what, theirs.best / own.best, 1))
            body.append(
                [
                    d,
                    n,
                    *side_by_side(own, theirs),
                    *ratios(theirs, own),
                    ratio(timings["score"].best, own.best),
                ]
            )
    header = ["features", "rows", *columns("exact", "TreeExplainer"), *columns("ratio")]
    return bounds, [table("IsolationForest, 100 trees", [*header, "scoring / exact"], body)]


SECTIONS = {"kernels": kernels, "forest": forest}


def main():
    arguments = make_parser(__doc__, SECTIONS).parse_args()
    sizes = Sizes(60, 10, 1, (4,)) if arguments.quick else Sizes()
    report(arguments, SECTIONS, sizes, PACKAGES)


if __name__ == "__main__":
    main()
