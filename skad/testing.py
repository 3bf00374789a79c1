"""The second suite of checks: the contract of ``explain``.

scikit-learn's ``check_estimator`` never explains. `check_detector` takes up there, and is
open to the detectors of other packages that follow the contract of
:class:`skad.base.BaseDetector`.
"""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

from skad.base import BaseDetector

__all__ = ["check_detector", "detector_checks"]

# Relative to the largest relevance: float32 detectors pass, wrong rules do not.
_TOLERANCE = 1e-4


def check_detector(detector: Any) -> None:
    """Check that a detector keeps the contract of ``explain``.

    Parameters
    ----------
    detector : estimator
        An unfitted detector with ``explain``, that takes rows of any number of features
        from 4 on. It is cloned.

    Raises
    ------
    AssertionError
        From the first check that fails, with what came and what was expected.

    See Also
    --------
    detector_checks : The checks one by one.
    sklearn.utils.estimator_checks.check_estimator : The first suite.

    Examples
    --------
    >>> from skad import KDE
    >>> from skad.testing import check_detector
    >>> check_detector(KDE())
    """
    for _, check in detector_checks():
        check(detector)


def detector_checks() -> list[tuple[str, Callable[[Any], None]]]:
    """Return the checks one by one, as for a parametrised test.

    Returns
    -------
    checks : list of (str, callable)
        Name and function of one unfitted detector.

    See Also
    --------
    check_detector : All of them at once.

    Examples
    --------
    >>> from skad import KDE
    >>> from skad.testing import detector_checks
    >>> for name, check in detector_checks():
    ...     check(KDE(bandwidth=1.0))
    """
    return [(check.__name__, check) for check in _CHECKS]


def check_explanation_is_an_array(detector: Any) -> None:
    """Check that relevance is finite float64 of the shape of X."""
    X = _rows()
    relevance = _fitted(detector, X).explain(X)
    assert isinstance(relevance, np.ndarray), type(relevance)
    assert relevance.shape == X.shape, (relevance.shape, X.shape)
    assert relevance.dtype == np.float64, relevance.dtype
    assert np.isfinite(relevance).all()


def check_sum_law(detector: Any) -> None:
    """Make relevance and the unattributed part sum to the outlier score."""
    X = _rows()
    fitted = _fitted(detector, X)
    if not hasattr(fitted, "unattributed"):
        return
    fresh = np.vstack([_rows(seed=1), X[:5]])
    total = fitted.explain(fresh).sum(axis=1) + fitted.unattributed(fresh)
    what = "explain(X).sum(features) + unattributed(X) is not -score_samples(X)"
    _assert_close(total, -fitted.score_samples(fresh), what)


def check_row_order(detector: Any) -> None:
    """Check that relevance of a row is the same wherever it stands in the batch."""
    X = _rows()
    fitted = _fitted(detector, X)
    order = np.random.default_rng(1).permutation(len(X))
    _assert_close(fitted.explain(X[order]), fitted.explain(X)[order], "row order")


def check_single_rows(detector: Any) -> None:
    """Check that relevance of a row is the same whatever rows come with it."""
    X = _rows()
    fitted = _fitted(detector, X)
    single = np.vstack([fitted.explain(X[i : i + 1]) for i in range(5)])
    _assert_close(single, fitted.explain(X)[:5], "single rows")


def check_images(detector: Any) -> None:
    """Check that images and their flat rows score, and are explained, alike (skad's)."""
    if not isinstance(detector, BaseDetector):
        return
    flat = _rows(d=12)
    images, shape = flat.reshape(-1, 3, 4), (-1, 3, 4)
    told = clone(detector)
    if "image_shape" in told.get_params():
        told.set_params(image_shape=shape[1:])
    from_flat, from_images = _fitted(told, flat), _fitted(detector, images)
    relevance = from_images.explain(images)
    assert relevance.shape == images.shape, relevance.shape
    scores = from_flat.score_samples(flat)
    _assert_close(from_images.score_samples(images), scores, "score of images")
    _assert_close(relevance, from_flat.explain(flat).reshape(shape), "images")


def check_constant_feature(detector: Any) -> None:
    """Check that a feature that never varies gets no relevance, where it should not."""
    if not getattr(detector, "_ignores_constant_features", True):
        return
    X = _rows()
    X[:, 1] = 3.0
    relevance = _fitted(detector, X).explain(X[:10])
    assert abs(relevance[:, 1]).max() <= _TOLERANCE * abs(relevance).max()


def check_implanted_outlier(detector: Any) -> None:
    """Rank first the one feature in which a row is abnormal."""
    X = _rows(n=120)
    fitted = _fitted(detector, X)
    for feature in range(X.shape[1]):
        outlier = np.zeros((1, X.shape[1]))
        outlier[0, feature] = 8.0
        first = fitted.explain(outlier).argmax()
        assert first == feature, f"feature {feature} is abnormal, {first} ranks first"


def check_no_side_effects(detector: Any) -> None:
    """Change neither scores, nor model, nor seeds by explaining, and vice versa."""
    X = _rows()
    fitted = _fitted(detector, X)
    before = _plain_attributes(fitted), _global_states()
    scores, relevance = fitted.score_samples(X), fitted.explain(X)
    _assert_close(fitted.score_samples(X), scores, "scores after explain")
    _assert_close(fitted.explain(X), relevance, "relevance after score_samples")
    assert_equal(_plain_attributes(fitted), before[0], "explain changed the detector")
    assert _global_states() == before[1], "the global random state changed"


def check_fit_leaves_global_states(detector: Any) -> None:
    """Leave numpy's and torch's global random states alone in `fit`."""
    before = _global_states()
    _fitted(detector, _rows())
    assert _global_states() == before, "fit changed the global random state"


def check_unfitted(detector: Any) -> None:
    """Raise NotFittedError before `fit`."""
    for method in ("explain", "unattributed", "score_samples"):
        if not hasattr(detector, method):
            continue
        try:
            getattr(clone(detector), method)(_rows())
        except NotFittedError:
            continue
        raise AssertionError(f"{method} of an unfitted detector raised no error")


def check_bad_input(detector: Any) -> None:
    """Refuse to explain the wrong number of features, NaN and a single flat row."""
    X = _rows()
    fitted = _fitted(detector, X)
    broken = X.copy()
    broken[0, 0] = np.nan
    takes_nan = get_tags(detector).input_tags.allow_nan
    for bad in (X[:, :-1], X[0], *([] if takes_nan else [broken])):
        try:
            fitted.explain(bad)
        except ValueError:
            continue
        raise AssertionError(f"explain took {bad!r}")


def check_feature_names(detector: Any) -> None:
    """Know columns by name, and refuse reordered ones."""
    try:
        import pandas
    except ImportError:
        return
    X = pandas.DataFrame(_rows(), columns=list("abcd"))
    fitted = _fitted(detector, X)
    assert_array_equal(fitted.feature_names_in_, X.columns)
    _assert_close(fitted.explain(X), _fitted(detector, X.to_numpy()).explain(X.to_numpy()))
    try:
        fitted.explain(X[list("badc")])
    except ValueError:
        return
    raise AssertionError("explain took reordered columns")


def check_copies(detector: Any) -> None:
    """Keep the explanation through pickle, clone and refit."""
    X = _rows()
    fitted = _fitted(detector, X)
    relevance = fitted.explain(X)
    _assert_close(pickle.loads(pickle.dumps(fitted)).explain(X), relevance, "pickle")
    _assert_close(clone(fitted).fit(X).explain(X), relevance, "clone")


def check_containers(detector: Any) -> None:
    """Take read-only, float32, Fortran-ordered and list input."""
    X = _rows().astype(np.float32).astype(np.float64)
    fitted = _fitted(detector, X)
    relevance = fitted.explain(X)
    frozen = X.copy()
    frozen.flags.writeable = False
    for other in (frozen, X.astype(np.float32), np.asfortranarray(X), X.tolist()):
        _assert_close(fitted.explain(other), relevance, str(type(other)))
        clone(detector).fit(other)


_CHECKS = (
    check_explanation_is_an_array,
    check_sum_law,
    check_row_order,
    check_single_rows,
    check_images,
    check_constant_feature,
    check_implanted_outlier,
    check_no_side_effects,
    check_fit_leaves_global_states,
    check_unfitted,
    check_bad_input,
    check_feature_names,
    check_copies,
    check_containers,
)


def _rows(n=60, d=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def _fitted(detector, X):
    return _copied(detector).fit(X)


def _copied(detector):
    """Copy a detector; seed it where it is not."""
    copied = clone(detector)
    if copied.get_params().get("random_state", 0) is None:
        copied.set_params(random_state=0)
    return copied


def _plain_attributes(fitted):
    """Copy the attributes that are numbers or arrays; name the others."""
    return {
        name: np.copy(value) if isinstance(value, np.ndarray | float | int) else type(value)
        for name, value in vars(fitted).items()
    }


def _global_states():
    numpy_state = np.random.get_state()  # noqa: NPY002 - what must not change
    return str(numpy_state), torch.get_rng_state().tolist()


def _assert_close(actual, desired, what=""):
    scale = max(abs(desired).max(), np.finfo(float).tiny)
    assert_allclose(actual / scale, desired / scale, rtol=0, atol=_TOLERANCE, err_msg=what)
