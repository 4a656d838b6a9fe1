"""Run where onnxruntime cannot be imported: LiteRT does the whole job, and says so."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import edgemem
from edgemem.demo import BUNDLE as WITHOUT_LITERT
from edgemem.demo import STREAM


def main(bundle, command):
    """Check, and say what was checked."""
    assert importlib.util.find_spec("onnxruntime") is None, "onnxruntime is installed here"
    with np.load(STREAM) as stream:
        x, y, context = stream["x"], stream["y"], stream["context"]
    chosen = np.flatnonzero(context == "fog")[:480]
    with edgemem.open(bundle) as runtime:
        assert runtime.engine.provider == "litert", runtime.engine
        assert "onnxruntime cannot be imported" in runtime.engine.why
        found = [runtime.step(x[chosen[i : i + 16]]).labels for i in range(0, len(chosen), 16)]
        frozen = runtime.predict(x[chosen], frozen=True).labels
        assert runtime.counters["updates"] >= 25, runtime.counters
    errors = float((np.concatenate(found) != y[chosen]).mean()), float((frozen != y[chosen]).mean())
    assert errors[0] < errors[1], errors
    try:
        edgemem.open(WITHOUT_LITERT)
    except edgemem.InputError as error:
        assert "--target litert" in error.remedy, error
    else:
        raise AssertionError("a bundle without LiteRT graphs was opened")
    finished = subprocess.run(
        [command, "doctor", str(bundle), "--json"], check=True, capture_output=True, text=True
    )
    assert json.loads(finished.stdout)["bundle"]["auto"].startswith("litert")
    subprocess.run([command, "verify", str(bundle)], check=True, stdout=subprocess.DEVNULL)
    print(f"without onnxruntime: error {errors[0]:.3f} on fog, the frozen model's {errors[1]:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
