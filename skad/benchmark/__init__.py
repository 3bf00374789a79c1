"""Compare detectors on your own tables: how well they detect, explain, and at what cost.

``python -m skad.benchmark --help`` says how to do it from the command line.
"""

from skad.benchmark._catalog import detector_names
from skad.benchmark._data import load_table
from skad.benchmark._run import benchmark
from skad.benchmark._table import rank_table

__all__ = ["benchmark", "detector_names", "load_table", "rank_table"]
