"""The house rules: what each part may import, how large it may be, and that no name is there twice.

Folders explain themselves: few files each, small modules, a docstring a room. Imports go down only.
"""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOMES = {"edgemem": "edgemem"} | SETUP["tool"]["setuptools"]["package-dir"]
TRAIN_SIDE = {"edgemem.models", "edgemem.export"}
# The column "may import" of the design: other packages, and rooms of this house.
MAY_IMPORT = {
    "edgemem": ({"numpy", "safetensors", "typer", "rich"}, {"edgemem"}),
    "edgemem.runtime": ({"numpy", "onnxruntime"}, {"edgemem", "edgemem.runtime"}),
    "edgemem.models": (
        {"numpy", "safetensors", "torch", "PIL", "onnx", "onnxruntime"},
        {"edgemem", "edgemem.models"},
    ),
    "edgemem.export": (
        {"numpy", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime"},
        {"edgemem", "edgemem.models", "edgemem.export"},
    ),
}


# From the lowest to the highest: a module imports its own layer and those below it, inside
# functions and for types alone, too. The longest name that fits decides; "edgemem" is the package
# itself.
LAYERS = (
    ("edgemem.errors", "edgemem.forks", "edgemem.printable", "edgemem.stopping", "edgemem.version"),
    ("edgemem.files",),
    ("edgemem.accuracy", "edgemem.block", "edgemem.plot", "edgemem.shifts"),
    ("edgemem.bank.levels", "edgemem.bank.read", "edgemem.state"),
    ("edgemem.bundle",),
    ("edgemem.bank",),
    # What the rooms of the runtime hand to each other, and what runs graphs for them.
    (
        "edgemem.runtime.answers", "edgemem.runtime.engines", "edgemem.runtime.frames",
        "edgemem.runtime.logits", "edgemem.runtime.ownership", "edgemem.runtime.result",
    ),
    (
        "edgemem.runtime.batch", "edgemem.runtime.classes", "edgemem.runtime.contexts",
        "edgemem.runtime.guard", "edgemem.runtime.persistence", "edgemem.runtime.session",
        "edgemem.runtime.step",
    ),
    ("edgemem.runtime",),
    ("edgemem", "edgemem.runtime.tools"),
    ("edgemem.demo", "edgemem.models"),
    ("edgemem.export",),
    ("edgemem.cli", "edgemem.testing"),
)  # fmt: skip
# For tests of what uses a runtime: it lies beside the package's top, and nothing of ours imports
# it.
FOR_TESTS = "edgemem.testing"
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}
MOST_FILES, MOST_LINES = 12, 300  # modules in a folder, __init__ included; lines of a module
# Rooms whose __init__ is a public path that people import from; in others it is a docstring.
PUBLIC = {
    "edgemem", "edgemem.cli", "edgemem.demo", "edgemem.export", "edgemem.models",
    "edgemem.models.networks", "edgemem.models.prototypes", "edgemem.runtime",
}  # fmt: skip


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


def dotted(room, path):
    """The name that a module is imported by."""
    parts = path.relative_to(ROOT / HOMES[room]).with_suffix("").parts
    return ".".join([room, *(part for part in parts if part != "__init__")])


MODULES = {dotted(room, path): path for room, path in SOURCES}
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
    whole = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else node.module for name in whole]


def every_import(path):
    """Names imported anywhere in a file, functions included."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {n for o in nodes if isinstance(o, (ast.Import, ast.ImportFrom)) for n in names(o)}


def imports(path):
    return [name for node in module_level(ast.parse(path.read_text()).body) for name in names(node)]


@each(SOURCES)
def test_a_room_imports_only_what_the_design_allows(room, path):
    packages, rooms = MAY_IMPORT["edgemem.runtime" if dotted(room, path) == FOR_TESTS else room]
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
from edgemem import block, open
from edgemem.errors import InputError
"""
    found = [name for node in module_level(ast.parse(code).body) for name in names(node)]
    assert found == ["a", "c", "d", "e", "h", "edgemem.block", "edgemem", "edgemem.errors"]
    assert room_of("edgemem.runtime.loop") == "edgemem.runtime"
    assert room_of("edgemem.runtimes") == "edgemem" and room_of("numpy") is None


def layer_of(module):
    """Number of the layer; a KeyError for a module that no layer names."""
    known = [name for name in LAYER_OF if name != "edgemem" and f"{module}.".startswith(f"{name}.")]
    return LAYER_OF[max(known, key=len, default=module)]


def test_no_layer_is_named_for_what_is_not_there():
    assert [n for n in LAYER_OF if not any(f"{m}.".startswith(f"{n}.") for m in MODULES)] == []


def test_imports_go_down_only_even_inside_functions():
    upwards = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in sorted(every_import(path))
        if name.partition(".")[0] == "edgemem" and layer_of(name) > layer_of(module)
    ]
    assert upwards == []


def test_a_layer_is_found_by_the_longest_name():
    assert layer_of("edgemem.runtime.tools.replay") > layer_of("edgemem.runtime.loop")
    assert layer_of("edgemem.runtime.loop") > layer_of("edgemem.runtime.result")
    assert layer_of("edgemem.bank.building.keys") > layer_of("edgemem.bank.levels.level")
    with pytest.raises(KeyError):
        layer_of("edgemem.blocks")


def test_no_folder_holds_too_many_modules():
    folders = [ROOT / folder for folder in (*HOMES.values(), "tests", "examples", "release")]
    held = defaultdict(int)
    for path in {path for folder in folders for path in folder.rglob("*.py")}:
        held[path.parent.relative_to(ROOT).as_posix()] += 1
    assert {folder: count for folder, count in held.items() if count > MOST_FILES} == {}


def test_no_module_is_too_long():
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > MOST_LINES} == {}


def twice(pairs):
    """Names that are there in more than one place, with their places."""
    places = defaultdict(set)
    for name, place in pairs:
        places[name].add(place)
    return {name: sorted(found) for name, found in places.items() if len(found) > 1}


def test_no_module_or_folder_has_a_name_twice():
    assert twice((module.rpartition(".")[2], module) for module in MODULES) == {}


def test_no_public_class_has_a_name_twice():
    classes = [
        (node.name, module)
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert twice(classes) == {}
    assert twice([("A", "x"), ("B", "x"), ("A", "y")]) == {"A": ["x", "y"]}


def test_a_room_says_in_its_docstring_what_it_is_and_holds_nothing_else():
    rooms = {m: path for m, path in MODULES.items() if path.name == "__init__.py"}
    assert rooms.keys() >= PUBLIC
    for room, path in rooms.items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), room
        assert room in PUBLIC or len(tree.body) == 1, room


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
    assert len(graph["edgemem.runtime.loop"]) > 3
    while leaves := {module for module, needed in graph.items() if not needed}:
        graph = {m: needed - leaves for m, needed in graph.items() if m not in leaves}
    assert graph == {}


def test_a_plain_install_brings_five_packages():
    found = {re.split(r"[<>=~!]", text)[0] for text in SETUP["project"]["dependencies"]}
    assert found == {"numpy", "onnxruntime", "safetensors", "typer", "rich"}


def test_tests_hold_no_package_that_would_hide_the_real_one():
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert "tests" not in SETUP["tool"]["pytest"]["ini_options"]["pythonpath"]
