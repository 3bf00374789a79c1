"""Speed and memory of skad's GEO, one thread, against the bare network on ready-made views.

    python benchmarks/bench_geo.py                      # all sections, about 6 minutes
    python benchmarks/bench_geo.py --quick              # tiny sizes: does it run?
    python benchmarks/bench_geo.py --sections train,score --repeats 5

Markdown goes to stdout, progress to stderr. What is compared, and how: README.md.
"""

import _common  # first: it sets one thread before numpy and torch load

# isort: split
import argparse
import json
import warnings
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from _common import (
    LAYOUTS,
    TIMES,
    Bound,
    Ends,
    columns,
    ends_of,
    forget_peak,
    in_fresh_process,
    in_turns,
    interleaved,
    keep_memory,
    number,
    once,
    peak,
    progress,
    ratios,
    seconds,
    side_by_side,
    table,
)
from scipy.special import digamma, log_softmax, polygamma, xlogy
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skad import GEO
from skad.detectors._geo._dirichlet import fit_dirichlet
from skad.detectors._geo._networks import make_view_network
from skad.images import Views, geometric_views
from skad.neural import Scaling

LR, WEIGHT_DECAY = 1e-3, 5e-4
EPOCHS = 2  # timed in each fit, after one that is not
N_VIEWS = 72
SPREAD = 4.0  # of the logits that Dirichlet distributions are fitted to
SAMPLES = 500


@dataclass
class Case:
    """Images, and how a network is trained on views of them."""

    shape: tuple  # C, H, W
    n: int
    batch: int
    scored: int
    network: str = "auto"

    @property
    def name(self):
        channels, height, width = self.shape
        return f"{height} x {width} x {channels}, {self.network}"

    def images(self, n):
        return np.random.default_rng(0).random((n, *self.shape), dtype=np.float32)

    def views(self, n):
        """Give all views of images, one after the other: (n * 72, C, H, W)."""
        size = self.shape[1:]
        views = Views(geometric_views(size), size)
        return views(torch.from_numpy(self.images(n))).flatten(0, 1)

    def make_network(self, layout):
        torch.manual_seed(0)
        scaling = Scaling(mean=0.5, std=0.5)
        net = make_view_network(self.network, self.shape, N_VIEWS, scaling=scaling)
        return net.to(memory_format=layout)

    def detector(self, epochs, **params):
        return GEO(
            network=self.network,
            lr=LR,
            net_params={"optimizer__weight_decay": WEIGHT_DECAY},
            lr_schedule=None,
            max_epochs=epochs,
            batch_size=self.batch,
            device="cpu",
            random_state=0,
            **params,
        )


@dataclass
class Sizes:
    """What the sections run on."""

    cases: tuple
    gaps: tuple  # between the logit of the right class and the others
    memory: tuple  # images
    memory_scored: int


FULL = Sizes(
    cases=(
        Case((1, 28, 28), 6_000, 128, 64),
        Case((3, 64, 64), 2_000, 128, 32),
        Case((3, 32, 32), 256, 128, 8, network="wrn-10-4"),
    ),
    gaps=(2.0, 6.0, 12.0),
    memory=(1_000, 4_000, 16_000),
    memory_scored=500,
)
QUICK = Sizes(
    cases=(
        Case((1, 28, 28), 128, 32, 4),
        Case((3, 32, 32), 16, 8, 1, network="wrn-10-4"),
    ),
    gaps=(2.0, 6.0),
    memory=(50, 100),
    memory_scored=10,
)


# --- section: train --------------------------------------------------------------------


def skad_epochs(case):
    """Give the seconds of epochs of a fit."""
    fitted = case.detector(EPOCHS + 1, callbacks=[Ends()], views=2).fit(case.images(case.n))
    return np.diff(ends_of(fitted.net_)).tolist()


def raw_epochs(case, rows, classes, layout):
    """Nothing but the steps, on views that are in place."""
    net, ends = case.make_network(layout).train(), []
    optimizer = torch.optim.Adam(
        net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True
    )
    for _ in range(EPOCHS + 1):
        for chosen in torch.randperm(len(rows)).split(case.batch):
            loss = nn.functional.cross_entropy(net(rows[chosen]), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(perf_counter())
    return np.diff(ends).tolist()


def train_section(sizes, repeats):
    rows, bounds = [], []
    for case in sizes.cases:
        progress(f"train: {case.name}, {repeats} fits of {EPOCHS + 1} epochs")
        classes = torch.arange(case.n) % N_VIEWS
        size = case.shape[1:]
        images = torch.from_numpy(case.images(case.n))
        ready = Views(geometric_views(size), size).select(images, classes)
        contenders = {"skad": partial(skad_epochs, case)}
        for layout, memory_format in LAYOUTS.items():
            run = partial(raw_epochs, case, ready, classes, memory_format)
            contenders[f"raw loop{layout}"] = run
        timings = in_turns(contenders, repeats)
        fastest = min(t.best for name, t in timings.items() if name != "skad")
        bounds.append(
            Bound(
                f"train, {case.name}: skad / the faster raw loop",
                timings["skad"].best / fastest,
                1.15,
                at_least=False,
            )
        )
        rows += [
            [
                case.name,
                f"{case.n:,}",
                name,
                *side_by_side(timing),
                number(case.n / timing.best),
                *ratios(timing, timings["skad"]),
            ]
            for name, timing in timings.items()
        ]
    header = ["images", "views", "contender", *TIMES, "views/s", *columns("/ skad")]
    title = (
        "One epoch, a view of each image in batches of 128, from the end of one to the end "
        f"of the next; {EPOCHS} of each fit, the first left out. Ratios: contender's time "
        "/ skad's."
    )
    return bounds, [table(title, header, rows)]


# --- section: score --------------------------------------------------------------------


def raw_scores(net, views, size):
    with torch.inference_mode():
        return torch.cat([net(part) for part in views.split(size)])


def score_section(sizes, repeats):
    rows, bounds = [], []
    for case in sizes.cases:
        progress(f"score: {case.name}")
        X, few = case.images(case.scored), case.images(16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector = case.detector(1).fit(few)
        views = case.views(case.scored)
        contenders = {
            "skad": partial(detector.score_samples, X),
            "skad, explain": partial(detector.explain, X),
        }
        nets = {}
        for layout, memory_format in LAYOUTS.items():
            net = nets[layout] = case.make_network(memory_format).eval()
            net.load_state_dict(detector.net_.module_.state_dict())
            for size in (N_VIEWS, 2 * N_VIEWS, 256):
                name = f"bare network, {size} views at once{layout}"
                contenders[name] = partial(raw_scores, net, views, size)
        check_scores(detector, X, contenders)
        timings = interleaved(contenders, 2 * repeats + 1)
        bare = [t for name, t in timings.items() if name.startswith("bare")]
        bounds.append(
            Bound(
                f"score, {case.name}: skad / the fastest bare network",
                timings["skad"].best / min(t.best for t in bare),
                1.1,
                at_least=False,
            )
        )
        rows += [
            [
                case.name,
                f"{case.scored:,}",
                name,
                *side_by_side(timing),
                number(case.scored / timing.best),
                *ratios(timing, timings["skad"]),
            ]
            for name, timing in timings.items()
        ]
    header = ["images", "n", "contender", *TIMES, "images/s", *columns("/ skad")]
    title = "All 72 views of images. Ratios: contender's time / skad's."
    return bounds, [table(title, header, rows)]


def check_scores(detector, X, contenders):
    """Stop unless the score is the paper's formula of what the bare network gives."""
    name = next(name for name in contenders if name.startswith("bare"))
    logits = contenders[name]().double().numpy().reshape(len(X), N_VIEWS, N_VIEWS)
    expected = ((detector.alpha_ - 1) * log_softmax(logits, axis=-1)).sum((1, 2)) / N_VIEWS
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-4)


# --- section: dirichlet ----------------------------------------------------------------


def fixed_point(mean_log, mean, max_iter=1000):
    """Estimate Dirichlet parameters as the paper's code does, from the same start."""
    spread = (xlogy(mean, mean) - mean * mean_log).sum()
    alpha = np.maximum((len(mean) - 1) * -digamma(1) / spread * mean, 1e-6)
    for _ in range(max_iter):
        before = alpha
        alpha = inverse_digamma(digamma(alpha.sum()) + mean_log)
        if np.linalg.norm(alpha - before) < 1e-9:
            break
    return alpha


def inverse_digamma(values):
    """Invert the digamma function by Newton's method (Minka, 2000)."""
    x = np.where(values >= -2.22, np.exp(values) + 0.5, -1 / (values - digamma(1)))
    for _ in range(5):
        x = x - (digamma(x) - values) / polygamma(1, x)
    return x


def dirichlet_section(sizes, repeats):
    rows, bounds = [], []
    for gap in sizes.gaps:
        progress(f"dirichlet: gap {gap:g}")
        z = SPREAD * np.random.default_rng(0).standard_normal((SAMPLES, N_VIEWS))
        z[:, 0] += gap * SPREAD
        log_y = log_softmax(z, axis=1)
        means = log_y.mean(0), np.exp(log_y).mean(0)
        contenders = {
            "newton": partial(fit_dirichlet, *means),
            "fixed_point": partial(fixed_point, *means),
        }
        timings = interleaved(contenders, 2 * repeats + 1)
        for name, run in contenders.items():
            alpha = run()
            left = digamma(alpha) - digamma(alpha.sum()) - means[0]
            rows.append(
                [
                    f"{gap:g}",
                    name,
                    *side_by_side(timings[name]),
                    f"{abs(left).max():.1e}",
                    number(alpha.max()),
                    *ratios(timings[name], timings["newton"]),
                ]
            )
        ratio = timings["fixed_point"].best / timings["newton"].best
        bounds.append(Bound(f"dirichlet, gap {gap:g}: fixed point / Newton", ratio, 1.0))
    header = ["gap", "solver", *TIMES, "left over", "largest", *columns("/ Newton")]
    title = (
        f"Dirichlet parameters of {SAMPLES} samples of 72 classes, by their means. Logits "
        f"are normal with standard deviation {SPREAD:g}, that of the right class is higher "
        "by so many of these. Left over: the largest difference of an expected and an "
        "observed mean logarithm. The fixed point stops at 1000 iterations."
    )
    return bounds, [table(title, header, rows)]


# --- section: memory -------------------------------------------------------------------


def memory_section(sizes, repeats):
    """Each size in a fresh process; `repeats` has no effect."""
    rows, extra = [], {}
    for n in sizes.memory:
        progress(f"memory: {n:,} images")
        stages = in_fresh_process(__file__, {"n": n, "scored": sizes.memory_scored})
        extra[n] = max(mb for mb, _ in stages.values())
        ready = n * N_VIEWS * 28 * 28 * 4 / 1e6
        cells = [f"{number(max(mb, 0))} ({seconds(t)})" for mb, t in stages.values()]
        rows.append([f"{n:,}", *cells, number(ready)])
    n = sizes.memory[-1]
    share = extra[n] / (n * N_VIEWS * 28 * 28 * 4 / 1e6)
    bounds = [Bound(f"memory, {n:,} images: peak / all views", share, 0.1, at_least=False)]
    header = ["images", "fit", "score_samples", "explain", "all views, float32"]
    title = (
        "Peak extra memory, MB of 10^6 bytes (and time): a fit of one epoch on images of "
        f"28 x 28 pixels, float32, and {sizes.memory_scored} images scored and explained. "
        "Extra is the peak of the process since the baseline, which holds the imports, a "
        "warm-up and the images; peaks accumulate from left to right."
    )
    return bounds, [table(title, header, rows)]


def memory_worker(task):
    """Run in a process of its own: print the peaks, in MB above the baseline."""
    warnings.simplefilter("ignore")
    case = Case((1, 28, 28), task["n"], 128, task["scored"])
    X, Q, few = (case.images(n)[:, 0] for n in (task["n"], task["scored"], 20))
    for run in memory_stages(case.detector(1), few, few).values():
        run()  # loads what is loaded on first use
    stages = {}
    forget_peak()
    baseline, _ = peak()
    for name, run in memory_stages(case.detector(1), X, Q).items():
        _, spent = once(run)
        stages[name] = (peak()[0] - baseline, spent)
    print(json.dumps(stages))


def memory_stages(detector, X, Q):
    return {
        "fit": partial(detector.fit, X),
        "score_samples": partial(detector.score_samples, Q),
        "explain": partial(detector.explain, Q),
    }


# --- command line ----------------------------------------------------------------------

SECTIONS = {
    "train": train_section,
    "score": score_section,
    "dirichlet": dirichlet_section,
    "memory": memory_section,
}
PACKAGES = ("skad", "numpy", "scipy", "scikit-learn", "torch", "skorch")


def main():
    parser = _common.make_parser(__doc__, SECTIONS)
    parser.add_argument("--memory-worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_worker:
        memory_worker(json.loads(arguments.memory_worker))
        return
    keep_memory()
    # A few epochs on noise: there is nothing to converge to.
    warnings.simplefilter("ignore", ConvergenceWarning)
    sizes = QUICK if arguments.quick else FULL
    _common.report(arguments, SECTIONS, sizes, PACKAGES)


if __name__ == "__main__":
    main()
