"""
What a detector calls normal: a 0 becomes a 3
=============================================

GEO learned to tell by which of 72 views it sees a 3. An image is then changed, step by
step, to what the network tells better: gradient ascent on its normality score. A 0 becomes
a 3; a 3 stays what it is. So does Fig. 1 of the paper: the score knows the shape of its
class.

The paper's images have noise in the background; here the ascent pays for differences of
neighbouring pixels too, which keeps it to shapes.

Run it with ``python examples/plot_geo_normality.py``; it takes half a minute and leaves its
picture in ``geo_normality.png``.
"""

# %%
# MNIST, where it is at hand. Else scikit-learn's digits, three times enlarged: too few, and
# too coarse, to get as far.
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from skad import GEO
from skad.datasets import fetch_mnist
from skad.images import Views

try:
    data = fetch_mnist(subset="train", download_if_missing=False)
    images, digit = data.images, data.label
except FileNotFoundError:
    data = load_digits()
    images, digit = zoom(data.images / 16, (1, 3, 3), order=1), data.target

threes, zeros = images[digit == 3], images[digit == 0]
n_train = min(1500, len(threes) - 4)
detector = GEO(normality="simple", max_epochs=72, random_state=0).fit(threes[:n_train])
print({name: round(share, 2) for name, share in detector.view_accuracy_.items()})

# %%
# The score is the mean of what the network gives to the right view. Pixels are changed by
# 200 steps of Adam.
SMOOTH = 3e-4  # price of a difference between neighbours


def ascend(images, steps=200):
    """Change images to a higher normality."""
    views = Views(detector.views_, images.shape[1:])
    network = detector.net_.module_
    x = torch.tensor(images[:, None], dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.01)
    for _ in range(steps):
        logits = network(views(x).flatten(0, 1)).view(len(x), len(views), -1)
        normality = logits.softmax(2).diagonal(dim1=1, dim2=2).mean(1)
        roughness = x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()
        optimizer.zero_grad()
        (SMOOTH * roughness - normality.sum()).backward()
        optimizer.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return x.detach()[:, 0].numpy()


start = np.concatenate([zeros[:3], threes[n_train : n_train + 3]])
end = ascend(start)
before, after = detector.score_samples(start), detector.score_samples(end)

# %%
# Each pair: the image and what it became; above, the mean share of a right view.
figure, axes = plt.subplots(2, 6, figsize=(9, 3.4), layout="constrained")
for row, first in zip(axes, (0, 3), strict=True):
    for i in range(3):
        pair = zip((start, end), (before, after), row[2 * i : 2 * i + 2], strict=True)
        for pictures, scores, axis in pair:
            axis.imshow(pictures[first + i], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{scores[first + i]:.2f}", fontsize="medium")
for axis, label in zip(axes[:, 0], ("from a 0", "from a 3"), strict=True):
    axis.set_ylabel(label)
figure.savefig("geo_normality.png", dpi=120)
