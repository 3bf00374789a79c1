"""Every public docstring is whole: parameters in order, returns, summaries, examples."""

import inspect
from functools import cached_property
from importlib import import_module

import pytest
from numpydoc.validate import validate

MODULES = [
    "skad",
    "skad.base",
    "skad.benchmark",
    "skad.calibration",
    "skad.datasets",
    "skad.detectors",
    "skad.explanation",
    "skad.images",
    "skad.metrics",
    "skad.model_selection",
    "skad.neural",
    "skad.plotting",
    "skad.relevance",
    "skad.testing",
]
IGNORED = {
    "ES01",  # a summary can say it all
    "SA01",  # See Also where there is another to see
    "RT02",  # a single value that is returned has a name too, as in scikit-learn
}
IGNORED_OF_METHODS = IGNORED | {"EX01"}  # the example of the class uses some


def is_ours(thing):
    return thing.__module__.split(".")[0] == "skad"


def path(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


def public_things():
    """Give the classes and functions in the ``__all__`` of the public modules."""
    for module in map(import_module, MODULES):
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield thing


def methods(cls):
    """Give the public methods and properties that classes of skad define for a class."""
    for owner in filter(is_ours, inspect.getmro(cls)):
        for name in vars(owner):
            member = getattr(owner, name)  # from the class, where available_if gives it
            known = callable(member) or isinstance(member, property | cached_property)
            private = name.startswith("_") and name != "__call__"
            if known and not private and not name.endswith("_request"):  # scikit-learn's
                yield f"{path(owner)}.{name}"


def docstrings():
    """Map the place of each public docstring to the checks that it need not pass."""
    found = {}
    for thing in public_things():
        found[path(thing)] = IGNORED
        if inspect.isclass(thing):
            found |= dict.fromkeys(methods(thing), IGNORED_OF_METHODS)
    return found


DOCSTRINGS = docstrings()


def test_there_are_docstrings_of_every_kind():
    some = {
        "skad.detectors._kde._detector.KDE",
        "skad.detectors._kde._detector.KDE.predict",
        "skad.explanation._explain.explain",
        "skad.model_selection.InlierTraining.score_samples",
        "skad.detectors._invertible._iocn.IOCN.member_scores",
        "skad._linear_map.LinearMap.inverse",
        "skad.plotting._views.ViewsDisplay.from_estimator",
    }
    assert some <= DOCSTRINGS.keys()


@pytest.mark.parametrize("place", sorted(DOCSTRINGS))
def test_docstring(place):
    found = validate(place)
    kept = [error for error in found["errors"] if error[0] not in DOCSTRINGS[place]]
    assert not kept, f"{found['file']}, line {found['file_line']}"
