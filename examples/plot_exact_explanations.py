"""
Six detectors, one anomaly, six reasons
=======================================

The score of scikit-learn's own detectors is a sum over the features, or an increasing
function of one. ``decompose`` takes it apart from what the fitted detector keeps, without
sampling; ``explain`` gives the parts alone. The picture shows what six detectors say of the
same three points: of C, no two blame the two features in the same proportion.

Run it with ``python examples/plot_exact_explanations.py``; it takes a few seconds.
"""

# %%
# Normal rows lie along a slope, and in a round cluster apart from it.
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import BoundaryNorm
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.svm import OneClassSVM

from skad.explanation import decompose

rng = np.random.default_rng(0)
along = rng.uniform(-3, 3, 400)
slope = np.column_stack([along, 0.8 * along]) + 0.3 * rng.standard_normal((400, 2))
cluster = np.array([3.0, -2.5]) + 0.4 * rng.standard_normal((100, 2))
X = np.concatenate([slope, cluster])
points = {"A": (-1.5, 1.5), "B": (5.0, -2.5), "C": (0.4, -2.5)}
odd = np.array(list(points.values()))

detectors = {
    "IsolationForest": IsolationForest(n_estimators=300, random_state=0),
    "OneClassSVM": OneClassSVM(nu=0.05),
    "EllipticEnvelope": EllipticEnvelope(random_state=0),
    "GaussianMixture": GaussianMixture(2, random_state=0),
    "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
    "KernelDensity": KernelDensity(bandwidth=0.3),
}
for detector in detectors.values():
    detector.fit(X)

# %%
# What is taken apart, and does it sum to the detector's own score? ``outlier_score`` is
# computed from the sum of the parts.
for name, detector in detectors.items():
    parts, score = decompose(detector, X), -detector.score_samples(X)
    error = abs(parts.outlier_score - score).max() / abs(score).max()
    print(f"{name:18}: {parts.quantity}, error {error:.0e}")

# %%
# Above, the score of each detector, the darker the more abnormal, and the training rows.
# Below, the parts of three points, as shares of their sum. Negative parts speak for normal.
# The envelope, which knows a single Gaussian, measures C by its distance to the slope; the
# mixture measures it from the cluster, the kernel density from the nearest rows of the
# slope.
x, y = np.meshgrid(np.linspace(-5, 6, 80), np.linspace(-5, 4.5, 80))
grid = np.column_stack([x.ravel(), y.ravel()])


def draw_score(ax, detector, name):
    """Draw the score, as ranks, and the points."""
    score = decompose(detector, grid).score.reshape(x.shape)
    levels = np.unique(np.quantile(score, np.linspace(0, 1, 11)))
    ax.contourf(
        x, y, score, levels, cmap="Greys", norm=BoundaryNorm(levels, 256), alpha=0.8
    )
    ax.plot(*X.T, ".", color="#0072B2", markersize=2)
    for label, point in points.items():
        ax.plot(*point, "o", color="#D55E00", markersize=12)
        ax.text(*point, label, color="white", ha="center", va="center", fontweight="bold")
    ax.set(title=name, xticks=[], yticks=[], xlabel="first feature")


def draw_parts(ax, detector):
    """Draw the shares of both features at the points."""
    parts = decompose(detector, odd).relevance
    shares = parts / parts.sum(axis=1, keepdims=True)
    place = np.arange(len(points))
    ax.barh(place - 0.2, shares[:, 0], 0.38, color="#E69F00", label="first feature")
    ax.barh(place + 0.2, shares[:, 1], 0.38, color="#56B4E9", label="second feature")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(place, points)
    ax.set_xticks([0, 0.5, 1])
    ax.set_xlim(-0.25, 1.25)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.spines[["top", "right", "left"]].set_visible(False)


figure, axes = plt.subplots(
    4, 3, figsize=(9.5, 9), layout="constrained", height_ratios=[3, 1, 3, 1]
)
tops, bottoms = axes[::2].ravel(), axes[1::2].ravel()
for (name, detector), top, bottom in zip(detectors.items(), tops, bottoms, strict=True):
    draw_score(top, detector, name)
    draw_parts(bottom, detector)
    bottom.set_xlabel("share of the parts' sum")
for ax in axes[::2, 0]:
    ax.set_ylabel("second feature")
bars = bottoms[0].get_legend_handles_labels()
_ = figure.legend(*bars, loc="outside lower center", ncols=2, frameon=False)
