"""Sphinx configuration: ``sphinx-build docs docs/_build``."""

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
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "auto_examples/**.ipynb"]
html_theme = "pydata_sphinx_theme"
html_title = "skad"
autosummary_generate = True
numpydoc_show_class_members = False
# torch.nn.Module has some sixty methods, whose docstrings are not in our format.
autodoc_default_options = {"members": True, "inherited-members": "Module"}
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "sklearn": ("https://scikit-learn.org/stable", None),
}
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "doc_module": "skad",
    "reference_url": {"skad": None},
    "show_memory": False,
    "ignore_pattern": r"^(?!plot_).*\.py$",  # studies are scripts
}
