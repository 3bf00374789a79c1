"""
Defects on gravel: what confetti teach, and what a few labels add
=================================================================

FCDD's output is a heat map, whose mean is the score. It trains on a hundred pictures of
gravel, with confetti drawn on them: blobs and strokes that stand for anomalies. So it finds
dark blots and bright scratches, of which it has seen none. A patch of a wrong texture looks
like no confetti, and is often missed. Sixteen labelled patches, with their masks, help.

Run it with ``python examples/plot_image_defects.py``; it takes some twenty seconds.
"""

# %%
# The pictures, of 64 pixels, are cut out of a photograph that comes with scikit-image: it
# is divided like a chessboard, black for training and white for the test. Defects are those
# of :func:`skad.datasets.make_textures`, pasted in.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from skimage.data import gravel
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from skad import FCDD
from skad.datasets import make_textures
from skad.images import confetti
from skad.metrics import pixel_roc_auc_score

SIZE = 64
squares = (gravel() / 255).reshape(4, 128, 4, 128).swapaxes(1, 2)
black = np.add.outer(range(4), range(4)) % 2 == 1


def cut(squares, n, seed):
    """Cut n pictures out of squares."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, [len(squares), *np.array(squares.shape[1:]) - SIZE + 1], (n, 3))
    return np.stack([squares[i, y : y + SIZE, x : x + SIZE] for i, y, x in drawn])


def with_defects(images, seed, defect="all"):
    """Paste a defect into each of the images; give masks and kinds, too."""
    drawn = make_textures(
        len(images), anomaly_share=1, size=SIZE, defect=defect, random_state=seed
    )
    mask = drawn.mask.reshape(images.shape)
    return np.where(mask, drawn.images, images), mask, drawn.kind.astype(str)


train, fresh = cut(squares[black], 100, seed=0), cut(squares[~black], 300, seed=1)
odd, mask, kind = with_defects(cut(squares[~black], 150, seed=2), seed=3)

# %%
# One network learns from confetti alone; another from patches with masks, too.
patches, patch_masks, _ = with_defects(cut(squares[black], 16, seed=4), 5, defect="patch")
fcdd = FCDD(outliers="confetti", max_epochs=10, batch_size=16, random_state=0)
with_labels = clone(fcdd).set_params(false_alarm_rate=0.05)
networks = {
    "confetti": fcdd.fit(train),
    "and patches": with_labels.fit(
        np.concatenate([train, patches]),
        np.repeat([1, -1], [len(train), len(patches)]),
        mask=np.concatenate([np.zeros(train.shape, bool), patch_masks]),
    ),
}

# %%
# Detection and heat maps by kind of defect: ROC AUC of the images, and of the pixels of
# those with a defect.
rows = []
for name, network in networks.items():
    normal, abnormal = -network.score_samples(fresh), -network.score_samples(odd)
    by_pixel = pixel_roc_auc_score(mask, network.explain(odd), average=None)
    for defect in np.unique(kind):
        scores = np.concatenate([normal, abnormal[kind == defect]])
        images = roc_auc_score(np.arange(len(scores)) >= len(normal), scores)
        rows.append([defect, name, images, by_pixel[kind == defect].mean()])
table = pd.DataFrame(rows, columns=["defect", "learned from", "images", "pixels"])
print(table.pivot(index="defect", columns="learned from").round(2).to_string())

# %%
# The threshold of the second is set for 5 % false alarms.
for what, images in {"fresh gravel": fresh, "the defects": odd}.items():
    print(f"flagged: {(with_labels.predict(images) == -1).mean():.0%} of {what}")

# %%
# Two pictures to train on, with confetti, and some of the test.
drawn, drawn_mask = confetti(train[:2], random_state=0)
counts = {"blot": 1, "scratch": 2, "patch": 3}
picked = np.concatenate([np.flatnonzero(kind == k)[:n] for k, n in counts.items()])
shown = np.concatenate([drawn, fresh[:1], odd[picked]])
shown_mask = np.concatenate([drawn_mask, np.zeros((1, SIZE, SIZE)), mask[picked]])
titles = ["to train on", "to train on", "normal", *kind[picked]]
figure, axes = plt.subplots(4, len(titles), figsize=(10, 4.8), layout="compressed")
rows = [("input", shown, "gray", 1), ("mask", shown_mask, "gray", 1)]
for name, network in networks.items():
    maps = network.explain(shown)
    rows.append((name, maps, "inferno", np.quantile(maps[2:], 0.99)))
for row, (label, images, cmap, top) in zip(axes, rows, strict=True):
    for ax, image in zip(row, images, strict=True):
        ax.imshow(image, cmap=cmap, vmin=0, vmax=top)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(label, rotation=0, ha="right", va="center")
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title, fontsize="medium")
