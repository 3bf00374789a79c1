"""Speed of skad's neural detectors, one thread, against what a user would otherwise run.

    python benchmarks/bench_neural.py                   # all sections, about 3 minutes
    python benchmarks/bench_neural.py --quick           # tiny sizes: does it run?
    python benchmarks/bench_neural.py --sections train,lrp --repeats 5

Markdown goes to stdout, progress to stderr. What is compared, and how: README.md.
"""

import _common  # first: it sets one thread before numpy and torch load

# isort: split
import copy
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from _common import (
    FAST,
    TIMES,
    Bound,
    columns,
    in_turns,
    interleaved,
    progress,
    ratios,
    side_by_side,
    table,
)
from pyod.models.auto_encoder import AutoEncoder as PyODAutoEncoder
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn
from torch.nn.functional import mse_loss

from skad import AutoEncoder
from skad.relevance._layers import LayerwiseRelevance

CPU = torch.device("cpu")
HIDDEN, CODE, LR = 64, 32, 1e-3
SAME_LAYERS = {
    "hidden_neuron_list": [HIDDEN, CODE],
    "batch_norm": False,
    "dropout_rate": 0,
}
EPOCHS = 5  # timed in each fit, after one that is not
SLICE = 1024  # rows that the raw loop scores at once
PIXELS, FEATURES = 28, 640  # of the paper's feature net
BOX = {"input_rule": "zbox", "low": 0.0, "high": 1.0}
RULES = {
    "gamma 0.25, zbox": BOX,
    "gamma 0.25, wsquare": {"input_rule": "wsquare"},
    "gamma 0.25": {"input_rule": "gamma"},
}


@dataclass
class Sizes:
    """What the sections run on."""

    shapes: tuple  # rows, features
    batches: tuple
    explained: tuple  # rows a call
    alone: int  # rows that are scored one by one


FULL = Sizes(
    shapes=((5_000, 784), (20_000, 20)),
    batches=(32, 128, 512),
    explained=(1, 64),
    alone=200,
)
QUICK = Sizes(shapes=((300, 32), (600, 10)), batches=(32, 128), explained=(1, 4), alone=20)


# --- what is compared ------------------------------------------------------------------


def normal_data(n, d):
    return np.random.default_rng(0).standard_normal((n, d))


def make_layers(d):
    """Give the layers of skad's dense network."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(d, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CODE),
        nn.Tanh(),
        nn.Linear(CODE, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, d),
    )


def autoencoder(batch, epochs, device="cpu", **params):
    return AutoEncoder(
        hidden=(HIDDEN,),
        code_size=CODE,
        lr=LR,
        lr_schedule=None,
        max_epochs=epochs,
        batch_size=batch,
        device=device,
        random_state=0,
        **params,
    )


class TimedPyOD(PyODAutoEncoder):
    """PyOD's, which notes when each epoch ended."""

    def training_prepare(self):
        super().training_prepare()
        self.ends = []

    def epoch_update(self):
        self.ends.append(perf_counter())


def pyod(batch, epochs, **params):
    return TimedPyOD(
        lr=LR,
        epoch_num=epochs,
        batch_size=batch,
        device=CPU,
        random_state=0,
        verbose=0,
        **params,
    )


def skorch_net(d, batch, epochs, **params):
    return NeuralNet(
        make_layers(d),
        nn.MSELoss,
        optimizer=torch.optim.Adam,
        lr=LR,
        batch_size=batch,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
        **params,
    )


def mean_and_scale(X):
    """Give what skad's rows are standardised by: a mean a feature, and one scale."""
    return X.mean(axis=0), np.sqrt(X.var(axis=0).mean())


def standardised(X):
    mean, scale = mean_and_scale(X)
    return ((X - mean) / scale).astype(np.float32)


# --- section: train --------------------------------------------------------------------


@dataclass
class Training:
    """When each epoch of a fit ended, and the mean squared error after it."""

    ends: list
    loss: float


class Ends(Callback):
    """A skorch callback that notes when each epoch ended."""

    def on_train_begin(self, net, **kwargs):
        self.times = []

    def on_epoch_end(self, net, **kwargs):
        self.times.append(perf_counter())


def ends_of(net):
    return next(c.times for _, c in net.callbacks_ if isinstance(c, Ends))


def train_skad(X, batch, epochs, device="cpu"):
    detector = autoencoder(batch, epochs, device, callbacks=[Ends()]).fit(X)
    return Training(ends_of(detector.net_), detector.history_["train_loss"][-1])


def train_pyod(X, batch, epochs, **params):
    detector = pyod(batch, epochs, **params).fit(X)
    return Training(detector.ends, np.square(detector.decision_scores_).mean() / X.shape[1])


def train_skorch(X, batch, epochs):
    rows = standardised(X)
    net = skorch_net(X.shape[1], batch, epochs, callbacks=[Ends()]).fit(rows, rows)
    return Training(ends_of(net), net.history[-1, "train_loss"])


def train_raw(X, batch, epochs, **params):
    """Nothing but the steps: not even the loss is looked at."""
    rows = torch.from_numpy(standardised(X))
    net, ends = make_layers(X.shape[1]), []
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, **params)
    for _ in range(epochs):
        for chosen in torch.randperm(len(rows)).split(batch):
            x = rows[chosen]
            loss = mse_loss(net(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(perf_counter())
    with torch.no_grad():
        return Training(ends, mse_loss(net(rows), rows).item())


TRAINERS = {
    "skad": train_skad,
    "raw loop, fused Adam": partial(train_raw, fused=True),
    "raw loop, plain Adam": train_raw,
    "PyOD, same layers": partial(train_pyod, **SAME_LAYERS),
    "PyOD as it comes": train_pyod,
    "skorch": train_skorch,
}


def train_section(sizes, repeats):
    rows, bounds = [], []
    for n, d in sizes.shapes:
        X = normal_data(n, d)
        for batch in sizes.batches:
            timings, losses = epoch_timings(TRAINERS, X, batch, repeats)
            own = timings["skad"]
            rows += [
                [
                    *(f"{n:,} x {d}", batch, name),
                    *side_by_side(t),
                    *ratios(t, own),
                    f"{losses[name]:.3f}",
                ]
                for name, t in timings.items()
            ]
            bounds += train_bounds(timings, f"train, {n:,} x {d}, batch {batch}")
    header = ["rows", "batch", "contender", *TIMES, *columns("/ skad")]
    return bounds, [
        table(
            f"Training: one epoch, from the end of one to the end of the next; {EPOCHS} "
            "of each fit, the first left out. Ratios: contender's time / skad's. Loss: "
            "mean squared error of standardised values in the end.",
            [*header, "loss"],
            rows,
        )
    ]


def epoch_timings(trainers, X, batch, repeats):
    """Time the epochs of several fits in turns; give the last losses too."""
    losses = {}

    def run(name, train):
        training = train(X, batch, EPOCHS + 1)
        losses[name] = training.loss
        return np.diff(training.ends).tolist()

    n, d = X.shape
    progress(f"train: {n:,} x {d}, batch {batch}, {repeats} fits of {EPOCHS + 1} epochs")
    contenders = {name: partial(run, name, train) for name, train in trainers.items()}
    return in_turns(contenders, repeats), losses


def train_bounds(timings, what):
    skad = timings["skad"].best
    raw, peer = timings["raw loop, fused Adam"].best, timings["PyOD, same layers"].best
    bounds = [Bound(f"{what}: skad / raw loop", skad / raw, 1.1, at_least=False)]
    if not what.endswith(" 512"):
        bounds.append(Bound(f"{what}: PyOD, same layers / skad", peer / skad, 1.6))
    return bounds


# --- section: score --------------------------------------------------------------------


def score_section(sizes, repeats):
    rows, bounds = [], []
    for n, d in sizes.shapes:
        X = normal_data(n, d)
        progress(f"score: {n:,} x {d}, fitting")
        skad = autoencoder(batch=128, epochs=1).fit(X)
        raw = raw_scorers(skad, X)
        check_agreement(skad, raw, X)
        contenders = {"skad": partial(skad.score_samples, X), **raw, **peer_scorers(X)}
        progress(f"score: {n:,} x {d}, {repeats * FAST} repeats")
        timings = interleaved(contenders, repeats * FAST)
        rows += [
            [f"{n:,} x {d}", name, *side_by_side(t), *ratios(t, timings["skad"])]
            for name, t in timings.items()
        ]
        bounds += score_bounds(timings, f"score, {n:,} x {d}")
    return bounds, [
        table(
            "Scoring the training rows, float64. Ratios: contender's time / skad's.",
            ["rows", "contender", *TIMES, *columns("/ skad")],
            rows,
        )
    ]


def raw_scorers(skad, X):
    """Give loops with the weights of skad's: of the same rows, and of ready ones."""
    net = make_layers(X.shape[1]).eval()
    weights = skad.net_.module_.state_dict().values()
    net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)))
    mean, scale = mean_and_scale(X)
    ready = torch.from_numpy(standardised(X))
    return {
        "raw loop": partial(raw_scores, net, X, torch.from_numpy(mean), float(scale)),
        "raw loop, rows ready in float32": partial(ready_scores, net, ready, float(scale)),
    }


def raw_scores(net, X, mean, scale):
    """Standardise, cast and reconstruct, a slice at a time."""
    scores = []
    with torch.inference_mode():
        for part in torch.from_numpy(X).split(SLICE):
            x = (part - mean).mul_(1 / scale).float()
            scores.append((x - net(x)).square_().sum(dim=1))
        return -(scale**2) * torch.cat(scores).double().numpy()


def ready_scores(net, rows, scale):
    with torch.inference_mode():
        scores = [(x - net(x)).square_().sum(dim=1) for x in rows.split(SLICE)]
        return -(scale**2) * torch.cat(scores).double().numpy()


def check_agreement(skad, raw, X):
    scores = skad.score_samples(X)
    for name, run in raw.items():
        if not np.allclose(run(), scores, rtol=1e-4):
            raise AssertionError(f"{name} and skad disagree")


def peer_scorers(X):
    detector = pyod(batch=32, epochs=1, **SAME_LAYERS).fit(X)
    rows = standardised(X)
    net = skorch_net(X.shape[1], batch=128, epochs=1).fit(rows, rows)

    def skorch_scores():
        rows = standardised(X)
        return np.square(rows - net.predict(rows)).sum(axis=1)

    return {
        "PyOD, batch 32, its default": partial(detector.decision_function, X),
        "PyOD, batch 1024": partial(detector.decision_function, X, batch_size=1024),
        "skorch, batch 128, its default": skorch_scores,
    }


def score_bounds(timings, what):
    skad, raw = timings["skad"].best, timings["raw loop"].best
    peer = timings["PyOD, batch 32, its default"].best
    return [
        Bound(f"{what}: PyOD / skad", peer / skad, 5),
        Bound(f"{what}: skad / raw loop", skad / raw, 1.3, at_least=False),
    ]


# --- section: lrp ----------------------------------------------------------------------


def feature_net():
    """Give the paper's layers: 640 features of an image of 28 x 28 pixels."""
    torch.manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(1, 32, 5),
        "relu1": nn.ReLU(),
        "pool1": nn.LPPool2d(2, 2),
        "conv2": nn.Conv2d(32, 64, 5),
        "relu2": nn.ReLU(),
        "pool2": nn.LPPool2d(2, 2),
        "conv3": nn.Conv2d(64, 160, 3),
        "relu3": nn.ReLU(),
        "flatten": nn.Flatten(),
    }
    return nn.Sequential(OrderedDict(layers)).eval().requires_grad_(False)


def lrp_section(sizes, repeats):
    net, rows, bounds = feature_net(), [], []
    W = torch.randn(FEATURES, FEATURES) / FEATURES**0.5
    peers, absent = importable({"captum": captum_lrp, "zennit": zennit_lrp})
    for n in sizes.explained:
        # One row takes about a millisecond.
        turns = repeats * FAST * (10 if n == 1 else 1)
        x = torch.rand(n, 1, PIXELS, PIXELS)
        contenders = lrp_contenders(net, W, x, peers)
        progress(f"lrp: {n} rows, {turns} repeats")
        for run in contenders.values():
            run()  # makes what is kept between calls
        timings = interleaved(contenders, turns)
        gradient = timings["one gradient"]
        rows += [
            [n, name, *side_by_side(timing), *ratios(timing, gradient)]
            for name, timing in timings.items()
        ]
        bounds += lrp_bounds(timings, f"lrp, {n} rows" if n > 1 else "lrp, 1 row")
    return bounds, [
        table(
            "LRP through the paper's feature net and a whitening of its 640 features, "
            "float32. Ratios: contender's time / that of one gradient of the score.",
            ["rows", "contender", *TIMES, *columns("/ one gradient")],
            rows,
        ),
        *absent,
    ]


def lrp_contenders(net, W, x, peers):
    def top(phi):
        z = phi @ W.T
        return (z * z.detach()).sum(1)

    def gradient():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(top(net(leaf)).sum(), leaf)[0]

    contenders = {"one gradient": gradient}
    for name, rules in RULES.items():
        explain = LayerwiseRelevance(net, gamma=0.25, **rules)
        contenders[f"skad, {name}"] = partial(explain, x, top)
    contenders["skad, gamma 0.25, zbox, made anew"] = lambda: LayerwiseRelevance(
        net, gamma=0.25, **BOX
    )(x, top)
    for name, make in peers.items():
        contenders[f"{name}, gamma 0.25"] = make(net, W, x)
    return contenders


def importable(peers):
    """Give the peers that import, and a line on each that does not."""
    found, lines = {}, []
    for name, make in peers.items():
        try:
            import_module(name)
        # Whatever a package that does not fit its surroundings may raise.
        except Exception as error:
            lines.append(f"{name} does not import: {error}\n")
        else:
            found[name] = make
    return found, lines


def whitened(net, W):
    """Give one module, and a copy of the net: captum changes weights and puts them back."""
    whitening = nn.Linear(*W.shape, bias=False)
    whitening.weight = nn.Parameter(W, False)
    return nn.Sequential(OrderedDict(net=copy.deepcopy(net), whitening=whitening)).eval()


def captum_lrp(net, W, x):
    """One whitened feature is explained: captum sets out from one output."""
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule

    rules = dict.fromkeys((nn.LPPool2d, nn.Flatten), EpsilonRule)
    rules[nn.Conv2d] = partial(GammaRule, 0.25)
    model = whitened(net, W)

    def run():
        for layer in model.modules():  # captum takes the rules off after each call
            if type(layer) in rules:
                layer.rule = rules[type(layer)]()
        return LRP(model).attribute(x.clone().requires_grad_(), target=0)

    return run


def zennit_lrp(net, W, x):
    from zennit.attribution import Gradient
    from zennit.composites import SpecialFirstLayerMapComposite
    from zennit.rules import Epsilon, Gamma, Norm, Pass, ZBox

    composite = SpecialFirstLayerMapComposite(
        layer_map=[
            (nn.ReLU, Pass()),
            (nn.LPPool2d, Norm()),
            (nn.Conv2d, Gamma(0.25)),
            (nn.Linear, Epsilon()),
        ],
        first_map=[(nn.Conv2d, ZBox(low=torch.zeros_like(x), high=torch.ones_like(x)))],
    )
    model = whitened(net, W)

    def run():
        with Gradient(model=model, composite=composite) as attributor:
            return attributor(x, lambda z: z.square())[1]

    return run


def lrp_bounds(timings, what):
    gradient = timings["one gradient"].best
    return [
        Bound(
            f"{what}: {name} / one gradient",
            timings[f"skad, {name}"].best / gradient,
            2.2,
            at_least=False,
        )
        for name in RULES
    ]


# --- section: repeat -------------------------------------------------------------------


def repeat_section(sizes, repeats):
    """Facts, not times; `repeats` has no effect."""
    rows = []
    for n, d in sizes.shapes:
        progress(f"repeat: {n:,} x {d}")
        X = normal_data(n, d)
        first, second = (autoencoder(batch=128, epochs=2).fit(X) for _ in range(2))
        scores = first.score_samples(X)
        same = np.array_equal(scores, second.score_samples(X))
        equal = same_in_any_batch(first, X, scores, sizes.alone)
        rows.append([f"{n:,} x {d}", same, equal])
    return [], [
        table(
            f"Scores, compared bit by bit. Batches: each of {sizes.alone} rows alone; 2, "
            "7, 33, 100 and 1,000 from the second row on; all rows in another order.",
            ["rows", "same seed, same scores", "a row scores the same in every batch"],
            rows,
        )
    ]


def same_in_any_batch(detector, X, scores, n_alone):
    orders = [slice(row, row + 1) for row in range(n_alone)]
    orders += [
        slice(start, start + size) for size in (2, 7, 33, 100, 1000) for start in (1,)
    ]
    orders.append(np.random.default_rng(1).permutation(len(X)))
    return all(np.array_equal(detector.score_samples(X[o]), scores[o]) for o in orders)


# --- section: gpu ----------------------------------------------------------------------


def gpu_section(sizes, repeats):
    if not torch.cuda.is_available():
        return [], ["no CUDA device\n"]
    return [], gpu_tables("cuda", sizes, repeats)


def gpu_tables(gpu, sizes, repeats):
    times, scores = [], []
    trainers = {
        "CPU": partial(train_skad, device="cpu"),
        "GPU": partial(train_skad, device=gpu),
    }
    for n, d in sizes.shapes:
        X, shape = normal_data(n, d), f"{n:,} x {d}"
        for batch in sizes.batches:
            timings, _ = epoch_timings(trainers, X, batch, repeats)
            times.append(device_row(shape, f"an epoch, batch {batch}", timings))
        progress(f"gpu: {shape}, scoring")
        trained = autoencoder(128, 2, gpu).fit(X)
        moved = moved_to_cpu(trained)
        detectors = {"CPU": moved, "GPU": trained}
        runs = {name: partial(d.score_samples, X) for name, d in detectors.items()}
        timings = interleaved(runs, repeats * FAST)
        times.append(device_row(shape, "score_samples", timings))
        scores.append([shape, *score_differences(trained, moved, X)])
    header = ["score_samples", "moved to the CPU", "pickled and loaded"]
    return [
        table(
            f"AutoEncoder on {gpu_name()} and on one thread of the CPU.",
            ["rows", "what", *columns("CPU", "GPU", "CPU / GPU")],
            times,
        ),
        table(
            "Scores of a detector trained on the GPU: their range there, and the largest "
            "difference of other ways to score the same rows with the same weights.",
            ["rows", *header, "pickle loaded where there is no GPU"],
            scores,
        ),
    ]


def gpu_name():
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def device_row(shape, what, timings):
    cpu, gpu = timings["CPU"], timings["GPU"]
    return [shape, what, *side_by_side(cpu, gpu), *ratios(cpu, gpu)]


def moved_to_cpu(detector):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        detector.save_weights(path)
        return autoencoder(detector.batch_size, detector.max_epochs).load_weights(path)


def score_differences(trained, moved, X):
    here = trained.score_samples(X)
    others = [
        moved.score_samples(X),
        pickle.loads(pickle.dumps(trained)).score_samples(X),
        scored_without_gpu(trained, X),
    ]
    differences = [f"{np.abs(scores - here).max():.1e}" for scores in others]
    return [f"{here.min():.4g} to {here.max():.4g}", *differences]


def scored_without_gpu(detector, X):
    """Load the pickle and score in a process that sees no GPU."""
    code = (
        "import pickle, sys; detector, X = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(pickle.dumps(detector.score_samples(X)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((detector, X)),
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        check=True,
    )
    return pickle.loads(done.stdout)


# --- command line ----------------------------------------------------------------------

SECTIONS = {
    "train": train_section,
    "score": score_section,
    "lrp": lrp_section,
    "repeat": repeat_section,
    "gpu": gpu_section,
}
PACKAGES = ("skad", "numpy", "scikit-learn", "torch", "skorch", "pyod", "captum", "zennit")


def main():
    arguments = _common.make_parser(__doc__, SECTIONS).parse_args()
    # A few epochs on noise: there is nothing to converge to.
    warnings.simplefilter("ignore", ConvergenceWarning)
    sizes = QUICK if arguments.quick else FULL
    _common.report(arguments, SECTIONS, sizes, PACKAGES)


if __name__ == "__main__":
    main()
