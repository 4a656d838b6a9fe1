"""What a plan takes in a process of its own: `python -m edgemem.runtime.tools.plan_cost`.

Arguments: `predict` graph, step graph, .npz with their inputs, profile, threads. Prints one JSON
line: bytes above those of the imported engine, and milliseconds of a step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.engines.process_memory import peak_rss_mb

RUNS = 5


def main() -> None:
    """Measure one plan."""
    predict_path, step_path, inputs, profile, threads = sys.argv[1:]
    before = peak_rss_mb()
    backend = OnnxRuntimeBackend(int(threads), profile)
    predict, step = backend.open(Path(predict_path)), backend.open(Path(step_path))
    with np.load(inputs, allow_pickle=False) as arrays:
        feeds = dict(arrays)
    times = []
    for _ in range(RUNS):
        predict.run({name: feeds[name] for name in predict.inputs})
        began = time.perf_counter()
        step.run({name: feeds[name] for name in step.inputs})
        times.append(1000 * (time.perf_counter() - began))
    found = {"bytes": int(1e6 * (peak_rss_mb() - before)), "milliseconds": min(times)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
