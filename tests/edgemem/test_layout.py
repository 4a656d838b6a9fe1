"""The layout of the design: which folder may import what, and that every folder is packaged."""

import ast
import re
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")

ROOT = Path(__file__).resolve().parents[2]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOMES = {"edgemem": "edgemem"} | SETUP["tool"]["setuptools"]["package-dir"]
TRAIN_SIDE = {"edgemem.models", "edgemem.export"}
# The column "may import" of the design: other packages, and rooms of this house.
MAY_IMPORT = {
    "edgemem": ({"numpy", "safetensors", "typer", "rich"}, {"edgemem"}),
    "edgemem.runtime": ({"numpy", "onnxruntime"}, {"edgemem", "edgemem.runtime"}),
    "edgemem.models": (
        {"numpy", "safetensors", "torch", "PIL"},
        {"edgemem", "edgemem.models"},
    ),
    "edgemem.export": (
        {"numpy", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime"},
        {"edgemem", "edgemem.models", "edgemem.export"},
    ),
}
# For tests of what uses a runtime: nothing of ours imports it.
FOR_TESTS = "edgemem.testing"


def room_of(module):
    """The room (folder at the top) that a module of ours lives in."""
    rooms = [room for room in HOMES if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def each(files):
    """Parametrize a test over (room, path), named by the path."""
    named = [pytest.param(*file, id=file[1].relative_to(ROOT).as_posix()) for file in files]
    return pytest.mark.parametrize(("room", "path"), named)


SOURCES = [
    (room, path) for room, folder in HOMES.items() for path in sorted((ROOT / folder).rglob("*.py"))
]
MODULES = {
    ".".join([room, *(part for part in parts if part != "__init__")]): path
    for room, path in SOURCES
    for parts in [path.relative_to(ROOT / HOMES[room]).with_suffix("").parts]
}
# The commands of the train side live beside the others and load it inside functions.
DEVICE = [
    (room, path)
    for room, path in SOURCES
    if room not in TRAIN_SIDE and not path.name.startswith("train")
]


def module_level(body):
    """Import statements that run on import: not in functions, not under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from module_level(node.orelse)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from module_level(getattr(node, field, []))


def names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    full = [f"{base}.{alias.name}" for alias in node.names]
    return [name if base == "edgemem" or name in MODULES else base for name in full]


def every_import(path):
    """Names imported anywhere in a file, functions included."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {n for o in nodes if isinstance(o, (ast.Import, ast.ImportFrom)) for n in names(o)}


def imports(path):
    return [name for node in module_level(ast.parse(path.read_text()).body) for name in names(node)]


@each(SOURCES)
def test_a_room_imports_only_what_the_design_allows(room, path):
    packages, rooms = MAY_IMPORT[room]
    if path == MODULES[FOR_TESTS]:
        packages, rooms = MAY_IMPORT["edgemem.runtime"]
    for name in imports(path):
        assert name != FOR_TESTS, f"{path.name} imports {name}"
        top = name.partition(".")[0]
        if top == "edgemem":
            assert room_of(name) in rooms, f"{path.name} imports {name}"
        else:
            assert top in packages | sys.stdlib_module_names, f"{path.name} imports {name}"


@each(DEVICE)
def test_the_device_side_never_reaches_the_train_side_even_inside_functions(room, path):
    found = every_import(path)
    assert not {name for name in found if room_of(name) in TRAIN_SIDE}
    assert not {name.partition(".")[0] for name in found} & {"torch", "onnx", "onnxscript"}


@each(DEVICE)
def test_there_is_no_pickle_anywhere_on_the_device(room, path):
    found = {name.partition(".")[0] for name in every_import(path)}
    assert not found & {"pickle", "shelve", "marshal", "dill", "joblib"}


def test_the_walk_sees_what_it_must_see():
    code = """
import a
if TYPE_CHECKING:
    import b
else:
    import c
try:
    import d
except ImportError:
    import e
def f():
    import g
class H:
    import h
from edgemem import i
from edgemem.j import k
from edgemem.runtime import l, guard
"""
    found = [name for node in module_level(ast.parse(code).body) for name in names(node)]
    both = ["edgemem.runtime", "edgemem.runtime.guard"]
    assert found == ["a", "c", "d", "e", "h", "edgemem.i", "edgemem.j", *both]
    assert room_of("edgemem.runtime.loop") == "edgemem.runtime"
    assert room_of("edgemem.runtimes") == "edgemem" and room_of("numpy") is None


def test_every_folder_is_listed():
    found = {
        ".".join([name, *init.parent.relative_to(ROOT / top).parts])
        for name, top in HOMES.items()
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(SETUP["tool"]["setuptools"]["packages"])


def test_the_packaged_data_is_listed_and_there():
    data = SETUP["tool"]["setuptools"]["package-data"]
    for package, patterns in data.items():
        for pattern in patterns:
            assert list((ROOT / package.replace(".", "/")).glob(pattern)), (package, pattern)


def test_there_are_no_cycles_between_modules():
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    assert graph["edgemem.runtime.loop"] >= {"edgemem.runtime.ring", "edgemem.bundle"}
    while leaves := {module for module, needed in graph.items() if not needed}:
        graph = {m: needed - leaves for m, needed in graph.items() if m not in leaves}
    assert graph == {}


def test_a_plain_install_brings_five_packages():
    found = {re.split(r"[<>=~!]", text)[0] for text in SETUP["project"]["dependencies"]}
    assert found == {"numpy", "onnxruntime", "safetensors", "typer", "rich"}


def test_tests_hold_no_package_that_would_hide_the_real_one():
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert "tests" not in SETUP["tool"]["pytest"]["ini_options"]["pythonpath"]
