"""Speed and memory of skad's KDE, one thread, against what a user would otherwise run.

    python benchmarks/bench_kde.py                      # all sections, 4 to 8 minutes
    python benchmarks/bench_kde.py --quick              # tiny sizes: does it run?
    python benchmarks/bench_kde.py --sections score,memory --repeats 5

Markdown goes to stdout, progress to stderr. What is compared, and how: README.md.
"""

import os

# Before numpy and torch are imported, which read these only once.
os.environ.update(
    dict.fromkeys(
        (
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS",
            "NUMBA_NUM_THREADS",
        ),
        "1",
    )
)

import argparse
import json
import pickle
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from pyod.models.kde import KDE as PyODKDE
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from skad import KDE
from skad.relevance._distance import COLUMNS, ROWS

torch.set_num_threads(1)

DTYPES = {"float64": torch.float64, "float32": torch.float32}
FALSE_ALARM_RATE = 0.1
BACKGROUND = 20  # rows that SHAP replaces features from
FAST = 5  # contenders that take well under a second are repeated this many times more


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


@dataclass
class Bound:
    """A number asked for, and the number measured."""

    what: str
    measured: float
    limit: float
    at_least: bool
    unit: str = "x"

    @property
    def met(self):
        """Whether the number measured is on the right side."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    def row(self, sizes):
        """Give the row of the table of bounds."""
        sign = "≥" if self.at_least else "≤"
        verdict = "not judged" if sizes is QUICK else "met" if self.met else "**missed**"
        asked = f"{sign} {number(self.limit)}{self.unit}"
        return [self.what, asked, f"{number(self.measured)}{self.unit}", verdict]


@dataclass
class Timing:
    """Seconds of the repeats of one contender."""

    seconds: list

    @property
    def best(self):
        return min(self.seconds)

    @property
    def median(self):
        return float(np.median(self.seconds))


class Skipped(Exception):  # noqa: N818
    """A section that cannot run here; the message says why."""


# --- timing and printing ---------------------------------------------------------------


def progress(text):
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", file=sys.stderr, flush=True)


def interleaved(contenders, repeats):
    """Time each contender `repeats` times in turn: A, B, C, A, B, C ..."""
    seconds = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(values) for name, values in seconds.items()}


def once(run):
    """Run, and give the result and the seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def number(value):
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def seconds(value):
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def ratio(peer, own):
    return f"{number(peer / own)}x"


def table(title, header, rows):
    """Give a Markdown table under its title."""
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return f"{title}\n\n{body}\n"


# --- what is compared ------------------------------------------------------------------


def normal_data(n_templates, n_queries, d):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_templates, d)), rng.standard_normal((n_queries, d))


def scott(n, d):
    """Scott's rule for features of unit variance, as scikit-learn has it."""
    return float(n ** (-1 / (d + 4)))


def fitted_kdes(X, bandwidth):
    return {
        dtype: KDE(
            bandwidth=bandwidth, false_alarm_rate=FALSE_ALARM_RATE, dtype=dtype
        ).fit(X)
        for dtype in DTYPES
    }


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


def bare_arithmetic(X, Q, dtype):
    """One matrix product and one exponential a tile, and nothing else.

    The tiles are skad's. Q is scaled so that the exponents are standard normal: where
    exp underflows it is many times slower, which would flatter skad.
    """
    right = torch.tensor(X, dtype=dtype).split(COLUMNS)
    left = torch.tensor(Q / np.sqrt(Q.shape[1]), dtype=dtype).split(ROWS)
    buffer = torch.empty(ROWS, COLUMNS, dtype=dtype)
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
        density = KernelDensity(bandwidth=bandwidth).fit(X)
        kdes = fitted_kdes(X, bandwidth)
        agreements += agreement_rows(kdes, density, Q, bandwidth, d)
        rows, asked = against_peers(kdes, density, Q, repeats, d)
        peers += rows
        bounds += asked
        rows, asked = against_limit(kdes, X, Q, repeats * FAST, d)
        limits += rows
        bounds += asked
    shape = f"{sizes.templates:,} templates, {sizes.queries:,} queries"
    return bounds, [
        table(
            f"Scoring: {shape}, Gaussian kernel, bandwidth n^(-1/(d+4)). Ratios are of "
            "the minima: contender's time / skad's.",
            ["d", "contender", "min", "median", "/ skad float64", "/ skad float32"],
            peers,
        ),
        table(
            f"The limit: the same {ROWS} x {COLUMNS} tiles, only `torch.mm` and `exp_`. "
            "Ratio: skad's time / bare time.",
            ["d", "dtype", "skad min", "median", "bare min", "median", "ratio (min)"]
            + ["ratio (median)"],
            limits,
        ),
        table(
            "Agreement with KernelDensity: log densities of the queries.",
            ["d", "dtype", "bandwidth", "largest difference", "log densities"],
            agreements,
        ),
    ]


def agreement_rows(kdes, density, Q, bandwidth, d):
    few = Q[:200]
    expected = density.score_samples(few)
    between = f"{expected.min():.1f} to {expected.max():.1f}"
    rows = []
    for dtype, kde in kdes.items():
        found = log_density(kde.score_samples(few), bandwidth, d)
        difference = np.abs(found - expected).max()
        if not difference < 0.1:
            raise AssertionError(f"{dtype} differs from KernelDensity by {difference}")
        rows.append([d, dtype, f"{bandwidth:.4f}", f"{difference:.1e}", between])
    return rows


def against_peers(kdes, density, Q, repeats, d):
    pyod = pyod_around(density)
    contenders = {
        "KernelDensity.score_samples": lambda: density.score_samples(Q),
        "PyOD KDE.decision_function": lambda: pyod.decision_function(Q),
        **{
            f"skad KDE {dtype}": lambda kde=kde: kde.score_samples(Q)
            for dtype, kde in kdes.items()
        },
    }
    progress(f"score: d={d}, against KernelDensity and PyOD, {repeats} repeats")
    timings = interleaved(contenders, repeats)
    own = {dtype: timings[f"skad KDE {dtype}"].best for dtype in DTYPES}
    rows = [
        [d, name, seconds(t.best), seconds(t.median)]
        + [ratio(t.best, own[dtype]) for dtype in DTYPES]
        for name, t in timings.items()
    ]
    sklearn = timings["KernelDensity.score_samples"].best
    wide = d == max(QUICK.features) or d == max(FULL.features)
    asked = {"float64": 30 if wide else 10, "float32": 60 if wide else 20}
    bounds = [
        Bound(f"score, d={d}, {dtype}: KernelDensity / skad", sklearn / own[dtype], k, True)
        for dtype, k in asked.items()
    ]
    return rows, bounds


def against_limit(kdes, X, Q, repeats, d):
    contenders = {}
    for dtype, kde in kdes.items():
        contenders["skad", dtype] = lambda kde=kde: kde.score_samples(Q)
        contenders["bare", dtype] = bare_arithmetic(X, Q, DTYPES[dtype])
    progress(f"score: d={d}, against bare arithmetic, {repeats} repeats")
    timings = interleaved(contenders, repeats)
    rows, bounds = [], []
    for dtype in kdes:
        own, bare = timings["skad", dtype], timings["bare", dtype]
        times = [own.best, own.median, bare.best, bare.median]
        ratios = [ratio(own.best, bare.best), ratio(own.median, bare.median)]
        rows.append([d, dtype, *map(seconds, times), *ratios])
        what = f"score, d={d}, {dtype}: skad / bare arithmetic"
        bounds.append(Bound(what, own.best / bare.best, 1.3, False))
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
            times = [score.best, score.median, explain.best, explain.median]
            against_score.append(
                [d, dtype, *map(seconds, times)]
                + [f"{number(best)}x", ratio(explain.median, score.median)]
            )
            what = f"explain, d={d}, {dtype}: explain / score_samples"
            bounds.append(Bound(what, best, 3, False))
        try:
            peers = shap_seconds(kdes["float32"], X, Q[: sizes.shap_rows[d]], d)
        except Skipped as reason:
            against_shap = [[d, str(reason), *[""] * 5]]
            continue
        rows, asked = compare_with_shap(peers, timings, len(Q), d, d == sizes.features[-1])
        against_shap += rows
        bounds += asked
    return bounds, [
        table(
            f"`explain` against `score_samples`: {sizes.templates:,} templates, "
            f"{sizes.queries:,} rows.",
            ["d", "dtype", "score min", "median", "explain min", "median"]
            + ["ratio (min)", "ratio (median)"],
            against_score,
        ),
        table(
            f"`explain` against SHAP, seconds a row. Skad: batch of {sizes.queries:,} "
            f"rows, or one row a call. SHAP: background of {BACKGROUND} rows, the score "
            "function is skad's float32 `score_samples`, the faster.",
            ["d", "SHAP explainer", "seconds a row", "evaluations a row"]
            + ["/ skad float64, batch", "/ skad float32, batch", "/ skad float64, one row"],
            against_shap,
        ),
    ]


def explain_timings(kdes, Q, repeats, d):
    contenders = {}
    for dtype, kde in kdes.items():
        contenders["score", dtype] = lambda kde=kde: kde.score_samples(Q)
        contenders["explain", dtype] = lambda kde=kde: kde.explain(Q)
        contenders["one", dtype] = lambda kde=kde: kde.explain(Q[:1])
    progress(f"explain: d={d}, against score_samples, {repeats} repeats")
    return interleaved(contenders, repeats)


def compare_with_shap(peers, timings, n_rows, d, judged):
    """Give rows of the table, and the bound on kernel SHAP where d is the one asked for."""
    batch = {dtype: timings["explain", dtype].best / n_rows for dtype in DTYPES}
    rows = [
        [d, name, seconds(peer), f"{evaluations:,.0f}"]
        + [ratio(peer, own) for own in batch.values()]
        + [ratio(peer, timings["one", "float64"].best)]
        for name, (peer, evaluations) in peers.items()
    ]
    if not judged:
        return rows, []
    kernel_shap = peers["KernelExplainer"][0]
    return rows, [
        Bound(
            f"explain, d={d}, {dtype}: KernelExplainer / skad, a row",
            kernel_shap / own,
            3000,
            True,
        )
        for dtype, own in batch.items()
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
        "PermutationExplainer": lambda: permutation(
            rows, max_evals=2 * d + 1, silent=True
        ),
    }
    results = {}
    for name, run in runs.items():
        progress(f"explain: d={d}, {name} on {len(rows)} rows")
        score.rows = 0
        _, spent = once(run)
        results[name] = spent / len(rows), score.rows / len(rows)
    return results


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
    search = GridSearchCV(KernelDensity(), {"bandwidth": candidates}, cv=5)
    progress(f"bandwidth: GridSearchCV on {n} x {d}, once")
    _, grid_seconds = once(lambda: search.fit(X))
    progress(f"bandwidth: KDE(bandwidth='loo'), {repeats} repeats")
    kde = KDE(bandwidth="loo", false_alarm_rate=FALSE_ALARM_RATE)
    loo = interleaved({"loo": lambda: kde.fit(X)}, repeats)["loo"]
    found = {
        "GridSearchCV(KernelDensity), 20 values, 5 folds": (
            search.best_params_["bandwidth"],
            [seconds(grid_seconds)] * 2,
            grid_seconds,
        ),
        "skad KDE(bandwidth='loo').fit": (
            kde.bandwidth_,
            [seconds(loo.best), seconds(loo.median)],
            loo.best,
        ),
    }
    rows = [
        [name, *times, f"{chosen:.4f}"]
        + [f"{mean_log_density(X, fresh, chosen):.4f}", ratio(spent, loo.best)]
        for name, (chosen, times, spent) in found.items()
    ]
    what = f"bandwidth, {n:,} x {d}: GridSearchCV / skad 'loo'"
    bounds = [Bound(what, grid_seconds / loo.best, 50, True)]
    return bounds, [
        table(
            f"Choosing the bandwidth on {n:,} x {d}; grid of 20 from {candidates[0]:.3f} "
            f"to {candidates[-1]:.3f}; GridSearchCV was run once.",
            ["fit", "min", "median", "bandwidth", "mean log density of fresh rows"]
            + ["/ skad"],
            rows,
        )
    ]


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
            {"model": name, "n": n, "queries": sizes.memory_queries, "d": d}
        )
        stages = result["stages"]
        extra[name, n] = max(mb for mb, _ in stages.values())
        cells = [f"{number(mb)} ({seconds(spent)})" for mb, spent in stages.values()]
        cells += ["-"] * (3 - len(cells))
        rows.append([name, f"{n:,}", *cells, number(result["model"]), result["measure"]])
    name, n = "skad KDE float64", sizes.memory_templates[-1]
    what = f"memory, {n:,} x {d}, {sizes.memory_queries:,} queries: peak extra"
    bounds = [Bound(what, extra[name, n], 300, False, unit=" MB")]
    return bounds, [
        table(
            f"Peak extra memory, MB of 10^6 bytes (and time): {sizes.memory_queries:,} "
            f"queries, d={d}, numeric bandwidth. Extra is the peak of the process since "
            "the baseline, which holds the imports, a warm-up and the caller's arrays; "
            "the model and the results are included. Peaks accumulate from left to right.",
            ["model", "templates", "fit", "score_samples", "explain", "the model alone"]
            + ["read from"],
            rows,
        )
    ]


def in_fresh_process(task):
    command = [sys.executable, __file__, "--memory-worker", json.dumps(task)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


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
    yield "fit", lambda: detector.fit(X)
    yield "score_samples", lambda: detector.score_samples(Q)
    if hasattr(detector, "explain"):
        yield "explain", lambda: detector.explain(Q)


def forget_peak():
    """Make the present size the peak, where the system can; else peaks only grow."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak():
    """Peak resident size of this process in MB, and where it was read.

    `ru_maxrss` outlives exec on Linux, so that a child starts with its parent's: there
    VmHWM is read, the same mark of this program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6, "VmHWM"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage * unit / 1e6, "ru_maxrss"


# --- command line ----------------------------------------------------------------------

SECTIONS = {
    "score": score_section,
    "explain": explain_section,
    "bandwidth": bandwidth_section,
    "memory": memory_section,
}


def environment(load_before):
    names = ("skad", "numpy", "scipy", "scikit-learn", "torch", "pyod", "shap")
    load_after = load_average()
    return table(
        f"{date.today()}, one run, one thread",
        ["", ""],
        [
            ["CPU", f"{cpu_name()}, {os.cpu_count()} cores, one used"],
            ["Load average", f"{load_before} before the run, {load_after} after"],
            ["System", f"{platform.system()} {platform.machine()}"],
            ["Python", platform.python_version()],
            *([name, version_of(name)] for name in names),
        ],
    )


def load_average():
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def cpu_name():
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing judged")
    parser.add_argument("--sections", type=sections, default=list(SECTIONS))
    parser.add_argument("--repeats", type=positive, default=3, help="default: 3")
    parser.add_argument("--memory-worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def sections(text):
    names = text.split(",")
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(
            f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}"
        )
    return names


def positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main():
    arguments = parse_arguments()
    if arguments.memory_worker:
        memory_worker(json.loads(arguments.memory_worker))
        return
    sizes = QUICK if arguments.quick else FULL
    load, bounds, tables = load_average(), [], []
    for name in arguments.sections:
        asked, printed = SECTIONS[name](sizes, arguments.repeats)
        bounds += asked
        tables.append("\n".join([f"### {name}\n", *printed]))
    progress("done")
    missed = sum(not bound.met for bound in bounds)
    verdict = f"{len(bounds) - missed} of {len(bounds)} bounds met, from the minima."
    if sizes is QUICK:
        verdict = "A quick run: the sizes are not those of the bounds."
    header = ["bound", "asked", "measured", "verdict"]
    print(table(f"### bounds\n\n{verdict}", header, [b.row(sizes) for b in bounds]))
    print(environment(load))
    print("\n".join(tables))


START = time.perf_counter()

if __name__ == "__main__":
    main()
