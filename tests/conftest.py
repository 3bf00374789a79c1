"""Set before anything is imported."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")  # plots without a window
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # else scikit-learn skips a check
