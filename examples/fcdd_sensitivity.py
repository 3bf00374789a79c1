"""FCDD's maps by receptive field and by sigma: appendices A and B of its paper.

Two data sets with pixel masks, at 64 x 64 pixels: synthetic textures with planted defects
(skad.datasets.make_textures), and magnetic tiles with real ones (Huang, Qiu and Yuan 2020;
split by tile; of 128 pixels, averaged two by two), where `magnetic_tile_128.npz` is in the
folder that SKAD_DATA names. FCDD trains on normal images and confetti.

- Receptive field: three convolutions of 3, 5, 7 or 9 pixels a side, with a pooling after
  the first and after the second. (11 would see 74 pixels, more than there are.)
- Sigma: convolutions of 5, 5 and 3 pixels, with 0 to 3 poolings, so that the map is 1, 2, 4
  or 8 times smaller than the image. Each network is trained once, at the default of sigma,
  and its maps are then drawn with others: of two numbers for all, and by rules. The
  objective by pixel, which is the one for confetti, depends on sigma too; --retrain trains
  anew for each rule.

    python examples/fcdd_sensitivity.py              # minutes
    python examples/fcdd_sensitivity.py --quick      # does it run?

AUC by image are those of all test images, AUC by pixel the mean over the images with a
defect, of `explain`; both are means over the seeds, with standard deviations.
"""

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from skad import FCDD
from skad.datasets import make_textures
from skad.metrics import cosine_similarity_score, pixel_roc_auc_score

START = time.perf_counter()
SIZE = 64
KERNELS = (3, 5, 7, 9)
STRIDES = {1: 0, 2: 1, 4: 2, 8: 3}  # and how many poolings that is
WIDTHS = (8, 16, 16)
TILES = "magnetic_tile_128.npz"
SIGMAS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)
FIXED = 4  # for the table of receptive fields, beside the default


def papers_code(size, jump):
    return math.log10(0.45 * size + 1) + 0.25 if size < 32 else 0.19 * size


# Of a receptive field's width and the pixels from one to the next.
RULES = {
    "log10(0.45 r + 1) + 0.25; 0.19 r from 32": papers_code,
    "0.19 r; jump / 2 at least (FCDD's default)": lambda r, jump: max(0.19 * r, jump / 2),
    "0.25 r": lambda r, jump: 0.25 * r,
}


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    data = {"textures": textures(args)}
    if (tiles := tiles_at_hand(args)) is not None:
        data["tiles"] = tiles
    if args.retrain:
        print(retrained_table(args, data).to_string())
        return
    publish(args, "fcdd_receptive_field", field_table(args, data))
    table, cosines, partition = sigma_tables(args, data)
    publish(args, "fcdd_sigma", table)
    print(f"The same for heatmap(), a weighted mean:\n{partition.to_string()}\n")
    print(f"Cosine of mask and explain():\n{cosines.to_string()}\n")
    if args.picture:
        draw(args, data)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-train", type=int, default=300)
    parser.add_argument("--n-test", type=int, default=120, help="normal, and with defects")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--retrain", action="store_true", help="train anew for each sigma")
    parser.add_argument("--tables", type=Path, help="folder for .csv tables")
    parser.add_argument("--picture", type=Path, help="file for a picture of maps")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    if args.quick:
        args.n_train, args.n_test, args.epochs, args.seeds = 60, 20, 2, 1
    return args


def textures(args):
    """Normal images to train on; images, labels and masks to test."""
    train = make_textures(args.n_train, anomaly_share=0, size=SIZE, random_state=0)
    test = make_textures(2 * args.n_test, anomaly_share=0.5, size=SIZE, random_state=1)
    masks = test.mask.reshape(test.images.shape)
    return train.images.astype("f4"), test.images.astype("f4"), test.target, masks


def tiles_at_hand(args):
    path = Path(os.environ.get("SKAD_DATA", "~/skad_data")).expanduser() / TILES
    if not path.exists():
        say(f"no {TILES} in the folder that SKAD_DATA names: textures alone")
        return None
    with np.load(path) as f:
        cells = [f[key].reshape(-1, SIZE, 2, SIZE, 2) for key in ("x", "mask")]
        free, train, test = f["kind"] == "Free", f["train"], f["test"]
    images = (cells[0].mean(axis=(2, 4)) / 255).astype("f4")
    masks = cells[1].any(axis=(2, 4))
    rng = np.random.default_rng(0)
    normal = rng.permutation(np.flatnonzero(train & free))[: args.n_train]
    parts = (test & free, test & masks.any(axis=(1, 2)))
    parts = [rng.permutation(np.flatnonzero(part))[: args.n_test] for part in parts]
    rows, y = np.concatenate(parts), np.repeat([1, -1], [len(part) for part in parts])
    return images[normal], images[rows], y, masks[rows]


def network(kernels, n_poolings):
    layers, channels = [], 1
    for i, (kernel, width) in enumerate(zip(kernels, WIDTHS, strict=True)):
        layers += [
            nn.Conv2d(channels, width, kernel, padding=kernel // 2),
            *(nn.BatchNorm2d(width), nn.LeakyReLU()),
        ]
        if i < n_poolings:
            layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def fitted(args, X, seed, *, kernels=(5, 5, 3), n_poolings=2, sigma=None):
    torch.manual_seed(seed)
    detector = FCDD(
        network=lambda shape: network(kernels, n_poolings),
        outliers="confetti",
        max_epochs=args.epochs,
        batch_size=16,
        sigma=sigma,
        random_state=seed,
    )
    return detector.fit(X)


def jobs(args, *lists):
    """Every combination, with a bar."""
    grid = [(seed,) for seed in range(args.seeds)]
    for values in lists:
        grid = [(*job, value) for job in grid for value in values]
    return tqdm(grid, desc="fits", disable=None)


def field_table(args, data):
    rows = []
    for seed, name, kernel in jobs(args, data, KERNELS):
        X, test, y, masks = data[name]
        detector = fitted(args, X, seed, kernels=(kernel,) * 3)
        with_defect = y == -1
        pixels = {"default": None, f"{FIXED}": FIXED}
        rows.append(
            {
                "data": name,
                "kernels": kernel,
                "receptive field": f"{detector.receptive_field_.size[0]:.0f}",
                "AUC": 100 * roc_auc_score(with_defect, -detector.score_samples(test)),
            }
            | {
                f"AUC by pixel, sigma {label}": by_pixel(
                    detector.set_params(sigma=sigma).explain(test[with_defect]),
                    masks[with_defect],
                )
                for label, sigma in pixels.items()
            }
        )
    return summary(pd.DataFrame(rows), ["data", "kernels", "receptive field"])


def sigma_tables(args, data):
    """AUC by pixel and cosine of explain, and AUC by pixel of heatmap."""
    rows = []
    for seed, name, stride in jobs(args, data, STRIDES):
        X, test, y, masks = data[name]
        detector = fitted(args, X, seed, n_poolings=STRIDES[stride])
        images, masks = test[y == -1], masks[y == -1]
        for label, sigma in sigmas(detector.receptive_field_):
            detector.set_params(sigma=sigma)
            relevance = detector.explain(images)
            rows.append(
                {
                    "sigma": label,
                    "data": column(name, detector.receptive_field_),
                    "AUC": by_pixel(relevance, masks),
                    "cosine": 100 * cosine_similarity_score(masks, relevance),
                    "partition": by_pixel(detector.heatmap(images), masks),
                }
            )
    rows = pd.DataFrame(rows)
    tables = []
    for value in ("AUC", "cosine", "partition"):
        long = summary(rows[["data", "sigma", value]], ["data", "sigma"])
        tables.append(long[value].unstack("data"))
        order = [*rows["sigma"].unique()], [*rows["data"].unique()]
        tables[-1] = tables[-1].loc[order[0], order[1]].rename_axis(columns=None)
    return tables


def retrained_table(args, data):
    """AUC by image and by pixel where training, too, has the sigma of a rule."""
    rows, done = [], {}
    for seed, name, stride, rule in jobs(args, data, STRIDES, RULES):
        X, test, y, masks = data[name]
        size = field_size((5, 5, 3), STRIDES[stride])
        sigma = RULES[rule](size, stride)
        job = seed, name, stride, sigma  # rules may agree
        if job not in done:
            detector = fitted(args, X, seed, n_poolings=STRIDES[stride], sigma=sigma)
            done[job] = {
                "AUC": 100 * roc_auc_score(y == -1, -detector.score_samples(test)),
                "AUC by pixel": by_pixel(detector.explain(test[y == -1]), masks[y == -1]),
            }
        rows.append({"data": name, "stride": stride, "rule": rule, **done[job]})
    return summary(pd.DataFrame(rows), ["data", "stride", "rule"])


def field_size(kernels, n_poolings):
    """Give the pixels that an entry of the map of `network` sees, along one axis."""
    size, jump = 1, 1
    for i, kernel in enumerate(kernels):
        size += (kernel - 1) * jump
        if i < n_poolings:
            size, jump = size + jump, 2 * jump
    return size


def sigmas(field):
    """Give labels and numbers of all that is tried."""
    size, jump = field.size[0], field.jump[0]
    by_rule = {label: rule(size, jump) for label, rule in RULES.items()}
    return [*((f"{s:g}", s) for s in SIGMAS), *by_rule.items()]


def column(name, field):
    return f"{name}: stride {field.jump[0]:.0f}, r {field.size[0]:.0f}"


def by_pixel(maps, masks):
    return 100 * pixel_roc_auc_score(masks, maps)


def summary(rows, by):
    """Mean and standard deviation of the other columns."""
    groups = rows.groupby(by, sort=False)
    mean, spread = groups.mean(), groups.std()
    if spread.isna().all(axis=None):
        return mean.map("{:.1f}".format)
    return mean.map("{:.1f}".format) + spread.map(" ± {:.1f}".format)


def draw(args, data):
    """Defects, and their maps by receptive field, and by sigma at stride 8."""
    from matplotlib import pyplot as plt

    n_shown = 3
    columns, lines = 2 + len(KERNELS) + 5, n_shown * len(data)
    figure, axes = plt.subplots(lines, columns, figsize=(13, 1.25 * lines + 0.4))
    for block, (X, test, y, masks) in enumerate(data.values()):
        part = axes[n_shown * block : n_shown * (block + 1)]
        shown = np.flatnonzero(y == -1)[:n_shown]
        panels = [test[shown], masks[shown]]
        titles = ["image", "mask"]
        for kernel in KERNELS:
            detector = fitted(args, X, 0, kernels=(kernel,) * 3).set_params(sigma=FIXED)
            panels.append(detector.explain(test[shown]))
            size = detector.receptive_field_.size[0]
            titles.append(f"r {size:.0f}, stride 4\nsigma {FIXED}")
        detector = fitted(args, X, 0, n_poolings=3)
        for sigma in (None, 2, 4, 8, 16):
            panels.append(detector.set_params(sigma=sigma).explain(test[shown]))
            size, label = detector.receptive_field_.size[0], sigma or "by default"
            titles.append(f"r {size:.0f}, stride 8\nsigma {label}")
        for i, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            for axis, values in zip(part[:, i], panel, strict=True):
                if i < 2:
                    axis.imshow(values, cmap="gray", vmin=0, vmax=1)
                else:
                    # The paper's contrast for defects: 97 % of the image's own pixels.
                    low, high = values.min(), np.quantile(values, 0.97)
                    axis.imshow(values, cmap="inferno", vmin=low, vmax=high)
            if block == 0:
                axes[0, i].set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.3)
    figure.savefig(args.picture, dpi=110)
    say(f"picture: {args.picture}")


def publish(args, name, table):
    print(f"\n{name}\n{table.to_string()}\n", flush=True)
    if args.tables:
        table.to_csv(args.tables / f"{name}.csv")
    say(name)


def say(text):
    print(f"{time.perf_counter() - START:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
