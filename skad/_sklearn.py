"""The only file that touches scikit-learn's private names.

scikit-learn's parameter constraints give every estimator the same error texts, and its
checks read them; the names are underscored but stable since 1.3. Should one move, this
is the one place to mend.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.sparse import issparse
from sklearn.base import _clone_parametrized
from sklearn.utils import _safe_indexing
from sklearn.utils._indexing import _get_column_indices
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import _num_samples

Method = TypeVar("Method", bound=Callable[..., Any])

if TYPE_CHECKING:
    # Without types these decorators would hide the signatures of what they decorate.
    from builtins import object as CallbackSupportMixin

    def with_callbacks(method: Method) -> Method:
        """Of scikit-learn 1.9."""
        ...

    def _fit_context(
        *, prefer_skip_nested_validation: bool
    ) -> Callable[[Method], Method]: ...

    def available_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]:
        """Of scikit-learn."""
        ...

else:
    from sklearn.base import _fit_context
    from sklearn.utils.metaestimators import available_if

    try:
        from sklearn.callback import CallbackSupportMixin, with_callbacks
    except ImportError:  # scikit-learn < 1.9
        CallbackSupportMixin = object  # no callbacks; the last of the bases

        def with_callbacks(method):
            """Stand-in: the method itself."""
            return method


__all__ = [
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "_BaseComposition",
    "_fit_context",
    "_get_column_indices",
    "_num_samples",
    "_safe_indexing",
    "available_if",
    "check_parameters",
    "clone_parametrized",
    "fit_task",
    "indexable",
    "is_torch_dataset",
    "kept_by_imputer",
    "local_outlier_memory",
    "one_hot_widths",
    "row_of",
    "svm_gamma",
    "take_rows",
    "training_rows",
    "with_callbacks",
]


def one_hot_widths(encoder):
    """Give the number of output columns of each input feature of a OneHotEncoder."""
    return list(encoder._n_features_outs)


def kept_by_imputer(imputer):
    """Tell which features an imputer keeps; it drops those never seen: bool (n,)."""
    if imputer.keep_empty_features:
        return np.ones(imputer.n_features_in_, dtype=bool)
    if hasattr(imputer, "_valid_mask"):
        return imputer._valid_mask
    return np.array([value == value for value in imputer.statistics_], dtype=bool)


def clone_parametrized(estimator):
    """Clone as scikit-learn does by default, from within ``__sklearn_clone__``."""
    return _clone_parametrized(estimator)


def check_parameters(estimator, *names):
    """Check parameters that take effect after `fit`, and may have been set since."""
    constraints = {name: estimator._parameter_constraints[name] for name in names}
    values = {name: getattr(estimator, name) for name in names}
    validate_parameter_constraints(constraints, values, type(estimator).__name__)


def fit_task(estimator, X, y, n_subtasks):
    """Begin the task of a fit for scikit-learn's callbacks; None where none listens."""
    if not getattr(estimator, "_skl_callbacks", None):
        return None
    context = estimator._init_callback_context(max_subtasks=n_subtasks)
    return context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)


def svm_gamma(machine):
    """Give the gamma of a fitted SVM; "scale" and "auto" are resolved in `fit`."""
    return float(machine._gamma)


def is_torch_dataset(X):
    """Whether X is a data set of torch, told without importing torch."""
    torch = sys.modules.get("torch")
    return bool(torch) and isinstance(X, torch.utils.data.Dataset)


def take_rows(X, rows):
    """Give the rows of some numbers, of anything that holds rows.

    Those of a data set of torch stay where they are.
    """
    if is_torch_dataset(X):
        return sys.modules["torch"].utils.data.Subset(X, np.asarray(rows).tolist())
    if type(X).__module__.startswith("pyarrow"):  # unknown to scikit-learn 1.6
        return X.take(rows)
    return _safe_indexing(X.tocsr() if issparse(X) else X, rows)


def indexable(X):
    """Give rows in a form that `take_rows` takes many times: as an array, if no table."""
    if issparse(X):
        return X.tocsr()
    table = hasattr(X, "iloc") or hasattr(X, "__dataframe__")
    return X if table or is_torch_dataset(X) else np.asarray(X)


def row_of(item):
    """Give the row of an item of a data set, which may be followed by a label."""
    return np.asarray(item[0] if isinstance(item, tuple) else item)


def training_rows(neighbors):
    """Give the rows that a fitted neighbours estimator searches: ndarray (m, d)."""
    rows = neighbors._fit_X
    return rows.toarray() if issparse(rows) else rows


def local_outlier_memory(detector):
    """Give what a fitted LocalOutlierFactor keeps of each of its m training rows.

    Returns
    -------
    rows : ndarray of shape (m, d)
    reach : ndarray of shape (m,)
        Distance to the k-th neighbour.
    density : ndarray of shape (m,)
        Local reachability density.
    """
    reach = detector._distances_fit_X_[:, detector.n_neighbors_ - 1]
    return training_rows(detector), reach, detector._lrd
