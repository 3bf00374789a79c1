"""Real defects with pixel masks: FCDD on magnetic tiles, beside its features alone.

The surfaces of magnetic tiles (Huang, Qiu and Yuan 2020), 128 x 128 pixels: 759 without a
defect train; 193 without and 387 with one of five kinds of defects test. Each tile was
photographed some six times, so that the split is by tile: a random one leaks. What is
compared:

- FCDD on frozen layers of SqueezeNet, trained on confetti and the masks of what they
  changed; with the squares of the paper for confetti; with masks that cover synthetic
  anomalies whole, as the paper's code has it; with the objective by image; and FCDD's own
  small network, trained from nothing;
- a Gaussian, and nearest neighbours, on the same features at each place;
- HSC with its gradients, an autoencoder and a KDE on the pixels;
- FCDD after two passes, in half a minute, with either masks;
- FCDD that also knows one image with a mask of each kind of defect. The images of the
  labelled tiles are taken out of the test set, for all that is compared there.

    python examples/fcdd_magnetic_tile.py --quick      # a minute: does it run?
    python examples/fcdd_magnetic_tile.py              # about an hour on one core
    python examples/fcdd_magnetic_tile.py --choose     # what the recipe was chosen by

Half of the tiles of each kind, `chosen by` in the tables, were looked at when the confetti
were chosen; the other half were not. It needs `magnetic_tile_128.npz` and
`weights/squeezenet1_1_caffe_bgr.pth` in the folder that SKAD_DATA names; --weights takes
torchvision's weights in place of the latter, with --preprocessing imagenet. What is done is
kept in --cache, so that a run that was stopped goes on where it was.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from skimage.transform import resize
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score

from skad import FCDD, HSC, KDE, AutoEncoder
from skad.images import Confetti, confetti
from skad.metrics import (
    aupro_score,
    cosine_similarity_score,
    pixel_roc_auc_score,
)
from skad.neural import Augmentation, Trunk

START = time.perf_counter()
BLUR = 6  # pixels, for the maps of pixels and gradients
BANK = 5000  # features that the neighbours are looked for in
REPEATS = 500  # of the bootstrap
CHOICES = {
    "default": {},
    "squares, blurred (the paper's)": {"outliers": Confetti.paper()},
    "squares": {"outliers": Confetti(aspect=(1.0, 1.0))},
    "small": {"outliers": Confetti(side=(1 / 30, 0.12))},
    "linear head": {"network__head": "linear"},
    "up to fire3": {"network__n_layers": 5},
}


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    args.cache.mkdir(parents=True, exist_ok=True)
    data = load(args)
    if args.choose:
        publish(args, "fcdd_magnetic_tile_choices", choices_table(args, data))
        return
    results = unsupervised(args, data)
    table = detectors_table(data, results)
    publish(args, "fcdd_magnetic_tile_all", table)
    publish(args, "fcdd_magnetic_tile", short_table(table))
    publish(args, "fcdd_magnetic_tile_kinds", kinds_table(data, results))
    publish(args, "fcdd_magnetic_tile_differences", differences_table(data, results))
    publish(args, "fcdd_magnetic_tile_labels", labels_table(args, data, results))
    draw(args, data, results)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="of FCDD on SqueezeNet")
    parser.add_argument("--draws", type=int, default=3, help="of labelled images")
    parser.add_argument("--epochs", type=int, default=8, help="of FCDD on SqueezeNet")
    parser.add_argument("--small-epochs", type=int, default=30, help="of small networks")
    parser.add_argument("--n-train", type=int, default=None)
    parser.add_argument("--n-test", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("magnetic_tile_cache"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--preprocessing", default="caffe")
    parser.add_argument("--choose", action="store_true", help="try recipes, on half")
    parser.add_argument("--quick", action="store_true", help="tiny, writes no tables")
    args = parser.parse_args()
    if args.quick:
        args.seeds = args.draws = args.epochs = args.small_epochs = 1
        args.n_train, args.n_test = 60, 120
        args.cache = args.cache / "quick"
        args.out = args.cache
    home = Path(os.environ.get("SKAD_DATA", "~/skad_data")).expanduser()
    args.home = home
    args.weights = args.weights or home / "weights" / "squeezenet1_1_caffe_bgr.pth"
    return args


# --- data ------------------------------------------------------------------------------


def load(args):
    """Give the tiles, and which half of the test tiles the recipe was chosen by."""
    with np.load(args.home / "magnetic_tile_128.npz") as file:
        tiles = {name: file[name] for name in file.files}
    train, test = np.flatnonzero(tiles["train"]), np.flatnonzero(tiles["test"])
    if args.n_train:
        train = train[: args.n_train]
    if args.n_test:
        test = np.sort(np.random.default_rng(0).permutation(test)[: args.n_test])
    images = tiles["x"].astype(np.float32) / 255
    data = {name: tiles[name][test] for name in ("mask", "kind", "group")}
    data |= {"train": images[train], "test": images[test]}
    data["anomalous"] = data["kind"] != "Free"
    data["seen"] = seen_half(data)
    return data


def seen_half(data):
    """Draw half of the tiles of each kind."""
    rng = np.random.default_rng(0)
    seen = np.zeros(len(data["kind"]), dtype=bool)
    for kind in np.unique(data["kind"]):
        of_kind = data["kind"] == kind
        groups = np.unique(data["group"][of_kind])
        rng.shuffle(groups)
        seen |= of_kind & np.isin(data["group"], groups[: len(groups) // 2])
    return seen


# --- detectors -------------------------------------------------------------------------


def fcdd(args, seed, **params):
    weights = {"weights": str(args.weights), "preprocessing": args.preprocessing}
    detector = FCDD(
        network=Trunk("squeezenet1_1", **weights),
        resize=224,
        max_epochs=args.epochs,
        batch_size=32,
        random_state=seed,
    )
    return detector.set_params(**params)


def without_masks(images, rng):
    """Draw confetti, and say nothing of where."""
    return confetti(images, random_state=int(rng.integers(2**31 - 1)))[0]


def unsupervised(args, data):
    """Give scores and maps of each detector, for one seed or several."""
    small = {"max_epochs": args.small_epochs, "random_state": 0}
    runs = {}
    for seed in range(args.seeds):
        runs["FCDD", seed] = partial(run_fcdd, fcdd(args, seed), data)
        covered = fcdd(args, seed, outliers=without_masks, objective="pixel")
        runs["FCDD, all-one masks", seed] = partial(run_fcdd, covered, data)
    early = {"max_epochs": 2}
    runs["FCDD, 2 passes", 0] = partial(run_fcdd, fcdd(args, 0, **early), data)
    covered = fcdd(args, 0, outliers=without_masks, objective="pixel", **early)
    runs["FCDD, all-one masks, 2 passes", 0] = partial(run_fcdd, covered, data)
    squares = fcdd(args, 0, outliers=Confetti.paper())
    runs["FCDD, the paper's confetti", 0] = partial(run_fcdd, squares, data)
    by_image = fcdd(args, 0, objective="image")
    runs["FCDD, objective by image", 0] = partial(run_fcdd, by_image, data)
    runs["FCDD, small network", 0] = partial(run_fcdd, FCDD(**small), data)
    runs["Gaussian", 0] = partial(run_features, args, data, gaussian)
    runs["nearest neighbours", 0] = partial(run_features, args, data, neighbours)
    hsc = HSC(explanation="gradient", **small)
    runs["HSC, gradients", 0] = partial(run_pixels, hsc, data, 64)
    runs["AutoEncoder", 0] = partial(run_pixels, AutoEncoder(**small), data, 64)
    runs["KDE", 0] = partial(run_pixels, KDE(), data, 64)
    return {key: once(args, f"{key[0]}, seed {key[1]}", run) for key, run in runs.items()}


def run_fcdd(detector, data, X=None, **fit):
    """Fit, score and explain; give the processor time of the first."""
    start = time.process_time()
    detector.fit(data["train"] if X is None else X, **fit)
    fitted = time.process_time()
    low = detector.heatmap(data["test"], upsampling=None)
    return {
        "score": low.mean(axis=(1, 2)),
        "maps": detector.heatmap(data["test"]).astype(np.float32),
        "fit": fitted - start,
        "rest": time.process_time() - fitted,
    }


def run_features(args, data, distances):
    """Score the features of FCDD's frozen layers, place by place."""
    start = time.process_time()
    detector = fcdd(args, 0, max_epochs=1).fit(data["train"][:64])  # for its geometry
    trunk = torch.nn.Sequential(*list(detector.net_.module_.children())[:3]).eval()
    low = distances(features(trunk, data["train"]), features(trunk, data["test"]))
    upsampling = detector.net_.module_.upsampling(None, "partition")
    maps = upsampling(torch.from_numpy(low)).numpy().astype(np.float32)
    took = time.process_time() - start
    return {"score": low.mean(axis=(1, 2)), "maps": maps, "fit": took, "rest": 0.0}


def features(trunk, images):
    with torch.inference_mode():
        parts = torch.from_numpy(images)[:, None].split(32)
        return torch.cat([trunk(part).movedim(1, 3).half() for part in parts])


def gaussian(train, test):
    """Squared Mahalanobis distances, (n, u, v)."""
    sample = train.flatten(0, 2)[::7].float().numpy()
    fitted = EmpiricalCovariance().fit(sample)
    ridge = 1e-3 * np.trace(fitted.covariance_) / sample.shape[1]
    covariance = fitted.covariance_ + ridge * np.eye(sample.shape[1])
    root = torch.linalg.cholesky(torch.linalg.inv(torch.from_numpy(covariance))).float()
    mean = torch.from_numpy(fitted.location_).float()
    parts = [((part.float() - mean) @ root).square().sum(-1) for part in test.split(32)]
    return torch.cat(parts).double().numpy()


def neighbours(train, test):
    """Distances to the nearest of a sample of normal features, (n, u, v)."""
    flat = train.flatten(0, 2)
    chosen = np.random.default_rng(0).choice(len(flat), min(BANK, len(flat)), replace=False)
    bank = flat[torch.from_numpy(chosen)].float()
    parts = [
        torch.cdist(part.flatten(0, 2).float(), bank).amin(1).view(part.shape[:3])
        for part in test.split(8)
    ]
    return torch.cat(parts).double().numpy()


def run_pixels(detector, data, side):
    """Score smaller images; their relevance, blurred, is brought to the full size."""
    start = time.process_time()
    train, test = (
        np.stack([resize(image, (side, side), anti_aliasing=True) for image in data[part]])
        for part in ("train", "test")
    )
    detector.fit(train)
    fitted = time.process_time()
    maps = [
        gaussian_filter(resize(np.maximum(relevance, 0), (128, 128)), BLUR)
        for relevance in detector.explain(test)
    ]
    return {
        "score": -detector.score_samples(test),
        "maps": np.float32(maps),
        "fit": fitted - start,
        "rest": time.process_time() - fitted,
    }


# --- tables ----------------------------------------------------------------------------


def measures(data, result, rows):
    """Give the measures on some of the test rows."""
    anomalous, mask = data["anomalous"][rows], data["mask"][rows]
    score, maps = result["score"][rows], result["maps"][rows]
    marked = mask.any(axis=(1, 2))
    auc = roc_auc_score(anomalous, score)
    return {
        "image AUC": auc,
        "pixel AUC, per image": pixel_roc_auc_score(mask[marked], maps[marked]),
        "pixel AUC, pooled": pixel_roc_auc_score(mask, maps, average="micro"),
        "AUPRO": aupro_score(mask, maps),
        "Clever Hans": auc - cosine_similarity_score(mask[marked], maps[marked]),
    }


def intervals(data, result, rows):
    """Give 95 % intervals, by resampling tiles."""
    rng = np.random.default_rng(0)
    group = data["group"][rows]
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    anomalous, score = data["anomalous"][rows], result["score"][rows]
    pixel = pixel_roc_auc_score(data["mask"][rows], result["maps"][rows], average=None)
    image_aucs, pixel_aucs = [], []
    for _ in range(REPEATS):
        drawn = np.concatenate(
            [members[i] for i in rng.integers(len(members), size=len(members))]
        )
        if 0 < anomalous[drawn].sum() < len(drawn):
            image_aucs.append(roc_auc_score(anomalous[drawn], score[drawn]))
            pixel_aucs.append(np.nanmean(pixel[drawn]))
    low_high = [np.quantile(values, [0.025, 0.975]) for values in (image_aucs, pixel_aucs)]
    names = ("image AUC, 95 %", "pixel AUC, 95 %")
    return {
        name: f"{a:.2f} to {b:.2f}" for name, (a, b) in zip(names, low_high, strict=True)
    }


def differences_table(data, results):
    """Tabulate what FCDD has more than others, all test images, first seed."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(data["group"] == g) for g in np.unique(data["group"])]
    anomalous = data["anomalous"]
    lines = []
    for other in ("Gaussian", "nearest neighbours", "FCDD, all-one masks"):
        pair = [results["FCDD", 0], results[other, 0]]
        pixel = [
            pixel_roc_auc_score(data["mask"], run["maps"], average=None) for run in pair
        ]
        differences = []
        for repeat in range(REPEATS + 1):
            drawn = rng.integers(len(members), size=len(members))
            groups = range(len(members)) if repeat == 0 else drawn
            rows = np.concatenate([members[i] for i in groups])
            image = [roc_auc_score(anomalous[rows], run["score"][rows]) for run in pair]
            local = [np.nanmean(values[rows]) for values in pixel]
            differences.append([image[0] - image[1], local[0] - local[1]])
        low, high = np.quantile(differences[1:], [0.025, 0.975], axis=0)
        line = {"FCDD minus": other}
        for i, name in enumerate(("image AUC", "pixel AUC, per image")):
            line[name] = round(differences[0][i], 3)
            line[f"{name}, 95 %"] = f"{low[i]:.3f} to {high[i]:.3f}"
        lines.append(line)
    return pd.DataFrame(lines)


def detectors_table(data, results):
    """Tabulate all detectors: means over seeds, all kinds and without Uneven."""
    subsets = {"all": np.ones(len(data["kind"]), dtype=bool)}
    subsets["without Uneven"] = data["kind"] != "Uneven"
    subsets["tiles not chosen by"] = ~data["seen"]
    lines = []
    for name in dict.fromkeys(name for name, _ in results):
        runs = [result for (other, _), result in results.items() if other == name]
        for kinds, rows in subsets.items():
            rows = np.flatnonzero(rows)
            table = pd.DataFrame([measures(data, run, rows) for run in runs])
            line = {"detector": name, "test images": kinds, "seeds": len(runs)}
            line |= table.mean().round(3).to_dict()
            line["image AUC, sd"] = round(table["image AUC"].std(ddof=0), 3)
            line |= intervals(data, runs[0], rows)
            line["CPU s"] = round(np.mean([run["fit"] + run["rest"] for run in runs]))
            lines.append(line)
    return pd.DataFrame(lines)


def short_table(table):
    """Give the main columns, with all kinds and without Uneven side by side."""
    columns = ["image AUC", "pixel AUC, per image", "AUPRO", "Clever Hans"]
    parts = {
        kinds: part.set_index("detector") for kinds, part in table.groupby("test images")
    }
    short = parts["all"][columns].copy()
    for column in reversed(columns[:3]):
        place = columns.index(column) + 1
        short.insert(place, f"{column} *", parts["without Uneven"][column])
    short["CPU s"] = parts["all"]["CPU s"]
    return short.reset_index()


def kinds_table(data, results):
    """Tabulate FCDD and the Gaussian by kind of defect."""
    lines = []
    for kind in np.unique(data["kind"][data["anomalous"]]):
        rows = np.flatnonzero((data["kind"] == kind) | ~data["anomalous"])
        line = {"kind": kind, "images": int((data["kind"] == kind).sum())}
        for name in ("FCDD", "FCDD, the paper's confetti", "Gaussian"):
            found = measures(data, results[name, 0], rows)
            for measure in ("image AUC", "pixel AUC, per image"):
                line[f"{name}: {measure}"] = round(found[measure], 3)
        lines.append(line)
    return pd.DataFrame(lines)


def labels_table(args, data, results):
    """Tabulate FCDD with and without a labelled image of each kind, draw by draw."""
    lines = []
    for draw_number in range(args.draws):
        rng = np.random.default_rng(draw_number)
        marked = data["mask"].any(axis=(1, 2))
        kinds = np.unique(data["kind"][data["anomalous"]])
        labelled = [rng.choice(np.flatnonzero((data["kind"] == k) & marked)) for k in kinds]
        rest = np.flatnonzero(~np.isin(data["group"], data["group"][labelled]))
        result = once(
            args,
            f"FCDD, labelled, draw {draw_number}",
            partial(run_labelled, args, data, labelled, draw_number),
        )
        for name, run in (("labelled", result), ("unsupervised", results["FCDD", 0])):
            line = {"draw": draw_number, "FCDD": name, "test images": len(rest)}
            lines.append(line | measures(data, run, rest))
    table = pd.DataFrame(lines)
    means = table.groupby("FCDD", sort=False).mean().reset_index().assign(draw="mean")
    whole = pd.concat([table, means])[table.columns].round(3)
    return whole.astype({"test images": int})


def run_labelled(args, data, labelled, seed):
    n = len(data["train"])
    X = np.concatenate([data["train"], data["test"][labelled]])
    mask = np.zeros(X.shape, dtype=bool)
    mask[n:] = data["mask"][labelled]
    y = np.repeat([1, -1], [n, len(labelled)])
    detector = fcdd(args, seed, outliers="confetti", augment=Augmentation(mirror=True))
    return run_fcdd(detector, data, X, y=y, mask=mask)


def choices_table(args, data):
    """Tabulate recipes on the half of the tiles that may be looked at."""
    rows = np.flatnonzero(data["seen"])
    lines = []
    for name, params in CHOICES.items():
        run = partial(run_fcdd, fcdd(args, 0, **params), data)
        result = once(args, f"choice: {name}", run)
        lines.append({"recipe": name} | measures(data, result, rows))
    return pd.DataFrame(lines).round(3)


def publish(args, name, table):
    folder = args.out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False)
    print(f"\n{name}\n{table.to_string(index=False)}", flush=True)


def once(args, name, run):
    """Run, or read what an earlier run of the same sizes kept."""
    sizes = f"{args.epochs}-{args.small_epochs}-{args.n_train}-{args.n_test}"
    path = args.cache / f"{name} {sizes}.joblib".replace(" ", "_").replace("/", "_")
    if path.exists():
        return joblib.load(path)
    result = run()
    joblib.dump(result, path)
    print(f"[{time.perf_counter() - START:6.0f} s] {name}", flush=True)
    return result


# --- picture ---------------------------------------------------------------------------


def draw(args, data, results):
    """Draw the defect of each kind that FCDD scores at the median, and its maps."""
    import matplotlib.pyplot as plt

    names = ["FCDD", "FCDD, the paper's confetti", "Gaussian", "AutoEncoder"]
    kinds = [*np.unique(data["kind"][data["anomalous"]]), "Free"]
    figure, axes = plt.subplots(
        len(names) + 2,
        len(kinds),
        figsize=(1.5 * len(kinds), 1.5 * (len(names) + 2)),
        layout="constrained",
    )
    scales = {n: np.quantile(results[n, 0]["maps"], [0.05, 0.995]) for n in names}
    for column, kind in zip(axes.T, kinds, strict=True):
        rows = np.flatnonzero(data["kind"] == kind)
        order = np.argsort(results["FCDD", 0]["score"][rows])
        row = rows[order[len(order) // 2]]
        column[0].imshow(data["test"][row], cmap="gray", vmin=0)
        column[0].set_title(kind if kind != "Free" else "no defect", fontsize=10)
        column[1].imshow(data["mask"][row], cmap="gray", vmin=0, vmax=1)
        for axis, name in zip(column[2:], names, strict=True):
            low, high = scales[name]
            axis.imshow(results[name, 0]["maps"][row], cmap="inferno", vmin=low, vmax=high)
    for axis, name in zip(axes[:, 0], ["input", "mask", *names], strict=True):
        axis.set_ylabel(name.replace(", ", ",\n"), fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "fcdd_magnetic_tile.png", dpi=110)


if __name__ == "__main__":
    main()
