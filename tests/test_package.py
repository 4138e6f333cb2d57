"""What the package promises as a whole: a cheap import, its public names, and which module may use which."""

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ircdeblur

PACKAGE = Path(ircdeblur.__file__).parent

FLOORS = [
    {"arrays", "kernels", "metrics", "psf", "srgb", "tiles"},
    {"motion"},
    {"plots"},  # draws what the others compute, from arrays; knows kernels and motion fields only
    {"operators"},
    {"inverse"},
    {"solvers"},
    {"physics"},  # the operators as forward models of another library, with solvers of ours
    {"nets"},
    {"data"},
    {"training"},
    {"restore"},
    {"experiments"},  # measure what users call
    {"app"},
]
"""Top-level modules from the ground up; each imports from floors below its own, or from its own package."""

FUNCTIONS = {"blur", "deblur", "deconvolve", "estimate_motion", "estimate_psf"}
"""Public functions of the package, all from `restore`."""

EXTRAS = {"cv2", "gradio", "huggingface_hub", "lightning", "onnx", "onnxruntime", "onnxscript", "ray", "sklearn"}
"""Packages that a plain install does not bring."""


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module, the two that stand above all floors left out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and parts != ("__main__",):
            yield ".".join(("ircdeblur", *parts)), path


def imported(tree: ast.Module, name: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a module imports, wherever in it the import stands.

    The bare ``import ircdeblur`` counts by what is taken from it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "ircdeblur":
                    yield from attributes(tree, alias.asname or alias.name)
                else:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            package = name if is_package else name.rpartition(".")[0]
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, package) if node.level else relative
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def attributes(tree: ast.Module, variable: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every attribute taken from the package, which `variable` is bound to."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == variable:
                yield node.lineno, f"ircdeblur.{attribute}"


def breaches(name: str, source: str, is_package: bool = False) -> list[str]:
    """Imports of a module, given by its source, that reach its own floor or one above."""
    rank = {module: floor for floor, names in enumerate(FLOORS) for module in names}
    own = name.split(".")[1]
    found = []
    for line, target in imported(ast.parse(source), name, is_package):
        parts = target.split(".")
        if parts[0] != "ircdeblur":
            continue
        other = "restore" if parts[1] in FUNCTIONS else parts[1]
        if other not in (own, "__version__") and rank.get(other, len(FLOORS)) >= rank[own]:
            found.append(f"{name}:{line} imports {other}, which is not below {own}")
    return found


def run(code: str) -> str:
    """Output of code in a fresh interpreter that finds the package under test."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_cheap():
    heavy = ["torch", "numpy", "scipy", "skimage", "pyvips", "typer", "matplotlib"]
    assert run(f"import sys, ircdeblur; print([m for m in {heavy} if m in sys.modules])").strip() == "[]"


def test_public_names():
    assert set(ircdeblur.__all__) == FUNCTIONS | {"__version__"}
    assert set(ircdeblur.__all__) <= set(dir(ircdeblur))
    assert ircdeblur.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="module 'ircdeblur' has no attribute 'deblurr'"):
        _ = ircdeblur.deblurr


def test_public_functions_come_from_restore():
    from ircdeblur import restore

    for name in FUNCTIONS:
        assert getattr(ircdeblur, name) is getattr(restore, name)


def test_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_every_module_has_one_floor():
    placed = [module for names in FLOORS for module in names]
    assert len(placed) == len(set(placed))
    homeless = {name for name, _ in modules() if name.split(".")[1] not in placed}
    assert not homeless, f"give {homeless} a floor in FLOORS"


def test_modules_import_from_floors_below_only():
    found = [
        breach
        for name, path in modules()
        for breach in breaches(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("ircdeblur.operators", "from ircdeblur.kernels import linear_kernel", 0),
        ("ircdeblur.operators", "from ircdeblur import kernels, motion", 0),
        ("ircdeblur.operators", "from ircdeblur.solvers.admm import admm", 1),
        ("ircdeblur.operators", "from ircdeblur import solvers, kernels", 1),
        ("ircdeblur.operators", "from . import restore", 1),
        ("ircdeblur.operators", "import ircdeblur.app.cli as cli", 1),
        ("ircdeblur.operators", "def f():\n    from .nets import layers", 1),
        ("ircdeblur.operators", "import ircdeblur\nircdeblur.deblur(0)\nprint(ircdeblur.__version__)", 1),
        ("ircdeblur.operators", "import ircdeblur as i\ni.kernels.f(i.app.g())", 1),
        ("ircdeblur.operators", "from ircdeblur import deconvolve", 1),
        ("ircdeblur.experiments.table1", "from ircdeblur import deconvolve", 0),
        ("ircdeblur.operators", "from ircdeblur import __version__", 0),
        ("ircdeblur.solvers.irc", "from .admm import admm\nfrom ..operators import MotionBlur", 0),
        ("ircdeblur.solvers.irc", "from ..training import module", 1),
        ("ircdeblur.metrics", "from ircdeblur.kernels import linear_kernel", 1),
        ("ircdeblur.app.cli", "from ircdeblur import restore\nimport torch, numpy.linalg", 0),
    ],
)
def test_the_layering_test_sees_a_breach(name, source, count):
    assert len(breaches(name, source)) == count


def test_extras_are_imported_where_they_are_used():
    """Outside `training` and the web page, a package of an extra is imported in a function, never on top."""
    found = []
    for name, path in modules():
        if name.startswith("ircdeblur.training") or name == "ircdeblur.app.web":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        for line, target in imported(top, name, path.name == "__init__.py"):
            if target.split(".")[0] in EXTRAS:
                found.append(f"{name}:{line} imports {target}")
    assert not found, "\n".join(found)
