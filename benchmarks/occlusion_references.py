"""Which normal rows to compare with from outside; writes the table of the docs.

python benchmarks/occlusion_references.py
"""

from pathlib import Path

import numpy as np
from pyod.models.knn import KNN
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM

import skad.explanation._occlusion as occlusion
from skad import KDE, PyODDetector, explain
from skad._references import keep_references
from skad.datasets import load_corrupted_digits, make_textures
from skad.explanation import shapley_values
from skad.metrics import cosine_similarity_score

TABLE = Path(__file__).parent.parent / "docs" / "tables" / "occlusion_references.rst"


def data_sets():
    """Give name, normal training rows, anomalies and their masks."""
    for name, data in (
        ("digits", load_corrupted_digits("all")),
        ("textures", make_textures(400, size=12, random_state=0)),
    ):
        normal, odd = data.target == 1, data.target == -1
        yield name, data.data[normal][:800], data.data[odd][:80], data.mask[odd][:80]
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((10, 10))
    train, test = (rng.standard_normal((n, 10)) @ mixing for n in (400, 80))
    mask = np.argsort(rng.random(test.shape), axis=1) < 2
    yield "Gaussian", train, test + 3 * train.std(axis=0) * mask, mask


def random_rows(X, references, k):
    """Stand in for the nearest rows."""
    rng = np.random.default_rng(0)
    return np.stack([rng.choice(len(references), k, replace=False) for _ in X])


def cosines(detector, train, X, mask):
    """Give the cosine of each way and number of references."""
    nearest = occlusion._nearest
    references = keep_references(train)
    for choose in (nearest, random_rows):
        occlusion._nearest = choose
        for k in (1, 4, 16):
            relevance = occlusion.occlude(detector, X, references, n_references=k)
            yield cosine_similarity_score(mask, relevance)
    occlusion._nearest = nearest
    yield cosine_similarity_score(mask, shapley_values(detector, X, references).relevance)
    yield cosine_similarity_score(mask, explain(detector, X))


def main():
    """Run, print and write the table."""
    ways = [f"{k} {way}" for way in ("nearest", "random") for k in (1, 4, 16)]
    ways += ["Shapley values, 4 nearest", "exact rule"]
    rows = [["data", "detector", *ways]]
    for name, train, X, mask in data_sets():
        for detector in (
            PyODDetector(KNN()),
            IsolationForest(random_state=0),
            OneClassSVM(),
        ):
            label = type(getattr(detector, "detector", detector)).__name__
            scores = cosines(detector.fit(train), train, X, mask)
            rows.append([name, label, *(f"{score:.3f}" for score in scores)])
        exact = cosine_similarity_score(mask, KDE().fit(train).explain(X))
        rows.append([name, "KDE", *[""] * 7, f"{exact:.3f}"])
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [
            f"   {'*' if i == 0 else ' '} - {cell}".rstrip() for i, cell in enumerate(row)
        ]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(lines) + "\n")
    print("\n".join(" ".join(f"{cell:16}" for cell in row) for row in rows))


if __name__ == "__main__":
    main()
