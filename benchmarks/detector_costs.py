"""What each detector costs to fit and to explain, against KDE; writes tables of the docs.

    python benchmarks/detector_costs.py            # some 10 minutes
    python benchmarks/detector_costs.py --quick    # tiny sizes: does it run?

All with their default parameters, on one thread, in processor seconds: a loaded machine
changes those less than the clock's. The least of the repeats counts. A quick run writes
nothing.
"""

import _common  # noqa: F401 - first: it sets one thread before numpy and torch load

# isort: split
import argparse
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _common import number, progress
from pyod.models.inne import INNE
from pyod.models.knn import KNN
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from skad import (
    FCDD,
    GEO,
    HSC,
    IOCN,
    KDE,
    AutoEncoder,
    Bag,
    DeepOneClass,
    DeepSAD,
    DeepSVDD,
    NormalizingFlow,
    PyODDetector,
    explain,
)
from skad.datasets import make_textures
from skad.neural import fit_features

TABLES = Path(__file__).parent.parent / "docs" / "tables"
N_TRAIN, N_FEATURES, N_EXPLAINED = 1000, 20, 200
N_IMAGES, SIDE, N_IMAGES_EXPLAINED = 500, 32, 50
N_MANY = (1000, 5000, 20_000, 50_000)


def row_detectors():
    """Give what is compared on the table, by name; KDE first."""
    seed = {"random_state": 0}
    return {
        "KDE": KDE(),
        "AutoEncoder": AutoEncoder(**seed),
        "DeepSVDD": DeepSVDD(**seed),
        "DeepSAD": DeepSAD(**seed),
        "HSC": HSC(**seed),
        "IOCN": IOCN(**seed),
        "NormalizingFlow": NormalizingFlow(**seed),
        "Bag of KDE and AutoEncoder": Bag([("kde", KDE()), ("net", AutoEncoder(**seed))]),
        "PyODDetector(KNN()), exact": PyODDetector(KNN()),
        "PyODDetector(INNE()), sampled": PyODDetector(INNE(**seed)),
        "IsolationForest": IsolationForest(**seed),
        "OneClassSVM": OneClassSVM(),
        "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
    }


def image_detectors(image_shape, features):
    """Give what is compared on the images, by name; KDE first."""
    seed, shape = {"random_state": 0}, {"image_shape": image_shape}
    return {
        "KDE": KDE(**shape),
        "AutoEncoder": AutoEncoder(**shape, **seed),
        "DeepOneClass": DeepOneClass(features=features, **shape),
        "DeepSVDD": DeepSVDD(**shape, **seed),
        "DeepSAD": DeepSAD(**shape, **seed),
        "HSC": HSC(**shape, **seed),
        "FCDD": FCDD(**shape, **seed),
        "GEO": GEO(**shape, **seed),
    }


def rows(n, d, seed):
    """Draw correlated normal rows; a twentieth has two columns of other rows."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) @ np.random.default_rng(d).standard_normal((d, d))
    X /= X.std(axis=0)
    y = np.where(np.arange(n) % 20, 1, -1)
    X[::20, :2] = np.roll(X[::20, :2], 1, axis=0)
    return X, y


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def costs(detectors, X, y, fresh, repeats):
    """Fit and explain each; give processor seconds, and ratios to the first."""
    table = []
    for name, detector in detectors.items():
        fit, explained, alone = (
            min(seconds(run) for _ in range(times))
            for run, times in (
                (lambda d=detector: d.fit(X, y), repeats),
                (lambda d=detector: explain(d, fresh), repeats),
                (lambda d=detector: explain(d, fresh[:1]), 3 * repeats),
            )
        )
        table.append([name, fit, 1e3 * explained / len(fresh), 1e3 * alone])
        progress(f"{name}: fit {fit:.3g} s, {table[-1][2]:.3g} and {table[-1][3]:.3g} ms")
    return table


def growth(sizes, n_explained):
    """Fit and explain by the number of training rows; give seconds and milliseconds."""
    fresh, _ = rows(n_explained, N_FEATURES, 1)
    table = []
    for n in sizes:
        X, _ = rows(n, N_FEATURES, 0)
        row = {"training rows": f"{n:,}"}
        for name, detector in (
            ("KDE", KDE()),
            ("KDE, false_alarm_rate", KDE(false_alarm_rate=0.05)),
            ("forest", IsolationForest(random_state=0)),
        ):
            row[f"{name}: fit, s"] = number(seconds(lambda d=detector, X=X: d.fit(X)))
            if name != "KDE, false_alarm_rate":
                took = seconds(lambda d=detector: explain(d, fresh))
                row[f"{name}: explain, ms a row"] = number(1e3 * took / n_explained)
        table.append(row)
        progress(str(row))
    return pd.DataFrame(table)


def published(frame, path, quick):
    """Print a table and, if it is one of the docs, write it."""
    print(frame.to_string(index=False))
    if not quick:
        frame.to_csv(path, index=False)


def beside_first(table):
    """Give the costs with their ratios to the first detector's."""
    first = table[0][1:]
    return pd.DataFrame(
        [
            [
                name,
                number(fit),
                number(fit / first[0]),
                number(batch),
                number(batch / first[1]),
                number(alone),
            ]
            for name, fit, batch, alone in table
        ],
        columns=[
            *("detector", "fit, s", "fit / KDE's", "explain, ms a row"),
            *("explain / KDE's", "explain one row alone, ms"),
        ],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("skad").setLevel("WARNING")
    n, m = (60, 60) if args.quick else (N_TRAIN, N_IMAGES)
    X, y = rows(n, N_FEATURES, 0)
    fresh, _ = rows(20 if args.quick else N_EXPLAINED, N_FEATURES, 1)
    table = costs(row_detectors(), X, y, fresh, args.repeats)
    published(beside_first(table), TABLES / "detector_costs.csv", args.quick)
    many = growth((60, 120) if args.quick else N_MANY, len(fresh))
    published(many, TABLES / "detector_costs_rows.csv", args.quick)
    made = {"anomaly_share": 0.05, "size": SIDE}
    train = make_textures(m, random_state=0, **made)
    test = make_textures(5 if args.quick else N_IMAGES_EXPLAINED, random_state=1, **made)
    letters = make_textures(400, anomaly_share=0, size=SIDE, random_state=2)
    features = fit_features(letters.images, letters.texture, random_state=0)
    detectors = image_detectors(train.image_shape, features)
    table = costs(detectors, train.data, train.target, test.data, args.repeats)
    published(beside_first(table), TABLES / "detector_costs_images.csv", args.quick)


if __name__ == "__main__":
    main()
