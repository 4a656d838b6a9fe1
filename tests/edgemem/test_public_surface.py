"""What `edgemem` exports, what importing it costs, and its errors."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgemem
from edgemem import errors
from edgemem.demo import BUNDLE
from edgemem.runtime.loop import Runtime
from edgemem.runtime.result import Event, Result

HEAVY = {"torch", "onnx", "onnxscript", "transformers", "matplotlib", "PIL", "scipy", "sklearn"}
PUBLIC = {
    "AttachError", "BankError", "BundleError", "CheckpointError", "ClassInfo", "EdgeMemError",
    "Event", "EventKind", "ExportError", "Generated", "Generation", "InputError",
    "LanguageRuntime", "MissingExtraError", "Options", "Result", "Runtime", "StateError",
    "__version__", "open", "open_language",
}  # fmt: skip
TREE = [getattr(errors, name) for name in dir(errors) if name.endswith("Error")]


def loaded_after(code, cwd="/"):
    """Top-level modules that a fresh interpreter holds after `code`."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    finished = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=cwd
    )
    return set(finished.stdout.splitlines()[-1].split())


def test_the_export_list_is_this_one():
    assert set(edgemem.__all__) == PUBLIC
    assert list(edgemem.__all__) == sorted(edgemem.__all__)


def test_every_exported_name_is_what_it_says():
    assert (edgemem.Runtime, edgemem.Event, edgemem.Result) == (Runtime, Event, Result)
    for name in edgemem.__all__:
        assert getattr(edgemem, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", edgemem.__version__)


def test_star_import_gives_the_list_and_no_more():
    space = {}
    exec("from edgemem import *", space)  # noqa: S102
    assert set(space) - {"__builtins__"} == PUBLIC


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        edgemem.opne  # noqa: B018


@pytest.mark.parametrize(
    "module",
    [
        "edgemem", "edgemem.cli", "edgemem.runtime", "edgemem.cli.commands.device",
        "edgemem.cli.commands.train", "edgemem.demo", "edgemem.plot", "edgemem.state.store",
        "edgemem.runtime.tools.verification",
    ],
)  # fmt: skip
def test_importing_the_device_side_loads_nothing_heavy(module):
    found = loaded_after(f"import {module}")
    assert "edgemem" in found and not found & HEAVY


@pytest.mark.parametrize("module", ["edgemem", "edgemem.errors", "edgemem.cli"])
def test_importing_the_root_and_the_commands_loads_no_engine(module):
    assert not loaded_after(f"import {module}") & {"numpy", "onnxruntime", "safetensors"}


def test_a_whole_life_of_a_runtime_loads_nothing_heavy(tmp_path):
    code = f"""
import edgemem, numpy
with edgemem.open({str(BUNDLE)!r}, {str(tmp_path / "s.db")!r}) as runtime:
    runtime.step(numpy.zeros((40, 1, 8, 8), numpy.uint8))
    runtime.predict(numpy.zeros((1, 8, 8), numpy.uint8), frozen=True)
"""
    found = loaded_after(code)
    assert "onnxruntime" in found and not found & HEAVY


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_device_commands_load_nothing_heavy(command):
    code = f"""
import sys
from edgemem.cli import main
sys.argv = ["edgemem", {command!r}, {str(BUNDLE)!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    found = loaded_after(code)
    assert "onnxruntime" in found or command == "inspect"
    assert not found & HEAVY


def test_the_tree_of_errors_is_the_one_drawn_at_its_top():
    drawn = re.findall(r"([A-Z]\w+Error)", errors.__doc__)
    assert sorted(drawn) == sorted(error.__name__ for error in TREE)
    assert set(drawn) == {name for name in PUBLIC if name.endswith("Error")}
    for error in TREE:
        assert issubclass(error, edgemem.EdgeMemError)
        assert getattr(edgemem, error.__name__) is error


def made(kind):
    if kind is edgemem.MissingExtraError:
        return kind("torch", "export")
    return kind("thing", "reason", "Remedy")


@pytest.mark.parametrize("kind", TREE)
def test_errors_survive_pickling_with_all_they_know(kind):
    error = made(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error) and str(copy) == str(error)


def test_a_message_names_thing_reason_and_remedy():
    assert str(made(edgemem.BundleError)) == "thing: reason. Remedy."
    expected = "torch: is not installed. Run: pip install 'edgemem[export]'."
    assert str(edgemem.MissingExtraError("torch", "export")) == expected


def test_the_package_says_that_it_is_typed():
    assert (Path(edgemem.__file__).parent / "py.typed").is_file()


def test_frames_of_a_subclass_or_view_are_frames(digits_stream):
    x, _ = digits_stream
    with edgemem.open(BUNDLE, threads=1) as runtime:
        expected = runtime.predict(x[:8:2]).logits
        view = np.asfortranarray(x[:8])[::2]
        np.testing.assert_array_equal(runtime.predict(view).logits, expected)
