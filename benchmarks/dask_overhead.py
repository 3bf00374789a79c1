"""What several processes gain a search and cost it, and what a memory map saves.

    python benchmarks/dask_overhead.py > results.md      # some 5 minutes
    python benchmarks/dask_overhead.py --quick           # tiny sizes: does it run?
    python benchmarks/dask_overhead.py --sections search --repeats 5

Run it on an idle machine of two cores or more, with 5 GB of memory and 2 GB of disk to
spare. Every process computes on one thread.
"""

import _common  # noqa: F401 - first: it sets one thread before numpy and torch load

# isort: split
import gc
import hashlib
import json
import logging
import os
import platform
import sys
import warnings
from contextlib import nullcontext
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import joblib
import numpy as np
from _common import (
    columns,
    in_fresh_process,
    interleaved,
    make_parser,
    number,
    once,
    progress,
    ratios,
    seconds,
    side_by_side,
    table,
)
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skad import KDE, AutoEncoder, InlierTraining

PACKAGES = ("skad", "numpy", "scikit-learn", "torch", "joblib", "distributed")
SIZES = {"map_rows": 1_000_000, "map_features": 512, "epochs": 20, "rows": 2000}
QUICK = {"map_rows": 20_000, "map_features": 64, "epochs": 2, "rows": 300}
INTERVAL = 0.01  # seconds between two looks at the memory


# --- search ----------------------------------------------------------------------------


def searches(sizes):
    """Give searches by the kind of their fits, from short ones to long ones."""
    bandwidths = np.geomspace(0.3, 3, 12).tolist()
    network = AutoEncoder(max_epochs=sizes["epochs"], random_state=0)
    kinds = {
        "KDE, bandwidth given": (KDE(), {"bandwidth": bandwidths}, 200),
        "KDE, bandwidth by leave-one-out": (
            KDE(),
            {"kernel": ["gaussian", "student"], "rule": ["taylor", "conserving"]},
            sizes["rows"],
        ),
        f"AutoEncoder, {sizes['epochs']} epochs": (
            network,
            {"lr": [1e-3, 3e-3], "code_size": [4, 8]},
            sizes["rows"],
        ),
    }
    for kind, (detector, grid, n) in kinds.items():
        grid = {f"estimator__{name}": values for name, values in grid.items()}
        yield kind, GridSearchCV(InlierTraining(detector), grid, scoring="roc_auc", cv=3), n


def rows(n, d=20):
    """Draw correlated normal rows; a tenth has two columns of other rows."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    y = np.where(np.arange(n) % 10, 1, -1)
    X[::10, :2] = np.roll(X[::10, :2], 1, axis=0)
    return X / X.std(axis=0), y


def compare_searches(sizes, repeats):
    """Time each search in one process, and on two workers of loky and of dask."""
    import dask
    from distributed import Client, LocalCluster

    with TemporaryDirectory() as folder, dask.config.set(temporary_directory=folder):
        cluster, started = once(
            lambda: LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.ERROR,
            )
        )
        with cluster, Client(cluster):
            yield from _timed_searches(sizes, repeats, started)


def _timed_searches(sizes, repeats, started):
    contexts = {
        "one process": nullcontext,
        "loky, 2 workers": partial(joblib.parallel_config, "loky", n_jobs=2),
        "dask, 2 workers": partial(joblib.parallel_config, "dask"),
    }
    first, lines = {}, []
    for kind, search, n in searches(sizes):
        X, y = rows(n)
        runs = {
            name: partial(_searched, search, X, y, context)
            for name, context in contexts.items()
        }
        warm = {name: once(run) for name, run in runs.items()}
        first = first or {name: took for name, (_, took) in warm.items()}
        results = [result for result, _ in warm.values()]
        for result in results[1:]:
            np.testing.assert_array_equal(
                result["mean_test_score"], results[0]["mean_test_score"]
            )
        fit = np.median(results[0]["mean_fit_time"] + results[0]["mean_score_time"])
        timings = interleaved(runs, repeats)
        alone = timings["one process"]
        row = [kind, 3 * len(results[0]["params"]), seconds(fit)]
        lines += [
            [*row, name, *side_by_side(timing), *ratios(alone, timing)]
            for name, timing in timings.items()
        ]
        progress(f"{kind}: done")
    first["dask, 2 workers"] += started
    header = [*("fits", "number", "one takes", "where"), *columns("search")]
    yield table(
        "The same search, with the workers at hand; the last two columns say how many "
        "times as fast it is as in one process. Scores are equal to the bit.",
        [*header, *columns("one process / this")],
        lines,
    )
    yield table(
        "The first search of all, with the start of the workers and their imports; all its "
        "fits are of the first kind.",
        ["where", "first search"],
        [[name, seconds(took)] for name, took in first.items()],
    )


def _searched(search, X, y, context):
    with context():
        return clone(search).fit(X, y).cv_results_


# --- memory ----------------------------------------------------------------------------


def compare_memory(sizes, repeats):
    """Fit and score on a file, as an array that is read and as a memory map."""
    n, d = sizes["map_rows"], sizes["map_features"]
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.npy")
        _write(path, n, d)
        gigabytes = os.path.getsize(path) / 1e9
        progress(f"wrote {gigabytes:.2f} GB")
        lines, scores = [], set()
        for how in ("array", "map"):
            result = in_fresh_process(__file__, {"path": path, "how": how})
            scores.add(result.pop("scores"))
            lines.append([how, *(number(value) for value in result.values())])
            progress(f"{how}: {result}")
    assert len(scores) == 1, "scores differ"
    yield table(
        f"`AutoEncoder(max_epochs=1)`, fit and score_samples on {n:,} x {d} float32, "
        f"{gigabytes:.2f} GB. MB of 10^6 bytes above what the process held after its "
        "imports and a small fit; no GPU. Scores are equal to the bit.",
        ["X", "its own memory, MB", "with pages of the file, MB", "CPU seconds", "seconds"],
        lines,
    )


def _write(path, n, d):
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((8, d), dtype=np.float32)
    for start in range(0, n, 10_000):
        part = file[start : start + 10_000]
        part[:] = rng.standard_normal((len(part), 8), dtype=np.float32) @ mixing
        part += 0.5 * rng.standard_normal(part.shape, dtype=np.float32)


class Highest:
    """The highest sizes of this process since a look: its own memory, and with files."""

    def __enter__(self):
        gc.collect()
        self._first, self._stop = _sizes(), Event()
        self._highest = self._first
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *failure):
        self._stop.set()
        self._thread.join()
        self.rise = (self._highest - self._first).tolist()

    def _watch(self):
        while not self._stop.wait(INTERVAL):
            self._highest = np.maximum(self._highest, _sizes())


def _sizes():
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    own, resident = (int(status[key].split()[0]) for key in ("RssAnon", "VmRSS"))
    return np.array([own, resident]) * 1024 / 1e6


def memory_worker(task):
    """Print, as JSON, what a fit and a scoring took."""
    warnings.simplefilter("ignore")
    detector = AutoEncoder(max_epochs=1, random_state=0, device="cpu")
    detector.fit(rows(500)[0].astype(np.float32))
    mapped = np.load(task["path"], mmap_mode="r")
    before = os.times()
    with Highest() as highest:
        X = mapped if task["how"] == "map" else np.array(mapped)
        if task["how"] == "array":
            del mapped
        scores = detector.fit(X).score_samples(X)
    after = os.times()
    result = dict(zip(("own", "resident"), highest.rise, strict=True))
    result["cpu"] = after.user + after.system - before.user - before.system
    result["seconds"] = after.elapsed - before.elapsed
    print(json.dumps(result | {"scores": hashlib.sha256(scores.tobytes()).hexdigest()}))


# --- command line ----------------------------------------------------------------------

SECTIONS = {"search": compare_searches, "memory": compare_memory}


def main():
    if "--memory-worker" in sys.argv:
        return memory_worker(json.loads(sys.argv[-1]))
    arguments = make_parser(__doc__, SECTIONS).parse_args()
    sizes, load = (QUICK if arguments.quick else SIZES), os.getloadavg()[0]
    print(f"{date.today()}, one run, {os.cpu_count()} cores, Python", end=" ")
    print(", ".join([platform.python_version(), *(f"{p} {version(p)}" for p in PACKAGES)]))
    for name in arguments.sections:
        print(f"\n### {name}\n", flush=True)
        for printed in SECTIONS[name](sizes, arguments.repeats):
            print(printed, flush=True)
    print(f"Load average {load:.2f} before the run, {os.getloadavg()[0]:.2f} after.")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
