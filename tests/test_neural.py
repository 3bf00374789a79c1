"""Training through skorch, scoring in blocks, and files of weights."""

import inspect
import json
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, GradientNormClipping
from skorch.dataset import Dataset
from torch import nn
from torch.utils.data import Subset

from skad import IOCN, AutoEncoder, InlierTraining
from skad.neural import Batches, EarlyStopping, NeuralDetector, Parts, Scoring
from skad.neural._net import BatchLoader, learning_rate_factor

X = np.random.default_rng(0).standard_normal((200, 6)) @ np.diag([3, 2, 2, 1, 1, 0.1])


def detector(**params):
    return AutoEncoder(**{"max_epochs": 4, "random_state": 0, "hidden": (8,), **params})


class Watcher(Callback):
    """See every batch, so that skorch's own loop runs."""

    def on_batch_end(self, net, **kwargs):
        self.seen = getattr(self, "seen", 0) + 1


class InterruptAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epochs:
            raise KeyboardInterrupt


def test_batches_hold_every_row_once():
    data = Dataset(torch.arange(10.0)[:, None])
    for dataset, size in ((data, 4), (data, 99), (Subset(data, [7, 1, 4]), 3)):
        loader = BatchLoader(dataset, batch_size=size, shuffle=True)
        batches = [batch for batch, _ in loader]
        rows = [dataset[i][0].item() for i in range(len(dataset))]
        assert sorted(torch.cat(batches).flatten().tolist()) == sorted(rows)
        assert len(loader) == len(batches)
        assert max(map(len, batches)) == min(size, len(rows))


def test_a_last_batch_is_not_of_one_row():
    data = Dataset(torch.arange(10.0)[:, None])
    sizes = [len(batch) for batch, _ in BatchLoader(data, batch_size=np.int64(3))]
    assert sizes == [3, 3, 4]


def test_training_is_that_of_a_plain_loop():
    fitted = detector(batch_size=64, lr_schedule=None).fit(X)
    rows = torch.as_tensor((X - X.mean(axis=0)) / np.sqrt(X.var(axis=0).mean())).float()
    with torch.random.fork_rng():
        torch.manual_seed(np.random.RandomState(0).randint(2**31 - 1))
        net = nn.Sequential(
            *(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Tanh()),
            *(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6)),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(4):
            for batch in rows[torch.randperm(len(rows))].split(64):
                optimizer.zero_grad()
                (net(batch) - batch).square().mean().backward()
                optimizer.step()
        expected = (net(rows) - rows).square().sum(dim=1).detach().double().numpy()
    expected = expected * X.var(axis=0).mean()
    np.testing.assert_allclose(-fitted.score_samples(X), expected, rtol=1e-4)


@pytest.mark.parametrize("schedule", [None, "cosine", "onecycle"])
def test_watched_batches_train_alike(schedule):
    quick = detector(lr_schedule=schedule, early_stopping=EarlyStopping()).fit(X)
    watched = detector(
        lr_schedule=schedule, early_stopping=EarlyStopping(), callbacks=[Watcher()]
    )
    watched.fit(X)
    np.testing.assert_array_equal(watched.score_samples(X), quick.score_samples(X))
    for key in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(watched.history_[key], quick.history_[key], rtol=1e-6)


def test_schedules_are_those_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for step in range(50):
        assert learning_rate_factor("cosine", step / 50) == pytest.approx(
            cosine.get_last_lr()[0], abs=1e-9
        )
        optimizer.step()
        cosine.step()
    # torch counts from the first step to the last, and ends a little above zero.
    onecycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=10_001, final_div_factor=1e9
    )
    for step in range(10_000):
        factor = learning_rate_factor("onecycle", step / 10_000)
        assert factor == pytest.approx(onecycle.get_last_lr()[0], abs=2e-3)
        optimizer.step()
        onecycle.step()


def test_a_row_scores_the_same_bits_in_any_batch():
    wide = np.repeat(X, 24, axis=1)
    for rows, params in (
        (X, {}),
        (X[:, :5], {"hidden": (7, 9), "code_size": 3}),
        (wide, {"image_shape": (12, 12)}),
        (wide, {"image_shape": (3, 6, 8), "code_size": 5}),
    ):
        model = detector(**params).fit(rows)
        whole = model.score_samples(rows)
        order = np.random.default_rng(1).permutation(len(rows))
        np.testing.assert_array_equal(model.score_samples(rows[order]), whole[order])
        for i in (0, 77, 199):
            assert model.score_samples(rows[i : i + 1])[0] == whole[i]
        np.testing.assert_array_equal(model.explain(rows[:7]), model.explain(rows)[:7])


def test_seeds():
    scores = detector().fit(X).score_samples(X)
    np.testing.assert_array_equal(detector().fit(X).score_samples(X), scores)
    assert (detector(random_state=1).fit(X).score_samples(X) != scores).all()
    unseeded = detector(random_state=None)
    assert (unseeded.fit(X).score_samples(X) != unseeded.fit(X).score_samples(X)).all()


def test_early_stopping_takes_the_best_epoch():
    fitted = detector(
        early_stopping=EarlyStopping(patience=3), max_epochs=200, lr=0.05
    ).fit(X[:40])
    curve = fitted.history_["valid_loss"]
    assert len(curve) < 200
    assert len(curve) - 1 - int(np.argmin(curve)) >= 3
    valid = detector(
        early_stopping=EarlyStopping(), max_epochs=int(np.argmin(curve)) + 1, lr=0.05
    )
    assert valid.fit(X[:40]).history_["valid_loss"] != curve  # the schedule is shorter


def test_warm_start_goes_on():
    fitted = detector(warm_start=True).fit(X)
    first = fitted.history_["train_loss"]
    fitted.fit(X)
    assert fitted.history_["train_loss"][:4] == first
    assert len(fitted.history_["train_loss"]) == 8
    assert fitted.history_["train_loss"][-1] < first[-1]
    scores = fitted.score_samples(X)
    with pytest.raises(ValueError, match=r"rows of shape \(6,\).* of shape \(5,\)"):
        fitted.fit(X[:, :5])
    np.testing.assert_array_equal(fitted.score_samples(X), scores)


def test_a_failed_warm_start_leaves_the_network():
    fitted = detector(warm_start=True).fit(X)
    scores = fitted.score_samples(X)
    with pytest.raises(ValueError, match="diverged"):
        fitted.set_params(lr=1e6).fit(X)
    np.testing.assert_array_equal(fitted.score_samples(X), scores)


def test_a_warm_start_takes_new_parameters():
    fitted = detector(warm_start=True, early_stopping=EarlyStopping()).fit(X)
    fitted.set_params(early_stopping=None, callbacks=[InterruptAfter(6)], max_epochs=50)
    curves = (
        fitted.set_params(net_params={"optimizer": torch.optim.RMSprop}).fit(X).history_
    )
    assert len(curves["train_loss"]) == 6
    assert len(curves["valid_loss"]) == 4
    assert isinstance(fitted.net_.optimizer_, torch.optim.RMSprop)
    with pytest.raises(ValueError, match=r"those of another network: .*shapes differ"):
        fitted.set_params(hidden=(9,)).fit(X)


def test_outliers_and_their_place_are_no_divergence():
    rows = np.random.default_rng(0).standard_normal((500, 10))
    rows[-5:] *= 100
    for order in (slice(None), slice(None, None, -1)):
        AutoEncoder(max_epochs=5, random_state=0).fit(rows[order])
    rows = np.exp(np.random.default_rng(0).normal(0, 2, (1000, 10)))
    AutoEncoder(max_epochs=20, random_state=0).fit(rows)


def test_the_rate_of_false_alarms_holds_for_what_was_trained():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1400, 3)) @ rng.standard_normal((3, 20))
    rows += 0.1 * rng.standard_normal(rows.shape)
    model = detector(false_alarm_rate=0.1, code_size=3, lr_schedule=None, lr=3e-3)
    model.set_params(callbacks=[InterruptAfter(3)], max_epochs=40).fit(rows[:400])
    assert np.mean(model.predict(rows[400:]) == -1) == pytest.approx(0.1, abs=0.07)
    model = detector(false_alarm_rate=0.1, code_size=3, lr_schedule=None, lr=3e-3)
    for _ in range(3):
        model.partial_fit(rows[:400])
    assert np.mean(model.predict(rows[400:]) == -1) == pytest.approx(0.1, abs=0.07)


def test_modes_and_defaults_of_torch_do_not_matter():
    expected = detector().fit(X).score_samples(X)
    with torch.inference_mode():
        np.testing.assert_array_equal(detector().fit(X).score_samples(X), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert detector().fit(X).score_samples(X).shape == (200,)
    finally:
        torch.set_default_dtype(torch.float32)


def test_partial_fit_is_one_epoch():
    fitted = detector(lr_schedule=None)
    for _ in range(3):
        fitted.partial_fit(X)
    assert len(fitted.history_["train_loss"]) == 3
    assert np.mean(fitted.predict(X) == -1) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="6 features"):
        fitted.partial_fit(X[:, :4])


def test_an_interrupt_leaves_a_fitted_detector():
    fitted = detector(callbacks=[InterruptAfter(2)]).fit(X)
    assert len(fitted.history_["train_loss"]) == 2
    assert np.isfinite(fitted.explain(X)).all()
    assert set(fitted.predict(X)) == {-1, 1}
    assert len(fitted.net_.history) == 2


def test_callbacks_and_net_params():
    mine = [Watcher(), GradientNormClipping(1e-9)]
    params = {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.5}
    fitted = detector(callbacks=mine, net_params=params, batch_size=1000).fit(X)
    assert not hasattr(mine[0], "seen")  # a copy of it has seen
    assert isinstance(fitted.net_.optimizer_, torch.optim.SGD)
    assert fitted.net_.optimizer_.param_groups[0]["momentum"] == 0.5
    losses = fitted.history_["train_loss"]
    assert losses[-1] == pytest.approx(losses[0])  # its gradients were clipped to nothing
    with pytest.raises(TypeError, match="callbacks must be skorch's; got 3"):
        detector(callbacks=[3]).fit(X)
    with pytest.raises(ValueError, match=r"net_params sets \['lr'\]"):
        detector(net_params={"lr": 1}).fit(X)


def test_a_progress_bar(capsys):
    detector(verbose=1).fit(X)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4" in err
    assert "train_loss" in err
    detector(verbose=2).fit(X)
    assert "train_loss" in capsys.readouterr().out


class Recorder:
    """A callback of scikit-learn's that counts tasks, and stops after some epochs."""

    max_propagation_depth = None

    def __init__(self, stop_after=None):
        self.ended = []
        self.stop_after = stop_after

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.ended.append(context.task_name)
        return self.ended.count("epoch") == self.stop_after

    def teardown(self, estimator, context):
        pass


@pytest.mark.skipif(
    not hasattr(AutoEncoder, "set_callbacks"), reason="scikit-learn before 1.9"
)
def test_scikit_learns_callbacks_see_epochs():
    seen = Recorder()
    fitted = detector().set_callbacks(seen).fit(X)
    assert seen.ended == ["epoch"] * 4 + ["fit"]
    pickle.dumps(fitted.net_)
    stop = Recorder(stop_after=3)
    assert len(detector().set_callbacks(stop).fit(X).history_["train_loss"]) == 3
    inside = Recorder()
    search = GridSearchCV(detector(), {"lr": [1e-3, 1e-2]}, cv=2, scoring=lambda e, X: 0.0)
    search.set_callbacks(inside).fit(X)
    assert inside.ended.count("epoch") == (2 * 2 + 1) * 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    not hasattr(AutoEncoder, "set_callbacks"), reason="scikit-learn before 1.9"
)
def test_scikit_learns_callbacks_do_not_see_refits():
    seen, small = Recorder(), {"n_blocks": 3, "hidden": 16, "n_members": 2}
    wild = {"lr": 2.0, "lr_schedule": None, "net_params": {"optimizer__eps": 1e-8}}
    iocn = IOCN(**small, **wild, max_epochs=40, max_refits=3, random_state=0)
    iocn.set_callbacks(seen).fit(X)
    assert iocn.diagnostics_["refitted"] > 0
    assert seen.ended == ["epoch"] * 40 + ["fit"]


def test_grid_search_through_a_pipeline():
    rows = np.vstack([X, X[:20] * [1, 1, 1, 1, 1, 20]])
    y = np.repeat([1, -1], [200, 20])
    model = InlierTraining(make_pipeline(StandardScaler(), detector()))
    name = "estimator__autoencoder__"
    grid = {f"{name}lr": [1e-4, 1e-2], f"{name}code_size": [1, 3]}
    search = GridSearchCV(
        model, grid, scoring="roc_auc", cv=StratifiedKFold(3), error_score="raise"
    ).fit(rows, y)
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    assert search.score(rows, y) > 0.8


def test_float32_and_memory_maps_are_not_copied(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.tile(X, (50, 400)).astype(np.float32))
    mapped = np.load(path, mmap_mode="r")
    detector(max_epochs=1).fit(X)  # imports what torch imports late
    tracemalloc.start()
    detector(max_epochs=1, batch_size=1000).fit(mapped)
    _, peak = tracemalloc.get_traced_memory()  # numpy's: not the network's own rows
    tracemalloc.stop()
    assert peak < mapped.nbytes / 2
    mapped = mapped[:200]
    fitted = detector().fit(mapped)
    assert np.shares_memory(fitted._validate(mapped), mapped)
    np.testing.assert_array_equal(
        fitted.score_samples(mapped), detector().fit(np.array(mapped)).score_samples(mapped)
    )


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_make_the_detector_again(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    images = np.repeat(X, 24, axis=1).reshape(-1, 12, 12)
    for rows, params in ((X, {}), (images, {"code_size": 2})):
        fitted = detector(**params).fit(rows)
        fitted.save_weights(path)
        read = detector(**params).load_weights(path)
        np.testing.assert_array_equal(
            read.decision_function(rows), fitted.decision_function(rows)
        )
        np.testing.assert_array_equal(read.explain(rows), fitted.explain(rows))
        assert read.image_shape_ == fitted.image_shape_
        with pytest.raises(ValueError, match=r"another network: .*shapes differ"):
            detector(code_size=1).load_weights(path)


def test_training_goes_on_from_a_file(tmp_path):
    detector().fit(X).save_weights(tmp_path / "weights.pt")
    frame = pd.DataFrame(X, columns=list("abcdef"))
    named = detector(warm_start=True).fit(frame)
    read = named.load_weights(tmp_path / "weights.pt")
    assert not hasattr(read, "feature_names_in_")
    assert len(read.fit(X).history_["train_loss"]) == 4
    read.partial_fit(X)


def test_broken_weights_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    detector().fit(X).save_weights(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    unfitted = detector()
    with pytest.raises(ValueError, match="can't be read as weights"):
        unfitted.load_weights(path)
    assert not hasattr(unfitted, "net_")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="can't be read as weights"):
        unfitted.load_weights(path)
    for plain in ("[]", '{"score_samples": 1}', "}"):
        torch.save({"tensors": {}, "skad": plain}, path)
        with pytest.raises(ValueError, match=r"weights\.pt"):
            unfitted.load_weights(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no skad detector saved them"):
        unfitted.load_weights(path)
    torch.save({"a": AutoEncoder()}, path)  # a pickle of a class
    with pytest.raises(ValueError, match="can't be read as weights"):
        unfitted.load_weights(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere"):
        unfitted.load_weights(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("params", "rows", "message"),
    [
        ({"lr": 1e6}, X, "diverged: the mean loss is .* Lower lr, which is 1000000"),
        ({"lr": 0}, X, "'lr' parameter .* Got 0"),
        ({"device": "nowhere"}, X, "device='nowhere' can't be used"),
        ({"lr_schedule": "linear"}, X, "'lr_schedule' parameter"),
        ({}, X[:1], "1 sample"),
        ({"image_shape": (2, 2)}, X, "image_shape=\\(2, 2\\) needs 4 features"),
    ],
)
def test_bad_fits_say_so(params, rows, message):
    with pytest.raises(ValueError, match=message):
        detector(**params).fit(rows)


def test_parameters_are_documented():
    parameters = inspect.signature(AutoEncoder).parameters
    for name in parameters:
        assert f"\n    {name} : " in AutoEncoder.__doc__, name


class Plain(NeuralDetector):
    """A detector whose parts and scoring are given by the test."""

    lr, max_epochs, batch_size, lr_schedule, device = 0.01, 2, "auto", None, "cpu"
    warm_start, callbacks, net_params, random_state, verbose = False, None, None, 0, 0

    def __init__(self, finish=dict, score=None, relevance=np.square, unattributed=None):
        self.finish, self.score = finish, score
        self.relevance, self.unattributed = relevance, unattributed

    def _parts(self, data, previous=None):
        finish = lambda trained, data: self.finish()  # noqa: E731
        return Parts(nn.Linear(6, 6), MeanSquare(), state={"unit": 2.0}, finish=finish)

    def _scoring(self, trained):
        score = self.score or (lambda batch: batch.square().sum(dim=1))
        return Scoring(score, self.relevance, self.unattributed)


class MeanSquare(nn.Module):
    def forward(self, output, batch, y):
        return (output - batch).square().mean()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"finish": lambda: {"unit": 1.0}}, "has 'unit' already"),
        ({"finish": lambda: {"offset_": 1.0}}, "has 'offset_' already"),
        ({"finish": lambda: {"a": torch.ones(1)}}, r"state\['a'\] is a Tensor, which"),
        ({"finish": lambda: {"a": ([1],)}}, r"state\['a'\] is a tuple, which weight"),
        ({"finish": lambda: None}, "must be a dict of values by name; got None"),
        ({"score": lambda b: b.sum(dim=1)[1:]}, "1024 rows .* returned a Tensor of shape"),
        ({"score": lambda b: b.sum(dim=1).numpy()}, "it returned a ndarray"),
        ({"score": lambda b: b}, r"one score a row; .* shape \(200, 6\)"),
        ({"relevance": lambda X: X.T}, r"200 rows of 6 features .* shape \(6, 200\)"),
        ({"unattributed": lambda X: X}, r"shape \(200,\); .* shape \(200, 6\)"),
    ],
)
def test_what_own_detectors_may_not_return(params, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Plain(**params).fit(X).explain(X)


def test_what_a_fit_learns_replaces_what_the_last_one_did():
    fitted = Plain(finish=lambda: {"first_": 1.0}).fit(X)
    assert fitted.first_ == 1.0
    fitted.set_params(finish=lambda: {"second_": 2.0}).fit(X)
    assert fitted.second_ == 2.0 and not hasattr(fitted, "first_")


def test_counts_of_batches():
    for params in ({"size": 0}, {"epochs": -1}, {"size": 2.0}):
        with pytest.raises(ValueError, match="must be a positive integer or None"):
            Batches(X, **params)


def test_files_that_lack_something(tmp_path):
    path = tmp_path / "weights.pt"
    for name, message in (("offset_", "lacks offset_"), ("shift", "lacks 'shift'")):
        detector().fit(X).save_weights(path)
        content = torch.load(path)
        plain = {k: v for k, v in json.loads(content["skad"]).items() if k != name}
        content["skad"] = json.dumps(plain)
        content["tensors"].pop(f"state.{name}", None)
        torch.save(content, path)
        unfitted = detector()
        with pytest.raises(ValueError, match=message):
            unfitted.load_weights(path)
        assert not hasattr(unfitted, "net_")
