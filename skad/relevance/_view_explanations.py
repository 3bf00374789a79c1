"""Ways to explain a score of views, as values of a parameter."""

from __future__ import annotations

from numbers import Integral, Real

from skad._sklearn import Interval
from skad._values import ParameterValue

__all__ = ["ActivationMap", "ExpectedGradients"]


class ActivationMap(ParameterValue):
    """Explain by class activation maps, against the mean maps of normal images.

    Parameters
    ----------
    sigma : float or None, default=None
        Standard deviation, in pixels, of the Gaussians that relevance is spread by. None:
        0.19 of what a place of the maps sees, and half of the distance of two at least.

    See Also
    --------
    ExpectedGradients : Compare pixels with those of normal images.
    skad.GEO : Takes one as `explanation`.

    Examples
    --------
    >>> from skad import GEO
    >>> from skad.neural import ActivationMap
    >>> detector = GEO(explanation=ActivationMap(sigma=1.5))
    >>> detector.set_params(explanation__sigma=2.0).explanation
    ActivationMap(sigma=2.0)
    """

    _parameter_constraints = {"sigma": [Interval(Real, 0, None, closed="neither"), None]}

    def __init__(self, *, sigma: float | None = None):
        self.sigma = sigma


class ExpectedGradients(ParameterValue):
    """Explain by gradients along straight lines from normal images.

    The gradient of the score by the pixels is averaged on the lines from some training
    images to the image, and multiplied by the differences.

    Parameters
    ----------
    n_references : int, default=8
        How many training images to compare with; `fit` draws them.
    sigma : float or None, default=None
        Standard deviation, in pixels, of the Gaussians that the relevance of images is
        spread by. None: 0.19 of what a place of the maps sees.

    See Also
    --------
    ActivationMap : Compare feature maps, at a hundredth of the cost.
    skad.GEO : Takes one as `explanation`.

    Examples
    --------
    >>> from skad import GEO
    >>> from skad.neural import ExpectedGradients
    >>> GEO(explanation=ExpectedGradients(n_references=4)).explanation.n_references
    4
    """

    _parameter_constraints = {
        "n_references": [Interval(Integral, 1, None, closed="left")],
        "sigma": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(self, *, n_references: int = 8, sigma: float | None = None):
        self.n_references = n_references
        self.sigma = sigma
