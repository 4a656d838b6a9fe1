"""Run in an environment that holds the wheel and its dependencies only: the whole device side."""

import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

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


def generate(command):
    """With the extra for text: a bundle answers as transformers did when it was made."""
    for name in HEAVY:
        assert importlib.util.find_spec(name) is None, f"{name} is installed here"
    known = json.loads(Path("answers.json").read_text(encoding="utf-8"))["answers"]
    import edgemem

    with edgemem.open_language("tiny.edgemem", threads=1) as runtime:
        for answer in known:
            how = edgemem.Generation(max_tokens=len(answer["tokens"]))
            found = runtime.generate(answer["prompt"], how, block=answer["path"] or answer["block"])
            list(found)
            assert found.tokens == answer["tokens"], answer
    words = [command, "generate", "tiny.edgemem", "--prompt", known[0]["prompt"], "--json"]
    finished = subprocess.run(words, check=True, capture_output=True, text=True)
    assert json.loads(finished.stdout), finished
    assert not set(HEAVY) & set(sys.modules)
    print(f"empty environment: {len(known)} answers of a language model, without torch")


if __name__ == "__main__":
    {"frames": main, "text": generate}[sys.argv[1]](sys.argv[2])
