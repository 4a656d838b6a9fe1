"""Run in an environment that holds the wheel and its dependencies only: the whole device side."""

import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys

HEAVY = ("torch", "onnx", "transformers", "onnxscript", "matplotlib")
TRAIN_SIDE = ("edgemem.models", "edgemem.export")


def device_modules():
    """Import every module of the device side, at any depth."""
    import edgemem

    for info in pkgutil.walk_packages(edgemem.__path__, "edgemem.", onerror=lambda name: None):
        if not info.name.startswith(TRAIN_SIDE):
            importlib.import_module(info.name)
            yield info.name


def main(command):
    """Check, and say what was checked."""
    for name in HEAVY:
        assert importlib.util.find_spec(name) is None, f"{name} is installed here"
    imported = list(device_modules())
    assert "edgemem.runtime.loop" in imported and "edgemem.cli.commands.device" in imported, (
        imported
    )
    assert not set(HEAVY) & set(sys.modules)
    finished = subprocess.run(
        [command, "demo", "--json"], check=True, capture_output=True, text=True
    )
    found = json.loads(finished.stdout)
    assert found["adapted_error"] <= 0.8 * found["frozen_error"], found
    assert found["peak_rss_mb"] < 150 and found["plot"] is None, found
    missing = subprocess.run(
        [command, "export", "x.pt", "--model", "a:b", "--out", "y"], capture_output=True, text=True
    )
    assert missing.returncode == 1 and "pip install 'edgemem[export]'" in missing.stderr, missing
    print(f"empty environment: {len(imported)} modules imported, demo ran without torch")


if __name__ == "__main__":
    main(sys.argv[1])
