"""All runs: each detector on each dataset, with each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils.parallel import Parallel, delayed
from tqdm import tqdm

from skad._typing import FilePath
from skad._warnings import warn
from skad.benchmark import _cache
from skad.benchmark._data import import_pandas
from skad.benchmark._inputs import check_at_least, read_datasets, read_detectors, read_seeds
from skad.benchmark._protocol import RESULTS, run_once

if TYPE_CHECKING:
    import pandas as pd


_COLUMNS = (
    *("detector", "dataset", "seed", "n_train", "n_test", "n_anomalies", "n_features"),
    *(*RESULTS, "error"),
)


def benchmark(
    detectors: Mapping[str, Any] | Sequence[str],
    datasets: Mapping[str, Any],
    *,
    seeds: int | Sequence[int] = 5,
    scale: bool = True,
    max_rows: int = 5000,
    n_explained: int = 100,
    n_jobs: int | None = None,
    cache: FilePath | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare detectors on datasets: detection, explanation, time and memory.

    Detectors train on normal rows alone. For each seed, half of the normal rows train;
    the others and all anomalies test.

    Parameters
    ----------
    detectors : dict of str to detector, or list of str
        Unfitted detectors of skad, scikit-learn or PyOD, or Pipelines that end in one;
        or names of :func:`detector_names`. They are copied, and every ``random_state``
        that is None is set to the seed.
    datasets : dict of str to dataset
        A dataset is ``(X, y)``, ``(X, y, mask)``, a Bunch with data, target and perhaps
        mask, the path of a file as :func:`load_table` reads it, or a callable that gives
        one of these. y is +1 for normal rows and -1 for anomalies; a mask marks the
        columns or pixels of anomalies that are wrong. Frames become arrays.
    seeds : int or sequence of int, default=5
        How many seeds, or which.
    scale : bool, default=True
        Standardise columns by the training rows, in a Pipeline, so that explanations are
        of the columns of X. Images are never scaled: X of more than two dimensions, and
        a Bunch with an image_shape.
    max_rows : int, default=5000
        The most rows that train, the most normal and the most abnormal rows that test.
    n_explained : int, default=100
        The most anomalies that are explained.
    n_jobs : int, default=None
        How many processes share the runs, as in joblib. Times are best taken with one.
    cache : str or path, default=None
        Folder that keeps each run. A later call with the same detectors, data, seeds and
        arguments takes from it what is there; what failed runs again.
    progress : bool, default=True
        Show a bar on stderr.

    Returns
    -------
    frame : pandas.DataFrame
        One row for each detector, dataset and seed, with columns

        - ``detector``, ``dataset``, ``seed``, ``n_train``, ``n_test``, ``n_anomalies``
          (of the test rows), ``n_features``
        - ``roc_auc``, ``average_precision``: anomalies are the positive class
        - ``explanation``: mean cosine of mask and explanation over the explained
          anomalies; ``baseline``, that of a constant map; ``pixel_roc_auc``, their mean
          area under the ROC curve; ``clever_hans``, roc_auc less explanation. NaN
          without masks
        - ``faithfulness``: by how much faster the score falls when the features of an
          anomaly give way, the most relevant first, to those of the nearest training
          row, than in random order; the mean difference of areas under curves that are
          cut off at 0 and 1, see :func:`skad.metrics.pixel_flipping_curve`. Higher is
          better, 0 is no better than random; NaN where no anomaly scores higher than its
          nearest normal row
        - ``fit_seconds``, ``score_seconds`` (all test rows), ``explain_seconds`` (all
          explained rows). The first run of a detector also pays for what it imports
        - ``peak_mib``: rise of this process's memory while it fits and scores, sampled
        - ``error``: empty, or what the detector raised. Results are then NaN; after
          "explain: ..." only those of explaining

    Raises
    ------
    ImportError
        If pandas is not installed.
    TypeError
        If detectors or datasets are none of the forms above.
    ValueError
        If a name is unknown, labels are 0/1 or of one class, values are NaN or infinite,
        or a number is out of range.

    Warns
    -----
    UserWarning
        When runs failed: how many, and the first message.

    See Also
    --------
    rank_table : One row for each detector.
    load_table : Reads a dataset from a file.
    skad.plotting.CleverHansDisplay.from_benchmark : Detection against explanation.

    Examples
    --------
    >>> import numpy as np
    >>> from skad import KDE
    >>> from skad.benchmark import benchmark
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((60, 3)), np.repeat([1, -1], [50, 10])
    >>> mask = np.outer(y == -1, [1, 0, 0])
    >>> X[mask == 1] += 10
    >>> frame = benchmark({"KDE": KDE()}, {"toy": (X, y, mask)}, seeds=1, progress=False)
    >>> frame[["detector", "dataset", "n_train", "n_test", "roc_auc", "error"]]
      detector dataset  n_train  n_test  roc_auc error
    0      KDE     toy       25      35      1.0
    """
    pd = import_pandas("benchmark")
    check_at_least("max_rows", max_rows, least=2)
    check_at_least("n_explained", n_explained, least=1)
    detectors, datasets = read_detectors(detectors), read_datasets(datasets)
    protocol = {
        "scale": bool(scale),
        "max_rows": int(max_rows),
        "n_explained": int(n_explained),
    }
    if cache is not None:
        Path(cache).mkdir(parents=True, exist_ok=True)
    runs = [
        _Run(name, detector, data, seed, protocol, cache)
        for data, (name, detector), seed in product(
            datasets, detectors.items(), read_seeds(seeds)
        )
    ]
    frame = pd.DataFrame(_all_rows(runs, n_jobs, progress), columns=list(_COLUMNS))
    _warn_of_failures(frame)
    return frame


class _Run:
    """One detector, one dataset, one seed; and the file that keeps the outcome."""

    def __init__(self, name, detector, data, seed, protocol, cache):
        self.head = {"detector": name, "dataset": data.name, "seed": seed}
        self.work = partial(run_once, detector, data, seed, **protocol)
        self.file = None
        if cache is not None:
            self.file = _cache.run_file(cache, name, detector, data, seed, **protocol)

    def __str__(self):
        return "{detector} on {dataset}, seed {seed}".format(**self.head)

    def kept(self):
        return None if self.file is None else _cache.load(self.file)

    def __call__(self):
        # Kept by the process that ran it: what is done is safe when another one dies.
        row = self.head | self.work()
        if self.file is not None:
            _cache.store(self.file, row)
        return row


def _all_rows(runs, n_jobs, progress):
    rows = [run.kept() for run in runs]
    missing = [i for i, row in enumerate(rows) if row is None]
    with tqdm(
        total=len(runs), initial=len(runs) - len(missing), disable=not progress, unit="run"
    ) as bar:

        def jobs():
            for i in missing:
                bar.set_description(str(runs[i]))
                yield delayed(runs[i])()

        done = Parallel(n_jobs=n_jobs, return_as="generator")(jobs())
        for i, row in zip(missing, done, strict=True):
            rows[i] = row
            bar.update()
    return rows


def _warn_of_failures(frame):
    failed = frame[frame["error"] != ""]
    if len(failed):
        first = failed.iloc[0]
        warn(
            f"{len(failed)} of {len(frame)} runs failed; the first, {first['detector']} on "
            f"{first['dataset']} with seed {first['seed']}: {first['error']}",
        )
