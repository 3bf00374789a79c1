"""The guide's snippets run as one session each: what they define is of ``__main__``."""

import sys
from types import ModuleType

import pytest


class _Session(ModuleType):
    """A ``__main__`` with the names of a page, so that classes in it can be pickled."""

    def __init__(self, names):
        super().__init__("__main__")
        self._names = names

    def __getattr__(self, name):
        if name == "_names" or name not in self._names:
            raise AttributeError(name)
        return self._names[name]


@pytest.fixture(autouse=True)
def session_of_a_page(request, monkeypatch):
    """Let the page be ``__main__``, in which a reader would type it in."""
    names = request.node.dtest.globs
    monkeypatch.setitem(sys.modules, "__main__", _Session(names))


@pytest.fixture(autouse=True)
def folder_of_a_page(tmp_path, monkeypatch):
    """Let pages write their files somewhere else."""
    monkeypatch.chdir(tmp_path)
