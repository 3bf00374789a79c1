"""What is installed, for reports of problems."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version

__all__ = ["__version__", "show_versions"]

__version__ = "0.1.0"


def show_versions() -> None:
    """Print the versions of Python, skad and what it uses, and what torch runs on.

    Paste it into a report of a problem. Nothing is imported but torch.

    Examples
    --------
    >>> import skad
    >>> skad.show_versions()
    System:
        python: 3...
    """
    system = {
        "python": sys.version.replace("\n", " "),
        "executable": sys.executable,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
    }
    _print("System", system)
    _print("Packages", {"skad": _version("skad"), **{n: _version(n) for n in _used()}})
    _print("torch", _about_torch())


def _used():
    """Return the packages that skad names, for use and for its extras, once each."""
    try:
        lines = requires("skad") or []
    except PackageNotFoundError:  # a folder on the path
        return []
    names = [line.split(";")[0].split(">")[0].split("[")[0].strip() for line in lines]
    return [name for name in dict.fromkeys(names) if name != "skad"]


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _about_torch():
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "threads": torch.get_num_threads(),
        "CUDA": torch.version.cuda,
        "GPUs": ", ".join(gpus) or None,
        "MPS": torch.backends.mps.is_available(),
    }


def _print(title, lines):
    print(f"{title}:")
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"    {name:>{width}}: {value}")
