"""Files of image data: where they are looked for, read, downloaded and kept."""

import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_openml

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Source:
    """A data set on OpenML, whose rows are the training rows, then the test rows.

    ``sha256`` is the checksum of the bytes of the four uint8 arrays, one after the
    other in the order of ``ARRAYS``.
    """

    openml_name: str
    n_train: int
    sha256: str


SOURCES = {
    "mnist": Source(
        "mnist_784",
        60000,
        "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST",
        60000,
        "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
    ),
}


def load_arrays(name, data_home, download_if_missing):
    """Return the arrays of ``<name>.npz``, downloading the file where it is missing."""
    path = _data_home(data_home) / f"{name}.npz"
    if path.exists():
        return _read(path)
    if not download_if_missing:
        raise FileNotFoundError(_missing(path, "and download_if_missing is False"))
    try:
        arrays = _download(SOURCES[name])
    # fetch_openml raises ValueError for an answer it cannot read, ImportError where
    # pandas is missing.
    except (OSError, ValueError, ImportError) as error:
        reason = f"and could not be downloaded from OpenML ({error})"
        raise FileNotFoundError(_missing(path, reason)) from error
    _save(path, arrays)
    return arrays


def _data_home(data_home):
    home = data_home or os.environ.get("SKAD_DATA") or "~/skad_data"
    return Path(home).expanduser()


def _missing(path, reason):
    return (
        f"{path.name} is not in {path.parent} {reason}. Put a file {path} there with "
        "the uint8 arrays x_train (n, 28, 28), y_train (n,), x_test (m, 28, 28) and "
        "y_test (m,), or name its folder in data_home or the environment variable "
        "SKAD_DATA."
    )


def _read(path):
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ARRAYS if key in file}
    # TypeError is for a single array (npy), the last two for a damaged archive.
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a readable npz file: {error}") from error
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}.")
    for part in ("train", "test"):
        _check_part(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    return arrays


def _check_part(path, part, x, y):
    if x.dtype != np.uint8 or x.shape[1:] != (28, 28) or y.shape != x.shape[:1]:
        raise ValueError(
            f"{path} must hold x_{part} as uint8 (n, 28, 28) and y_{part} as (n,), "
            f"got {x.dtype} {x.shape} and {y.shape}."
        )


def _download(source):
    # The npz is the cache: scikit-learn's own would keep a second copy.
    data = fetch_openml(
        source.openml_name, version=1, as_frame=False, parser="auto", cache=False
    )
    x = np.asarray(data.data, dtype=np.uint8).reshape(-1, 28, 28)
    y = np.asarray(data.target).astype(np.uint8)
    n = source.n_train
    arrays = dict(zip(ARRAYS, (x[:n], y[:n], x[n:], y[n:]), strict=True))
    if checksum(arrays) != source.sha256:
        raise OSError(f"{source.openml_name} does not have the expected checksum")
    return arrays


def checksum(arrays):
    """Return the sha256 of the bytes of the arrays, in the order of ``ARRAYS``."""
    digest = hashlib.sha256()
    for key in ARRAYS:
        digest.update(np.ascontiguousarray(arrays[key]))
    return digest.hexdigest()


def _save(path, arrays):
    """Write to a temporary file first: others never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
