"""
Labels of one kind of anomaly: a gain there, a loss elsewhere
=============================================================

Four, sixteen or sixty digits crossed by a dotted line are labelled as anomalies, beside 400
clean digits. DeepSAD and HSC learn from the labels, and find dotted lines better the more
there are. But digits with other corruptions, of which there is no label, they find worse. A
kernel density estimate, which reads no labels, stays the best there.

Run it with ``python examples/plot_few_labels.py``; it takes some twenty seconds.
"""

# %%
# The data: real digits, half of them corrupted in one of seven ways. Dotted lines are hard
# to find without labels.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from skad import HSC, KDE, DeepSAD, InlierTraining
from skad.datasets import load_corrupted_digits

digits = load_corrupted_digits("all", anomaly_share=0.5, random_state=0)
X, kind = digits.data, digits.kind
COUNTS, N_SEEDS = [0, 4, 16, 60], 3


def detectors(seed):
    """Name unfitted detectors."""
    options = {"max_epochs": 30, "batch_size": 32, "lr": 3e-3, "random_state": seed}
    return {
        "KDE, no labels": InlierTraining(KDE(bandwidth=0.5)),
        "DeepSAD": DeepSAD(**options),
        "HSC, with uniform noise": HSC(outliers="uniform", **options),
    }


# %%
# Without labels DeepSAD is DeepSVDD. HSC has anomalies from the start: clean digits of
# which a quarter of the pixels is replaced at random. InlierTraining leaves the anomalies
# out.


def measure(detector, seed, count):
    """Give the ROC AUC of dotted lines, and of the other corruptions."""
    order = np.random.default_rng(seed).permutation(len(X))
    clean, dotted = (X[order[kind[order] == k]] for k in ("normal", "dotted_line"))
    others = X[~np.isin(kind, ["normal", "dotted_line"])]
    rows = np.concatenate([clean[:400], dotted[:count]])
    detector.fit(rows, np.repeat([1, -1], [400, count]))
    normal = detector.score_samples(clean[400:])
    for odd in (dotted[max(COUNTS) :], others):
        scores = np.concatenate([normal, detector.score_samples(odd)])
        yield roc_auc_score(np.arange(len(scores)) < len(normal), scores)


auc = {name: np.empty((len(COUNTS), N_SEEDS, 2)) for name in detectors(0)}
for seed in range(N_SEEDS):
    for name, detector in detectors(seed).items():
        for i, count in enumerate(COUNTS):
            auc[name][i, seed] = list(measure(detector, seed, count))
for name, values in auc.items():
    for j, what in enumerate(["dotted lines", "others"]):
        print(f"{name:24} {what:13}", values[..., j].mean(axis=1).round(3))

# %%
# The mean over three seeds, and their range.
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
looks = dict(zip(auc, [("0.3", "o"), ("#D55E00", "s"), ("#0072B2", "D")], strict=True))
place = np.arange(len(COUNTS))
for j, (ax, title) in enumerate(zip(axes, ["dotted lines", "six others"], strict=True)):
    for name, values in auc.items():
        color, marker = looks[name]
        low, mean, high = (f(values[..., j], axis=1) for f in (np.min, np.mean, np.max))
        ax.plot(place, mean, "-", marker=marker, color=color, label=name)
        ax.fill_between(place, low, high, color=color, alpha=0.15, linewidth=0)
    ax.set_xticks(place, COUNTS)
    ax.set(title=f"corruption: {title}", xlabel="dotted lines that are labelled")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("ROC AUC")
_ = axes[1].legend(frameon=False, loc="lower left")
