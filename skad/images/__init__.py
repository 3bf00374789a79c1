"""Images in, images (and masks) out."""

from skad.images._corrupt import CORRUPTIONS, MNIST_C, corrupt

__all__ = ["CORRUPTIONS", "MNIST_C", "corrupt"]
