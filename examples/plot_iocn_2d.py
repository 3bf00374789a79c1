"""
What becomes of the cube: normal regions in two dimensions
==========================================================

IOCN maps normal rows onto the square from -1 to 1. Its edge, mapped back, encloses what is
normal: the paper's Fig. 1, on two moons, two circles and two Gaussians. Three networks are
trained on each, and each edge is drawn.

A map that can be inverted keeps what is connected connected: between the moons, and between
the Gaussians, there are bridges, and the circles' hole is filled. The more features there
are, the less room such bridges take. Trained for longer, some edges get whiskers: thin
corners of the square that lead far away from the rows.

Run it with ``python examples/plot_iocn_2d.py``; it takes some twenty seconds. With
``--all``, which takes two minutes, five networks train five times as long, follow the moons
more closely, and the picture, left in ``iocn_2d.png``, is that of the study.
"""

# %%
# There is less noise than by default: the moons are thin.
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_circles, make_moons
from sklearn.metrics import roc_auc_score

from skad import IOCN

ALL = "--all" in sys.argv
N_NETWORKS, N_EPOCHS = (5, 375) if ALL else (3, 75)


def two_gaussians(n, seed):
    rng = np.random.default_rng(seed)
    centres = np.repeat([[-2.0, -2.0], [2.0, 2.0]], n // 2, axis=0)
    return centres + 0.6 * rng.standard_normal((n, 2))


sets = {
    "moons": lambda n, seed: make_moons(n, noise=0.1, random_state=seed)[0],
    "circles": lambda n, seed: make_circles(n, noise=0.05, factor=0.5, random_state=seed)[
        0
    ],
    "two Gaussians": two_gaussians,
}
detectors = {
    name: IOCN(n_members=N_NETWORKS, noise=0.05, max_epochs=N_EPOCHS, random_state=0).fit(
        make(2000, seed=0)
    )
    for name, make in sets.items()
}

# %%
# How well were they fitted? Samples of the square come back with errors far below 1e-3, and
# as many fresh rows lie within the edges as rows that trained. The scores tell fresh rows
# from rows spread over all of the picture.


def around(X):
    """Corners of a picture of rows."""
    low, high = X.min(axis=0), X.max(axis=0)
    room = 0.25 * (high - low)
    return low - room, high + room


rng = np.random.default_rng(1)
for name, make in sets.items():
    detector, fresh = detectors[name], make(2000, seed=1)
    spread = rng.uniform(*around(fresh), (2000, 2))
    auc = [
        roc_auc_score(np.repeat([0, 1], 2000), scores)
        for scores in detector.member_scores(np.concatenate([fresh, spread])).T
    ]
    inside = (detector.member_scores(fresh) <= 0).mean(axis=0)
    print(f"{name}, {N_NETWORKS} networks:")
    print(f"  ROC AUC           {np.round(auc, 3)}")
    print(f"  fresh rows inside {np.round(inside, 2)}")
    for what, values in detector.diagnostics_.items():
        print(f"  {what:17} {np.array2string(np.asarray(values), precision=2)}")

# %%
# The edge of the square, mapped back by each network, over the score of all of them.


def mapped_back(detector, X, n=500):
    """Give the edge of the square in the units of the rows: (n_networks, 4 n, 2)."""
    side, ones = torch.linspace(-1, 1, n, dtype=torch.float64), torch.ones(n).double()
    sides = [(side, -ones), (ones, side), (-side, ones), (-ones, -side)]
    edge = torch.cat([torch.stack(s, dim=1) for s in sides])
    with torch.no_grad():
        net = detector.net_.module_.net
        rows = net.inverse(edge.expand(net.n_members, -1, -1))
    return rows.numpy() * X.std(axis=0) + X.mean(axis=0)  # of standardised columns


figure, axes = plt.subplots(
    2, 3, figsize=(9.5, 4.6), layout="compressed", height_ratios=[4, 1]
)
for (name, make), (top, bottom) in zip(sets.items(), axes.T, strict=True):
    detector, X = detectors[name], make(2000, seed=0)
    low, high = around(X)
    grid = np.stack(np.meshgrid(*np.linspace(low, high, 120).T), axis=-1)
    scores = -detector.score_samples(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    top.contourf(*np.moveaxis(grid, -1, 0), np.log1p(scores), 20, cmap="Greys_r")
    top.plot(*X[::4].T, ".", color="#0072B2", markersize=2)
    for edge in mapped_back(detector, X):
        top.plot(*edge.T, color="#D55E00", linewidth=0.8)
    top.set(
        title=name, xticks=[], yticks=[], xlim=(low[0], high[0]), ylim=(low[1], high[1])
    )
    bottom.plot(detector.history_["train_loss"], color="black", linewidth=0.8)
    bottom.axhline(0, color="black", linewidth=0.5, linestyle=":")
    bottom.set(xlabel="epoch", ylim=(-0.15, 0.05))
axes[1, 0].set_ylabel("loss")
if ALL:
    figure.savefig("iocn_2d.png", dpi=120)

# %%
# The loss below says little: it is 0 where the rows fill the square evenly, and elsewhere.
