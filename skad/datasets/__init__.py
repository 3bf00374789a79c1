"""Data sets with anomalies, and with masks that say where the anomaly is."""

from skad.datasets._digits import load_corrupted_digits
from skad.datasets._folder import LazyImages, load_image_folder
from skad.datasets._mnist import fetch_fashion_mnist, fetch_mnist, fetch_mnist_c
from skad.datasets._textures import make_textures

__all__ = [
    "LazyImages",
    "fetch_fashion_mnist",
    "fetch_mnist",
    "fetch_mnist_c",
    "load_corrupted_digits",
    "load_image_folder",
    "make_textures",
]
