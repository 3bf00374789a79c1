"""Imports run downwards only, and ``import skad`` is light."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import skad

ROOT = Path(skad.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
DRAWING = runpy.run_path(str(DOCS / "draw_architecture.py"))
LAYERS = DRAWING["LAYERS"][::-1]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ONLY_IN = {
    "torch": DRAWING["WITH_TORCH"],
    "skorch": {"neural"},
    "pyod": set(),
    "safetensors": set(),
    "matplotlib": set(),
    "pandas": set(),
    "PIL": set(),
}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports would go unseen"
            yield node, node.module


def rooms():
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room != "__init__":
            yield path, room, ast.parse(path.read_text())


def test_the_drawing_shows_the_rooms():
    """Each once; the file is what the script draws."""
    found = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    found -= {"__init__", "__pycache__", "py.typed"}
    assert sorted(name for layer in LAYERS for name in layer) == sorted(found)
    assert (DOCS / "images" / "architecture.svg").read_text() == DRAWING["draw"]()


def test_imports_run_downwards():
    for path, room, tree in rooms():
        for _, module in imports(tree):
            if module.startswith("skad."):
                target = module.split(".")[1]
                lower = LEVEL[target] < LEVEL[room]
                assert lower or target == room, f"{path.name} imports {module}"


def test_private_names_of_scikit_learn_are_in_one_file():
    for path, room, tree in rooms():
        for node, module in imports(tree):
            if module.startswith("sklearn") and room != "_sklearn":
                names = [alias.name for alias in getattr(node, "names", [])]
                private = [n for n in [*module.split("."), *names] if n.startswith("_")]
                assert not private, f"{path.name} imports {private} from {module}"


def test_heavy_libraries_are_imported_where_they_belong():
    for path, room, tree in rooms():
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node, module in imports(ast.Module(top, [])):
            library = module.split(".")[0]
            assert node in top
            assert room in ONLY_IN.get(library, {room}), f"{path.name} imports {library}"


def test_import_skad_is_light():
    code = "import skad, sys; print([m for m in {} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code.format(sorted({*ONLY_IN, "sklearn"}))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_detectors_without_a_network_import_no_skorch():
    code = "import sys; from skad import KDE, Bag; print('skorch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("package", [skad, skad.detectors, skad.images])
def test_type_checkers_see_the_lazy_names(package):
    tree = ast.parse(Path(package.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    found = {}
    for node, module in imports(block):
        home = module.removeprefix(package.__name__).removeprefix(".")
        found |= {alias.name: home for alias in node.names}
    assert found == package._HOME | dict.fromkeys(getattr(package, "_MODULES", ()), "")


def test_public_names_are_there():
    for name in skad.__all__:
        assert getattr(skad, name) is not None
    assert {"KDE", "Bag", "explain"} <= set(dir(skad))
