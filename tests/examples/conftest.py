"""Run an example as a user does: its one command, in a process of its own."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN_SIDE = ("torch", "onnx", "onnxscript")


@pytest.fixture
def example(tmp_path):
    """A function that runs a script of the examples; needing the train side is an error."""

    def run(script, *options, modules=None):
        command = [sys.executable, "-X", "importtime", ROOT / "examples" / script, *options]
        environment = os.environ | {"PYTHONPATH": str(modules or "")}
        found = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        lines = found.stderr.splitlines()
        imported = {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}
        assert "edgemem" in imported and not imported & set(TRAIN_SIDE)
        found.stderr = "\n".join(line for line in lines if not line.startswith("import time:"))
        return found

    return run


@pytest.fixture
def refused(example):
    """A function that runs a script which must refuse its input; the one line that it says."""

    def run(script, *options):
        found = example(script, *options)
        assert found.returncode == 2 and found.stdout == "", found
        assert "Traceback" not in found.stderr and found.stderr.count("\n") == 0, found.stderr
        return found.stderr

    return run


@pytest.fixture
def module(monkeypatch):
    """A function that imports a module of an example for one test."""
    known = set(sys.modules)

    def load(folder, name):
        monkeypatch.syspath_prepend(str(ROOT / "examples" / folder))
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - known:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if path.startswith(str(ROOT / "examples")):
            del sys.modules[name]
