"""Speed of skad's FCDD, one thread, against the bare network and the paper's pipeline.

    python benchmarks/bench_fcdd.py                     # all sections, about 4 minutes
    python benchmarks/bench_fcdd.py --quick             # tiny sizes: does it run?
    python benchmarks/bench_fcdd.py --sections train,confetti --repeats 5

Markdown goes to stdout, progress to stderr. What is compared, and how: README.md.
"""

import _common  # first: it sets one thread before numpy and torch load

# isort: split
import warnings
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from _common import (
    FAST,
    LAYOUTS,
    TIMES,
    Bound,
    Ends,
    columns,
    ends_of,
    in_turns,
    interleaved,
    keep_memory,
    number,
    once,
    progress,
    ratios,
    side_by_side,
    table,
)
from sklearn.exceptions import ConvergenceWarning
from torch.nn.functional import conv_transpose2d

from skad import FCDD
from skad.detectors._fcdd._loss import MapLoss
from skad.detectors._fcdd._networks import auto_network, paper_network
from skad.images import Confetti
from skad.neural._outliers import Targets
from skad.relevance._receptive_field import ReceptiveField, receptive_field
from skad.relevance._upsampling import GaussianUpsampling

LR = 1e-3
EPOCHS = 2  # timed in each fit, after one that is not
SLICE = 256  # rows that the raw network scores at once
LEAST = 1e-30  # of a mean whose log(1 - exp(-a)) is taken


@dataclass
class Case:
    """Images, and how a network is trained on them.

    By image on an array of outliers, by pixel on confetti.
    """

    shape: tuple  # C, H, W
    n: int
    batch: int
    scored: int
    network: str = "auto"
    objective: str = "pixel"

    @property
    def name(self):
        channels, height, width = self.shape
        return f"{height} x {width} x {channels}, {self.network}, {self.objective}"


@dataclass
class Geometry:
    """A network's map as the paper has it: receptive field r, jump j, first centre."""

    name: str
    u: int
    pixels: int
    size: int
    jump: int
    start: float
    sigma: float

    @property
    def border(self):
        """How many pixels the first field begins outside of the image."""
        return int((self.size - 1) / 2 - self.start)

    @property
    def field(self):
        low, high = self.start - (self.size - 1) / 2, self.start + (self.size - 1) / 2
        return ReceptiveField((low, low), (high, high), (float(self.jump),) * 2)


@dataclass
class Sizes:
    """What the sections run on."""

    cases: tuple
    geometries: tuple
    maps: tuple  # maps a call
    confetti: tuple  # sides of the images
    batch: int  # of confetti


FMNIST = Geometry("Fashion-MNIST", 7, 28, 16, 4, 1.5, 1.2)
CIFAR = Geometry("CIFAR-10", 8, 32, 22, 4, 1.5, 1.2)
VGG = Geometry("VGG, 224 pixels", 28, 224, 62, 8, 3.5, 12.0)
FULL = Sizes(
    cases=(
        Case((1, 28, 28), 6_000, 128, 1_024, objective="image"),
        Case((1, 64, 64), 640, 32, 256),
        Case((1, 128, 128), 192, 32, 128),
        Case((3, 32, 32), 64, 32, 128, network="paper32", objective="image"),
    ),
    geometries=(FMNIST, CIFAR, VGG),
    maps=(1, 64),
    confetti=(28, 64, 128, 224),
    batch=64,
)
QUICK = Sizes(
    cases=(
        Case((1, 28, 28), 64, 32, 64, objective="image"),
        Case((1, 32, 32), 64, 32, 32),
        Case((3, 32, 32), 8, 4, 8, network="paper32", objective="image"),
    ),
    geometries=(FMNIST, VGG),
    maps=(1, 4),
    confetti=(28, 64),
    batch=8,
)


# --- what is compared ------------------------------------------------------------------


def images(n, shape):
    return np.random.default_rng(0).random((n, *shape), dtype=np.float32)


def corpus(case):
    """Give outliers that a network can tell: darker than the others."""
    return np.random.default_rng(1).random((case.n, *case.shape), dtype=np.float32) ** 2


def as_given(X):
    """Give grey images to skad as it takes them, without an axis of channels."""
    return X[:, 0] if X.shape[1] == 1 else X


def network(case, layout=torch.contiguous_format):
    torch.manual_seed(0)
    if case.network == "auto":
        net = auto_network(case.shape)
    else:
        net = paper_network(case.network, case.shape[0])
    return net.to(memory_format=layout)


def detector(case, epochs, device="cpu", **params):
    by_image = case.objective == "image"
    return FCDD(
        network=case.network,
        objective=case.objective,
        outliers=as_given(corpus(case)) if by_image else "confetti",
        lr=LR,
        lr_schedule=None,
        max_epochs=epochs,
        batch_size=case.batch,
        device=device,
        random_state=0,
        **params,
    )


def standardised(rows):
    """Scale by a mean and a standard deviation of each channel, as skad's first layer."""
    std, mean = torch.std_mean(rows, dim=(0, 2, 3), correction=0, keepdim=True)
    return (rows - mean) / std


def exposed(case):
    """Give rows, half of them replaced, standardised; what is anomalous; the masks."""
    torch.manual_seed(0)
    rows = torch.from_numpy(images(case.n, case.shape))
    anomalous = torch.rand(case.n) < 0.5
    masks = torch.zeros(case.n, 1, *case.shape[1:])
    if case.objective == "image":
        rows[anomalous] = torch.from_numpy(corpus(case))[anomalous]
    else:
        rows[anomalous], drawn = Confetti().draw(rows[anomalous])
        masks[anomalous] = drawn.float()
    return standardised(rows), anomalous, masks


def pseudo_huber(output):
    squared = output.square()
    return squared / ((squared + 1).sqrt() + 1)


def log_one_minus_exp(a):
    return torch.log(-torch.expm1(-a.clamp(min=LEAST)))


def image_loss(output, anomalous):
    """Objective (2) of the paper, as a mean over rows."""
    a = pseudo_huber(output).mean(dim=(1, 2, 3))
    return torch.where(anomalous, -log_one_minus_exp(a), a).mean()


def pixel_loss(output, masks, upsampling):
    """Objective (3) of the paper, the map brought to the size of the image."""
    heat = upsampling(pseudo_huber(output))
    normal = ((1 - masks) * heat).mean(dim=(1, 2, 3))
    inside = (masks * heat).mean(dim=(1, 2, 3))
    has_mask = masks.amax(dim=(1, 2, 3)) > 0
    return (normal - torch.where(has_mask, log_one_minus_exp(inside), 0)).mean()


def partition(net, shape):
    """Give the upsampling of a network's map to the pixels."""
    with torch.no_grad():
        u, v = net.eval()(torch.zeros(2, *shape)).shape[2:]
    net.train()
    field = receptive_field(net, shape)
    return GaussianUpsampling(field, shape[1:], (u, v), normalize="partition")


def images_a_second(n, timing):
    return number(n / timing.best)


# --- section: train --------------------------------------------------------------------


@dataclass
class Training:
    """When each epoch of a fit ended, and a loss after the last."""

    ends: list
    loss: float


class RawLoop:
    """Nothing but the steps, on rows that are exposed, standardised and in place."""

    def __init__(self, case, device):
        net = network(case)
        self.case, self.device = case, device
        self.upsampling = partition(net, case.shape)
        self.data = [tensor.to(device) for tensor in exposed(case)]

    def loss(self, output, anomalous, masks):
        if self.case.objective == "image":
            return image_loss(output, anomalous)
        return pixel_loss(output, masks, self.upsampling)

    def train(self, layout, epochs):
        rows, anomalous, masks = self.data
        net, ends = network(self.case, layout).to(self.device), []
        optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
        for _ in range(epochs):
            order = torch.randperm(len(rows), device=self.device)
            for chosen in order.split(self.case.batch):
                loss = self.loss(net(rows[chosen]), anomalous[chosen], masks[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            wait_for(self.device)
            ends.append(perf_counter())
        return Training(ends, self.first_loss(net))

    def first_loss(self, net):
        """Give the loss of the first batch, by the batch's own statistics."""
        rows, *targets = (tensor[: self.case.batch] for tensor in self.data)
        with torch.no_grad():
            return self.loss(net.train()(rows), *targets).item()

    def check(self):
        """Stop unless skad's loss and its gradient are those of this loop."""
        rows, anomalous, masks = (tensor[: self.case.batch] for tensor in self.data)
        label = 1 - 2 * anomalous.float()
        by_pixel = self.case.objective == "pixel"
        criterion = MapLoss(self.upsampling if by_pixel else None)
        output = network(self.case).to(self.device)(rows).detach().requires_grad_()
        targets = Targets(label, masks.bool() if by_pixel else None)
        losses = criterion(output, rows, targets), self.loss(output, anomalous, masks)
        own, raw = (torch.autograd.grad(loss, output)[0] for loss in losses)
        same = torch.isclose(*losses, rtol=1e-4) and torch.allclose(own, raw, rtol=1e-3)
        if not same:
            raise AssertionError(f"{self.case.name}: the losses differ")


def wait_for(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def train_skad(case, loop, epochs):
    X = as_given(images(case.n, case.shape))
    fitted = detector(case, epochs, loop.device, callbacks=[Ends()]).fit(X)
    return Training(ends_of(fitted.net_), loop.first_loss(fitted.net_.module_.layers))


def train_section(sizes, repeats):
    rows, bounds = train_results(sizes, repeats, "cpu")
    return bounds, [train_table("one thread of the CPU", rows)]


def train_results(sizes, repeats, device):
    rows, bounds = [], []
    for case in sizes.cases:
        timings, losses = epoch_timings(case, repeats, device)
        rows += [
            [
                *(case.name, f"{case.n:,}", case.batch, name),
                *side_by_side(t),
                *ratios(t, timings["skad"]),
                f"{losses[name]:.3f}",
            ]
            for name, t in timings.items()
        ]
        raw = min(t.best for name, t in timings.items() if name != "skad")
        what = f"train, {case.name}: skad / faster raw loop"
        bounds.append(Bound(what, timings["skad"].best / raw, 1.15, at_least=False))
    return rows, bounds


def epoch_timings(case, repeats, device):
    """Time the epochs of fits in turns; give the last losses too."""
    progress(f"train: {case.name} on {device}, {repeats} fits of {EPOCHS + 1} epochs")
    loop, losses = RawLoop(case, device), {}
    loop.check()

    def run(name, train):
        training = train(epochs=EPOCHS + 1)
        losses[name] = training.loss
        return np.diff(training.ends).tolist()

    trainers = {"skad": partial(train_skad, case, loop)}
    for layout, memory_format in LAYOUTS.items():
        trainers[f"raw loop{layout}"] = partial(loop.train, memory_format)
    contenders = {name: partial(run, name, train) for name, train in trainers.items()}
    return in_turns(contenders, repeats), losses


def train_table(where, rows):
    header = ["images", "rows", "batch", "contender", *TIMES, *columns("/ skad")]
    return table(
        f"Training on {where}: one epoch, from the end of one to the end of the next; "
        f"{EPOCHS} of each fit, the first left out. Ratios: contender's time / skad's. "
        "Loss: of the raw loop's first batch, after the last epoch.",
        [*header, "loss"],
        rows,
    )


# --- section: score --------------------------------------------------------------------


def score_section(sizes, repeats):
    return [], [score_table("one thread of the CPU", score_rows(sizes, repeats, "cpu"))]


def score_rows(sizes, repeats, device):
    rows = []
    for case in sizes.cases:
        X = images(case.scored, case.shape)
        skad = detector(case, 1, device).fit(as_given(X[: 2 * case.batch]))
        contenders = {
            "score_samples": partial(skad.score_samples, as_given(X)),
            "explain": partial(skad.explain, as_given(X)),
            **raw_scorers(case, skad, X, device),
        }
        check_scores(contenders, case, rtol=1e-3 if device == "cpu" else 1e-2)  # TF32
        progress(f"score: {case.name} on {device}, {repeats} repeats")
        timings = interleaved(contenders, repeats)
        rows += [
            [
                *(case.name, f"{case.scored:,}", name),
                *side_by_side(t),
                images_a_second(case.scored, t),
                *ratios(t, timings["score_samples"]),
            ]
            for name, t in timings.items()
        ]
    return rows


def raw_scorers(case, skad, X, device):
    """Give the bare forward pass with skad's weights, of rows that are ready."""
    with torch.no_grad():
        rows = skad.net_.module_.normalization(torch.from_numpy(X).to(device))
    weights, scorers = skad.net_.module_.layers.state_dict(), {}
    for layout, memory_format in LAYOUTS.items():
        net = network(case, memory_format).to(device).eval()
        net.load_state_dict(weights)
        scorers[f"raw network{layout}"] = partial(raw_scores, net, rows, SLICE)
    few = skad._trained._rows_of_a_block()
    scorers[f"raw network{layout}, skad's slices"] = partial(raw_scores, net, rows, few)
    return scorers


def raw_scores(net, rows, size):
    with torch.inference_mode():
        heat = [pseudo_huber(net(part)) for part in rows.split(size)]
        return -torch.cat([h.mean(dim=(1, 2, 3)) for h in heat]).cpu().numpy()


def check_scores(contenders, case, rtol):
    """Stop unless all agree; it also makes what is kept between calls."""
    scores = contenders["score_samples"]()
    for name, run in contenders.items():
        others = run()
        if name == "explain":
            others = -others.reshape(len(scores), -1).sum(axis=1)
        if not np.allclose(others, scores, rtol=rtol):
            raise AssertionError(f"{case.name}: {name} and score_samples disagree")


def score_table(where, rows):
    return table(
        f"Scoring and explaining on {where}, float32. Ratios: contender's time / that of "
        "score_samples. Images a second by the minimum.",
        ["images", "rows", "contender", *TIMES, "images/s", *columns("/ score_samples")],
        rows,
    )


# --- section: upsampling ---------------------------------------------------------------


def upsampling_section(sizes, repeats):
    rows, bounds = [], []
    for geometry in sizes.geometries:
        for n in sizes.maps:
            maps = torch.rand(n, 1, geometry.u, geometry.u)
            contenders = upsamplers(geometry, maps)
            turns = repeats * FAST * (10 if n == 1 else 1)
            progress(f"upsampling: {geometry.name}, {counted(n)}, {turns} repeats")
            timings = interleaved(contenders, turns)
            own = timings["skad"]
            what = f"{geometry.name}, {geometry.u} to {geometry.pixels}"
            rows += [
                [what, n, name, *side_by_side(t), *ratios(t, own)]
                for name, t in timings.items()
            ]
            peer = min(t.best for name, t in timings.items() if name != "skad")
            asked = f"upsampling, {geometry.name}, {counted(n)}: conv_transpose2d / skad"
            bounds.append(Bound(asked, peer / own.best, 1.0))
    return bounds, [
        table(
            "Maps to the size of the images, float32. Ratios: contender's time / skad's.",
            ["maps", "a call", "contender", *TIMES, *columns("/ skad")],
            rows,
        )
    ]


def counted(n):
    return "1 map" if n == 1 else f"{n} maps"


def upsamplers(geometry, maps):
    spread = GaussianUpsampling(
        geometry.field,
        (geometry.pixels,) * 2,
        (geometry.u,) * 2,
        sigma=geometry.sigma,
        normalize="none",
    )
    check_upsampling(geometry, spread, maps)
    kernel = outer(papers_profile(geometry.size, geometry.sigma))
    upsamplers = {
        "skad": partial(spread, maps),
        "conv_transpose2d and crop, the paper's": partial(
            papers_upsampling, geometry, maps, kernel
        ),
        "conv_transpose2d with padding": partial(padded_upsampling, geometry, maps, kernel),
    }
    with torch.inference_mode():
        sums = [run().sum() for run in list(upsamplers.values())[1:]]
    if not torch.isclose(*sums):
        raise AssertionError(f"{geometry.name}: padding and crop disagree")
    return upsamplers


def papers_profile(size, sigma):
    """Give the kernel of the paper's code along one axis, whose centre is doubled."""
    if size % 2:
        return profile(size, sigma)
    odd = profile(size - 1, sigma)
    centre = (size - 2) // 2
    doubled = torch.cat([odd[: centre + 1], odd[centre:]])
    return doubled / 2


def profile(size, sigma):
    distance = torch.arange(size) - (size - 1) / 2
    return torch.exp(-((distance / sigma) ** 2) / 2)


def outer(g):
    return torch.outer(g, g)[None, None]


def papers_upsampling(geometry, maps, kernel):
    crop = slice(geometry.border, geometry.border + geometry.pixels)
    return conv_transpose2d(maps, kernel, stride=geometry.jump)[..., crop, crop]


def padded_upsampling(geometry, maps, kernel):
    return conv_transpose2d(maps, kernel, stride=geometry.jump, padding=geometry.border)


def check_upsampling(geometry, spread, maps):
    """Stop unless, with Gaussians at the exact centres, all give the same."""
    exact = outer(profile(geometry.size, geometry.sigma))
    for other in (papers_upsampling, padded_upsampling):
        if not torch.allclose(other(geometry, maps, exact), spread(maps), rtol=1e-4):
            raise AssertionError(f"{geometry.name}: conv_transpose2d and skad disagree")


# --- section: confetti -----------------------------------------------------------------


def confetti_section(sizes, repeats):
    rows, bounds = [], []
    for side in sizes.confetti:
        case = Case((3, side, side), sizes.batch, sizes.batch, 0)
        progress(f"confetti: {side} pixels")
        half, whole, step = confetti_timings(case, repeats)
        share = half.best / step.best
        rows.append(
            [
                f"{side} x {side} x 3",
                images_a_second(case.n, whole),
                *side_by_side(half, step),
                f"{share:.3f}",
                f"{half.median / step.median:.3f}",
            ]
        )
        what = f"confetti, {side} x {side} x 3: drawing / a step"
        bounds.append(Bound(what, share, 0.25, at_least=False))
    return bounds, [
        table(
            f"Confetti: images a second, of {sizes.batch} a call; drawing them on half of "
            f"a batch of {sizes.batch}; a training step of it in the faster layout, "
            "without drawing.",
            ["images", "images/s", *columns("drawing", "step", "drawing / step")],
            rows,
        )
    ]


def confetti_timings(case, repeats):
    """Time drawing on half a batch and on a whole one, and a step in either layout."""
    batch = torch.rand(case.n, *case.shape)

    def draw(images):
        generator = torch.Generator().manual_seed(0)  # as many blobs each time
        Confetti().draw(images, generator)

    loop = RawLoop(case, "cpu")
    runs = {
        "half": (partial(draw, batch[: case.n // 2]), FAST),
        "whole": (partial(draw, batch), FAST),
    }
    for layout, memory_format in LAYOUTS.items():
        runs[f"step{layout}"] = (one_step(loop, memory_format), 1)
    for run, _ in runs.values():
        run()
    timings = in_turns({k: partial(several, *v) for k, v in runs.items()}, repeats)
    steps = [timings[f"step{layout}"] for layout in LAYOUTS]
    return timings["half"], timings["whole"], min(steps, key=lambda t: t.best)


def one_step(loop, layout):
    net = network(loop.case, layout)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    rows, *targets = loop.data

    def step():
        loss = loop.loss(net(rows), *targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def several(run, times):
    return [once(run)[1] for _ in range(times)]


# --- section: gpu ----------------------------------------------------------------------


def gpu_section(sizes, repeats):
    if not torch.cuda.is_available():
        return [], ["no CUDA device\n"]
    gpu = torch.cuda.get_device_name()
    rows, _ = train_results(sizes, repeats, "cuda")  # bounds are of the CPU
    scores = score_rows(sizes, repeats * FAST, "cuda")
    return [], [train_table(gpu, rows), score_table(gpu, scores)]


# --- command line ----------------------------------------------------------------------

SECTIONS = {
    "train": train_section,
    "score": score_section,
    "upsampling": upsampling_section,
    "confetti": confetti_section,
    "gpu": gpu_section,
}
PACKAGES = ("skad", "numpy", "scikit-learn", "torch", "skorch")


def main():
    keep_memory()
    arguments = _common.make_parser(__doc__, SECTIONS).parse_args()
    # A few epochs on noise: there is nothing to converge to.
    warnings.simplefilter("ignore", ConvergenceWarning)
    sizes = QUICK if arguments.quick else FULL
    _common.report(arguments, SECTIONS, sizes, PACKAGES)


if __name__ == "__main__":
    main()
