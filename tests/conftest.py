"""Kept between the tests; what is set before them is in the conftest.py above."""

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
