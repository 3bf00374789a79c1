"""What the displays share: matplotlib, on first use, and numbers for labels."""

import numpy as np

# Okabe and Ito's colours, which colour-blind readers can tell apart.
VERMILION, BLUE = "#D55E00", "#0072B2"
COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def import_pyplot():
    """Import pyplot, or say how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install skad[plot].") from error
    return plt


def short(value):
    """Write a number in few digits, and anything else as it is."""
    if isinstance(value, str | bool | np.bool_):
        return str(value)
    try:
        value = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.3g}"
