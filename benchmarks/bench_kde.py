"""Speed and memory of skad's KDE, one thread, against what a user would otherwise run.

    python benchmarks/bench_kde.py                      # all sections, 4 to 8 minutes
    python benchmarks/bench_kde.py --quick              # tiny sizes: does it run?
    python benchmarks/bench_kde.py --sections score,memory --repeats 5

Markdown goes to stdout, progress to stderr. What is compared, and how: README.md.
"""

import _common  # first: it sets one thread before numpy and torch load

# isort: split
import argparse
import json
import pickle
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from _common import (
    FAST,
    TIMES,
    Bound,
    Timing,
    columns,
    forget_peak,
    in_fresh_process,
    interleaved,
    number,
    once,
    peak,
    progress,
    ratio,
    ratios,
    seconds,
    side_by_side,
    table,
)
from pyod.models.kde import KDE as PyODKDE
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from skad import KDE
from skad.relevance._distance import ROWS, TILE_BYTES

DTYPES = {"float64": torch.float64, "float32": torch.float32}
FALSE_ALARM_RATE = 0.1
BACKGROUND = 20  # rows that SHAP replaces features from
TOLERANCES = {"float64": 1e-6, "float32": 0.05}  # of a log density
# features -> least KernelDensity / skad
SCORE_BOUNDS = {
    64: {"float64": 10, "float32": 20},
    784: {"float64": 30, "float32": 60},
}


@dataclass
class Sizes:
    """What the sections run on."""

    templates: int
    queries: int
    features: tuple
    shap_rows: dict  # features -> rows explained
    loo_shape: tuple
    memory_templates: tuple
    memory_queries: int
    memory_features: int
    memory_peer: int  # templates of scikit-learn's


FULL = Sizes(
    templates=10_000,
    queries=1_000,
    features=(64, 784),
    shap_rows={64: 4, 784: 2},
    loo_shape=(5_000, 64),
    memory_templates=(1_000, 10_000, 50_000, 200_000),
    memory_queries=20_000,
    memory_features=64,
    memory_peer=10_000,
)
QUICK = Sizes(
    templates=1_500,
    queries=150,
    features=(8, 32),
    shap_rows={8: 2, 32: 1},
    loo_shape=(400, 8),
    memory_templates=(500, 4_000),
    memory_queries=600,
    memory_features=16,
    memory_peer=500,
)


class Skipped(Exception):
    """A section that cannot run here; the message says why."""


# --- what is compared ------------------------------------------------------------------


def normal_data(n_templates, n_queries, d):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_templates, d)), rng.standard_normal((n_queries, d))


def scott(n, d):
    """Scott's rule for features of unit variance, as scikit-learn has it."""
    return float(n ** (-1 / (d + 4)))


def fitted_kdes(X, bandwidth):
    kde = KDE(bandwidth=bandwidth, false_alarm_rate=FALSE_ALARM_RATE)
    return {dtype: clone(kde).set_params(dtype=dtype).fit(X) for dtype in DTYPES}


def in_one_leaf(n, bandwidth=1.0):
    """KernelDensity that sums over all templates directly.

    In many features its tree gains no time, and its log densities are off by far
    (scikit-learn issue 7492); as one leaf it is exact, and faster.
    """
    return KernelDensity(leaf_size=n + 1, bandwidth=bandwidth)


def pyod_around(density):
    """PyOD's KDE around a fitted KernelDensity, without scoring its training rows.

    PyOD's own fit does that, which takes minutes here. `decision_function` reads
    nothing of it but that the attributes are there.
    """
    detector = PyODKDE(bandwidth=density.bandwidth)
    detector.kde_ = density
    detector.decision_scores_ = np.zeros(1)
    detector.threshold_, detector.labels_ = 0.0, np.zeros(1, dtype=int)
    return detector


def tile_columns(dtype):
    """Give the templates in a tile of skad's."""
    return TILE_BYTES // (ROWS * dtype.itemsize)


def bare_arithmetic(X, Q, dtype):
    """One matrix product and one exponential a tile, and nothing else.

    The tiles are skad's. Q is scaled so that the exponents are standard normal: where
    exp underflows it is many times slower, which would flatter skad.
    """
    right = torch.tensor(X, dtype=dtype).split(tile_columns(dtype))
    left = torch.tensor(Q / np.sqrt(Q.shape[1]), dtype=dtype).split(ROWS)
    buffer = torch.empty(ROWS, tile_columns(dtype), dtype=dtype)
    outs = {
        (len(x), len(y)): buffer.flatten()[: len(x) * len(y)].view(len(x), len(y))
        for x in left
        for y in right
    }

    def run():
        for x in left:
            for y in right:
                out = outs[len(x), len(y)]
                torch.mm(x, y.T, out=out)
                out.exp_()

    return run


def log_density(scores, bandwidth, d):
    """Turn skad's -o(x) into the log density of scikit-learn."""
    return scores / (2 * bandwidth**2) - d / 2 * np.log(2 * np.pi * bandwidth**2)


# --- section: score --------------------------------------------------------------------


def score_section(sizes, repeats):
    peers, limits, agreements, bounds = [], [], [], []
    for d in sizes.features:
        X, Q = normal_data(sizes.templates, sizes.queries, d)
        bandwidth = scott(len(X), d)
        progress(f"score: d={d}, fitting")
        densities = {
            "KernelDensity": KernelDensity(bandwidth=bandwidth).fit(X),
            "KernelDensity, one leaf": in_one_leaf(len(X), bandwidth).fit(X),
        }
        kdes = fitted_kdes(X, bandwidth)
        agreements += agreement_rows(kdes, densities, Q, bandwidth, d)
        rows, asked = against_peers(kdes, densities, Q, repeats, d)
        peers += rows
        bounds += asked
        rows, asked = against_limit(kdes, X, Q, repeats * FAST, d)
        limits += rows
        bounds += asked
    shape = f"{sizes.templates:,} templates, {sizes.queries:,} queries"
    return bounds, [
        table(
            f"Scoring: {shape}, Gaussian kernel, bandwidth n^(-1/(d+4)). Ratios: "
            "contender's time / skad's.",
            ["d", "contender", *TIMES, *columns("/ skad float64", "/ skad float32")],
            peers,
        ),
        table(
            "The limit: the same tiles of 1 MiB, only `torch.mm` and `exp_`. "
            "Ratio: skad's time / bare time.",
            ["d", "dtype", *columns("skad", "bare", "ratio")],
            limits,
        ),
        table(
            "Log densities of 200 queries against the exact sum, that of one leaf.",
            ["d", "bandwidth", "contender", "largest difference", "exact log densities"],
            agreements,
        ),
    ]


def agreement_rows(kdes, densities, Q, bandwidth, d):
    """Compare log densities; skad's must be those of the exact sum."""
    few = Q[:200]
    exact = densities["KernelDensity, one leaf"].score_samples(few)
    found = {
        f"skad {dtype}": log_density(kde.score_samples(few), bandwidth, d)
        for dtype, kde in kdes.items()
    }
    found["KernelDensity"] = densities["KernelDensity"].score_samples(few)
    differences = {name: np.abs(values - exact).max() for name, values in found.items()}
    for dtype, tolerance in TOLERANCES.items():
        if not differences[f"skad {dtype}"] < tolerance:
            raise AssertionError(f"{dtype}, d={d}: off by {differences[f'skad {dtype}']}")
    between = f"{exact.min():.1f} to {exact.max():.1f}"
    return [
        [d, f"{bandwidth:.4f}", name, f"{difference:.1e}", between]
        for name, difference in differences.items()
    ]


def against_peers(kdes, densities, Q, repeats, d):
    pyod = pyod_around(densities["KernelDensity"])
    contenders = {name: partial(p.score_samples, Q) for name, p in densities.items()}
    contenders["PyOD KDE"] = partial(pyod.decision_function, Q)
    for dtype, kde in kdes.items():
        contenders[f"skad {dtype}"] = partial(kde.score_samples, Q)
    progress(f"score: d={d}, against KernelDensity and PyOD, {repeats} repeats")
    timings = interleaved(contenders, repeats)
    own = {dtype: timings[f"skad {dtype}"] for dtype in DTYPES}
    rows = [
        [d, name, *side_by_side(timing)]
        + [cell for dtype in DTYPES for cell in ratios(timing, own[dtype])]
        for name, timing in timings.items()
    ]
    sklearn = timings["KernelDensity"].best
    bounds = [
        Bound(f"score, d={d}, {dtype}: KernelDensity / skad", sklearn / own[dtype].best, k)
        for dtype, k in SCORE_BOUNDS.get(d, SCORE_BOUNDS[64]).items()
    ]
    return rows, bounds


def against_limit(kdes, X, Q, repeats, d):
    contenders = {}
    for dtype, kde in kdes.items():
        contenders["skad", dtype] = partial(kde.score_samples, Q)
        contenders["bare", dtype] = bare_arithmetic(X, Q, DTYPES[dtype])
    progress(f"score: d={d}, against bare arithmetic, {repeats} repeats")
    timings = interleaved(contenders, repeats)
    rows, bounds = [], []
    for dtype in kdes:
        own, bare = timings["skad", dtype], timings["bare", dtype]
        rows.append([d, dtype, *side_by_side(own, bare), *ratios(own, bare)])
        what = f"score, d={d}, {dtype}: skad / bare arithmetic"
        bounds.append(Bound(what, own.best / bare.best, 1.3, at_least=False))
    return rows, bounds


# --- section: explain ------------------------------------------------------------------


def explain_section(sizes, repeats):
    against_score, against_shap, bounds = [], [], []
    for d in sizes.features:
        X, Q = normal_data(sizes.templates, sizes.queries, d)
        progress(f"explain: d={d}, fitting")
        kdes = fitted_kdes(X, scott(len(X), d))
        timings = explain_timings(kdes, Q, repeats * FAST, d)
        for dtype in kdes:
            score, explain = timings["score", dtype], timings["explain", dtype]
            best = explain.best / score.best
            against_score.append(
                [d, dtype, *side_by_side(score, explain), *ratios(explain, score)]
            )
            what = f"explain, d={d}, {dtype}: explain / score_samples"
            bounds.append(Bound(what, best, 3, at_least=False))
        try:
            peers = shap_seconds(kdes["float32"], X, Q[: sizes.shap_rows[d]], d)
            against_shap += shap_rows(peers, timings, len(Q), d)
        except Skipped as reason:
            peers = {}
            against_shap.append([d, str(reason), *[""] * 5])
    bounds += shap_bounds(peers, timings, len(Q), d)  # of the most features
    return bounds, [
        table(
            f"`explain` against `score_samples`: {sizes.templates:,} templates, "
            f"{sizes.queries:,} rows.",
            ["d", "dtype", *columns("score", "explain", "ratio")],
            against_score,
        ),
        table(
            f"`explain` against SHAP, time a row. skad: batch of {sizes.queries:,} "
            f"rows, or one row a call. SHAP: background of {BACKGROUND} rows, the score "
            "function is skad's float32 `score_samples`, the faster; one permutation.",
            [
                "d",
                "SHAP explainer",
                "time a row",
                "evaluations a row",
                "/ skad float64, batch",
                "/ skad float32, batch",
                "/ skad float64, one row",
            ],
            against_shap,
        ),
    ]


def explain_timings(kdes, Q, repeats, d):
    contenders = {}
    for dtype, kde in kdes.items():
        contenders["score", dtype] = partial(kde.score_samples, Q)
        contenders["explain", dtype] = partial(kde.explain, Q)
        contenders["one", dtype] = partial(kde.explain, Q[:1])
    progress(f"explain: d={d}, against score_samples, {repeats} repeats")
    return interleaved(contenders, repeats)


def shap_rows(peers, timings, n_rows, d):
    own = [timings["explain", dtype].best / n_rows for dtype in DTYPES]
    own.append(timings["one", "float64"].best)
    return [
        [d, name, seconds(peer), f"{evaluations:,.0f}", *(ratio(peer, t) for t in own)]
        for name, (peer, evaluations) in peers.items()
    ]


def shap_bounds(peers, timings, n_rows, d):
    peer, _ = peers.get("KernelExplainer", (np.nan, np.nan))
    return [
        Bound(
            f"explain, d={d}, {dtype}: KernelExplainer / skad, a row of a batch",
            peer * n_rows / timings["explain", dtype].best,
            3000,
        )
        for dtype in DTYPES
    ]


def shap_seconds(kde, X, rows, d):
    """Give seconds and evaluations of the score a row, for each of SHAP's explainers."""
    try:
        import shap
    except ImportError:
        raise Skipped("skipped: shap is not installed (`pip install shap`)") from None
    score = Counted(kde.score_samples)
    background = X[:BACKGROUND]
    kernel = shap.KernelExplainer(score, background)
    masker = shap.maskers.Independent(background, max_samples=BACKGROUND)
    permutation = shap.PermutationExplainer(score, masker, seed=0)
    runs = {
        "KernelExplainer": lambda: kernel.shap_values(rows, silent=True),
        "PermutationExplainer": lambda: permutation(rows, max_evals=2 * d + 1, silent=True),
    }
    warm_up_shap(shap)
    results = {}
    for name, run in runs.items():
        progress(f"explain: d={d}, {name} on {len(rows)} rows")
        score.rows = 0
        _, spent = once(run)
        results[name] = spent / len(rows), score.rows / len(rows)
    return results


def warm_up_shap(shap):
    """Compile what SHAP compiles on first use."""
    X, row_sums = np.eye(3), partial(np.sum, axis=1)
    masker = shap.maskers.Independent(X, max_samples=3)
    shap.PermutationExplainer(row_sums, masker, seed=0)(X[:1] + 1, silent=True)
    shap.KernelExplainer(row_sums, X).shap_values(X[:1], silent=True)


class Counted:
    """A score function that counts the rows it is asked for."""

    def __init__(self, score):
        self.score, self.rows = score, 0

    def __call__(self, X):
        self.rows += len(X)
        return self.score(X)


# --- section: bandwidth ----------------------------------------------------------------


def bandwidth_section(sizes, repeats):
    n, d = sizes.loo_shape
    X, fresh = normal_data(n, sizes.queries, d)
    around = scott(n, d)
    candidates = np.geomspace(around / 3, around * 3, 20)
    searches = {"KernelDensity": KernelDensity(), "KernelDensity, one leaf": in_one_leaf(n)}
    found = {
        f"GridSearchCV({name})": searched(density, candidates, X)
        for name, density in searches.items()
    }
    progress(f"bandwidth: KDE(bandwidth='loo'), {repeats} repeats")
    kde = KDE(bandwidth="loo", false_alarm_rate=FALSE_ALARM_RATE)
    loo = interleaved({"loo": partial(kde.fit, X)}, repeats)["loo"]
    found["skad KDE(bandwidth='loo')"] = kde.bandwidth_, loo
    rows = [
        [
            name,
            *side_by_side(timing),
            f"{bandwidth:.4f}",
            f"{mean_log_density(X, fresh, bandwidth):.4f}",
            *ratios(timing, loo),
        ]
        for name, (bandwidth, timing) in found.items()
    ]
    peer = found["GridSearchCV(KernelDensity)"][1].best
    what = f"bandwidth, {n:,} x {d}: GridSearchCV(KernelDensity) / skad"
    return [Bound(what, peer / loo.best, 50)], [
        table(
            f"Choosing the bandwidth on {n:,} x {d}: `fit`, with 5 folds of a grid of 20 "
            f"from {candidates[0]:.3f} to {candidates[-1]:.3f} (once) or skad's "
            "leave-one-out likelihood. Log densities are exact, by skad.",
            [
                "fit",
                *TIMES,
                "bandwidth",
                "mean log density of fresh rows",
                *columns("/ skad"),
            ],
            rows,
        )
    ]


def searched(density, candidates, X):
    progress(f"bandwidth: GridSearchCV, leaf_size={density.leaf_size}, once")
    search = GridSearchCV(density, {"bandwidth": candidates}, cv=5)
    _, spent = once(partial(search.fit, X))
    return search.best_params_["bandwidth"], Timing([spent])


def mean_log_density(X, fresh, bandwidth):
    kde = KDE(bandwidth=float(bandwidth), false_alarm_rate=FALSE_ALARM_RATE).fit(X)
    return log_density(kde.score_samples(fresh), bandwidth, X.shape[1]).mean()


# --- section: memory -------------------------------------------------------------------


def memory_section(sizes, repeats):
    """Each size in a fresh process; `repeats` has no effect."""
    d = sizes.memory_features
    runs = [("skad KDE float64", n) for n in sizes.memory_templates]
    runs.append(("KernelDensity", sizes.memory_peer))
    rows, extra = [], {}
    for name, n in runs:
        progress(f"memory: {name}, {n:,} templates")
        result = in_fresh_process(
            __file__,
            {"model": name, "n": n, "queries": sizes.memory_queries, "d": d},
        )
        stages = result["stages"]
        extra[name, n] = max(mb for mb, _ in stages.values())
        cells = [f"{number(mb)} ({seconds(spent)})" for mb, spent in stages.values()]
        cells += ["-"] * (3 - len(cells))
        rows.append([name, f"{n:,}", *cells, number(result["model"]), result["measure"]])
    name, n = "skad KDE float64", sizes.memory_templates[-1]
    what = f"memory, {n:,} x {d}, {sizes.memory_queries:,} queries: peak extra"
    bounds = [Bound(what, extra[name, n], 300, at_least=False, unit=" MB")]
    return bounds, [
        table(
            f"Peak extra memory, MB of 10^6 bytes (and time): {sizes.memory_queries:,} "
            f"queries, d={d}, numeric bandwidth. Extra is the peak of the process since "
            "the baseline, which holds the imports, a warm-up and the caller's arrays; "
            "the model and the results are included. Peaks accumulate from left to right.",
            [
                "model",
                "templates",
                "fit",
                "score_samples",
                "explain",
                "the model alone",
                "read from",
            ],
            rows,
        )
    ]


def memory_worker(task):
    """Run in a process of its own: print the peaks, in MB above the baseline."""
    n, d = task["n"], task["d"]
    X, Q = normal_data(n, task["queries"], d)
    few = normal_data(ROWS, ROWS, d)[0]
    for _, run in memory_stages(task["model"], scott(n, d), few, few[:16]):
        run()  # loads what is loaded on first use
    model, stages = None, {}
    forget_peak()
    baseline, measure = peak()
    for name, run in memory_stages(task["model"], scott(n, d), X, Q):
        result, spent = once(run)
        stages[name] = (peak()[0] - baseline, spent)
        model = result if name == "fit" else model
        del result
    size = len(pickle.dumps(model)) / 1e6
    print(json.dumps({"stages": stages, "model": size, "measure": measure}))


def memory_stages(model, bandwidth, X, Q):
    if model == "KernelDensity":
        detector = KernelDensity(bandwidth=bandwidth)
    else:
        detector = KDE(bandwidth=bandwidth, false_alarm_rate=FALSE_ALARM_RATE)
    yield "fit", partial(detector.fit, X)
    yield "score_samples", partial(detector.score_samples, Q)
    if hasattr(detector, "explain"):
        yield "explain", partial(detector.explain, Q)


# --- command line ----------------------------------------------------------------------

SECTIONS = {
    "score": score_section,
    "explain": explain_section,
    "bandwidth": bandwidth_section,
    "memory": memory_section,
}


PACKAGES = ("skad", "numpy", "scipy", "scikit-learn", "torch", "pyod", "shap")


def main():
    parser = _common.make_parser(__doc__, SECTIONS)
    parser.add_argument("--memory-worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_worker:
        memory_worker(json.loads(arguments.memory_worker))
    else:
        sizes = QUICK if arguments.quick else FULL
        _common.report(arguments, SECTIONS, sizes, PACKAGES)


if __name__ == "__main__":
    main()
