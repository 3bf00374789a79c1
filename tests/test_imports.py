"""Imports run downwards only, and ``import skad`` is light."""

import ast
import subprocess
import sys
from pathlib import Path

import skad

ROOT = Path(skad.__file__).parent
LAYERS = [
    {"_sklearn", "_scores"},
    {"relevance", "images"},
    {"datasets"},
    {"decompositions"},
    {"_occlusion", "base"},
    {"_shapley", "_pull_back"},
    {"explanation"},
    {"neural"},
    {"detectors"},
    {"model_selection"},
    {"calibration"},
    {"metrics"},
    {"plotting", "testing"},
    {"benchmark"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ONLY_IN = {
    "torch": {"relevance", "images", "neural", "detectors", "testing"},
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


def test_public_names_are_there():
    for name in skad.__all__:
        assert getattr(skad, name) is not None
    assert {"KDE", "Bag", "explain"} <= set(dir(skad))
