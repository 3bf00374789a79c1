"""Training in the hands of Hugging Face's accelerate."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skad import FCDD, IOCN, AutoEncoder, DeepSAD
from skad.neural import EarlyStopping

accelerate = pytest.importorskip("accelerate")

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((120, 6)).astype(np.float32)
IMAGES = RNG.random((40, 1, 12, 12)).astype(np.float32)
Y = np.where(np.arange(120) % 15 == 0, -1, 1)
SHORT = {"random_state": 0, "max_epochs": 2}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "detector, X, y",
    [
        (AutoEncoder(**SHORT, early_stopping=EarlyStopping()), ROWS, None),
        (DeepSAD(**SHORT, false_alarm_rate=0.1), ROWS, Y),
        (FCDD(**SHORT), IMAGES, None),
        (IOCN(**SHORT), ROWS, None),
    ],
    ids=lambda v: type(v).__name__ if v is not None else "",
)
def test_one_process_changes_nothing(detector, X, y, capsys):
    plain = clone(detector).fit(X, y)
    net_params = {"accelerator": accelerate.Accelerator(cpu=True)}
    other = clone(clone(detector).set_params(net_params=net_params)).fit(X, y)
    np.testing.assert_array_equal(other.score_samples(X), plain.score_samples(X))
    assert other.history_["train_loss"] == pytest.approx(plain.history_["train_loss"])
    again = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(again.explain(X), plain.explain(X))
    assert capsys.readouterr().out == ""


def test_accumulated_gradients():
    """Two batches a step are one of twice the size: plain gradient descent, in order."""
    order = {"iterator_train__shuffle": False, "optimizer__fused": False}
    sgd = {"optimizer": torch.optim.SGD, **order}
    fit = {**SHORT, "lr": 0.1, "lr_schedule": None}
    twice = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    small = AutoEncoder(**fit, batch_size=30, net_params={"accelerator": twice, **sgd})
    large = AutoEncoder(**fit, batch_size=60, net_params=sgd)
    scores = [detector.fit(ROWS).score_samples(ROWS) for detector in (small, large)]
    np.testing.assert_allclose(*scores, rtol=1e-4)


TWO = """
import numpy as np, sys
from accelerate import Accelerator
from skad import AutoEncoder
X = np.random.default_rng(0).standard_normal((121, 6)).astype(np.float32)
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
fit = dict(random_state=0, max_epochs=2, batch_size=40)  # the last batch has one row
two = AutoEncoder(**fit, net_params={"accelerator": accelerator}).fit(X)
one = AutoEncoder(**fit).fit(X)
np.testing.assert_allclose(two.score_samples(X), one.score_samples(X), rtol=1e-3)
"""


def test_two_processes_share_every_batch(tmp_path):
    """Each takes half of a batch; gradients are averaged, so the network is the same."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *command, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
