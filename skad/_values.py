"""Parameters that belong together: values with parameters of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # scikit-learn has no types

    class Parameterized:
        """Of scikit-learn: what has parameters."""

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def _validate_params(self) -> None: ...

else:
    from sklearn.base import BaseEstimator as Parameterized

__all__ = ["ParameterValue", "check_values"]


class ParameterValue(Parameterized):
    """Base class of values that a parameter of a detector may have.

    They have parameters of their own, by which grids read ``network__n_layers``, and
    nothing to fit.
    """

    _parameter_constraints: dict[str, Any] = {}


def check_values(estimator: Any) -> None:
    """Check the parameters of the values among an estimator's parameters.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        A ValueError, for the first that is bad.
    """
    for value in estimator.get_params(deep=False).values():
        if isinstance(value, ParameterValue):
            value._validate_params()
            check_values(value)
