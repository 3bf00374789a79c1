"""
Equally good, for the right reason and for the wrong one
========================================================

Two detectors find corrupted digits equally well. One of them looks at what is corrupted.
The other, which sees standardised pixels, looks mostly at the margin, where hardly any
digit has ink, whatever the corruption: a Clever Hans. ROC AUC can't tell the two apart;
their heat maps can, and so can a faint speck at the edge, which makes one of them call
every digit abnormal.

Run it with ``python examples/plot_right_reason.py``; it takes a few seconds.
"""

# %%
# The data: real handwritten digits, one in five corrupted, with the mask of the pixels that
# were changed. Four detectors train on clean digits; each sees pixels as they are, or
# standardised one by one.
import matplotlib.pyplot as plt
import numpy as np
from pyod.models.knn import KNN
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skad import KDE, PyODDetector, explain
from skad.datasets import load_corrupted_digits
from skad.metrics import clever_hans_report
from skad.plotting import CleverHansDisplay

digits = load_corrupted_digits("all", random_state=0)
X, y, mask, kind = digits.data, digits.target, digits.mask, digits.kind
train, test = np.split(np.random.default_rng(0).permutation(len(X)), [900])
clean = X[train][y[train] == 1]


detectors = {
    "KDE": KDE(bandwidth=0.5, false_alarm_rate=0.05),
    "PyOD KNN": PyODDetector(KNN()),
    "OneClassSVM": OneClassSVM(nu=0.05),
    "GaussianMixture": GaussianMixture(10, reg_covar=0.01, random_state=0),
}
fitted = {name: clone(detector).fit(clean) for name, detector in detectors.items()}
for name, detector in detectors.items():
    fitted[f"{name}, scaled"] = make_pipeline(StandardScaler(), detector).fit(clean)

pair = [fitted["KDE"], fitted["KDE, scaled"]]

# %%
# Scaling moves the ROC AUC by less than three points, of two detectors up, of two down. But
# it takes the explanation of all four below that of a map that is the same everywhere, the
# baseline.
report = clever_hans_report(fitted, X[test], y[test], mask=mask[test])
columns = ["detection", "explanation", "clever_hans", "baseline"]
print(report.set_index("detector")[columns].round(3).to_string())

# %%
# What does it matter? A pixel at the left edge has ink in one of the digits for training.
# Let a speck of the faintest grey, 1/16, fall on it in all fresh clean digits.
fresh = X[test][y[test] == 1]
speck = fresh.copy()
pixel = 16
speck[:, pixel] = np.maximum(speck[:, pixel], 1 / 16)
print(f"\ntraining digits with ink there: {(clean[:, pixel] > 0).sum()} of {len(clean)}")
for name, detector in zip(["KDE", "KDE, scaled"], pair, strict=True):
    rates = [(detector.predict(rows) == -1).mean() for rows in (fresh, speck)]
    print(f"{name}: {rates[0]:.0%} false alarms, {rates[1]:.0%} with the speck")

# %%
# A digit of each kind, one with the speck, and the mean of all corrupted ones. Each map has
# its own scale.
names = sorted(set(kind) - {"normal"})
first = [test[kind[test] == name][0] for name in names]
odd = test[y[test] == -1]
rows = np.concatenate([X[first], speck[:1]])
shown = [
    [*rows, X[odd].mean(axis=0)],
    [*mask[first], speck[0] != fresh[0], mask[odd].mean(axis=0)],
    *([*explain(model, rows), explain(model, X[odd]).mean(axis=0)] for model in pair),
]
titles = [*(name.replace("_", "\n") for name in names), "faint\nspeck", "mean"]
labels = ["input", "changed", "KDE of pixels", "KDE of scaled\npixels"]
figure, axes = plt.subplots(4, len(titles), figsize=(10, 4.7), layout="compressed")
for images, label, row in zip(shown, labels, axes, strict=True):
    cmap = "inferno" if label.startswith("KDE") else "gray"
    for image, ax in zip(images, row, strict=True):
        ax.imshow(image.reshape(digits.image_shape), cmap=cmap, vmin=0)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(label, rotation=0, ha="right", va="center")
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title, fontsize="medium")

# %%
# All detectors in the Clever Hans plane. The repair, along the arrows, is not to scale: all
# pixels have the same unit already. A choice by detection alone has little to say for it.
display = CleverHansDisplay.from_report(report, figsize=(8.5, 4.8))
for name in detectors:
    (end,) = display.points_[name].get_xydata()
    (start,) = display.points_[f"{name}, scaled"].get_xydata()
    arrow = {"arrowstyle": "->", "color": "0.4", "shrinkA": 7, "shrinkB": 7}
    display.ax_.annotate("", end, start, arrowprops=arrow)
