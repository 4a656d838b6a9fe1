"""What calls of one version of EdgeMem cost, on the demo that this version ships.

Usage: two_commits_worker.py FOLDER start|calls, with that version on PYTHONPATH. Prints JSON. It
uses what every version has: `open`, `step` and `predict`. A start is import and opening, and counts
from the start of the process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

BATCH = 16
BATCHES = 40  # that are repeated to time one call


def milliseconds(call: Callable[[int], object], count: int) -> float:
    """Processor time of a call, of all threads: the mean of so many."""
    began = time.process_time()
    for number in range(count):
        call(number)
    return 1000 * (time.process_time() - began) / count


def start(folder: Path) -> None:
    """Open the demo's bundle, and print what it took."""
    import edgemem

    bundle = Path(edgemem.__file__).with_name("demo") / "digits.edgemem"
    with edgemem.open(bundle, folder / "state.db", threads=1, provider="cpu"):
        print(json.dumps(1000 * time.process_time()))


def calls(folder: Path) -> None:
    """Predict and step, call by call and along the demo's stream; print what they took."""
    import numpy as np

    import edgemem

    demo = Path(edgemem.__file__).with_name("demo")
    bundle, found = demo / "digits.edgemem", {}

    held = np.load(demo / "digits-stream.npz")
    x = held["x"]
    with edgemem.open(bundle, folder / "calls.db", threads=1, provider="cpu") as runtime:
        for number in range(4):
            runtime.step(x[number * BATCH : (number + 1) * BATCH])
        for name, call in (("predict", runtime.predict), ("step", runtime.step)):
            for size, text in ((BATCH, "16 frames"), (1, "one frame")):
                found[f"{name}, {text}"] = milliseconds(
                    lambda n, call=call, size=size: call(x[n * size : (n + 1) * size]),
                    BATCHES * BATCH // size,
                )
    with edgemem.open(bundle, folder / "stream.db", threads=1, provider="cpu") as runtime:
        labels = []
        count = len(x) // BATCH
        found["the demo's stream"] = count * milliseconds(
            lambda n: labels.append(runtime.step(x[n * BATCH : (n + 1) * BATCH]).labels), count
        )
        steps = runtime.counters["steps"]
    answers = np.concatenate(labels)
    wrong = int(np.sum(answers != held["y"][: len(answers)]))
    said = {"ms": found, "steps": steps, "wrong": wrong, "labels": answers.tolist()}
    print(json.dumps(said))


if __name__ == "__main__":
    {"start": start, "calls": calls}[sys.argv[2]](Path(sys.argv[1]))
