"""Detectors by name, for lists and the command line; each imported on first use."""

from difflib import get_close_matches
from importlib import import_module

# Module, class, and parameters where the defaults are not for this use.
_CATALOG = {
    "kde": ("skad", "KDE", {}),
    "autoencoder": ("skad", "AutoEncoder", {}),
    "deep_svdd": ("skad", "DeepSVDD", {}),
    "iocn": ("skad", "IOCN", {}),
    "normalizing_flow": ("skad", "NormalizingFlow", {}),
    "isolation_forest": ("sklearn.ensemble", "IsolationForest", {}),
    "one_class_svm": ("sklearn.svm", "OneClassSVM", {}),
    "local_outlier_factor": ("sklearn.neighbors", "LocalOutlierFactor", {"novelty": True}),
    "elliptic_envelope": ("sklearn.covariance", "EllipticEnvelope", {}),
    "knn": ("pyod.models.knn", "KNN", {}),
    "ecod": ("pyod.models.ecod", "ECOD", {}),
    "copod": ("pyod.models.copod", "COPOD", {}),
    "hbos": ("pyod.models.hbos", "HBOS", {}),
    "iforest": ("pyod.models.iforest", "IForest", {}),
    "pca": ("pyod.models.pca", "PCA", {}),
    "lof": ("pyod.models.lof", "LOF", {}),
    "ocsvm": ("pyod.models.ocsvm", "OCSVM", {}),
    "gmm": ("pyod.models.gmm", "GMM", {}),
    "mcd": ("pyod.models.mcd", "MCD", {}),
    "loda": ("pyod.models.loda", "LODA", {}),
    "pyod_kde": ("pyod.models.kde", "KDE", {}),
}


def detector_names() -> list[str]:
    """List the names of detectors that `benchmark` knows.

    Returns
    -------
    names : list of str
        First skad's, then scikit-learn's, then PyOD's.

    See Also
    --------
    benchmark : Takes them.

    Examples
    --------
    >>> from skad.benchmark import detector_names
    >>> detector_names()[:3]
    ['kde', 'autoencoder', 'deep_svdd']
    """
    return list(_CATALOG)


def describe_names():
    """Return a line for each name, with the class behind it."""
    width = max(map(len, _CATALOG))
    return [f"{n:<{width}}  {m}.{c}" for n, (m, c, _) in _CATALOG.items()]


def make_detector(name):
    """Make the unfitted detector of a name; PyOD's come wrapped.

    Raises
    ------
    ValueError
        When there is no such name.
    """
    if name not in _CATALOG:
        raise ValueError(_unknown(name))
    module, class_name, params = _CATALOG[name]
    if not module.startswith("pyod"):
        return getattr(import_module(module), class_name)(**params)
    from skad.detectors._pyod import PyODDetector, _on_its_own

    with _on_its_own(None):  # some of PyOD's constructors seed or draw
        return PyODDetector(getattr(import_module(module), class_name)(**params))


def _unknown(name):
    near = get_close_matches(str(name).lower(), _CATALOG, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"There is no detector {name!r}.{hint} There are: {', '.join(_CATALOG)}."
