"""Does GEO's relevance mark what was planted? Textures and glyphs, five seeds.

    python examples/geo_explanations.py --tables docs/tables
    python examples/geo_explanations.py --quick

- *Stripes*: slanted stripes of any phase, with a disk of stripes across. No pixel is too
  dark or too bright: the difference to the mean image is at chance. Views: the 8 turns and
  mirrorings.
- *Glyphs*: a letter F somewhere in the middle, with a bright square of 5 x 5 pixels
  anywhere. Views: all 72.

Beside the two explanations of GEO, the difference to the mean of the training images; and
the same network trained to tell views of images that were already turned and mirrored at
random: it can't learn a thing about their arrangement.
"""

import argparse
import copy
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

from skad import GEO
from skad.datasets import make_textures
from skad.images import Views, geometric_views
from skad.metrics import pixel_roc_auc_score
from skad.neural import ExpectedGradients
from skad.plotting import ViewsDisplay

START = time.perf_counter()
SIZE = 32
N_TRAIN, N_TEST = 400, 60
VIEWS = {"stripes": "dihedral", "glyphs": "geometric"}
DIHEDRAL = Views(geometric_views((SIZE, SIZE), "dihedral"), (SIZE, SIZE))


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = [
        row for kind in VIEWS for seed in range(args.seeds) for row in run(args, kind, seed)
    ]
    runs = pd.DataFrame(rows)
    groups = runs.groupby(["images", "map"], sort=False)
    table = groups[["detection", "pixels"]].mean()
    table["least"] = groups.pixels.min()
    table.columns = ["detection, ROC AUC", "pixels, ROC AUC", "of the worst seed"]
    table["seconds an image"] = groups.seconds.mean()
    publish(args, "geo_explanations", table.round(3))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--epochs", type=int, default=None, help="200 or more, as the paper"
    )
    parser.add_argument("--tables", type=Path, default=None, help="folder for .csv tables")
    parser.add_argument("--picture", type=Path, default=Path("geo_explanations.png"))
    parser.add_argument("--quick", action="store_true", help="one seed, trained shortly")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, 40
    return args


def data_of(kind, seed):
    """Give normal images, and anomalous and normal ones with masks."""
    if kind == "stripes":
        options = {"texture": "stripes", "defect": "patch", "size": SIZE}
        normal = make_textures(N_TRAIN, anomaly_share=0, random_state=2 * seed, **options)
        test = make_textures(
            N_TEST, anomaly_share=0.5, random_state=2 * seed + 1, **options
        )
        return normal.images, test.images, test.mask.reshape(test.images.shape)
    rng = np.random.default_rng(seed)
    normal, test = make_glyphs(N_TRAIN, rng), make_glyphs(N_TEST, rng)
    mask = np.zeros(test.shape, dtype=bool)
    for image, planted in zip(test[::2], mask[::2], strict=True):
        top, left = rng.integers(2, SIZE - 7, size=2)
        planted[top : top + 5, left : left + 5] = True
        image[planted] = rng.uniform(0.8, 1)
    return normal, test, mask


def make_glyphs(n, rng):
    """Draw letters F, of varying place, size, weight and brightness, with grain."""
    y, x = np.mgrid[:SIZE, :SIZE]
    images = np.empty((n, SIZE, SIZE))
    for image in images:
        row, column = SIZE / 2 + rng.uniform(-2, 2, size=2)
        tall, wide, weight = rng.uniform(8, 11), rng.uniform(5, 8), rng.uniform(1.2, 2)
        top, bottom, left = row - tall, row + tall, column - wide
        strokes = (
            (top, left, bottom, left),
            (top, left, top, column + wide),
            (row, left, row, column + 0.6 * wide),
        )
        ink = [stroke(y, x, ends, weight) for ends in strokes]
        grain = 0.05 * rng.standard_normal(image.shape)
        image[:] = np.max(ink, axis=0) * rng.uniform(0.7, 1) + grain
    return images.clip(0, 1)


def stroke(y, x, ends, weight):
    """Draw a line along one axis, in [0, 1]."""
    y0, x0, y1, x1 = ends
    distance = np.hypot(y - y.clip(y0, y1), x - x.clip(x0, x1))
    return (weight + 0.5 - distance).clip(0, 1)


def turned_at_random(X, mask):
    """Show each image of a batch by any of the 8 turns and mirrorings."""
    return DIHEDRAL.select(X, torch.randint(8, (len(X),))), mask


def run(args, kind, seed):
    """Train, detect, and explain."""
    normal, test, mask = data_of(kind, seed)
    odd = mask.any(axis=(1, 2))
    params = {
        "transforms": VIEWS[kind],
        "max_epochs": args.epochs or "paper",
        "random_state": seed,
    }
    detector = GEO(**params).fit(normal)
    blind = GEO(augment=turned_at_random, **params).fit(normal)
    difference = abs(test - normal.mean(axis=0))
    candidates = {
        "cam": detector,
        "expected gradients": changed(detector, explanation=ExpectedGradients()),
        "cam, labels at random": blind,
    }
    rows = [
        [
            *(kind, "difference to the mean", seed),
            roc_auc_score(odd, difference.mean(axis=(1, 2))),
            *(pixel_roc_auc_score(mask[odd], difference[odd]), np.nan),
        ]
    ]
    for name, model in candidates.items():
        found = roc_auc_score(odd, -model.score_samples(test))
        start = time.process_time()
        pixels = pixel_roc_auc_score(mask[odd], model.explain(test[odd]))
        seconds = (time.process_time() - start) / odd.sum()
        rows.append([kind, name, seed, found, pixels, seconds])
        say(f"{kind}, seed {seed}, {name}: {found:.3f}, pixels {pixels:.3f}")
    if seed == 0 and kind == "glyphs":
        draw(args, detector, test, odd)
    names = ["images", "map", "seed", "detection", "pixels", "seconds"]
    return [dict(zip(names, row, strict=True)) for row in rows]


def changed(detector, **params):
    """Give a fitted detector with other parameters."""
    return copy.copy(detector).set_params(**params)


def draw(args, detector, test, odd):
    """Letters with a square and without, their maps and views."""
    shown = np.concatenate([test[odd][:3], test[~odd][:1]])
    labels = ["square"] * 3 + ["normal"]
    display = ViewsDisplay.from_estimator(detector, shown, labels=labels)
    display.figure_.savefig(args.picture, dpi=110)
    say(f"picture: {args.picture}")


def publish(args, name, table):
    """Print a table, and write it for the documentation."""
    print(f"\n{name}\n{table.to_string()}\n", flush=True)
    if args.tables:
        table.to_csv(args.tables / f"{name}.csv")
        say(f"wrote {args.tables / name}.csv")


def say(text):
    print(f"{time.perf_counter() - START:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
