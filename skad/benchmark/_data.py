"""Read a labelled table from a file."""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skad._typing import FilePath
from skad._warnings import warn

_LABEL_NAMES = ("label", "y", "target", "class", "anomaly", "outlier")
_SUFFIXES = (".npz", ".csv", ".csv.gz", ".parquet")
# Normal and abnormal values, any of which a column of labels may hold.
_ENCODINGS = (({0}, {1}), ({1}, {-1}))
_WORDS = ({"normal", "inlier", "good"}, {"anomaly", "outlier", "bad"})
_LEAST_NORMAL = 4  # two to train on, two to test with


def load_table(path: FilePath, *, label: str | None = None) -> Bunch:
    r"""Read rows and labels from a file.

    Parameters
    ----------
    path : str or path
        - ``.npz`` with arrays X and y, as ADBench's, and perhaps mask (the cells that
          are wrong, in the shape of X);
        - ``.csv``, ``.csv.gz`` or ``.parquet`` with a header, a column of labels and
          columns of numbers. Needs pandas; Parquet needs pyarrow too.
    label : str, default=None
        Name of the column of labels. None: the one that is called label, y, target,
        class, anomaly or outlier, in any case. An ``.npz`` file takes no notice of it.

    Returns
    -------
    table : Bunch
        With the attributes

        - data: ndarray of shape (n, d), float64 (n-d, where X of an ``.npz`` file is);
        - target: ndarray of shape (n,), +1 normal and -1 anomaly;
        - feature_names: list of d str;
        - mask: ndarray of the shape of data, where the file has one.

    Raises
    ------
    ImportError
        If pandas, or pyarrow for Parquet, is missing.
    ValueError
        If there is no such file or it can't be read, there are no labels or not of two
        kinds, columns are no numbers, values are missing or infinite, or there are
        fewer than four normal rows.

    See Also
    --------
    benchmark : Takes tables, and the paths of files.

    Notes
    -----
    Labels are 0 and 1 (1 for anomalies), +1 and -1 (-1 for anomalies), booleans (True
    for anomalies), or words: normal, inlier or good, and anomaly, outlier or bad.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skad.benchmark import load_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "pumps.csv"
    ...     _ = path.write_text("heat,hum,label\n1,2,0\n1,3,0\n2,2,0\n1,1,0\n9,9,1\n")
    ...     pumps = load_table(path)
    >>> pumps.target, pumps.feature_names
    (array([ 1,  1,  1,  1, -1]), ['heat', 'hum'])
    """
    path = Path(path)
    if not path.name.lower().endswith(_SUFFIXES):
        raise ValueError(f"{path}: files must end in {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    if path.suffix.lower() == ".npz":
        table = _read_arrays(path)
    else:
        table = _read_frame(path, label)
    _check_values(path, table)
    if "mask" in table and table.mask.shape != table.data.shape:
        raise ValueError(
            f"{path}: mask has shape {table.mask.shape}, X has {table.data.shape}."
        )
    return table


def table_name(path):
    """Return a file's name without its suffix."""
    name = Path(path).name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def import_pandas(what):
    """Import pandas, or say how to install it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"{what} needs pandas: pip install 'skad[plot]'.") from error
    return pandas


@contextmanager
def _reading(path):
    try:
        yield
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        # pandas' own errors of parsing are ValueErrors
        text = " ".join(str(error).split())
        raise ValueError(f"{path}: the file can't be read: {text}") from error


def _read_arrays(path):
    with _reading(path):
        loaded = np.load(path)
        if not hasattr(loaded, "files"):
            raise ValueError("it is no archive of arrays.")
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    if not {"X", "y"} <= set(arrays):
        raise ValueError(f"{path}: arrays X and y are needed; it has {list(arrays)}.")
    X, y = arrays["X"], np.squeeze(arrays["y"])
    if X.ndim < 2 or X.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: X must hold numbers in the shape (n, d), got {X.dtype} in {X.shape}."
        )
    if y.shape != X.shape[:1]:
        raise ValueError(f"{path}: y has shape {y.shape}, but X has {len(X)} rows.")
    table = Bunch(data=X.astype(np.float64), target=_read_labels(path, "y", y.tolist()))
    table.feature_names = [f"x{i}" for i in range(X[0].size)]
    if "mask" in arrays:
        table.mask = arrays["mask"]
    return table


def _read_frame(path, label):
    frame = _load_frame(path)
    label = _label_column(path, list(frame.columns), label)
    if frame.empty:
        raise ValueError(f"{path}: the table has no rows.")
    y = _read_labels(path, label, frame[label].tolist())
    X = frame.drop(columns=label)
    if len(X.columns) and _is_saved_index(X.iloc[:, 0]):
        warn(f"{path}: the first column has no name and counts the rows: it is left out.")
        X = X.iloc[:, 1:]
    if not X.shape[1]:
        raise ValueError(f"{path}: there is no column but the labels, {label!r}.")
    text = [str(c) for c in X if X[c].dtype.kind not in "biuf"]
    if text:
        raise ValueError(
            f"{path}: {_listed(text)} hold no numbers. Encode them as numbers (pandas."
            "get_dummies, say), or leave them out."
        )
    data = X.to_numpy(dtype=np.float64, na_value=np.nan)
    return Bunch(data=data, target=y, feature_names=[str(c) for c in X])


def _is_saved_index(column):
    """Whether a column is an index that pandas wrote without a name."""
    counts = column.dtype.kind in "iu" and (column == np.arange(len(column))).all()
    return column.name == "Unnamed: 0" and counts


def _load_frame(path):
    pd = import_pandas(f"Reading {path}")
    if path.suffix.lower() != ".parquet":
        with _reading(path):
            return pd.read_csv(path)
    try:
        with _reading(path):
            return pd.read_parquet(path).reset_index(drop=True)
    except ImportError as error:
        raise ImportError(f"Reading {path} needs pyarrow: pip install pyarrow.") from error


def _label_column(path, columns, label):
    if label is not None:
        found = [label] if label in columns else []
    else:
        found = [c for c in columns if str(c).lower() in _LABEL_NAMES]
    if len(found) == 1:
        return found[0]
    names = _listed([str(c) for c in columns])
    if label is not None:
        raise ValueError(f"{path}: there is no column {label!r}; there are: {names}.")
    if not found:
        raise ValueError(
            f"{path}: no column is called {', '.join(_LABEL_NAMES[:-1])} or "
            f"{_LABEL_NAMES[-1]}. Name the column of labels by label= (--label); there "
            f"are: {names}."
        )
    raise ValueError(
        f"{path}: {_listed(found)} may all be labels. Name the one by label= (--label)."
    )


def _read_labels(path, name, labels):
    """Return +1 for normal and -1 for abnormal labels."""
    if not labels:
        raise ValueError(f"{path}: the table has no rows.")
    words = [v.strip().lower() if isinstance(v, str) else v for v in labels]
    missing = sum(v is None or v != v for v in words)
    if missing:
        raise ValueError(f"{path}: {missing} labels in {name!r} are missing.")
    kinds = set(words)
    if len(kinds) == 1:
        raise ValueError(
            f"{path}: all {len(words)} labels in {name!r} are {labels[0]!r}. Both normal "
            "rows and anomalies are needed."
        )
    for normal, anomalous in (*_ENCODINGS, _WORDS):
        if kinds <= normal | anomalous:
            if kinds <= normal or kinds <= anomalous:
                break  # two words for one kind
            return np.array([1 if v in normal else -1 for v in words])
    raise ValueError(
        f"{path}: labels must be 0 and 1 (anomaly), 1 and -1 (anomaly), False and True "
        f"(anomaly), or {', '.join(sorted(_WORDS[0]))} and {', '.join(sorted(_WORDS[1]))};"
        f" {name!r} holds {_listed(sorted(map(str, kinds)))}."
    )


def _check_values(path, table):
    columns = table.data.reshape(len(table.data), -1)
    for test, what, advice in (
        (np.isnan, "missing", "Impute them (sklearn.impute.SimpleImputer, say) before."),
        (np.isinf, "infinite", "Replace them before."),
    ):
        counts = test(columns).sum(axis=0)
        wrong = [f"{table.feature_names[j]} ({counts[j]})" for j in np.flatnonzero(counts)]
        if wrong:
            raise ValueError(f"{path}: values are {what} in {_listed(wrong)}. {advice}")
    normal = int((table.target == 1).sum())
    if normal < _LEAST_NORMAL:
        raise ValueError(
            f"{path}: {_LEAST_NORMAL} normal rows are needed at least, there are {normal}."
        )


def _listed(names, most=12):
    """Name some and count the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
