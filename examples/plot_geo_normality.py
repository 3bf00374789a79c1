"""
What a detector calls normal: a 0 becomes a 3
=============================================

GEO learned to tell by which of 72 views it sees a 3. An image is then changed, step by
step, to what the network tells better: gradient ascent on its normality score. A 0 becomes
a 3; a 3 stays what it is. So does Fig. 1 of the paper: the score knows the shape of its
class.

The paper's images have noise in the background; here the ascent pays for differences of
neighbouring pixels too, which keeps it to shapes.

Run it with ``python examples/plot_geo_normality.py``; it takes some twenty seconds. With
``--mnist`` it does the same to the digits of MNIST, in a minute.
"""

# %%
# scikit-learn's digits, three times enlarged; what is changed are the pixels before that.
import sys

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from skad import GEO
from skad.datasets import fetch_mnist
from skad.images import Views

if "--mnist" in sys.argv:
    data = fetch_mnist(subset="train")
    images, digit, scale, smooth = data.images, data.label, 1, 3e-4
else:
    data = load_digits()
    images, digit, scale, smooth = data.images / 16, data.target, 3, 1e-3


def enlarge(images):
    """Enlarge a tensor of images (n, H, W); give (n, 1, scale H, scale W)."""
    options = {"mode": "bilinear", "align_corners": True}
    return interpolate(images[:, None], scale_factor=scale, **options)


threes, zeros = (torch.tensor(images[digit == d], dtype=torch.float32) for d in (3, 0))
n_train = min(1500, len(threes) - 4)
detector = GEO(normality="simple", max_epochs=72, random_state=0)
detector.fit(enlarge(threes[:n_train]).numpy())
print({name: round(share, 2) for name, share in detector.view_accuracy_.items()})

# %%
# The score is the mean of what the network gives to the right view. Pixels are changed by
# steps of Adam; `smooth` is the price of a difference between neighbours.


def ascend(images, n_steps):
    """Change images to a higher normality; give those of all steps."""
    x = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.03)
    network, path = detector.net_.module_, []
    for _ in range(n_steps + 1):
        path.append(enlarge(x.detach()))
        seen = Views(detector.views_, path[-1].shape[2:])(enlarge(x))
        logits = network(seen.flatten(0, 1)).view(*seen.shape[:2], -1)
        normality = logits.softmax(2).diagonal(dim1=1, dim2=2).mean(1)
        roughness = x.diff(dim=1).abs().sum() + x.diff(dim=2).abs().sum()
        optimizer.zero_grad()
        (smooth * roughness - normality.sum()).backward()
        optimizer.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return torch.stack(path, dim=1)[:, :, 0].numpy()


start = torch.cat([zeros[:2], threes[n_train : n_train + 1]])
path = ascend(start, 60)

# %%
# Two 0s and a 3 on their way; above each, the mean share of a right view.
shown = [0, 5, 10, 20, 40, 60]
figure, axes = plt.subplots(3, len(shown), figsize=(9, 5), layout="constrained")
for images, label, row in zip(
    path[:, shown], ["from a 0", "from a 0", "from a 3"], axes, strict=True
):
    for image, score, ax in zip(images, detector.score_samples(images), row, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{score:.2f}", fontsize="medium")
    row[0].set_ylabel(label)
for ax, step in zip(axes[-1], shown, strict=True):
    ax.set_xlabel(f"step {step}")
