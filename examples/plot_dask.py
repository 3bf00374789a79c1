"""
Two workers share a search, a bag and a file, and no score changes
==================================================================

What scikit-learn runs in parallel, dask runs on other processes and machines. Here two
workers on one machine fit the candidates of a search and the members of a bag, then score
a file block by block. Every score is the same, to the bit, as in one process. The picture
shows which worker did what, and when it had nothing to do.

Run it with ``python examples/plot_dask.py``; it takes some 20 seconds. It needs
``dask[distributed]``.
"""

# %%
# Imports. The workers of a script import it too: whatever starts them comes last, behind
# ``if __name__ == "__main__"``.
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from threadpoolctl import threadpool_limits

from skad import KDE, AutoEncoder, Bag, InlierTraining
from skad.datasets import load_corrupted_digits

try:
    import dask
    import dask.array as da
    from distributed import Client, LocalCluster, get_task_stream, get_worker
except ImportError:
    dask = None
    print("This example needs dask: pip install 'dask[distributed]'")

# %%
# A search as it is without dask, but for the last lines of its scorer, which tell the
# scheduler which detector was fitted where: the tasks themselves have no names.


def roc_auc(model, X, y):
    """Give the ROC AUC, and note what this worker fitted, if it is one."""
    with suppress(ValueError):
        worker, kind = get_worker(), type(model.estimator_).__name__
        worker.log_event("fitted", (worker.address, time.time(), f"search: {kind}"))
    return roc_auc_score(y, model.score_samples(X))


MIXTURE = GaussianMixture(5, reg_covar=0.01, random_state=0)
NETWORK = AutoEncoder(max_epochs=10, batch_size=64, random_state=0)
SEARCH = GridSearchCV(
    InlierTraining(KDE()),
    [
        {"estimator": [KDE(bandwidth=b) for b in (0.2, 0.5, 1.0)]},
        {"estimator": [MIXTURE], "estimator__n_components": [5, 10]},
        {"estimator": [NETWORK], "estimator__code_size": [4, 16]},
    ],
    scoring=roc_auc,
    cv=StratifiedKFold(3, shuffle=True, random_state=0),
)
BAG = Bag(
    [("kde", KDE()), ("mixture", MIXTURE), ("network", NETWORK)], false_alarm_rate=0.05
)

# %%
# A file that is read block by block. An array that is mapped into memory goes to other
# processes as a copy of all its rows; so each worker opens the file itself.
N_ROWS, N_BLOCKS = 60_000, 6


def read_block(path, block_info=None):
    """Read the rows of one block, on the worker that is to score them."""
    start, stop = block_info[None]["array-location"][0]
    return np.load(path, mmap_mode="r")[start:stop]


def file_of_rows(folder, X):
    """Write many rows, drawn from those of X."""
    path = Path(folder) / "rows.npy"
    drawn = np.random.default_rng(0).integers(0, len(X), N_ROWS)
    np.save(path, X[drawn].astype(np.float32))
    return str(path)


# %%
# What the scheduler saw: one lane a worker, one bar a task. joblib joins fits that take
# less than a fifth of a second, so that a bar of the search may stand for several.
COLOURS = {
    "search: KDE": "#0072B2",
    "search: GaussianMixture": "#56B4E9",
    "search: AutoEncoder": "#009E73",
    "member of the bag": "#E69F00",
    "block of rows": "#CC79A7",
}


def bars_of(stream, fitted, name=None):
    """Give worker, start, stop and name of what was computed."""
    for task in stream.data:
        for span in task["startstops"]:
            if span["action"] == "compute":
                notes = [
                    note
                    for worker, at, note in fitted
                    if worker == task["worker"] and span["start"] <= at <= span["stop"]
                ]
                if name or notes:
                    yield task["worker"], span["start"], span["stop"], name or notes[0]


def draw(bars):
    """Draw the lanes; give the share of the time in which each worker computed."""
    workers = sorted({worker for worker, *_ in bars})
    begin = min(start for _, start, _, _ in bars)
    end = max(stop for _, _, stop, _ in bars)
    _, ax = plt.subplots(figsize=(10, 2.6), layout="constrained")
    for worker, start, stop, name in bars:
        ax.barh(
            workers.index(worker),
            stop - start,
            left=start - begin,
            color=COLOURS[name],
            edgecolor="white",
            linewidth=0.8,
        )
    for name, colour in COLOURS.items():
        ax.barh(0, 0, color=colour, label=name)
    ax.set(yticks=range(len(workers)), ylim=(len(workers) - 0.5, -0.5))
    ax.set_yticklabels([f"worker {i + 1}" for i in range(len(workers))])
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="seconds", xlim=(0, end - begin))
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.figure.legend(loc="outside upper center", ncols=len(COLOURS), frameon=False)
    busy = [sum(b - a for w, a, b, _ in bars if w == worker) for worker in workers]
    return np.array(busy) / (end - begin)


# %%
# Candidates go to whichever worker is free. The bag is done when its slowest member is;
# mixture and network are fitted six times each, on all rows and without a fifth of them in
# turn, which tells how they score rows that they have not seen. Of the file, a worker holds
# one block at a time.
#
# Then the search and the bag once more in this process, to compare.


def run(client, X, y, path):
    """Search, fit the bag, and score the file, on the workers."""
    with joblib.parallel_config("dask"), get_task_stream() as of_search:
        search = clone(SEARCH).fit(X, y)
    with joblib.parallel_config("dask"), get_task_stream() as of_bag:
        bag = clone(BAG).fit(X[y == 1])
    sizes = (N_ROWS // N_BLOCKS,) * N_BLOCKS
    rows = da.map_blocks(read_block, path, chunks=(sizes, (64,)), dtype=np.float32)
    with get_task_stream() as of_rows:
        scores = rows.map_blocks(bag.score_samples, drop_axis=1, dtype=float).compute()
    fitted = [note for _, note in client.get_events("fitted")]
    bars = [
        *bars_of(of_search, fitted),
        *bars_of(of_bag, [], "member of the bag"),
        *bars_of(of_rows, [], "block of rows"),
    ]
    return search, bag, scores, bars


if __name__ == "__main__" and dask is not None:
    digits = load_corrupted_digits("all", random_state=0)
    X, y, fresh = digits.data[::2], digits.target[::2], digits.data[1::2]
    with (
        TemporaryDirectory() as folder,
        dask.config.set(temporary_directory=folder),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(clone(BAG).fit, X[:50])  # imports, untimed
        path = file_of_rows(folder, fresh)
        search, bag, scores, bars = run(client, X, y, path)
        part = np.array(np.load(path, mmap_mode="r")[:5000])
    print(f"best: {search.best_params_}, ROC AUC {search.best_score_:.3f}")
    print(f"of {len(scores):,} rows, {(scores < bag.offset_).mean():.1%} are flagged")
    with threadpool_limits(1):  # as the workers have: last bits depend on it
        alone = clone(SEARCH).fit(X, y).cv_results_
        same = clone(BAG).fit(X[y == 1]).score_samples(part) == scores[: len(part)]
    alike = alone["mean_test_score"] == search.cv_results_["mean_test_score"]
    print(f"the same in one process: search {alike.all()}, bag {same.all()}")
    print("computing:", " and ".join(f"{share:.0%} of the time" for share in draw(bars)))
