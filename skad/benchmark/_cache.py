"""One JSON file a run, so that a comparison that was stopped goes on where it was."""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

from skad._versions import __version__
from skad.benchmark._protocol import RESULTS

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def run_file(folder, name, detector, data, seed, **protocol):
    """Name the file of a run: readable, and with a hash of all that it depends on."""
    key = {
        "detector": [name, plain(detector)],
        "dataset": [data.name, data.fingerprint],
        "seed": seed,
        "protocol": protocol,
        "version": __version__,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    words = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{data.name}-{name}"[:80])
    return Path(folder) / f"{words}-{seed}-{digest[:20]}.json"


def plain(value):
    """Write a parameter so that equal ones, and no others, are written alike.

    scikit-learn shortens the repr of an estimator, numpy that of an array, and Python
    puts addresses in others.
    """
    if isinstance(value, dict):
        return [[plain(k), plain(v)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(plain(v)) for v in value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [str(value.shape), str(value.dtype), content]
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False)
        return [_name(type(value)), {k: plain(params[k]) for k in sorted(params)}]
    if isinstance(value, np.random.RandomState):
        return ["RandomState", plain(value.get_state(legacy=False))]
    if isinstance(value, np.random.Generator):
        return ["Generator", plain(value.bit_generator.state)]
    if hasattr(value, "__code__"):  # lambdas are all of one name
        defaults = [plain(value.__defaults__), plain(value.__kwdefaults__)]
        return [_name(value), _plain_code(value.__code__), *defaults, _closed_over(value)]
    return _repr(value)


def _plain_code(code):
    consts = [
        _plain_code(const) if hasattr(const, "co_code") else _repr(const)
        for const in code.co_consts
    ]
    return [code.co_code.hex(), consts, code.co_names]


def _closed_over(function):
    """Write what a function uses of where it was made; itself, if it calls itself."""
    contents = []
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not set yet
            content = None
        contents.append("itself" if content is function else plain(content))
    return contents


def load(path):
    """Return the row that is kept; None where there is no whole one, or the run failed."""
    try:
        row = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(row, dict) and {*RESULTS, "error"} <= row.keys()
    return row if whole and not row["error"] else None


def store(path, row):
    """Keep a row; a reader, or a next call, finds all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(row))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _name(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


def _repr(value):
    return _ADDRESS.sub("", repr(value))
