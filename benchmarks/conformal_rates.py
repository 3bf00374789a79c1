"""Are the promises of ConformalDetector kept? Writes the table of the docs.

python benchmarks/conformal_rates.py

Six detectors on normal rows of three sets of real or realistic data, drawn anew a
hundred times: some train, 99 calibrate, the others are judged. In the last columns
anomalies, a quarter as many, are among them, and rows are selected by false discovery
rate.
"""

import warnings
from pathlib import Path

import numpy as np
from pyod.models.hbos import HBOS
from pyod.models.knn import KNN
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skad import KDE, ConformalDetector
from skad.datasets import load_corrupted_digits, make_textures

TABLE = Path(__file__).parent.parent / "docs" / "tables" / "conformal_rates.rst"
N_CALIBRATION, REPEATS, RATE = 99, 100, 0.1
DETECTORS = {
    "KDE": KDE(),
    "IsolationForest": IsolationForest(n_estimators=50, random_state=0),
    "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
    "OneClassSVM": OneClassSVM(),
    "PyOD KNN": KNN(),
    "PyOD HBOS": HBOS(),
}


def data_sets():
    """Give name, normal rows and anomalies."""
    X, y = load_breast_cancer(return_X_y=True)
    yield "breast tumours", X[y == 1], X[y == 0]
    for name, data in (
        ("digits", load_corrupted_digits("all")),
        ("textures", make_textures(600, size=8, random_state=0)),
    ):
        X = data.data.reshape(len(data.data), -1)
        yield name, X[data.target == 1], X[data.target == -1]


def once(detector, normal, odd, seed):
    """Fit; give the shares of fresh rows flagged, false ones selected, odd ones found."""
    rng = np.random.default_rng(seed)
    normal, odd = rng.permutation(normal), rng.permutation(odd)
    n_train = min(200, len(normal) - 2 * N_CALIBRATION)
    known = n_train + N_CALIBRATION
    fresh = normal[known : known + 200]
    model = ConformalDetector(
        make_pipeline(StandardScaler(), detector),
        max_false_positive_rate=RATE,
        held_out=N_CALIBRATION / known,
        random_state=seed,
    ).fit(normal[:known])
    assert model.n_calibration_ == N_CALIBRATION
    odd = odd[: len(fresh) // 4]
    selected = model.select(np.vstack([fresh, odd]), max_false_discovery_rate=0.2)
    false, found = selected[: len(fresh)].sum(), selected[len(fresh) :].sum()
    flagged = (model.predict(fresh) == -1).mean()
    return flagged, false / max(false + found, 1), found / len(odd)


def percent(values):
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.1%} ± {error:.1%}"


def main():
    """Run, print and write the table."""
    rows = [["data", "detector", "flagged", "false among selected", "anomalies selected"]]
    for data, normal, odd in data_sets():
        for name, detector in DETECTORS.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                runs = [once(detector, normal, odd, seed) for seed in range(REPEATS)]
            rows.append([data, name, *map(percent, zip(*runs, strict=True))])
            print(*rows[-1], sep="  ", flush=True)
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    caption = f"Mean over {REPEATS} draws ± its standard error. Promised: 10 %, and 20 %."
    TABLE.write_text("\n".join([*lines, "", caption, ""]))
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
