"""What the benchmarks share: one thread, timing in turns, bounds, tables, the report.

Import this first: the threads are set here, before numpy and torch load.
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
import ctypes
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import Callback

torch.set_num_threads(1)

START = time.perf_counter()
FAST = 5  # contenders that take well under a second are repeated this many times more
TIMES = ["min", "median"]
LAYOUTS = {"": torch.contiguous_format, ", channels last": torch.channels_last}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc


@dataclass
class Bound:
    """A number asked for, and the number measured."""

    what: str
    measured: float
    limit: float
    at_least: bool = True
    unit: str = "x"

    @property
    def met(self):
        """Whether the number measured is on the right side."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    def row(self, judged):
        """Give the row of the table of bounds."""
        sign = "≥" if self.at_least else "≤"
        asked = f"{sign} {number(self.limit)}{self.unit}"
        if np.isnan(self.measured):
            return [self.what, asked, "-", "not measured"]
        measured = f"{number(self.measured)}{self.unit}"
        if not judged:
            return [self.what, "-", measured, "not judged"]
        return [self.what, asked, measured, "met" if self.met else "**missed**"]


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


# --- timing ----------------------------------------------------------------------------


def progress(text):
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", file=sys.stderr, flush=True)


def interleaved(contenders, repeats):
    """Time each contender `repeats` times in turn: A, B, C, A, B, C ..."""
    timed = {name: partial(_seconds_of, run) for name, run in contenders.items()}
    return in_turns(timed, repeats)


def in_turns(contenders, repeats):
    """As `interleaved`, for contenders that give seconds of their own, a list a turn."""
    timings = {name: Timing([]) for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            timings[name].seconds += run()
    return timings


def _seconds_of(run):
    return [once(run)[1]]


class Ends(Callback):
    """A skorch callback that notes when each epoch ended."""

    def on_train_begin(self, net, **kwargs):
        self.times = []

    def on_epoch_end(self, net, **kwargs):
        self.times.append(time.perf_counter())


def ends_of(net):
    """Give what `Ends` noted of a fit."""
    return next(c.times for _, c in net.callbacks_ if isinstance(c, Ends))


def once(run):
    """Run, and give the result and the seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


# --- memory ----------------------------------------------------------------------------


def in_fresh_process(script, task):
    """Run ``script --memory-worker`` on a task, and read what it prints."""
    command = [sys.executable, script, "--memory-worker", json.dumps(task)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


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


def keep_memory():
    """Have glibc keep what is freed, for all: else each step may ask for its pages anew."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, 2**31 - 1)


# --- printing --------------------------------------------------------------------------


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


def side_by_side(*timings):
    return [seconds(s) for timing in timings for s in (timing.best, timing.median)]


def ratios(peer, own):
    return [ratio(peer.best, own.best), ratio(peer.median, own.median)]


def columns(*names):
    return [f"{name}, {statistic}" for name in names for statistic in TIMES]


def table(title, header, rows):
    """Give a Markdown table under its title."""
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return f"{title}\n\n{body}\n"


# --- command line ----------------------------------------------------------------------


def make_parser(description, sections):
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing judged")
    chosen = partial(_chosen, sections)
    parser.add_argument("--sections", type=chosen, default=list(sections))
    parser.add_argument("--repeats", type=_positive, default=3, help="default: 3")
    return parser


def _chosen(sections, text):
    names = text.split(",")
    if unknown := set(names) - set(sections):
        raise argparse.ArgumentTypeError(
            f"no section {', '.join(sorted(unknown))}; there are {', '.join(sections)}"
        )
    return names


def _positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def report(arguments, sections, sizes, packages):
    """Run the sections asked for, and print the bounds, the machine and the tables."""
    load, bounds, tables = _load_average(), [], []
    for name in arguments.sections:
        asked, printed = sections[name](sizes, arguments.repeats)
        bounds += asked
        tables.append("\n".join([f"### {name}\n", *printed]))
    progress("done")
    met = sum(bound.met for bound in bounds)
    verdict = f"{met} of {len(bounds)} bounds met. Times are the minima of the repeats."
    if arguments.quick:
        verdict = "A quick run: the sizes are not those of the bounds."
    header = ["bound", "asked", "measured", "verdict"]
    rows = [bound.row(judged=not arguments.quick) for bound in bounds]
    print(table(f"### bounds\n\n{verdict}", header, rows))
    print(_environment(load, packages))
    print("\n".join(tables))


def _environment(load_before, packages):
    return table(
        f"{date.today()}, one run, one thread",
        ["", ""],
        [
            ["CPU", f"{_cpu_name()}, {os.cpu_count()} cores, one used"],
            ["Load average", f"{load_before} before the run, {_load_average()} after"],
            ["System", f"{platform.system()} {platform.machine()}"],
            ["Python", platform.python_version()],
            *([name, _version_of(name)] for name in packages),
        ],
    )


def _load_average():
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def _cpu_name():
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
