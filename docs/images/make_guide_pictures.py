"""Make the pictures of the first pages of the guide.

``python docs/images/make_guide_pictures.py [NAME ...]``, all without a name. A picture is
what the snippets of its page draw, or is drawn from what they leave behind, so that page
and picture can't differ. Works offline, in well under a minute.
"""

import doctest
import sys
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from skad import explain

HERE = Path(__file__).parent
MAPS = ("brightness", "stripe", "missing_stroke", "zigzag")


@cache
def variables(page):
    """Run the snippets of a page; give their variables."""
    text = (HERE.parent / "guide" / f"{page}.rst").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, page, None, 0)
    for example in test.examples:
        exec(compile(example.source, page, "exec"), test.globs)
    return test.globs


def bars():
    """Relevance of three rows of a table."""
    return variables("detect_and_explain")["bars"].figure_


def heat_maps():
    """Relevance of a normal digit and of three corrupted ones."""
    return variables("detect_and_explain")["maps"].figure_


def two_detectors():
    """Maps of two detectors with one ROC AUC; each map on its own scale."""
    page = variables("right_for_the_wrong_reason")
    rows = [np.flatnonzero(page["kind"] == kind)[0] for kind in MAPS]
    columns = {"input": page["X"][rows], "mask": page["mask"][rows]}
    for name in ("KDE", "KDE, scaled"):
        columns[name] = np.maximum(explain(page["detectors"][name], page["X"][rows]), 0)
    size = (1.35 * len(columns) + 1, 1.45 * len(rows))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, layout="compressed")
    for column, (title, images) in zip(axes.T, columns.items(), strict=True):
        cmap = "inferno" if title in page["detectors"] else "gray"
        column[0].set_title(title, fontsize="medium")
        for ax, image in zip(column, images, strict=True):
            ax.imshow(image.reshape(8, 8), cmap=cmap, vmin=0)
            ax.set(xticks=[], yticks=[])
    for ax, kind in zip(axes[:, 0], MAPS, strict=True):
        ax.set_ylabel(kind, rotation=0, ha="right", va="center")
    return figure


def plane():
    """Detectors and repairs by detection and explanation."""
    return variables("right_for_the_wrong_reason")["plane"].figure_


def search():
    """Candidates of a search by detection and explanation."""
    return variables("choose_by_explanation")["plane"].figure_


PICTURES = (bars, heat_maps, two_detectors, plane, search)


def main(names):
    """Make the pictures of these names."""
    known = {picture.__name__: picture for picture in PICTURES}
    if unknown := set(names) - set(known):
        sys.exit(f"No picture {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    for name in names or known:
        path = HERE / f"guide_{name}.png"
        known[name]().savefig(path, dpi=110, bbox_inches="tight")
        print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
