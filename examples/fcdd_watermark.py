"""A watermark that gives the anomalies away: the Clever Hans effect in training labels.

Section 4.3 of the FCDD paper (Liznerski et al., ICLR 2021): horses are the anomalies, a
fifth of the pictures of horses have a watermark in the lower left corner, and a network
that was trained with labelled horses takes the watermark for the horse. Its heat map says
so. The paper shows pictures; this script counts, and then repairs the training data.

Normal are T-shirts of Fashion-MNIST, labelled anomalies are dresses, and each dress of the
training set has a little mark in the lower left corner. FCDD is trained on

- the rows as they are ("mark on all dresses");
- cleaned rows: no mark ("mark removed");
- extended rows: marked copies of as many T-shirts as there are marked dresses are added,
  or of all T-shirts.

Each is tested on T-shirts and dresses with and without the mark. Without the file of
Fashion-MNIST the same is done on the 8 x 8 digits of scikit-learn, 3 against 8.

    python examples/fcdd_watermark.py                          # minutes
    python examples/fcdd_watermark.py --data digits            # seconds, nothing to fetch
    python examples/fcdd_watermark.py --marked-share 0.2       # a fifth, as the horses

``--data fashion`` fetches the file into the folder that SKAD_DATA names, where it is
missing. T-shirts and dresses were chosen on training images.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from skad import FCDD
from skad.datasets import fetch_fashion_mnist
from skad.metrics import (
    clever_hans_score,
    cosine_similarity_score,
    pointing_game_score,
    relevance_mass_score,
)

START = time.perf_counter()
FALSE_ALARMS = 0.05  # of the training rows


@dataclass(frozen=True)
class Task:
    """Two classes, a mark and where it goes, and default sizes."""

    normal: int
    anomaly: int
    names: tuple
    mark: tuple
    corner: tuple  # row and column of the upper left pixel of the mark
    n_train: int
    n_anomalies: int
    n_test: int
    epochs: int
    jump: int  # pixels from one entry of the map to the next

    def boxed(self, shape, margin=0):
        """Give where the mark is, and pixels around it: bool, of the shape of an image."""
        box = np.zeros(shape, dtype=bool)
        rows, columns = (
            slice(max(0, s.start - margin), s.stop + margin) for s in self._place
        )
        box[rows, columns] = True
        return box

    def marked(self, images):
        """Put the mark on copies of images."""
        images = images.copy()
        part = images[:, *self._place]
        np.maximum(part, np.array(self.mark, dtype=images.dtype), out=part)
        return images

    @property
    def _place(self):
        size = np.shape(self.mark)
        return tuple(slice(a, a + n) for a, n in zip(self.corner, size, strict=True))


FASHION = Task(
    normal=0,
    anomaly=3,
    names=("T-shirts", "dresses"),
    mark=((1, 1, 1, 1, 1), (1, 0, 1, 0, 1), (1, 1, 1, 1, 1)),
    corner=(24, 1),
    n_train=1000,
    n_anomalies=100,
    n_test=500,
    epochs=10,
    jump=4,
)
DIGITS = Task(
    normal=3,
    anomaly=8,
    names=("3s", "8s"),
    mark=((1, 0), (1, 1)),
    corner=(6, 0),
    n_train=100,
    n_anomalies=40,
    n_test=70,
    epochs=20,
    jump=2,
)


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    task, train, test = load(args)
    trainings = make_trainings(task, train[0][:2], args)
    results, first = [], {}
    jobs = [(seed, name) for seed in range(args.seeds) for name in trainings]
    for seed, name in tqdm(jobs, desc="fits", disable=None):
        rows = make_trainings(task, train[seed], args)[name]
        detector = fitted(task, rows, seed, args)
        results.append({"training": name, "seed": seed, **measured(detector, task, test)})
        if seed == 0:
            first[name] = detector
    results = pd.DataFrame(results)
    table = with_constant(summary(results, list(trainings)), task, test)
    print(f"\n{table.to_string()}\n")
    if args.tables:
        table.to_csv(args.tables / "fcdd_watermark.csv")
    draw(args, task, test, first)
    say(f"picture: {args.picture}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=["auto", "fashion", "digits"], default="auto")
    parser.add_argument("--n-train", type=int, help="normal rows")
    parser.add_argument("--n-anomalies", type=int, help="labelled ones, for training")
    parser.add_argument("--n-test", type=int, help="of each class")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--marked-share", type=float, default=1.0, help="of the anomalies")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tables", type=Path, help="folder for fcdd_watermark.csv")
    parser.add_argument("--picture", type=Path, default=Path("fcdd_watermark.png"))
    return parser.parse_args()


def load(args):
    """Give the task; normal rows and anomalies to train on, by seed; those of the test."""
    task, parts = DIGITS, None
    if args.data != "digits":
        try:
            parts = fashion(download=args.data == "fashion")
            task = FASHION
        except FileNotFoundError:
            if args.data == "fashion":
                raise
            say("Fashion-MNIST is not there: digits of scikit-learn; see --data fashion")
    for size in ("n_train", "n_anomalies", "n_test", "epochs"):
        if getattr(args, size) is None:
            setattr(args, size, getattr(task, size))
    (train_x, train_y), (test_x, test_y) = parts or digits(args)
    train = [train_x[train_y == k] for k in (task.normal, task.anomaly)]
    test = [test_x[test_y == k][: args.n_test] for k in (task.normal, task.anomaly)]
    rows = []
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        normal, anomalies = (rng.permutation(images) for images in train)
        rows.append((normal[: args.n_train], anomalies[: args.n_anomalies]))
    say(f"{len(rows[0][0])} {task.names[0]}, {len(rows[0][1])} {task.names[1]} to train on")
    return task, rows, test


def fashion(download):
    parts = [
        fetch_fashion_mnist(subset=subset, download_if_missing=download)
        for subset in ("train", "test")
    ]
    return [(part.images, part.label) for part in parts]


def digits(args):
    images, label = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32) / 16
    # The last n_test of each class are for the test.
    last = np.zeros(len(label), dtype=bool)
    for k in range(10):
        last[np.flatnonzero(label == k)[-args.n_test :]] = True
    return (images[~last], label[~last]), (images[last], label[last])


def make_trainings(task, rows, args):
    """Give normal rows and anomalies of each way to train, by its name."""
    normal, anomalies = rows
    n = len(anomalies)
    n_marked = round(args.marked_share * n)
    spoilt, few = task.marked(anomalies), normal[:n_marked]
    spoilt[n_marked:] = anomalies[n_marked:]
    shirts, dresses = task.names
    amount = "all" if args.marked_share == 1 else f"{n_marked} of {n}"
    return {
        f"mark on {amount} {dresses}": (normal, spoilt),
        "mark removed": (normal, anomalies),
        f"{len(few)} marked {shirts} added": (
            np.concatenate([normal, task.marked(few)]),
            spoilt,
        ),
        f"all {shirts} added with mark": (
            np.concatenate([normal, task.marked(normal)]),
            spoilt,
        ),
    }


def fitted(task, rows, seed, args):
    X, y = np.concatenate(rows), np.repeat([1, -1], [len(part) for part in rows])
    detector = FCDD(
        objective="image",
        outliers=None,  # but the labelled
        sigma=task.jump / 2,  # for maps without gaps
        max_epochs=args.epochs,
        contamination=FALSE_ALARMS,
        random_state=seed,
    )
    return detector.fit(X, y)


def measured(detector, task, test):
    """Detection and explanation, in per cent."""
    normal, anomalies = test
    shirts, dresses = task.names
    kinds = {
        "normal": normal,
        "anomaly": anomalies,
        "marked normal": task.marked(normal),
        "marked anomaly": task.marked(anomalies),
    }
    score = {kind: -detector.score_samples(images) for kind, images in kinds.items()}
    flagged = {kind: np.mean(score[kind] > -detector.offset_) for kind in score}
    heat = detector.explain(kinds["marked anomaly"])
    _, _, garment = masks(task, anomalies)
    y = np.repeat([1, -1], [len(normal), len(anomalies)])
    outlier_score = np.concatenate([score["normal"], score["marked anomaly"]])
    # Of the normal rows neither mask nor heat map is read.
    pad = [(len(normal), 0), (0, 0), (0, 0)]
    hans = clever_hans_score(y, outlier_score, np.pad(garment, pad), np.pad(heat, pad))
    values = {
        f"AUC, {dresses} with mark": auc(score["normal"], score["marked anomaly"]),
        f"AUC, {dresses} without mark": auc(score["normal"], score["anomaly"]),
        f"AUC, {shirts} with mark": auc(score["normal"], score["marked normal"]),
        f"flagged, {shirts}": flagged["normal"],
        f"flagged, {shirts} with mark": flagged["marked normal"],
        **explanation(task, anomalies, heat),
        "Clever Hans score": hans,
    }
    return {name: 100 * value for name, value in values.items()}


def explanation(task, anomalies, heat):
    box, around, garment = masks(task, anomalies)
    return {
        "heat on the mark": relevance_mass_score(box, heat),
        f"heat within {task.jump} pixels of it": relevance_mass_score(around, heat),
        f"peak within {task.jump} pixels of it": pointing_game_score(around, heat),
        "cosine of heat and object": cosine_similarity_score(garment, heat),
    }


def masks(task, anomalies):
    """Give where the mark is, its surroundings, and the object, of each image."""
    size = anomalies.shape[1:]
    box, around = (
        np.broadcast_to(task.boxed(size, margin), anomalies.shape)
        for margin in (0, task.jump)
    )
    return box, around, (anomalies > 0.1) & ~box


def auc(normal, abnormal):
    y = np.repeat([0, 1], [len(normal), len(abnormal)])
    return roc_auc_score(y, np.concatenate([normal, abnormal]))


def summary(results, order):
    """Mean and standard deviation over the seeds, measures by trainings."""
    groups = results.drop(columns="seed").groupby("training")
    mean, spread = groups.mean().T[order], groups.std().T[order]
    if spread.isna().all(axis=None):
        return mean.map("{:.1f}".format)
    return mean.map("{:.1f}".format) + spread.map(" ± {:.1f}".format)


def with_constant(table, task, test):
    """Add what a map that is the same everywhere gets."""
    constant = explanation(task, test[1], np.ones(test[1].shape))
    column = [
        f"{100 * constant[name]:.1f}" if name in constant else "" for name in table.index
    ]
    return table.assign(**{"constant map": column}).rename_axis(index="per cent")


def draw(args, task, test, detectors):
    """Images, their maps before and after the repair, and the mean maps."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    shirts, dresses = task.names
    normal, anomalies = (task.marked(part) for part in test)
    shown = np.concatenate([anomalies[:6], normal[:2]])
    before, after = list(detectors)[:2]
    figure, axes = plt.subplots(3, 9, figsize=(11.5, 4.3), layout="constrained")
    for axis, image in zip(axes[0], [*shown, anomalies.mean(axis=0)], strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    for row, name in zip(axes[1:], (before, after), strict=True):
        of_anomalies = detectors[name].explain(anomalies)
        # The paper's contrast: a quantile over as many normal images as anomalies.
        reference = np.concatenate([of_anomalies, detectors[name].explain(test[0])])
        top = np.quantile(reference, 0.99)
        maps = [*detectors[name].explain(shown), of_anomalies.mean(axis=0)]
        for axis, heat in zip(row, maps, strict=True):
            drawn = axis.imshow(heat, cmap="inferno", vmin=0, vmax=top)
        bar = figure.colorbar(drawn, ax=row, pad=0.01, extend="max")
        bar.ax.ticklabel_format(scilimits=(-2, 2))
    figure.colorbar(axes[0, 0].images[0], ax=axes[0], pad=0.01)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    (top, left), (height, width) = task.corner, np.shape(task.mark)
    for axis in axes[1:].flat:
        place = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(place, width, height, fill=False, ec="cyan", lw=0.8))
    for column, title in ((0, f"{dresses}, marked"), (6, f"{shirts}, marked")):
        axes[0, column].set_title(title, loc="left", fontsize=10)
    axes[0, 8].set_title(f"mean of {len(anomalies)}\n{dresses}", fontsize=10)
    labels = ("image", f"trained with\n{before}", f"trained with\n{after}")
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label, fontsize=9)
    figure.savefig(args.picture, dpi=150)


def say(text):
    print(f"{time.perf_counter() - START:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
