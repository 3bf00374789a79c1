"""Set before anything is imported, and kept between the tests."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")  # plots without a window
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # else scikit-learn skips a check

import pytest
import torch

# No doctests: another conftest.py has its name; the other is for type checkers only.
collect_ignore = ["conftest.py", "typing_consumer.py"]


@pytest.fixture(autouse=True)
def number_of_threads():
    """Keep torch's number of threads: compiled code of PyOD's sets OpenMP's for all."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
