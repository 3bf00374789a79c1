"""Sphinx configuration; CONTRIBUTING.md has the command."""

import tempfile
import zlib
from pathlib import Path

import skad

project = "skad"
author = "The skad developers"
copyright = f"2026, {author}"
version = release = skad.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "auto_examples/**.ipynb"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "skad"
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
html_sidebars = {"index": [], "api": [], "architecture": [], "changelog": []}
copybutton_exclude = ".linenos, .gp, .go"  # prompts and what is printed

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's text says more
numpydoc_show_class_members = False
# torch.nn.Module has some sixty methods, whose docstrings are not in our format.
autodoc_default_options = {"members": True, "inherited-members": "Module"}

linkcheck_timeout = 15
linkcheck_anchors = False


def _without_internet():
    """Give an empty inventory: without internet, the build is one without those links."""
    inventory = Path(tempfile.gettempdir()) / "skad-docs-nothing.inv"
    head = "# Sphinx inventory version 2\n# Project: nothing\n# Version: 0\n# zlib\n"
    inventory.write_bytes(head.encode() + zlib.compress(b""))
    return str(inventory)


_nothing = _without_internet()
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", (None, _nothing)),
    "numpy": ("https://numpy.org/doc/stable", (None, _nothing)),
    "sklearn": ("https://scikit-learn.org/stable", (None, _nothing)),
    "skorch": ("https://skorch.readthedocs.io/en/stable", (None, _nothing)),
    "torch": ("https://docs.pytorch.org/docs/stable", (None, _nothing)),
}
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "doc_module": "skad",
    "backreferences_dir": "generated/backreferences",
    "reference_url": {"skad": None},
    "show_memory": False,
    "ignore_pattern": r"^(?!plot_).*\.py$",  # studies are scripts
    "abort_on_example_error": True,
    "remove_config_comments": True,
}

# What scikit-learn adds to each estimator, and describes in its own guide.
_PLUMBING = {"get_metadata_routing", "set_output"}


def _skip_plumbing(app, what, name, obj, skip, options):
    request = name.startswith("set_") and name.endswith("_request")
    return True if request or name in _PLUMBING else skip


def setup(app):
    """Leave scikit-learn's plumbing out of the pages of the classes."""
    app.connect("autodoc-skip-member", _skip_plumbing)
