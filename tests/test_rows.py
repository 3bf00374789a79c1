"""Rows that are not in memory: the same detector as of an array, read part by part."""

import pickle
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from skad import (
    FCDD,
    GEO,
    HSC,
    IOCN,
    KDE,
    AutoEncoder,
    ConformalDetector,
    DeepOneClass,
    DeepSAD,
    InlierTraining,
    NormalizingFlow,
    explain,
)
from skad.datasets import LazyImages
from skad.metrics import ExplanationAwareScorer, clever_hans_report
from skad.neural import EarlyStopping
from skad.neural._rows import LazyRows, extremes, lazy_rows

RNG = np.random.default_rng(0)
ROWS = (3 * RNG.standard_normal((150, 6)) + 1).astype(np.float32)
IMAGES = RNG.integers(0, 256, (60, 1, 12, 12)).astype(np.float32)
Y = np.where(np.arange(150) % 15 == 0, -1, 1)


class Items(Dataset):
    """Rows with something behind each; remembers how many were asked for in a row."""

    def __init__(self, rows):
        self.rows, self.most = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return torch.from_numpy(self.rows[i].copy()), "not read"

    def __getitems__(self, numbers):
        self.most = max(self.most, len(numbers))
        return [self[i] for i in numbers]


@pytest.fixture
def mapped(tmp_path):
    def save(array):
        np.save(tmp_path / "rows.npy", array)
        return np.load(tmp_path / "rows.npy", mmap_mode="r")

    return save


NETWORK = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
SHORT = {"random_state": 0, "max_epochs": 2}
DETECTORS = [
    (AutoEncoder(**SHORT, early_stopping=EarlyStopping()), ROWS, None),
    (AutoEncoder(**SHORT, false_alarm_rate=0.1), IMAGES, None),
    (DeepSAD(**SHORT, false_alarm_rate=0.1), ROWS, Y),
    (HSC(**SHORT), ROWS, Y),
    (FCDD(**SHORT), IMAGES, None),
    (GEO(random_state=0, max_epochs=1), IMAGES, None),
    (IOCN(**SHORT), ROWS, None),
    (NormalizingFlow(**SHORT, preprocessing="sphere"), ROWS, None),
    (DeepOneClass(features=NETWORK), ROWS, None),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "detector, X, y", DETECTORS, ids=lambda v: type(v).__name__ if v is not None else ""
)
def test_same_to_the_bit(detector, X, y, mapped):
    """Memory map and data set: scores, threshold and explanation are those of the array."""
    whole = clone(detector).fit(X, y)
    for outside in (mapped(X), Items(X)):
        other = clone(detector).fit(outside, y)
        np.testing.assert_array_equal(other.score_samples(outside), whole.score_samples(X))
        assert other.offset_ == whole.offset_
        few = type(outside)(X[:5]) if isinstance(outside, Items) else outside[:5]
        np.testing.assert_array_equal(other.explain(few), whole.explain(X[:5]))
        np.testing.assert_array_equal(other.unattributed(few), whole.unattributed(X[:5]))


def test_never_all_rows_at_once():
    rows = RNG.standard_normal((3000, 1500)).astype(np.float32)
    data = Items(rows)
    detector = AutoEncoder(random_state=0, max_epochs=1, hidden=(4,), code_size=2).fit(data)
    detector.predict(data)
    assert 0 < data.most <= 1024


def test_mapped_bytes(mapped):
    """Bytes, which are eight times as large as float64, are converted part by part."""
    X = IMAGES.astype(np.uint8)
    whole = AutoEncoder(**SHORT).fit(X)
    np.testing.assert_array_equal(
        AutoEncoder(**SHORT).fit(mapped(X)).score_samples(mapped(X)), whole.score_samples(X)
    )


def test_lazy_images():
    read = []

    def decode(files):
        read.append(len(files))
        return IMAGES[files.astype(int)]

    numbers = np.arange(len(IMAGES)).astype(object)
    images = LazyImages(numbers, decode, IMAGES.shape[1:], np.float32)
    scores = AutoEncoder(**SHORT, batch_size=8).fit(images).score_samples(images)
    expected = AutoEncoder(**SHORT, batch_size=8).fit(IMAGES).score_samples(IMAGES)
    np.testing.assert_array_equal(scores, expected)


def test_loader_of_torch():
    """torch's own loader, whose workers read ahead, can take the place of ours."""
    loader = {"iterator_train": DataLoader, "iterator_train__num_workers": 0}
    detector = AutoEncoder(**SHORT, net_params=loader).fit(
        TensorDataset(torch.tensor(ROWS))
    )
    assert np.isfinite(detector.score_samples(ROWS)).all()


@pytest.mark.parametrize(
    "wrap", [InlierTraining, partial(ConformalDetector, random_state=0)]
)
def test_wrappers_pass_data_sets_on(wrap):
    whole, other = (wrap(AutoEncoder(**SHORT)) for _ in range(2))
    whole.fit(ROWS, Y)
    other.fit(Items(ROWS), Y)
    for method in ("score_samples", "predict", "explain"):
        np.testing.assert_array_equal(
            getattr(other, method)(Items(ROWS)), getattr(whole, method)(ROWS)
        )


def test_partial_fit_and_warm_start(mapped):
    whole = AutoEncoder(**SHORT).partial_fit(ROWS).partial_fit(ROWS)
    other = AutoEncoder(**SHORT).partial_fit(mapped(ROWS)).partial_fit(Items(ROWS))
    np.testing.assert_array_equal(other.score_samples(ROWS), whole.score_samples(ROWS))


def test_choosing_reads_nothing():
    rows, shape = lazy_rows(Items(ROWS), np.float64)
    some = rows[np.arange(150) % 2 == 0][3:5]
    assert shape is None and isinstance(some, LazyRows) and some.shape == (2, 6)
    assert some.__array__().dtype == np.float64
    np.testing.assert_array_equal(np.asarray(some), ROWS[[6, 8]])
    np.testing.assert_array_equal(np.asarray(some.with_rows_of(rows[:1])), ROWS[[6, 8, 0]])
    np.testing.assert_array_equal(extremes(rows), [ROWS.min(axis=0), ROWS.max(axis=0)])
    assert np.asarray(rows[:0]).shape == (0, 6)


def test_copy_of_a_map_is_in_memory(mapped):
    assert lazy_rows(mapped(ROWS)[[1, 2]], np.float64) is None
    assert lazy_rows(mapped(ROWS)[5:], np.float64) is not None


class Stream(IterableDataset):
    def __iter__(self):
        yield from ROWS


def broken(index, row):
    rows = list(ROWS)
    rows[index] = np.array(row, dtype=np.float32)
    return Items(rows)


@pytest.mark.parametrize(
    "X, error, message",
    [
        (Stream(), TypeError, "IterableDataset"),
        (Items([]), ValueError, "is empty"),
        (Items(ROWS[:1]), ValueError, "two rows"),
        (Items(ROWS[:, :0]), ValueError, "feature"),
        (broken(7, [1.0]), ValueError, r"Item 7 of X.* \(1,\)"),
        (broken(7, [np.nan] * 6), ValueError, "NaN"),
        (Items(np.zeros((4, 2, 2, 2, 2), np.float32)), ValueError, "items of shape"),
    ],
    ids=["stream", "empty", "one", "no features", "shapes", "nan", "4-d"],
)
def test_bad_data_sets(X, error, message):
    detector = AutoEncoder(**SHORT)
    with pytest.raises(error, match=message):
        detector.fit(X)
    assert not hasattr(detector, "n_features_in_")


class Endless(Dataset):
    """Without an IndexError: numpy asks for rows for ever."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, i):
        assert i < 10**4
        return ROWS[i % len(ROWS)]


FOREST = IsolationForest(n_estimators=5, random_state=0)
IN_MEMORY = [
    KDE(),
    InlierTraining(KDE()),
    InlierTraining(FOREST),
    ConformalDetector(FOREST),
    InlierTraining(make_pipeline(StandardScaler(), AutoEncoder(**SHORT))),
]


@pytest.mark.parametrize("detector", IN_MEMORY, ids=lambda d: " ".join(str(d).split()))
def test_data_sets_for_detectors_that_read_all_rows(detector):
    with pytest.raises(TypeError, match=r"data set of torch \(Endless\).* array"):
        detector.fit(Endless())
    detector.fit(ROWS)
    for method in (detector.predict, detector.explain):
        with pytest.raises(TypeError, match="data set of torch"):
            method(Endless())


def test_explanations_and_scores_of_data_sets():
    with pytest.raises(TypeError, match="data set of torch"):
        explain(clone(FOREST).fit(ROWS), Endless())
    detectors = {"network": AutoEncoder(**SHORT).fit(ROWS)}
    mask, score = abs(ROWS) > 3, ExplanationAwareScorer(weight=0)
    of_array = clever_hans_report(detectors, ROWS, Y, mask=mask)
    assert clever_hans_report(detectors, Endless(), Y, mask=mask).equals(of_array)
    wrapped = InlierTraining(AutoEncoder(**SHORT)).fit(ROWS, Y)
    assert score(wrapped, Items(ROWS), Y) == score(wrapped, ROWS, Y)


def test_outliers_are_an_array():
    with pytest.raises(TypeError, match="An array is needed here"):
        HSC(**SHORT, outliers=Endless()).fit(ROWS)


def test_folds_of_a_search_keep_no_labels_of_items():
    labelled = TensorDataset(torch.tensor(ROWS), torch.tensor(ROWS))
    with pytest.raises(TypeError, match="list of tuples of arrays"):
        cross_val_score(
            InlierTraining(AutoEncoder(**SHORT)),
            labelled,
            Y,
            cv=2,
            scoring="roc_auc",
            error_score="raise",
        )


@pytest.mark.parametrize("wrap", [InlierTraining, ConformalDetector])
def test_wrappers_let_go_of_data_sets(wrap):
    """They keep 256 rows at most, as an array."""
    rows = RNG.standard_normal((20_000, 6)).astype(np.float32)
    fitted = wrap(AutoEncoder(**SHORT, hidden=(4,))).fit(Items(rows))
    assert len(pickle.dumps(fitted)) < rows.nbytes / 2


def test_counterfactual_of_a_map(mapped):
    detector = IOCN(**SHORT, n_members=2).fit(ROWS)
    np.testing.assert_array_equal(
        detector.counterfactual(mapped(ROWS)[:3]), detector.counterfactual(ROWS[:3])
    )


def test_channels_of_a_map_are_moved_without_a_copy(mapped):
    images = RNG.integers(0, 256, (2000, 16, 16, 3)).astype(np.float32)
    moved = np.moveaxis(mapped(images), -1, 1)
    tracemalloc.start()
    rows, shape = lazy_rows(moved, np.float64)
    first = np.asarray(rows[:2])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shape == (3, 16, 16) and most < images.nbytes / 10
    np.testing.assert_array_equal(first, moved[:2].reshape(2, -1))


def test_an_item_may_be_an_image_of_lists():
    detector = AutoEncoder(**SHORT).fit(Items(IMAGES[:, 0]))

    class Lists(Endless):
        def __getitem__(self, i):
            return IMAGES[i % 60, 0].tolist()

    assert detector.score_samples(Lists())[3] == detector.score_samples(IMAGES[:, 0])[3]


def test_other_width_later():
    detector = AutoEncoder(**SHORT).fit(Items(ROWS))
    with pytest.raises(ValueError, match=r"4 features.* 6 features"):
        detector.score_samples(Items(ROWS[:, :4]))
    with pytest.raises(ValueError, match="NaN"):
        detector.score_samples(broken(7, [np.nan] * 6))
