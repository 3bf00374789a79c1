"""False alarms on fresh normal rows, by threshold; writes the table of the docs.

python benchmarks/false_alarms.py
"""

import warnings
from pathlib import Path

import numpy as np
from pyod.models.kde import KDE as PyODKDE
from sklearn.datasets import load_digits

from skad import KDE, Bag, PyODDetector

TABLE = Path(__file__).parent.parent / "docs" / "tables" / "false_alarms.rst"
N_TRAIN, N_FRESH, SEEDS = 1000, 4000, range(5)


def detectors(threshold):
    """Give named detectors with a threshold of 10 %, in-sample or honest."""
    honest = {"false_alarm_rate": 0.1} if threshold == "false_alarm_rate" else {}
    yield "KDE, loo", lambda d: KDE(bandwidth="loo", **honest)
    yield "KDE, scott", lambda d: KDE(bandwidth="scott", **honest)
    yield "KDE student, loo", lambda d: KDE(kernel="student", **honest)
    yield (
        "Bag of loo and wide KDE",
        lambda d: Bag([("loo", KDE()), ("wide", KDE(bandwidth=np.inf))], **honest),
    )
    yield (
        "PyOD's KDE, Scott's bandwidth",
        lambda d: PyODDetector(PyODKDE(bandwidth=N_TRAIN ** (-1 / (d + 4))), **honest),
    )


def share_flagged(make, d, seed):
    """Fit on normal rows, and give the share of fresh ones that is flagged."""
    rng = np.random.default_rng(seed)
    X, fresh = rng.standard_normal((N_TRAIN, d)), rng.standard_normal((N_FRESH, d))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return np.mean(make(d).fit(X).predict(fresh) == -1)


def share_flagged_of_digits(order):
    """Fit at 5 % on the first 900 digits in this order; give the share of the rest."""
    X = load_digits().data[order]
    kde = KDE(false_alarm_rate=0.05).fit(X[:900])
    return np.mean(kde.predict(X[900:]) == -1)


def main():
    """Run, print and write the table."""
    rows = []
    for threshold in ("contamination", "false_alarm_rate"):
        for name, make in detectors(threshold):
            shares = {d: [share_flagged(make, d, s) for s in SEEDS] for d in (2, 6, 64)}
            cells = [
                f"{np.mean(s):.1%} ({min(s):.1%} to {max(s):.1%})" for s in shares.values()
            ]
            rows.append([threshold, name, *cells])
    header = ["threshold", "detector", *(f"d = {d}" for d in (2, 6, 64))]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    lines += ["", f"Mean (range) over {len(SEEDS)} seeds."]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(lines) + "\n")
    print("\n".join(" | ".join(f"{c:26}" for c in row) for row in [header, *rows]))
    n = len(load_digits().data)
    drawn = share_flagged_of_digits(np.random.default_rng(0).permutation(n))
    print(f"digits at 5 %: drawn {drawn:.1%}, as they come", end=" ")
    print(f"{share_flagged_of_digits(np.arange(n)):.1%}")


if __name__ == "__main__":
    main()
