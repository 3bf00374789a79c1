"""
Asked for ten per cent: what three thresholds flag
==================================================

Six detectors are asked to flag 10 %. With ``contamination`` these are 10 % of the rows that
they trained on, and up to all of the fresh normal ones. ``false_alarm_rate`` goes by scores
of rows that were left out of a fit, and comes nearer: to 6 % where copies, fitted on fewer
rows, score fresh ones higher than the detector does. ``ConformalDetector`` holds rows out
for good, and comes near 10 % for all six.

Run it with ``python examples/plot_thresholds.py``; it takes some fifteen seconds.
"""

# %%
# The data: handwritten digits, of which 500 clean ones train; the other clean ones are the
# fresh normal rows, and corrupted ones the anomalies. Everything is drawn eight times.
import matplotlib.pyplot as plt
import numpy as np
from pyod.models.knn import KNN
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from skad import KDE, Bag, ConformalDetector, PyODDetector
from skad.datasets import load_corrupted_digits

digits = load_corrupted_digits("all", random_state=0)
clean, corrupted = (digits.data[digits.target == sign] for sign in (1, -1))
RATE, N_DRAWS = 0.1, 8


def draws(n):
    """Divide the clean digits n times into 500 that train and fresh ones."""
    for seed in range(n):
        order = np.random.default_rng(seed).permutation(len(clean))
        yield clean[order[:500]], clean[order[500:]]


# %%
# A Bag of one member gives scikit-learn's and PyOD's detectors both of skad's thresholds.
detectors = {
    "KDE": KDE(),
    "GaussianMixture": GaussianMixture(5, reg_covar=0.001, random_state=0),
    "PyOD KNN": PyODDetector(KNN()),
    "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
    "IsolationForest": IsolationForest(n_estimators=50, random_state=0),
    "OneClassSVM": OneClassSVM(),
}


def thresholds(detector, seed):
    """Give a detector with each of the three thresholds."""
    members = [("member", detector)]
    conformal = ConformalDetector(detector, max_false_positive_rate=RATE, random_state=seed)
    yield "contamination", Bag(members, contamination=RATE)
    yield "false_alarm_rate", Bag(members, false_alarm_rate=RATE)
    yield "ConformalDetector", conformal


flagged = {}
for seed, (train, fresh) in enumerate(draws(N_DRAWS)):
    for name, detector in detectors.items():
        for threshold, model in thresholds(detector, seed):
            share = (model.fit(train).predict(fresh) == -1).mean()
            flagged.setdefault((name, threshold), []).append(share)
kinds = list(dict.fromkeys(threshold for _, threshold in flagged))
print(f"{'flagged, mean':18}", *(f"{kind:>18}" for kind in kinds))
for name in detectors:
    means = [np.mean(flagged[name, kind]) for kind in kinds]
    print(f"{name:18}", *(f"{mean:18.1%}" for mean in means))

# %%
# ``select`` looks at many rows together: of those that it picks, 10 % at most are normal,
# on average. Here it picks a hundred corrupted digits from a thousand rows.
odd = np.arange(1000) >= 900
picked = []
for seed, (train, fresh) in enumerate(draws(N_DRAWS)):
    conformal = ConformalDetector(KDE(), held_out=0.5, random_state=seed).fit(train)
    rows = np.concatenate([fresh[:900], corrupted[:100]])
    p, selected = conformal.p_values(rows), conformal.select(rows)
    picked.append([selected[odd].mean(), (selected & ~odd).sum() / selected.sum()])
found, false = np.mean(picked, axis=0)
print(f"selected: {found:.0%} of the anomalies; {false:.0%} of what is selected is normal")

# %%
# On the left each dot is a draw. On the right the p-values of the last draw: those of
# normal rows are spread evenly, whatever the detector. ``predict`` flags what is left of
# the dashed line, ``select`` what is left of the dotted one.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
colors = dict(zip(kinds, ["#D55E00", "#E69F00", "#0072B2"], strict=True))
for i, name in enumerate(detectors):
    for j, kind in enumerate(kinds):
        shares = np.maximum(flagged[name, kind], 0.001)
        place = np.full(N_DRAWS, i + 0.22 * (j - 1))
        label = kind if i == 0 else None
        left.plot(
            shares, place, "o", color=colors[kind], markersize=5, alpha=0.7, label=label
        )
left.axvline(RATE, color="black", linestyle="--", linewidth=1)
left.set(xscale="log", xlabel="fresh normal rows that are flagged")
left.set_xticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
left.hlines(np.arange(5) + 0.5, 0.001, 1, color="0.9", linewidth=0.8)
left.set_yticks(range(len(detectors)), detectors)
left.invert_yaxis()
left.legend(loc="upper left", frameon=False)

bins = np.linspace(0, 1, 21)
parts = {"normal": (p[~odd], "0.65"), "corrupted": (p[odd], "#D55E00")}
values, shades = zip(*parts.values(), strict=True)
right.hist(values, bins, stacked=True, color=shades, label=list(parts))
lines = {"predict": (RATE, "--", 0.8), "select": (p[selected].max(), ":", 0.9)}
for name, (place, style, height) in lines.items():
    right.axvline(place, color="black", linestyle=style, linewidth=1)
    arrow = {"arrowstyle": "-", "color": "black", "linewidth": 0.5}
    text = (0.2, height)
    right.annotate(name, (place, height), text, ("data", "axes fraction"), arrowprops=arrow)
right.set(xlabel="p-value", ylabel="rows", xlim=(0, 1))
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
