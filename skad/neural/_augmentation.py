"""Random changes of training images, drawn anew for each batch on its device."""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Shift, mirror, brighten and roughen images, each at random; masks go along.

    What the FCDD paper does to images (appendix E). All rows of a batch get changes of
    their own.

    Parameters
    ----------
    shift : int, default=0
        Pixels that an image is moved by at most in each direction, zeros moving in: a crop
        of the padded image.
    mirror : bool, default=False
        Mirror every second image, left to right.
    brightness : float, default=0.0
        Multiply the images by factors uniform in [1 - brightness, 1 + brightness].
    noise : float, default=0.0
        Standard deviation of Gaussian noise that is added to every second image.

    See Also
    --------
    skad.FCDD, skad.HSC, skad.DeepSAD, skad.GEO : Take one as `augment`.

    Examples
    --------
    >>> from skad import FCDD
    >>> from skad.neural import Augmentation
    >>> detector = FCDD(augment=Augmentation(shift=2, mirror=True))
    """

    shift: int = 0
    mirror: bool = False
    brightness: float = 0.0
    noise: float = 0.0

    def __call__(
        self, X: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Change a batch.

        Parameters
        ----------
        X : tensor of shape (n, C, H, W)
            Values in [0, 1].
        mask : bool tensor of shape (n, 1, H, W), default=None
            What is abnormal. None: there are no masks.

        Returns
        -------
        X : tensor of shape (n, C, H, W)
            Values may leave [0, 1] by noise and brightness.
        mask : bool tensor of shape (n, 1, H, W), or None
            Moved and mirrored as the images were.

        Raises
        ------
        ValueError
            For rows that are no images.
        """
        if X.ndim != 4:
            raise ValueError(
                f"{self} changes images, (n, C, H, W); got rows of shape {tuple(X.shape)}."
            )
        if self.shift:
            X, mask = self._shifted(X, mask)
        if self.mirror:
            chosen = self._half(X)
            X = torch.where(chosen, X.flip(3), X)
            mask = None if mask is None else torch.where(chosen, mask.flip(3), mask)
        if self.brightness:
            X = X * (1 + self.brightness * (2 * self._one_each(X) - 1))
        if self.noise:
            X = torch.where(self._half(X), X + self.noise * torch.randn_like(X), X)
        return X, mask

    def _shifted(self, X, mask):
        n, _, height, width = X.shape
        room = 2 * self.shift + 1
        y, x = torch.randint(room, (2, n, 1, 1), device=X.device)
        rows = y + torch.arange(height, device=X.device)[:, None]
        columns = x + torch.arange(width, device=X.device)
        each = torch.arange(n, device=X.device)[:, None, None]

        def moved(images):
            padded = pad(images, [self.shift] * 4)
            return padded.movedim(1, 3)[each, rows, columns].movedim(3, 1)

        return moved(X), None if mask is None else moved(mask)

    def _half(self, X):
        return self._one_each(X) < 0.5

    def _one_each(self, X):
        return torch.rand((len(X), 1, 1, 1), device=X.device, dtype=X.dtype)
