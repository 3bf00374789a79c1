"""The benchmark: its protocol, its cache, its tables and its command line."""

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from skad.benchmark import benchmark, detector_names, load_table, rank_table
from skad.benchmark._cache import plain
from skad.benchmark._catalog import make_detector
from skad.benchmark._command import main
from skad.benchmark._inputs import read_dataset
from skad.benchmark._memory import MemoryWatch
from skad.benchmark._protocol import split
from skad.plotting import CleverHansDisplay

pd = pytest.importorskip("pandas")

QUICK = {"progress": False, "seeds": 1}
TIMES = ["fit_seconds", "score_seconds", "explain_seconds", "peak_mib"]
SEEN = []  # what `Distance` was fitted on, and with which random_state


class Distance(BaseEstimator):
    """Squared distance to the origin, by feature; fails where it is told to."""

    def __init__(self, fails=None, at=0, random_state=None):
        self.fails = fails
        self.at = at
        self.random_state = random_state

    def fit(self, X, y=None):
        SEEN.append((X, self.random_state))
        if self.fails == "fit":
            raise TypeError("no\nsuch luck")
        if self.fails == "interrupt" and len(SEEN) == self.at:
            raise KeyboardInterrupt
        if self.fails == "swallow":  # as skorch does
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        self.fitted_ = True
        return self

    def score_samples(self, X):
        X = np.asarray(X)
        score = -np.square(X).reshape(len(X), -1).sum(axis=1)
        return score * np.nan if self.fails == "nan" else score

    def explain(self, X):
        if self.fails == "explain":
            raise RuntimeError("can't say")
        return np.square(X)


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


@pytest.fixture
def toy():
    """Normal rows around 0, anomalies far out in the first column."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 3)), np.repeat([1, -1], [41, 9])
    mask = np.outer(y == -1, [1, 0, 0])
    return X + 6 * mask, y, mask


# The protocol ------------------------------------------------------------------------


def test_split():
    y = np.repeat([1, -1], [41, 9])
    train, fresh, odd = split(y, 3, 5000)
    assert [len(train), len(fresh), len(odd)] == [20, 21, 9]
    assert sorted([*train, *fresh, *odd]) == list(range(50))
    assert (y[train] == 1).all() and (y[fresh] == 1).all() and (y[odd] == -1).all()
    assert [len(rows) for rows in split(y, 3, 7)] == [7, 7, 7]
    assert set(split(y, 4, 5000)[0]) != set(train)


def test_trains_on_scaled_normal_rows_with_the_seed(toy):
    X, y, _ = toy
    frame = benchmark({"d": Distance()}, {"toy": (X, y)}, seeds=[3], progress=False)
    (trained, seed), train = SEEN[0], split(y, 3, 5000)[0]
    assert seed == 3
    assert_allclose(trained, StandardScaler().fit_transform(X[train]))
    sizes = frame[["seed", "n_train", "n_test", "n_anomalies", "n_features"]]
    assert sizes.iloc[0].tolist() == [3, 20, 30, 9, 3]


def test_nested_states_are_seeded_and_the_given_detector_is_not_touched(toy):
    detector, X, y = make_pipeline(PCA(2), Distance(random_state=7)), *toy[:2]
    forest = make_pipeline(PCA(2), Distance())
    benchmark({"a": detector, "b": forest}, {"toy": (X, y)}, seeds=[5], progress=False)
    assert [seed for _, seed in SEEN] == [7, 5]
    assert forest[-1].random_state is None and not hasattr(forest[0], "components_")


def test_results_by_hand(toy):
    X, y, _ = toy
    row = benchmark({"d": Distance()}, {"toy": toy}, scale=False, **QUICK).iloc[0]
    train, fresh, odd = split(y, 0, 5000)
    test = np.concatenate([fresh, odd])
    score = (X[test] ** 2).sum(axis=1)
    assert row["roc_auc"] == pytest.approx(roc_auc_score(y[test] == -1, score))
    assert row["average_precision"] == pytest.approx(
        average_precision_score(y[test] == -1, score)
    )
    squares = X[odd] ** 2
    cosine = (squares[:, 0] / np.linalg.norm(squares, axis=1)).mean()
    assert row["explanation"] == pytest.approx(cosine)
    assert row["baseline"] == pytest.approx(1 / np.sqrt(3))
    assert row["clever_hans"] == pytest.approx(row["roc_auc"] - cosine)
    assert row["pixel_roc_auc"] == (squares[:, :1] > squares[:, 1:]).mean()
    # In expectation, a random order has lost k/3 of the score after k of 3 features.
    between = ((X[odd, None] - X[train]) / X[train].std(axis=0)) ** 2
    near = X[train][between.sum(axis=2).argmin(axis=1)]
    change = squares - near**2
    first = np.take_along_axis(change, np.argsort(-squares, axis=1), axis=1)
    left = 1 - np.cumsum(first, axis=1) / change.sum(axis=1, keepdims=True)
    own = (0.5 + left[:, 0] + left[:, 1]) / 3
    assert row["faithfulness"] == pytest.approx(np.mean(0.5 - own), abs=0.06)
    assert row["error"] == ""


def test_other_detectors_against_scikit_learn(toy):
    X, y, _ = toy
    detectors = {"sk": LocalOutlierFactor(novelty=True), "pyod": make_detector("lof")}
    frame = benchmark({**detectors, "raw": detectors["pyod"].detector}, {"t": toy}, **QUICK)
    train, fresh, odd = split(y, 0, 5000)
    scaler, test = StandardScaler().fit(X[train]), np.concatenate([fresh, odd])
    lof = clone(detectors["sk"]).fit(scaler.transform(X[train]))
    score = -lof.score_samples(scaler.transform(X[test]))
    assert_allclose(frame["roc_auc"], roc_auc_score(y[test] == -1, score), atol=0.01)
    assert frame["explanation"].min() > 0.9 and frame["faithfulness"].min() > 0.2


def test_without_masks_and_with_images(toy):
    X, y, mask = toy
    row = benchmark(["kde"], {"toy": (X, y)}, **QUICK).iloc[0]
    assert row[["explanation", "baseline", "pixel_roc_auc", "clever_hans"]].isna().all()
    assert row["faithfulness"] > 0.2
    images, masks = X[:, None, None, :], mask[:, None, :]  # one channel, 1 x 3 pixels
    flat = Bunch(data=X, target=y, mask=mask, image_shape=(1, 1, 3))
    sets = {"images": (images, y, masks), "flat": flat, "plain": (images, y, mask)}
    frame = benchmark({"d": Distance()}, sets, **QUICK)
    assert [trained.ndim for trained, _ in SEEN] == [4, 2, 4]
    assert_allclose(SEEN[1][0], X[split(y, 0, 5000)[0]])  # not scaled
    assert frame["explanation"].nunique() == 1 and frame["explanation"][0] > 0.9


def test_weights_for_masks_have_no_roc_curve(toy):
    X, y, mask = toy
    row = benchmark({"d": Distance()}, {"t": (X, y, 0.3 * mask)}, **QUICK).iloc[0]
    assert row["explanation"] > 0.9 and np.isnan(row["pixel_roc_auc"])


def test_global_states_stay(toy):
    before = np.random.get_state()[1].tolist()
    benchmark(["iforest", "isolation_forest"], {"toy": toy}, **QUICK)
    assert np.random.get_state()[1].tolist() == before


def test_memory():
    with MemoryWatch() as memory:
        block = np.ones(2**23)
        time.sleep(0.05)
    assert np.isnan(memory.rise_mib) or 60 < memory.rise_mib < 500
    del block


# Failures ----------------------------------------------------------------------------


def test_failures_are_rows_and_a_warning(toy):
    detectors = {f: Distance(fails=f) for f in ("fit", "nan", "explain")}
    with pytest.warns(UserWarning, match="3 of 4 runs failed; the first, fit on toy") as w:
        frame = benchmark({"well": Distance(), **detectors}, {"toy": toy}, **QUICK)
    assert w[0].filename == __file__
    frame = frame.set_index("detector")
    assert frame["error"].tolist() == [
        "",
        "TypeError: no such luck",
        "ValueError: 30 of 30 scores are NaN.",
        "explain: RuntimeError: can't say",
    ]
    results = ["roc_auc", "explanation", "faithfulness", *TIMES]
    assert frame.loc[["fit", "nan"], results].isna().all(axis=None)
    assert frame.loc["explain", "roc_auc"] == frame.loc["well", "roc_auc"]
    assert frame.loc["explain", ["explanation", "faithfulness"]].isna().all()


@pytest.mark.parametrize(
    ("detectors", "error", "message"),
    [
        ("kde", TypeError, "a list of names"),
        ({}, ValueError, "one at least"),
        (["kde", "kde"], ValueError, "one twice"),
        ([Distance()], TypeError, "come in a dict"),
        ({"d": Distance}, TypeError, "unfitted detector"),
        (["isolation_forrest"], ValueError, "Did you mean isolation_forest"),
        (["zzzzzz"], ValueError, "There are: kde, autoencoder"),
    ],
)
def test_refused_detectors(detectors, error, message, toy):
    with pytest.raises(error, match=message):
        benchmark(detectors, {"toy": toy}, **QUICK)


X5, Y5 = np.zeros((5, 2)), np.array([1, 1, 1, 1, -1])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, TypeError, "'d' must be"),
        ((X5, (1 - Y5) / 2), ValueError, r"'d'.*np.where\(y == 1, -1, 1\)"),
        ((X5, np.ones(5)), ValueError, "both of them"),
        ((X5, Y5[1:]), ValueError, "4 labels, but X has 5 rows"),
        ((X5[1:], Y5[1:]), ValueError, "4 normal rows"),
        ((X5 * np.nan, Y5), ValueError, "'d': Input X contains NaN"),
        ((X5, Y5, X5.T), ValueError, r"mask has shape \(2, 5\)"),
        ((X5, Y5, X5 - 1), ValueError, "not negative"),
    ],
)
def test_refused_datasets(data, error, message):
    with pytest.raises(error, match=message):
        benchmark(["kde"], {"d": data}, **QUICK)


def test_refused_arguments(toy):
    for name, value in (
        ("max_rows", 1),
        ("n_explained", 0),
        ("seeds", 0),
        ("seeds", [1, 1]),
    ):
        with pytest.raises(ValueError, match=name):
            benchmark(["kde"], {"toy": toy}, **{name: value})
    with pytest.raises(TypeError, match="datasets must be a dict"):
        benchmark(["kde"], [toy])


# The cache ---------------------------------------------------------------------------


def test_goes_on_where_it_was_interrupted(toy, tmp_path):
    def run():
        detector = Distance(fails="interrupt", at=3)
        options = {"seeds": 5, "progress": False, "cache": tmp_path / "new" / "folder"}
        return benchmark({"d": detector}, {"toy": toy}, **options)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [seed for _, seed in SEEN] == [0, 1, 2]
    frame = run()  # seeds 2, 3 and 4
    assert [seed for _, seed in SEEN[3:]] == [2, 3, 4]
    assert frame["seed"].tolist() == [0, 1, 2, 3, 4]
    pd.testing.assert_frame_equal(run(), frame)  # times too: nothing ran
    assert len(SEEN) == 6
    names = [file.name for file in (tmp_path / "new" / "folder").iterdir()]
    assert len(names) == 5 and all(n.startswith("toy-d-") for n in names)


def test_an_interrupt_that_a_detector_swallows(toy, tmp_path, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    handler = signal.default_int_handler  # where tests run in background it is ignored
    with pytest.raises(KeyboardInterrupt):
        benchmark({"d": Distance("swallow")}, {"toy": toy}, cache=tmp_path, **QUICK)
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGINT) is handler


@pytest.mark.filterwarnings("ignore:1 of 1 runs failed")
def test_failed_runs_are_tried_again(toy, tmp_path):
    for _ in range(2):
        frame = benchmark({"d": Distance("fit")}, {"t": toy}, cache=tmp_path, **QUICK)
    assert len(SEEN) == 2 and frame["error"][0].startswith("TypeError")


def test_anything_that_matters_makes_a_new_run(toy, tmp_path):
    X, y, mask = toy

    def fits(detector=None, data=toy, name="d", **options):
        before = len(SEEN)
        options = {**QUICK, "cache": tmp_path, **options}
        benchmark({name: detector or Distance()}, {"toy": data}, **options)
        return len(SEEN) - before

    assert [fits(), fits()] == [1, 0]
    changed = X.copy()
    changed[7, 1] += 1e-9
    assert fits(data=(changed, y, mask)) == 1
    assert fits(data=(X, y)) == 1
    assert fits(Distance(at=1)) == 1
    assert fits(name="other") == 1
    for option in ({"max_rows": 9}, {"n_explained": 2}, {"scale": False}, {"seeds": [1]}):
        assert [fits(**option), fits(**option)] == [1, 0]


def test_parameters_are_written_in_full_and_without_addresses():
    long = np.arange(5000)
    other = long.copy()
    other[2500] = 0
    assert plain(Distance(at=long)) != plain(Distance(at=other))  # numpy's repr is equal
    assert plain(Distance(object())) == plain(Distance(object()))
    one, two = ([FunctionTransformer(f)] for f in (lambda x: x + 1, lambda x: x + 2))
    assert plain(one) == plain(clone(one[0]) and one) != plain(two)
    assert plain({"a": {"x", "y"}}) == plain({"a": {"y", "x"}})
    deep = make_pipeline(StandardScaler(), IsolationForest(n_estimators=7))
    assert plain(deep) == plain(clone(deep)) != plain(deep.set_params(steps=deep.steps[:1]))


def powers(p):
    def defaults(X, p=p):
        return X**p

    def inner(X):
        return [(lambda x: x**p)(x) for x in X]

    return [lambda X: X**p, defaults, inner]


def test_functions_and_generators_are_written_with_what_they_hold():
    for one, same, other in zip(powers(1), powers(1), powers(2), strict=True):
        assert plain(one) == plain(same) != plain(other)
    for make in (np.random.RandomState, np.random.default_rng):
        assert plain(make(0)) == plain(make(0)) != plain(make(1))


@pytest.mark.parametrize("text", ['{"detector": "d", "da', "[]", '{"error": ""}'])
def test_a_broken_file_is_no_run(text, toy, tmp_path):
    benchmark({"d": Distance()}, {"toy": toy}, cache=tmp_path, **QUICK)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    benchmark({"d": Distance()}, {"toy": toy}, cache=tmp_path, **QUICK)
    assert len(SEEN) == 2


def test_two_processes_give_what_one_gives(toy):
    options = {"progress": False, "seeds": 2}
    one, two = (
        benchmark(["isolation_forest", "knn"], {"toy": toy}, n_jobs=n, **options)
        for n in (1, 2)
    )
    pd.testing.assert_frame_equal(one.drop(columns=TIMES), two.drop(columns=TIMES))


# Files -------------------------------------------------------------------------------

ROWS = "a,b,label\n1,2,0\n1,3,0\n2,2,0\n1,1,0\n9,9,1\n"


def relabelled(normal, anomaly):
    return ROWS.replace(",0\n", f",{normal}\n").replace("9,1\n", f"9,{anomaly}\n")


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        relabelled(1, -1),
        relabelled("False", "True"),
        relabelled("normal", "anomaly"),
        relabelled(" Good", "BAD "),
        relabelled("inlier", "outlier"),
        ROWS.replace("label", "Y"),
    ],
)
def test_tables(text, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    table = load_table(path)
    assert table.target.tolist() == [1, 1, 1, 1, -1]
    assert table.data.tolist() == [[1, 2], [1, 3], [2, 2], [1, 1], [9, 9]]
    assert table.feature_names == ["a", "b"]


def test_index_that_pandas_saved_is_no_feature(tmp_path):
    path = tmp_path / "t.csv"
    rows = ROWS.splitlines()
    lines = [f",{rows[0]}"] + [f"{i},{row}" for i, row in enumerate(rows[1:])]
    path.write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="counts the rows: it is left out"):
        assert load_table(path).feature_names == ["a", "b"]


def test_other_files(tmp_path, monkeypatch):
    frame = pd.DataFrame({"class": [1.5] * 5, "odd": [0, 0, 0, 0, 1]})
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    table = load_table(str(tmp_path / "t.csv.gz"), label="odd")
    assert table.feature_names == ["class"] and table.target[-1] == -1
    X = np.arange(10).reshape(5, 2)
    np.savez(tmp_path / "t.npz", X=X, y=[[0], [0], [0], [0], [1]], mask=X > 7)
    table = load_table(tmp_path / "t.npz")
    assert table.data.dtype == float and table.target.tolist() == [1, 1, 1, 1, -1]
    assert table.mask.sum() == 2 and read_dataset("t", table).mask.shape == (5, 2)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ImportError, match="needs pyarrow: pip install pyarrow"):
        load_table(tmp_path / "t.parquet")


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": range(5), "label": [False] * 4 + [True]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load_table(tmp_path / "t.parquet").target.tolist() == [1, 1, 1, 1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("", "can't be read: No columns"),
        ('a,label\n"1,2\n', "can't be read"),
        ("a,label\n", "no rows"),
        ("label\n0\n0\n0\n0\n1\n", "no column but the labels"),
        (ROWS.replace("label", "c"), "no column is called label, y.*there are: a, b, c"),
        (ROWS.replace("b,", "y,"), "y, label may all be labels"),
        (relabelled(0, 7), "'label' holds 0, 7"),
        (relabelled("good", "normal"), "holds good, normal"),
        (
            relabelled(0, "").replace("9,\n", "9,\n8,8,1\n"),
            "1 labels in 'label' are missing",
        ),
        (relabelled(0, 0), "all 5 labels in 'label' are 0. Both"),
        (ROWS.replace("9,9", "x,y"), "a, b hold no numbers. Encode"),
        (ROWS.replace("9,9", "9,").replace("1,3", "1,"), r"missing in b \(2\). Impute"),
        (ROWS.replace("9,9", "inf,9"), r"infinite in a \(1\)"),
        (ROWS.replace("1,1,0\n", ""), "4 normal rows are needed at least, there are 3"),
    ],
)
def test_refused_tables(text, message, tmp_path):
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_table(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": X5, "y": Y5}, r"X and y are needed; it has \['data', 'y'\]"),
        ({"X": Y5, "y": Y5}, r"in the shape \(n, d\)"),
        ({"X": X5, "y": Y5[1:]}, r"y has shape \(4,\), but X has 5 rows"),
        ({"X": X5, "y": Y5, "mask": X5.T}, r"mask has shape \(2, 5\)"),
        ({"X": X5[:0], "y": Y5[:0]}, "no rows"),
    ],
)
def test_refused_arrays(arrays, message, tmp_path):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_table(tmp_path / "t.npz")


def test_refused_files(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.npz, \.csv"):
        load_table(tmp_path / "t.xlsx")
    (tmp_path / "t.npz").write_text("no archive")
    with pytest.raises(ValueError, match="can't be read"):
        load_table(tmp_path / "t.npz")
    (tmp_path / "t.csv").write_text(ROWS)
    with pytest.raises(ValueError, match="no column 'z'; there are: a, b, label"):
        load_table(tmp_path / "t.csv", label="z")


# Tables and plots --------------------------------------------------------------------


def frame_of(rows, **more):
    columns = ["detector", "dataset", "seed", "roc_auc", "faithfulness", "error"]
    seconds = {"fit_seconds": 1.0, "score_seconds": 2.0, "explain_seconds": 3.0}
    return pd.DataFrame(rows, columns=columns).assign(**seconds, **more)


RUNS = [
    ("A", "one", 0, 0.9, 0.3, ""),
    ("A", "one", 1, 0.7, 0.1, ""),  # mean 0.8 and 0.2
    ("A", "two", 0, 0.6, np.nan, ""),
    ("B", "one", 0, 0.8, 0.5, ""),
    ("B", "two", 0, 0.9, np.nan, ""),
    ("C", "one", 0, 0.5, np.nan, "explain: ValueError: no"),
    ("C", "two", 0, np.nan, np.nan, "TypeError: no"),
]


def test_ranks_by_hand():
    table = rank_table(frame_of(RUNS))
    # one: A and B tie, C is third; two: B, A, and C failed. Faithfulness: only "one".
    assert table.index.tolist() == ["B", "A", "C"]
    assert_allclose(table["rank_roc_auc"], [1.25, 1.75, 3])
    assert_allclose(table["rank_faithfulness"], [1, 2, 3])
    assert_allclose(table["both"], [1.125, 1.875, 3])
    assert_allclose(table["roc_auc"], [0.85, 0.7, 0.5])
    assert_allclose(table["faithfulness"], [0.5, 0.2, np.nan])
    assert table["failures"].tolist() == [0, 0, 2]
    assert table["score_seconds"].tolist() == [2, 2, 2]


def test_ranks_of_what_is_better_low_and_after_csv(tmp_path):
    frame = frame_of(RUNS, peak_mib=[5.0, 5, 5, 1, 1, 3, 3])
    frame.to_csv(tmp_path / "f.csv", index=False)
    table = rank_table(pd.read_csv(tmp_path / "f.csv"), by="peak_mib")
    assert table["both"].to_dict() == {"B": 1, "C": 2, "A": 3}
    assert table["failures"].to_dict() == {"B": 0, "C": 2, "A": 0}
    with pytest.raises(ValueError, match="'speed'"):
        rank_table(frame, by=("roc_auc", "speed"))
    with pytest.raises(ValueError, match="no rows"):
        rank_table(frame[:0])


def test_clever_hans_display():
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    explanation = [0.4, 0.6, np.nan, 0.2, np.nan, np.nan, np.nan]
    frame = frame_of(RUNS, explanation=explanation, baseline=[0.3] * 7)
    display = CleverHansDisplay.from_benchmark(frame)
    where = {n: (p.get_xdata()[0], p.get_ydata()[0]) for n, p in display.points_.items()}
    assert where == {"A": pytest.approx((0.8, 0.5)), "B": pytest.approx((0.8, 0.2))}
    assert display.baseline_.get_ydata()[0] == pytest.approx(0.3)
    with pytest.raises(ValueError, match="takes masks"):
        CleverHansDisplay.from_benchmark(frame, dataset="two")
    with pytest.raises(ValueError, match=r"no dataset 'three'; it has \['one', 'two'\]"):
        CleverHansDisplay.from_benchmark(frame, dataset="three")
    plt.close("all")


# Names and the command line ----------------------------------------------------------


@pytest.mark.parametrize("name", detector_names())
def test_every_name_makes_a_detector(name):
    detector = make_detector(name)
    assert hasattr(detector, "fit") and clone(detector) is not detector


@pytest.fixture
def csv(tmp_path, toy):
    X, y, _ = toy
    frame = pd.DataFrame(X, columns=list("abc")).assign(odd=(y == -1).astype(int))
    frame.to_csv(tmp_path / "pumps.csv", index=False)
    return str(tmp_path / "pumps.csv")


def test_command(csv, tmp_path, capsys):
    output = tmp_path / "rows.csv"
    options = ["--label", "odd", "--seeds", "2", "--output", str(output)]
    assert main(["--detectors", "lof, hbos", "--data", csv, *options]) == 0
    out, err = capsys.readouterr()
    assert "pumps: 20 normal rows train, 30 test, 9 of them anomalies; 3 features" in out
    assert "Mean ranks by roc_auc and faithfulness over 1 dataset" in out
    assert f"Rows: {output}" in out and "lof on pumps, seed 1" in err
    assert pd.read_csv(output)["detector"].tolist() == ["lof", "lof", "hbos", "hbos"]


def test_command_shows_failures(csv, tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("sklearn.covariance.EllipticEnvelope.fit", fail)
    code = main(f"--detectors elliptic_envelope --data {csv} --label odd --seeds 2".split())
    out = capsys.readouterr().out
    failed = "FAILED elliptic_envelope on pumps, 2 run(s): RuntimeError: out of luck"
    assert code == 1 and failed in out and "No detector has results" in out


def test_command_on_digits_with_a_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plane.png"
    options = f"--seeds 1 --max-rows 200 --explained 20 --plot {plot}"
    assert main(["--detectors", "kde,pca", *options.split()]) == 0
    out = capsys.readouterr().out
    assert "No --data: corrupted digits" in out and "roc_auc and explanation" in out
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--detectors kden --data {csv}", "Did you mean kde"),
        ("--data {csv}", "no column is called"),
        ("--data none.csv", "none.csv: there is no such file"),
        ("--data {csv} --label odd --output no/where.csv", "no folder no"),
        ("--data {csv} --label odd --output .", "is a folder"),
        ("--data {csv} --label odd --plot p.png", "--plot needs masks"),
        ("--data {csv} --label odd --cache {csv}", "is a file"),
        ("--data {csv} --label odd --max-rows 1", "2 or more"),
    ],
)
def test_mistakes_are_one_line(options, message, csv, capsys):
    assert main(options.format(csv=csv).split()) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""


def test_list_and_interrupt(csv, tmp_path, capsys, monkeypatch):
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == detector_names()

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("skad.benchmark._command.benchmark", interrupt)
    assert main(["--data", csv, "--label", "odd", "--cache", str(tmp_path)]) == 130
    assert f"kept in {tmp_path}" in capsys.readouterr().err


def test_killed_process_and_resume(csv, tmp_path, capsys):
    cache, options = tmp_path / "cache", "--detectors iforest,hbos --label odd --seeds 4"
    arguments = [*options.split(), "--data", csv, "--cache", str(cache)]
    process = subprocess.Popen(
        [sys.executable, "-m", "skad.benchmark", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        while process.poll() is None and not list(cache.glob("*.json")):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {file: file.stat().st_mtime_ns for file in cache.glob("*.json")}
    assert kept
    assert main(arguments) == 0
    assert "4 seeds" in capsys.readouterr().out
    assert len(list(cache.glob("*.json"))) == 8
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_from_a_shell():
    done = subprocess.run(
        [sys.executable, "-m", "skad.benchmark", "--detectors", "nobody"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: There is no detector 'nobody'.")


def test_no_warning_where_nothing_failed(toy):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        benchmark({"d": Distance()}, {"toy": toy}, **QUICK)
