"""Speed of skad's invertible network, one thread, against FrEIA's of the same size.

    pip install FrEIA==0.2
    python benchmarks/bench_flow.py                      # all sections, about 70 seconds
    python benchmarks/bench_flow.py --quick              # tiny sizes: does it run?
    python benchmarks/bench_flow.py --sections train,score --repeats 5

Markdown goes to stdout, progress to stderr. What is compared, and how: README.md.
"""

import _common  # noqa: F401 - first: it sets one thread before numpy and torch load

# isort: split
import warnings
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from _common import (
    TIMES,
    Bound,
    Ends,
    columns,
    ends_of,
    in_turns,
    interleaved,
    make_parser,
    number,
    progress,
    ratios,
    report,
    side_by_side,
    table,
)
from torch import nn

try:
    import FrEIA.framework as framework
    import FrEIA.modules as modules
except ImportError as error:
    raise SystemExit("This needs FrEIA: pip install FrEIA==0.2") from error

from skad import IOCN, NormalizingFlow

BATCH = 256
LR = 1e-3
BLOCK_SIZES = (256, 1024, 4096)  # rows that FrEIA's network scores at once
PACKAGES = ("skad", "FrEIA", "torch", "numpy", "scikit-learn", "skorch")


@dataclass
class Case:
    """Features, and the size of a network."""

    d: int
    n_blocks: int = 12
    hidden: int = 128

    @property
    def name(self):
        return f"{self.d} features, {self.n_blocks} x {self.hidden}"

    def rows(self, n):
        return np.random.default_rng(0).standard_normal((n, self.d))

    def freia(self, soft):
        """Make FrEIA's network, as the paper of IOCN does."""
        torch.manual_seed(0)

        def subnet(n_in, n_out):
            first = nn.Linear(n_in, self.hidden)
            return nn.Sequential(first, nn.ReLU(), nn.Linear(self.hidden, n_out))

        net = framework.SequenceINN(self.d)
        for _ in range(self.n_blocks):
            net.append(modules.AllInOneBlock, subnet_constructor=subnet, permute_soft=soft)
        return net

    def detector(self, kind, **params):
        return kind(
            n_blocks=self.n_blocks,
            hidden=self.hidden,
            n_members=1,
            noise=0.0,
            lr=LR,
            lr_schedule=None,
            batch_size=BATCH,
            device="cpu",
            random_state=0,
            **params,
        )


@dataclass
class Sizes:
    """What the sections run on."""

    cases: tuple
    steps: int  # of an epoch
    epochs: int
    scored: int


FULL = Sizes((Case(2), Case(10), Case(30), Case(128)), steps=20, epochs=3, scored=10_000)
QUICK = Sizes((Case(4, n_blocks=2, hidden=8),), steps=2, epochs=2, scored=100)


# --- section: train --------------------------------------------------------------------


def skad_steps(case, sizes, kind, params):
    """Give the seconds of a step, from the epochs of a fit but the first."""
    X = case.rows(BATCH * sizes.steps)
    detector = case.detector(kind, max_epochs=sizes.epochs, callbacks=[Ends()], **params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = ends_of(detector.fit(X).net_)
    return (np.diff(ends) / sizes.steps).tolist()


def freia_steps(case, sizes, loss, soft):
    """Nothing but the steps."""
    net = case.freia(soft)
    rows = torch.from_numpy(case.rows(BATCH * sizes.steps)).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    ends = []
    for _ in range(sizes.epochs):
        for chosen in torch.randperm(len(rows)).split(BATCH):
            optimizer.zero_grad()
            loss(net, rows[chosen]).backward()
            optimizer.step()
        ends.append(perf_counter())
    return (np.diff(ends) / sizes.steps).tolist()


def cube_loss(net, x):
    """Equation 1 of the paper, rows and samples in one pass."""
    with torch.no_grad():
        samples, _ = net(2 * torch.rand_like(x) - 1, rev=True)
    z, _ = net(torch.cat([x, samples]))
    pulled, pushed = z.abs().amax(dim=1).chunk(2)
    return (pulled - pushed).mean()


def likelihood(net, x):
    z, log_det = net(x)
    return (z.square().sum(dim=1) / 2 - log_det).mean()


def train_section(sizes, repeats):
    rows, bounds = [], []
    losses = {"IOCN": (IOCN, cube_loss), "NormalizingFlow": (NormalizingFlow, likelihood)}
    for case in sizes.cases:
        for name, (kind, loss) in losses.items():
            progress(f"train: {name}, {case.name}")
            params = {"held_out": 0.0, "max_refits": 0} if kind is IOCN else {}
            contenders = {"skad": partial(skad_steps, case, sizes, kind, params)}
            for soft in (False, True):
                run = partial(freia_steps, case, sizes, loss, soft)
                contenders[f"FrEIA, {'rotations' if soft else 'permutations'}"] = run
            timings = in_turns(contenders, repeats)
            peers = [t.best for peer, t in timings.items() if peer != "skad"]
            what = f"train, {name}, {case.name}: skad / the faster of FrEIA's"
            share = timings["skad"].best / min(peers)
            bounds.append(Bound(what, share, 1.0, at_least=False))
            rows += table_rows([case.name, name], timings, 1, "skad")
    header = ["size", "loss", "contender", *TIMES, "steps/s", *columns("/ skad")]
    title = (
        f"One step on {BATCH} rows (IOCN: and as many samples of the cube, mapped back). "
        "skad's is a share of an epoch of a fit, from the end of one to the end of the "
        "next, with its clipping of gradients; FrEIA's a bare loop. Both have one network "
        "and a fused Adam. Ratios: contender's time / skad's."
    )
    return bounds, [table(title, header, rows)]


def table_rows(cells, timings, n, own):
    return [
        [
            *cells,
            name,
            *side_by_side(timing),
            number(n / timing.best),
            *ratios(timing, timings[own]),
        ]
        for name, timing in timings.items()
    ]


# --- section: score --------------------------------------------------------------------


def freia_scores(net, rows, size, score):
    with torch.inference_mode():
        return torch.cat([score(*net(part)) for part in rows.split(size)])


def distance(z, log_det):
    """Equations 2 to 4 of the paper."""
    size = z.abs()
    return (size - 1).clamp(min=0).sum(1) + (size.amax(1) - 1).clamp(max=0)


def minus_log_density(z, log_det):
    return z.square().sum(dim=1) / 2 - log_det


def score_section(sizes, repeats):
    rows, bounds = [], []
    scores = {
        "IOCN": (IOCN, distance),
        "NormalizingFlow": (NormalizingFlow, minus_log_density),
    }
    for case in sizes.cases:
        X = case.rows(sizes.scored)
        ready = torch.from_numpy(X).float()
        for name, (kind, score) in scores.items():
            progress(f"score: {name}, {case.name}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                detector = case.detector(kind, max_epochs=1).fit(X[: 2 * BATCH])
            check_scores(detector, X, score)
            contenders = {"skad": partial(detector.score_samples, X)}
            for soft in (False, True):
                net = case.freia(soft).eval()
                for size in BLOCK_SIZES:
                    mix = "rotations" if soft else "permutations"
                    run = partial(freia_scores, net, ready, size, score)
                    contenders[f"FrEIA, {mix}, {size:,} at once"] = run
            timings = interleaved(contenders, 2 * repeats + 1)
            peers = [t.best for peer, t in timings.items() if peer != "skad"]
            what = f"score, {name}, {case.name}: skad / the fastest of FrEIA's"
            share = timings["skad"].best / min(peers)
            bounds.append(Bound(what, share, 0.5, at_least=False))
            rows += table_rows([case.name, name], timings, sizes.scored, "skad")
    header = ["size", "score", "contender", *TIMES, "rows/s", *columns("/ skad")]
    title = (
        f"{sizes.scored:,} rows. skad's `score_samples` checks and standardises them; "
        "FrEIA's network gets them ready. Ratios: contender's time / skad's."
    )
    return bounds, [table(title, header, rows)]


def check_scores(detector, X, score):
    """Stop unless skad's score is what FrEIA's network is asked for, up to a constant."""
    train = X[: 2 * BATCH]
    rows = (X - train.mean(axis=0)) / train.std(axis=0)
    with torch.no_grad():
        z, log_det = detector.net_.module_.net(torch.from_numpy(rows), log_det=True)
    differences = -detector.score_samples(X) - score(z[0], log_det[0]).numpy()
    np.testing.assert_allclose(differences, differences.mean(), atol=1e-3)


SECTIONS = {"train": train_section, "score": score_section}


def main():
    arguments = make_parser(__doc__, SECTIONS).parse_args()
    report(arguments, SECTIONS, QUICK if arguments.quick else FULL, PACKAGES)


if __name__ == "__main__":
    main()
