"""
One Clever Hans in the bag: better detection, worse heat maps
=============================================================

A Bag's score is the mean of its members' standardised scores, and its heat map the mean of
theirs, with the same weights. A bag of four detectors, skad's, scikit-learn's and PyOD's,
explains corrupted digits a little better than any one of them. A fifth, PyOD's PCA, lifts
its detection; but PCA standardises each pixel, and looks at the margin. The bag now does,
too.

Run it with ``python examples/plot_bag.py``; it takes some ten seconds.
"""

# %%
# The data: scikit-learn's digits, three times enlarged. 800 clean ones train; of the others
# some stay clean, and some are corrupted in one of seven ways.
import matplotlib.pyplot as plt
import numpy as np
from pyod.models.knn import KNN
from pyod.models.pca import PCA
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor

from skad import KDE, Bag, PyODDetector, explain
from skad.images import corrupt
from skad.metrics import clever_hans_report

images = zoom(load_digits().images / 16, (1, 3, 3), order=1)
images = np.random.default_rng(0).permutation(images)
train, clean, odd = np.split(images, [800, 1200])
kinds = ["dotted_line", "impulse_noise", "missing_stroke", "spatter"]
kinds += ["stripe", "translate", "zigzag"]
kind = np.resize(kinds, len(odd))
mask = np.empty(odd.shape, bool)
for name in kinds:
    these = kind == name
    odd[these], mask[these] = corrupt(odd[these], name, random_state=0)

# %%
# Members see flat rows; the Bag gives heat maps in the shape of the images.
mixture = GaussianMixture(10, covariance_type="diag", reg_covar=0.01, random_state=0)
members = [
    ("skad KDE", KDE()),
    ("sklearn mixture", mixture),
    ("sklearn LOF", LocalOutlierFactor(novelty=True)),
    ("PyOD KNN", PyODDetector(KNN())),
    ("PyOD PCA", PyODDetector(PCA(n_components=30))),
]
four, five = Bag(members[:4]).fit(train), Bag(members).fit(train)

# %%
# The heat map of the bag is that of its members, each divided by the spread of the member's
# score.
flat = odd.reshape(len(odd), -1)
maps = [explain(member, flat) for member in five.detectors_]
mean = sum(w * m / s for w, m, s in zip(five.weights_, maps, five.scales_, strict=True))
print(f"largest difference: {abs(mean - five.explain(flat)).max():.0e}")

# %%
# Detection, and agreement of heat maps and masks, of the members and of both bags. The
# baseline is a map that is the same everywhere.
fitted = dict(zip([name for name, _ in members], five.detectors_, strict=True))
fitted |= {"bag of four": four, "bag of five": five}
report = clever_hans_report(
    fitted,
    np.concatenate([clean.reshape(len(clean), -1), flat]),
    np.repeat([1, -1], [len(clean), len(odd)]),
    mask=np.concatenate([np.zeros(clean.shape, bool), mask]),
)
columns = ["detection", "explanation", "baseline"]
print(report.set_index("detector")[columns].round(3).to_string())

# %%
# One digit of each kind; each map has its own scale.
rows = [np.flatnonzero(kind == name)[0] for name in kinds]
shown = {"input": odd[rows], "changed": mask[rows]}
shown |= {name: explain(model, flat[rows]) for name, model in fitted.items()}
figure, axes = plt.subplots(len(kinds), len(shown), figsize=(10, 8), layout="compressed")
for (title, pictures), column in zip(shown.items(), axes.T, strict=True):
    for picture, ax in zip(pictures, column, strict=True):
        cmap = "inferno" if title in fitted else "gray"
        ax.imshow(np.maximum(picture.reshape(24, 24), 0), cmap=cmap)
        ax.set(xticks=[], yticks=[])
    column[0].set_title(title.replace(" ", "\n", 1), fontsize="medium")
for ax, name in zip(axes[:, 0], kinds, strict=True):
    ax.set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center")
