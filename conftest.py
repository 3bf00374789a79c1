"""The environment of all tests, set before numpy and torch load, which read it only once.

pytest loads this file first, in its own process and in those of xdist, whatever tests are
asked for; processes that tests start inherit the values. What is set already stays.
"""

import gc
import os

# One thread a process: -n says how many work, and threads of theirs would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # OpenMP's, MKL's and OpenBLAS's
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # of PyOD's compiled code
os.environ.setdefault("MPLBACKEND", "Agg")  # plots without a window
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # else scikit-learn skips a check


def pytest_collection_finish():
    """Leave what the imports made out of every later collection of garbage."""
    gc.collect()
    gc.freeze()
