"""Confetti: synthetic defects, drawn on the device that trains."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils import check_random_state

from skad._typing import AnyArray, ArrayLike, Bools, Seed
from skad.images._checks import check_images, value_range

__all__ = ["Confetti", "confetti"]

_BLOB_ENTRIES = 2**22  # pixels of blobs that are computed at once
_HARDLY_SEEN = 0.1  # darker confetti that changes less than so much of brighter ones


@dataclass(frozen=True)
class Confetti:
    """How confetti look: blurred rectangles, turned at random, that darken an image.

    The noise of the FCDD paper (section 4.2), with lengths as shares of the shorter side:
    every image gets some blobs of random colour and some black ones. Where darkening hardly
    changes the image, on a black ground, they brighten it. The paper's are squares:
    :meth:`paper` gives them as its code draws them on images of 240 pixels, but for the
    distribution of their sizes.

    A blob is the indicator of a rectangle of sides ``s sqrt(a)`` and ``s / sqrt(a)``,
    turned by an angle and blurred by a Gaussian of standard deviation b. In the rectangle's
    own coordinates it is a product of ``(erf((t + r/2) / (b sqrt(2))) - erf((t - r/2) /
    (b sqrt(2)))) / 2`` along each of its sides r.

    Parameters
    ----------
    coloured, black : float, default=1.04 and 0.69
        Mean numbers of blobs before each is raised to one at least: Poisson(1.04), or 1
        where that is 0. None of a kind at 0.
    side : tuple of two floats, default=(1/30, 0.225)
        Least and greatest s, the side of a square of the same area, as a share of the
        shorter side of the image; its logarithm is uniform between them.
    aspect : tuple of two floats, default=(1.0, 16.0)
        Least and greatest a, the ratio of the sides of a rectangle; likewise.
    blur : float, default=1/100
        Standard deviation b, as a share of the shorter side.
    strength : tuple of two floats, default=(0.0, 1.0)
        What a coloured blob takes from each channel, uniform between the two, as a share
        of the value range.
    angle : float, default=90
        Blobs are turned by an angle uniform in [-angle, angle] degrees.
    threshold : float, default=0.1
        A pixel belongs to the mask where any channel changed by more than this share of
        the value range.

    See Also
    --------
    confetti : Draws them on arrays.
    skad.FCDD : Trains on them.

    Examples
    --------
    >>> from skad import FCDD
    >>> from skad.images import Confetti
    >>> detector = FCDD(outliers=Confetti(side=(0.02, 0.1)))
    """

    coloured: float = 1.04
    black: float = 0.69
    side: tuple[float, float] = (1 / 30, 0.225)
    aspect: tuple[float, float] = (1.0, 16.0)
    blur: float = 1 / 100
    strength: tuple[float, float] = (0.0, 1.0)
    angle: float = 90.0
    threshold: float = 0.1

    @classmethod
    def paper(cls, **parameters: Any) -> Self:
        """Give the FCDD paper's: squares, turned by up to 45 degrees, twice as blurred.

        Parameters
        ----------
        **parameters : dict
            Changes of these.

        Returns
        -------
        confetti : Confetti
            With ``aspect=(1, 1)``, ``blur=1/48`` and ``angle=45``, or the changes.

        Raises
        ------
        TypeError
            For an unknown parameter.
        """
        squares: dict[str, Any] = {"aspect": (1.0, 1.0), "blur": 1 / 48, "angle": 45.0}
        return cls(**(squares | parameters))

    def draw(
        self, images: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw confetti on each of a batch of images.

        Parameters
        ----------
        images : tensor of shape (n, C, H, W)
            Values in [0, 1].
        generator : torch.Generator or None, default=None
            On the device of the images; None is torch's own.

        Returns
        -------
        images : tensor of shape (n, C, H, W)
            Drawn upon; those that came in are not modified.
        mask : bool tensor of shape (n, 1, H, W)
            What changed by more than `threshold`.

        Raises
        ------
        ValueError
            For a parameter out of its range.
        """
        self._check()
        noise = torch.zeros_like(images)
        for mean, strength in ((self.coloured, self.strength), (self.black, (1.0, 1.0))):
            if mean > 0:
                self._add_blobs(noise, mean, strength, generator)
        darker, brighter = (images - noise).clamp_(min=0), (images + noise).clamp_(max=1)
        fall, rise = (abs(other - images).flatten(1).sum(1) for other in (darker, brighter))
        flipped = (fall < _HARDLY_SEEN * rise).view(-1, 1, 1, 1)
        drawn = torch.where(flipped, brighter, darker)
        mask = (abs(drawn - images) > self.threshold).any(dim=1, keepdim=True)
        return drawn, mask

    def _check(self):
        """Raise for parameters out of their range; `draw` does, not the constructor."""
        for name in ("coloured", "black", "blur", "angle", "threshold"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= value < np.inf:
                raise ValueError(f"{name} must be a number from 0 on, got {value!r}.")
        if self.coloured == self.black == 0:
            raise ValueError("coloured and black are both 0: there is nothing to draw.")
        for name, least in (("side", "> 0"), ("aspect", "> 0"), ("strength", ">= 0")):
            value = getattr(self, name)
            if not _is_range(value) or value[0] < 0 or (least == "> 0" and value[0] == 0):
                raise ValueError(
                    f"{name} must be two finite numbers {least}, the least and the "
                    f"greatest, got {value!r}."
                )

    def _add_blobs(self, noise, mean, strength, generator):
        n, n_channels = noise.shape[:2]
        draws = torch.full((n,), float(mean), device=noise.device)
        counts = torch.poisson(draws, generator=generator).clamp_(min=1).long()
        owner = torch.repeat_interleave(torch.arange(n, device=noise.device), counts)
        low, high = strength
        at_once = max(1, _BLOB_ENTRIES // noise[0, 0].numel())
        for owners in owner.split(at_once):
            shape = self._shapes(noise, len(owners), generator)
            value = _uniform(noise, (len(owners), n_channels), generator)
            value = (low + (high - low) * value)[..., None, None]
            noise.index_add_(0, owners, value * shape[:, None])

    def _shapes(self, like, n, generator):
        """Draw n blobs: (n, H, W), in [0, 1]."""
        height, width = like.shape[2:]
        shorter, turn = min(height, width), np.deg2rad(self.angle)
        size, long, angle, y, x = _uniform(like, (5, n, 1, 1), generator)
        half = shorter / 2 * self.side[0] * (self.side[1] / self.side[0]) ** size
        stretch = (self.aspect[0] * (self.aspect[1] / self.aspect[0]) ** long) ** 0.5
        angle = turn * (2 * angle - 1)
        rows, columns = (torch.arange(n).to(like) + 0.5 for n in (height, width))
        dy, dx = rows[:, None] - height * y, columns - width * x
        cos, sin = angle.cos(), angle.sin()
        scale = 1 / (2**0.5 * max(shorter * self.blur, 1e-6))
        return _edge(cos * dx + sin * dy, half * stretch, scale).mul_(
            _edge(cos * dy - sin * dx, half / stretch, scale)
        )


def confetti(
    images: ArrayLike, *, random_state: Seed = None, **parameters: Any
) -> tuple[AnyArray, Bools]:
    """Draw confetti on images, and give the masks of what changed.

    Parameters
    ----------
    images : array-like of shape (n, H, W) or (n, C, H, W)
        Floats in [0, 1] or uint8 in 0..255. Not modified.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws; an int gives the same result every time.
    **parameters : dict
        Of :class:`skad.images.Confetti`.

    Returns
    -------
    drawn : ndarray of the shape and dtype of images
        In the value range of `images`.
    mask : bool ndarray of shape (n, H, W)
        Where any channel changed by more than a tenth of the value range.

    Raises
    ------
    ValueError, TypeError
        As in :func:`skad.images.corrupt`; for an unknown parameter, or one out of range.

    See Also
    --------
    Confetti : How they look.
    add_noise : Other noises.

    References
    ----------
    .. [1] P. Liznerski et al. "Explainable Deep One-Class Classification". ICLR 2021,
       section 4.2 and Figure 7.

    Examples
    --------
    >>> import numpy as np
    >>> from skad.images import confetti
    >>> drawn, mask = confetti(np.full((2, 32, 32), 0.5), random_state=0)
    >>> bool((drawn < 0.5)[mask].all())
    True
    """
    images = check_images(images, channels=True)
    top = value_range(images)
    shape = (len(images), -1, *images.shape[-2:])
    batch = torch.from_numpy(images.reshape(shape).astype(np.float32) / top)
    seed = check_random_state(random_state).randint(2**31 - 1)
    generator = torch.Generator().manual_seed(int(seed))
    drawn, mask = Confetti(**parameters).draw(batch, generator)
    drawn = drawn.numpy().reshape(images.shape)
    if top > 1:
        drawn = np.rint(drawn * top)
    # What did not change keeps its bits.
    drawn = np.where(drawn == batch.numpy().reshape(images.shape) * top, images, drawn)
    return drawn.astype(images.dtype), mask[:, 0].numpy()


def _is_range(pair):
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(end, Real) and np.isfinite(end) for end in pair)
        and pair[0] <= pair[1]
    )


def _uniform(like, shape, generator):
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def _edge(position, half, scale):
    """Profile of a blurred interval [-half, half]."""
    rise = ((position + half) * scale).erf_()
    return rise.sub_(((position - half) * scale).erf_()).mul_(0.5)
