"""PyOD's detectors under scikit-learn's contract."""

from __future__ import annotations

import os
import random
import sys
from contextlib import contextmanager
from numbers import Real
from threading import RLock
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from sklearn import config_context
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state

from skad._decomposition import NoDecompositionError
from skad._estimators import grows_with_rows, is_pyod
from skad._references import keep_references
from skad._sklearn import clone_parametrized
from skad._thresholds import offset_of_share
from skad._typing import ImageShape, Seed
from skad.base import BaseDetector
from skad.explanation import shapley_values
from skad.explanation._units import relevance_in_units, with_remainder

__all__ = ["PyODDetector", "as_detector"]


class PyODDetector(MetaEstimatorMixin, BaseDetector):
    """Wrap a detector of PyOD.

    PyOD scores anomalies high, labels them 1 and lets parameters set after construction
    go unnoticed; a search over raw PyOD detectors compares convention, not quality. Under
    this wrapper scores are higher for normal rows, labels are +1 and -1, and every
    parameter acts, ``detector__bandwidth`` as any other.

    Explanation is by the exact decomposition of the score where there is one (KDE, KNN,
    LOF, OCSVM, PCA, GMM, MCD, IForest, HBOS, ECOD, COPOD, LODA, AutoEncoder; see
    :func:`skad.explanation.decompose`), in the units of the score: that of OCSVM and
    IForest, additive by another quantity, is scaled row by row. Others are explained by
    sampled Shapley values against the 4 nearest of up to 256 training rows that are kept
    for that; see :func:`skad.explanation.shapley_values`.

    Parameters
    ----------
    detector : object
        A detector of PyOD. It is not changed: `fit` works on a fresh one, made of its
        parameters. A parameter ``n_features`` is filled in, and ``batch_size`` is made
        to fit the data.
    false_alarm_rate : float in (0, 0.5] or None, default=None
        Share of *fresh* normal rows that `predict` flags; the threshold then comes from
        five-fold cross-fitting. None: the detector's own ``contamination``, the share
        of training rows that is flagged.
    [[image_shape]]
    random_state : int, RandomState instance or None, default=None
        Seeds the detector. None leaves the detector's own ``random_state``. numpy's,
        torch's and Python's global states stay as they were either way.

    Attributes
    ----------
    detector_ : object
        The fitted PyOD detector.
    [[offset_, image_shape_, n_features_in_, feature_names_in_]]

    Raises
    ------
    TypeError
        By `fit`, when `detector` is none of PyOD's.

    See Also
    --------
    InlierTraining : Trains on normal rows; wraps a detector of PyOD by itself.
    skad.explanation.decompose : The exact explanations.

    Notes
    -----
    ECOD and COPOD rank a row among the rows it is scored with: their scores, and so their
    explanations, depend on the batch. COF and SOD can't score one row alone. No wrapper
    can cure that.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod.models.knn import KNN
    >>> from skad import PyODDetector
    >>> X = np.random.default_rng(0).standard_normal((200, 2))
    >>> detector = PyODDetector(KNN(n_neighbors=3)).fit(X)
    >>> detector.predict([[0.0, 0.0], [6.0, 0.0]])
    array([ 1, -1])
    >>> int(detector.explain([[6.0, 0.0]]).argmax())
    0
    """

    detector_: Any

    _parameter_constraints = {"random_state": ["random_state"]}

    _in_sample_share = None  # `_find_offset` takes the detector's own

    def __init__(
        self,
        detector: Any,
        *,
        false_alarm_rate: float | None = None,
        image_shape: ImageShape = None,
        random_state: Seed = None,
    ):
        self.detector = detector
        self.false_alarm_rate = false_alarm_rate
        self.image_shape = image_shape
        self.random_state = random_state

    def __sklearn_clone__(self) -> Self:
        with _on_its_own(None):  # some of PyOD's constructors seed or draw
            return clone_parametrized(self)

    def _fit(self, X, y):
        if not is_pyod(self.detector):
            raise TypeError(
                "detector must be a detector of PyOD, got "
                f"{self.detector!r} of type {type(self.detector).__name__}."
            )
        self._seed = 0
        if self.random_state is not None:
            self._seed = check_random_state(self.random_state).randint(2**31 - 1)
        seed = None if self.random_state is None else self._seed
        with _on_its_own(seed):
            self.detector_ = self._fresh_detector(*X.shape)
            self.detector_.fit(X)  # which gives None in some versions
        self._references = keep_references(X)

    def _fresh_detector(self, n, d):
        """Build the detector anew: PyOD reads some parameters in ``__init__`` alone."""
        params = clone(self.detector).get_params(deep=False)
        if "n_features" in params:
            params["n_features"] = d
        if isinstance(params.get("batch_size"), int):
            params["batch_size"] = min(params["batch_size"], n)
        if "random_state" in params and self.random_state is not None:
            params["random_state"] = self._seed
        return type(self.detector)(**params)

    def _find_offset(self, scores):
        if self.false_alarm_rate is not None:
            return super()._find_offset(scores)
        share = self.detector_.contamination
        if not isinstance(share, Real):  # a thresholder of PyOD's
            return -self.detector_.threshold_
        return offset_of_share(scores.in_sample(), share)

    def _outlier_score(self, X):
        with _on_its_own(self._seed):  # some draw when they score
            scores = self.detector_.decision_function(X)
        return np.asarray(scores, dtype=np.float64).ravel()

    def _decompose(self, X, space=None):
        return with_remainder(self._relevance(X, space), self._outlier_score(X))

    def _relevance(self, X, space):
        """Return the exact relevance, or without a space the one from outside."""
        try:
            with _on_its_own(self._seed):
                return relevance_in_units(self.detector_, X, space)
        except NoDecompositionError:  # of this class, or with these parameters
            if space is not None:
                raise
        scorer = SimpleNamespace(score_samples=lambda X: -self._outlier_score(X))
        return shapley_values(scorer, X, self._references).relevance


@grows_with_rows.register
def _(estimator: PyODDetector) -> bool:
    return type(estimator.detector).__name__ == "OCSVM"


def as_detector(estimator: Any) -> Any:
    """Copy a detector; wrap a raw one of PyOD, bare or last in a Pipeline."""
    if is_pyod(estimator):
        estimator = PyODDetector(estimator)
    elif isinstance(estimator, Pipeline) and is_pyod(estimator[-1]):
        *steps, (name, detector) = estimator.steps
        params = estimator.get_params(deep=False)
        params["steps"] = [*steps, (name, PyODDetector(detector))]
        estimator = type(estimator)(**params)
    return clone(estimator)


_GLOBAL_STATES = RLock()


@contextmanager
def _on_its_own(seed):
    """Seed the global generators, which PyOD draws from and reseeds; then restore.

    One thread at a time, since the states are everybody's. PyOD knows numpy arrays only,
    so array API dispatch is off meanwhile.
    """
    with _GLOBAL_STATES, config_context(array_api_dispatch=False):
        numpy_state, python_state = np.random.get_state(), random.getstate()
        hash_seed, torch = os.environ.get("PYTHONHASHSEED"), sys.modules.get("torch")
        torch_state = torch.get_rng_state() if torch else None
        on_gpu = torch and torch.cuda.is_initialized()  # else there is no state to keep
        gpu_states = torch.cuda.get_rng_state_all() if on_gpu else None
        try:
            if seed is not None:
                np.random.seed(seed)
                random.seed(seed)
                if torch:
                    torch.manual_seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            if torch:
                torch.set_rng_state(torch_state)
            if on_gpu:
                torch.cuda.set_rng_state_all(gpu_states)
            if hash_seed is None:
                os.environ.pop("PYTHONHASHSEED", None)
            else:
                os.environ["PYTHONHASHSEED"] = hash_seed
