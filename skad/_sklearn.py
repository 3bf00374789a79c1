"""The only file that touches scikit-learn's private names.

scikit-learn's parameter constraints give every estimator the same error texts, and its
checks read them; the names are underscored but stable since 1.3. Should one move, this
is the one place to mend.
"""

from sklearn.base import _fit_context
from sklearn.utils import _safe_indexing
from sklearn.utils._indexing import _get_column_indices
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import _num_samples

__all__ = [
    "Interval",
    "StrOptions",
    "_BaseComposition",
    "_fit_context",
    "_get_column_indices",
    "_num_samples",
    "_safe_indexing",
    "one_hot_widths",
]


def one_hot_widths(encoder):
    """Give the number of output columns of each input feature of a OneHotEncoder."""
    return list(encoder._n_features_outs)
