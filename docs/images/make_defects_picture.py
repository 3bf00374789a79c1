"""Draw the picture of docs/guide/images_with_defects.rst from what its snippets leave.

python docs/images/make_defects_picture.py
"""

from pathlib import Path

import numpy as np
from make_guide_pictures import plt, variables

PICTURE = Path(__file__).with_name("guide_defects.png")
COLUMNS = ("image", "mask", "map of the network", "heatmap", "explain, sigma=1", "explain")


def maps_of(detector, images):
    """Give the four maps of each image."""
    narrow = detector.set_params(sigma=1).explain(images)
    detector.set_params(sigma=None)
    network = detector.heatmap(images, upsampling=None)
    return network, detector.heatmap(images), narrow, detector.explain(images)


def main():
    """Draw one image of each kind; a column of maps has one scale."""
    page = variables("images_with_defects")
    test, detector = page["test"], page["detector"]
    kinds = ("blot", "patch", "scratch", "normal")
    rows = [int(np.flatnonzero(test.kind == kind)[0]) for kind in kinds]
    images, masks = np.asarray(test.images[rows]), np.asarray(test.mask[rows])
    scores = -detector.score_samples(images)
    columns = [images, masks.reshape(images.shape), *maps_of(detector, images)]
    figure, axes = plt.subplots(4, 6, figsize=(9, 6.2), layout="constrained")
    for column, title, shown in zip(axes.T, COLUMNS, columns, strict=True):
        heat = {"cmap": "magma", "vmin": 0, "vmax": shown.max()}
        style = {"cmap": "gray", "vmin": 0, "vmax": 1} if title in COLUMNS[:2] else heat
        column[0].set_title(title, fontsize=9)
        for ax, image in zip(column, shown, strict=True):
            ax.imshow(image, **style)
            ax.set(xticks=[], yticks=[])
    for ax, kind, score in zip(axes[:, 0], kinds, scores, strict=True):
        ax.set_ylabel(f"{kind}\nscore {score:.2f}")
    figure.savefig(PICTURE, dpi=90)


if __name__ == "__main__":
    main()
