"""Workers of a dask cluster in place of one process, arrays of dask in place of memory."""

import os
from contextlib import contextmanager, suppress

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from threadpoolctl import threadpool_limits

from skad import KDE, AutoEncoder, Bag, InlierTraining, explain
from skad.benchmark import benchmark
from skad.metrics import ExplanationAwareScorer

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
psutil = pytest.importorskip("psutil")

# torch 2.4 warns when it unpickles tensors; as an error, it stops the client's own thread.
pytestmark = pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")

RNG = np.random.default_rng(0)
Y = np.where(np.arange(160) % 8, 1, -1)
X = RNG.standard_normal((160, 4))
X[Y == -1, 0] += 4
MASK = np.outer(Y == -1, [1, 0, 0, 0])
FRESH = RNG.standard_normal((1200, 4))
# Of the rows that KDE compares at once, so that its products have the same shapes.
CHUNK = 512
TIMES = ["fit_seconds", "score_seconds", "explain_seconds", "peak_mib"]
NETWORK = AutoEncoder(hidden=(8,), max_epochs=2, random_state=0)
BAG = Bag([("kde", KDE()), ("svm", OneClassSVM()), ("network", NETWORK)])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two workers, processes of their own, which are gone afterwards."""
    with (
        suppress(TimeoutError),  # of workers that are slow to go, on a busy machine
        dask.config.set(temporary_directory=str(tmp_path_factory.mktemp("workers"))),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        yield client
    assert psutil.wait_procs(workers, timeout=10)[1] == []  # none is alive


@pytest.fixture(autouse=True)
def one_thread():
    """As the workers have: the last bits of a product depend on it."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@contextmanager
def shared_by_both(client):
    """Run a block on the cluster, and see that both workers had a part in it."""
    with distributed.get_task_stream(client) as stream, joblib.parallel_config("dask"):
        yield
    assert {task["worker"] for task in stream.data} == set(client.ncores())


@pytest.mark.parametrize(
    "detector, grid",
    [
        (KDE(), {"bandwidth": [0.3, 1.0, "loo"]}),
        (NETWORK, {"lr": [1e-3, 1e-2]}),
        (
            Bag([("kde", KDE()), ("wide", KDE(bandwidth=9.0))]),
            {"kde__bandwidth": [0.3, 1.0]},
        ),
    ],
    ids=["KDE", "AutoEncoder", "Bag"],
)
def test_search(detector, grid, client):
    grid = {f"estimator__{name}": values for name, values in grid.items()}
    search = GridSearchCV(InlierTraining(detector), grid, scoring="roc_auc", cv=3)
    alone = clone(search).fit(X, Y)
    with shared_by_both(client):
        shared = clone(search).fit(X, Y)
    assert shared.best_params_ == alone.best_params_
    for i in range(3):
        key = f"split{i}_test_score"
        np.testing.assert_array_equal(shared.cv_results_[key], alone.cv_results_[key])
    np.testing.assert_array_equal(explain(shared, X), explain(alone, X))


def test_masks_reach_the_workers(client):
    search = GridSearchCV(
        InlierTraining(KDE()),
        {"estimator__bandwidth": [0.3, 1.0, 3.0]},
        scoring=ExplanationAwareScorer(weight=0.5),
        cv=StratifiedKFold(3),
        error_score="raise",
    )
    with sklearn.config_context(enable_metadata_routing=True):
        alone = clone(search).fit(X, Y, mask=MASK)
        with shared_by_both(client):
            shared = clone(search).fit(X, Y, mask=MASK)
    np.testing.assert_array_equal(
        shared.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


def test_bag(client):
    alone = clone(BAG).fit(X)
    with shared_by_both(client):
        shared = clone(BAG).fit(X)
    assert shared.offset_ == alone.offset_
    np.testing.assert_array_equal(shared.means_, alone.means_)
    np.testing.assert_array_equal(shared.score_samples(FRESH), alone.score_samples(FRESH))
    np.testing.assert_array_equal(shared.explain(FRESH[:9]), alone.explain(FRESH[:9]))


def test_benchmark_and_its_cache(client, tmp_path):
    """What a worker has run, it keeps; the next call finds it."""
    detectors = {"KDE": KDE(), "network": NETWORK, "svm": OneClassSVM()}
    options = {"seeds": 1, "progress": False}
    alone = benchmark(detectors, {"toy": (X, Y, MASK)}, **options)
    options["cache"] = tmp_path
    with shared_by_both(client):
        shared = benchmark(detectors, {"toy": (X, Y, MASK)}, **options)
    pd.testing.assert_frame_equal(shared.drop(columns=TIMES), alone.drop(columns=TIMES))
    again = benchmark(detectors, {"toy": (X, Y, MASK)}, **options)
    pd.testing.assert_frame_equal(again, shared)  # its times too
    assert (shared["error"] == "").all()


@pytest.mark.parametrize(
    "detector",
    [KDE(), NETWORK, BAG, make_pipeline(StandardScaler(), KDE())],
    ids=["KDE", "AutoEncoder", "Bag", "Pipeline"],
)
def test_rows_of_dask(detector, client):
    detector = clone(detector).fit(X)
    rows = da.from_array(FRESH, chunks=(CHUNK, -1))
    with shared_by_both(client):
        scores = rows.map_blocks(detector.score_samples, drop_axis=1, dtype=float)
        np.testing.assert_array_equal(scores.compute(), detector.score_samples(FRESH))
    relevance = rows.map_blocks(lambda block: explain(detector, block), dtype=float)
    np.testing.assert_array_equal(relevance.compute(), explain(detector, FRESH))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_images_of_dask(client):
    images = FRESH.reshape(48, 10, 10)
    detector = clone(NETWORK).fit(images)
    blocks = da.from_array(images, chunks=(13, -1, -1))
    scores = blocks.map_blocks(detector.score_samples, drop_axis=[1, 2], dtype=float)
    np.testing.assert_array_equal(scores.compute(), detector.score_samples(images))
    maps = blocks.map_blocks(detector.explain, dtype=float)
    np.testing.assert_array_equal(maps.compute(), detector.explain(images))


def test_frames_of_dask(client):
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame(FRESH, columns=list("abcd"))
    detector = KDE().fit(frame[:100])

    def score(part):
        return pd.Series(detector.score_samples(part), part.index)

    parts = dd.from_pandas(frame, chunksize=CHUNK)
    scores = parts.map_partitions(score, meta=pd.Series(dtype=float)).compute()
    pd.testing.assert_series_equal(scores, score(frame))


def test_a_detector_for_each_part(client):
    """Fitted where the rows are, and brought back."""
    parts = [FRESH[:400], FRESH[400:]]
    fitted = client.gather(client.map(lambda rows: clone(NETWORK).fit(rows), parts))
    for detector, rows in zip(fitted, parts, strict=True):
        alone = clone(NETWORK).fit(rows)
        np.testing.assert_array_equal(detector.explain(X), alone.explain(X))
        assert detector.offset_ == alone.offset_
