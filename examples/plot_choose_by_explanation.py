"""
What explanation costs: three criteria, three models
====================================================

A grid search over 58 candidates, six kinds of detectors behind four kinds of preprocessing,
on real digits with real corruptions. Masks of the corrupted pixels reach the scorers by
metadata routing, sliced along with the folds. Detection chooses a mixture. Explanation
chooses a kernel density estimate, which costs three points of ROC AUC. Both together choose
another one, which costs two, and explains as well.

Run it with ``python examples/plot_choose_by_explanation.py``; it takes a quarter of a
minute.
"""

# %%
# The data: half of the digits for the search, half kept aside.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import sklearn
from matplotlib.lines import Line2D
from pyod.models.knn import KNN
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skad import KDE, InlierTraining, PyODDetector
from skad.datasets import load_corrupted_digits
from skad.metrics import ExplanationAwareScorer, clever_hans_report

X, y, mask = load_corrupted_digits("all", random_state=0, return_X_y_mask=True)
X, X_test, y, y_test, mask, mask_test = train_test_split(
    X, y, mask, test_size=0.5, stratify=y, random_state=0
)

# %%
# The candidates. All scores are taken apart exactly, also behind PCA, in the pixels; but
# for the isolation forest, which comes without.
detectors = {
    "KDE": [KDE(bandwidth=h) for h in (0.2, 0.35, 0.5, 0.7, 1, 2)],
    "GaussianMixture": [GaussianMixture(n, reg_covar=0.01, random_state=0) for n in (2, 5)],
    "LocalOutlierFactor": [LocalOutlierFactor(n, novelty=True) for n in (5, 20)],
    "OneClassSVM": [OneClassSVM(nu=nu) for nu in (0.1, 0.5)],
    "PyOD KNN": [PyODDetector(KNN(n_neighbors=n)) for n in (1, 5)],
    "IsolationForest": [IsolationForest(random_state=0)],
}
steps = {"scaler": ["passthrough", StandardScaler()], "pca": ["passthrough", PCA(32)]}


def grid_of(name):
    """Give the parameter grid of one kind of detector."""
    grid = {**steps, "detector": detectors[name]}
    if name == "IsolationForest":
        del grid["pca"]
    return {f"estimator__{step}": choices for step, choices in grid.items()}


# %%
# `InlierTraining` fits each candidate on the normal rows of the training folds, while the
# test folds keep their anomalies. A scorer with ``weight=0`` is the ROC AUC, one with
# ``weight=1`` the cosine of relevance and masks, and one between them their weighted mean.
first = [("scaler", "passthrough"), ("pca", "passthrough"), ("detector", KDE())]
model = InlierTraining(Pipeline(first))
with sklearn.config_context(enable_metadata_routing=True):
    search = GridSearchCV(
        model,
        [grid_of(name) for name in detectors],
        scoring={
            "detection": ExplanationAwareScorer(weight=0),
            "explanation": ExplanationAwareScorer(weight=1),
            "both": ExplanationAwareScorer(weight=0.5),
        },
        refit="both",
        cv=StratifiedKFold(4, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, y, mask=mask)
results = pd.DataFrame(search.cv_results_)
x, z = results["mean_test_detection"], results["mean_test_explanation"]

# %%
# What each criterion chooses, and how that does on the digits kept aside.
chosen = {name: int(results[f"rank_test_{name}"].argmin()) for name in search.scoring}
kept = {}
for name, i in chosen.items():
    params = results["params"][i]
    print(f"{name} chooses", params["estimator__detector"], end="; ")
    kept[name] = clone(model).set_params(**params).fit(X, y)
    print(f"in the search {x[i]:.3f}, {z[i]:.3f}")
report = clever_hans_report(kept, X_test, y_test, mask=mask_test).set_index("detector")
print(report[["detection", "explanation"]].round(3).to_string())

# %%
# All candidates. Those on the dashed line are the Pareto front: no candidate is better in
# one respect and not worse in the other.
markers = {"pixels": "o", "scaled": "s", "PCA": "^", "scaled, PCA": "v"}
palette = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
colors = dict(zip(detectors, palette, strict=True))


def preprocessing(params):
    """Name what comes before the detector."""
    used = {"scaled": params["estimator__scaler"], "PCA": params.get("estimator__pca")}
    named = [name for name, step in used.items() if step not in (None, "passthrough")]
    return ", ".join(named) or "pixels"


def kind(params):
    """Name the kind of the detector."""
    detector = params["estimator__detector"]
    return next(name for name, group in detectors.items() if detector in group)


figure, ax = plt.subplots(figsize=(9, 5.5), layout="constrained")
for params, *point in zip(results["params"], x, z, strict=True):
    marker, color = markers[preprocessing(params)], colors[kind(params)]
    ax.plot(*point, marker, color=color, markersize=8, markeredgecolor="white")
front = [i for i in np.argsort(x) if not ((x > x[i]) & (z >= z[i])).any()]
ax.plot(x[front], z[front], "--", color="black", linewidth=1, zorder=0)
places = {"detection": (0.985, 0.62), "both": (0.975, 0.77), "explanation": (0.89, 0.77)}
for name, i in chosen.items():
    ax.plot(x[i], z[i], "o", markersize=15, color="none", markeredgecolor="black")
    line = {"arrowstyle": "-", "shrinkB": 8}
    ax.annotate(f"by {name}", (x[i], z[i]), places[name], arrowprops=line)
baseline = report["baseline"].iloc[0]
ax.axhline(baseline, color="0.35", linestyle=":", zorder=0)
ax.text(1.01, baseline, "a constant map", ha="right", va="bottom", color="0.35")
ax.set(xlabel="detection (ROC AUC)", ylabel="explanation (cosine with the mask)")
ax.set(xlim=(0.79, 1.01), ylim=(0.28, 0.8))
ax.spines[["top", "right"]].set_visible(False)
looks = [(name, "o", color) for name, color in colors.items()]
looks += [(name, marker, "0.5") for name, marker in markers.items()]
handles = [Line2D([], [], ls="", marker=m, color=c, label=name) for name, m, c in looks]
_ = figure.legend(handles=handles, loc="outside right upper", frameon=False)
