"""
Which detector is right, and for the right reason?
==================================================

Real handwritten digits; one in five is corrupted: striped, dotted, brightened, moved, with
noise or with a missing stroke. One search compares skad's KDE at several bandwidths with
detectors of PyOD and scikit-learn, by how well they detect (ROC AUC), by how well they
explain (cosine of relevance and corrupted pixels), and by both. Detection chooses another
model than the rest; and it hardly sees a difference between models that find the corruption
and models that look elsewhere.

Run it with ``python examples/plot_quickstart.py``; it takes well under a minute and leaves
its picture in ``quickstart.png``.
"""

# %%
# The data: 1,797 digits of 8x8 pixels, and a mask of the pixels that were changed. The last
# third is kept for the picture and the last table.
import sys
import time

import numpy as np
import sklearn
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.pca import PCA
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from tqdm import tqdm

from skad import KDE, InlierTraining, PyODDetector
from skad.datasets import load_corrupted_digits
from skad.metrics import ExplanationAwareScorer, clever_hans_report
from skad.plotting import ExplanationDisplay

began = time.perf_counter()
digits = load_corrupted_digits("all", random_state=0)
X, y, mask, kind = digits.data, digits.target, digits.mask, digits.kind
search_rows, test_rows = slice(0, 1200), slice(1200, None)
print(f"{len(X)} digits, {np.sum(y == -1)} corrupted")

# %%
# One step of the pipeline is the alternatives. `InlierTraining` fits each on the normal
# rows of the training folds, while the test folds keep their anomalies.
model = InlierTraining(Pipeline([("scale", StandardScaler()), ("detector", KDE())]))
scalers = ["passthrough", StandardScaler()]
grid = [
    {
        "estimator__scale": scalers,
        "estimator__detector": [KDE()],
        "estimator__detector__bandwidth": ["loo", 0.2, 0.5, 1, 2, np.inf],
    },
    {
        "estimator__scale": scalers,
        "estimator__detector": [
            PyODDetector(KNN()),
            PyODDetector(PCA(n_components=20)),
            PyODDetector(IForest(random_state=0)),
            OneClassSVM(gamma="scale"),
        ],
    },
]


def short_name(params):
    """Name a candidate of the grid."""
    detector = params["estimator__detector"]
    if isinstance(detector, KDE):
        name = f"skad KDE, {params['estimator__detector__bandwidth']}"
    elif isinstance(detector, PyODDetector):
        name = f"PyOD {type(detector.detector).__name__}"
    else:
        name = f"sklearn {type(detector).__name__}"
    return name + ("" if params["estimator__scale"] == "passthrough" else ", scaled")


# %%
# The masks go in beside the labels; scikit-learn slices them along with the folds. Only the
# corrupted rows are explained. The bar on the terminal counts fits.
n_folds = 4
n_fits = n_folds * len(ParameterGrid(grid))
bar = tqdm(total=n_fits, desc="fits", file=sys.stderr, leave=False)


def detection(estimator, X, y):
    """ROC AUC; counts the fit."""
    bar.update()
    return get_scorer("roc_auc")(estimator, X, y)


with sklearn.config_context(enable_metadata_routing=True), bar:
    search = GridSearchCV(
        model,
        grid,
        scoring={
            "detection": detection,
            "explanation": ExplanationAwareScorer("cosine", weight=1),
            "both": ExplanationAwareScorer("cosine", weight=0.5),
        },
        refit="both",
        cv=StratifiedKFold(n_folds, shuffle=True, random_state=0),
    ).fit(X[search_rows], y[search_rows], mask=mask[search_rows])

# %%
# The Clever Hans score is detection minus explanation: how far a detector is right without
# looking at what is wrong. (With a mask on a tenth of the pixels, a map that is the same
# everywhere has a cosine of about 0.3.)
results = search.cv_results_
names = [short_name(params) for params in results["params"]]
table = {name: results[f"mean_test_{name}"] for name in search.scoring}
print(f"\n{'':28}{'detection':>11}{'explanation':>13}{'both':>8}{'Clever Hans':>13}")
for i in np.argsort(-table["both"]):
    scores = [table[c][i] for c in ("detection", "explanation", "both")]
    hans = scores[0] - scores[1]
    print(f"{names[i]:28}{scores[0]:11.3f}{scores[1]:13.3f}{scores[2]:8.3f}{hans:13.3f}")
print()
for criterion, scores in table.items():
    print(f"{criterion:>12} chooses {names[np.argmax(scores)]}")

# %%
# On the rows kept aside: the model that detection alone chooses beside the model that both
# choose, by kind of corruption.
chosen = {
    criterion: sklearn.base.clone(model)
    .set_params(**results["params"][np.argmax(table[criterion])])
    .fit(X[search_rows], y[search_rows])
    for criterion in ("detection", "both")
}
report = clever_hans_report(
    {f"by {c}": detector for c, detector in chosen.items()},
    X[test_rows],
    y[test_rows],
    mask=mask[test_rows],
    kind=kind[test_rows],
)
print("\nOn the digits kept aside, the model chosen by each criterion:")
values = ["detection", "explanation", "clever_hans"]
print(report.pivot(index="kind", columns="detector", values=values).round(2).to_string())

# %%
# One corrupted digit of each kind: what came in, what was changed, and what the model sees.
test_kind = kind[test_rows]
kinds = [k for k in np.unique(test_kind) if k != "normal"]
rows = np.array([np.flatnonzero(test_kind == k)[0] for k in kinds]) + test_rows.start
display = ExplanationDisplay.from_estimator(
    search.best_estimator_,
    X[rows],
    mask=mask[rows],
    labels=kinds,
    image_shape=digits.image_shape,
)
display.figure_.savefig("quickstart.png", dpi=120, bbox_inches="tight")
print(f"\nPicture: quickstart.png   ({time.perf_counter() - began:.0f} s in all)")
