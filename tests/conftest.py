"""Shared by the tests: plots without a window, real data where it is."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
