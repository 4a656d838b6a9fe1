"""Child of `step_cost.py`: what one graph adds to the memory of a process without torch.

Arguments: path of the graph, bundle folder or "-", batch, threads. Prints one JSON line.
Memory is anonymous memory (Linux), read every millisecond while the graph runs: weights that
onnxruntime maps from a file, and its library, are not counted, for the system may drop them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgemem.bundle import open_bundle

RUNS = 5


def anonymous_mb() -> float:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("the kernel does not tell anonymous memory")


class Peak:
    """Largest anonymous memory while the context lasts."""

    def __enter__(self) -> Peak:
        self.mb, self._over = anonymous_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self.mb = max(self.mb, anonymous_mb())
            time.sleep(0.001)


def feeds(session: onnxruntime.InferenceSession, bundle: str, batch: int) -> dict[str, Any]:
    """A value for every input: random frames, and the bundle's own block, slots and settings."""
    x = np.random.default_rng(0).random((batch, 3, 32, 32), np.float32)
    values: dict[str, Any] = {"x": x}
    if bundle != "-":
        opened = open_bundle(Path(bundle))
        manifest = opened.manifest
        values |= {f"block.{name}": value for name, value in opened.generic.items()}
        values |= {f"opt.{name}": value for name, value in manifest.slots.zero().items()}
        values |= {
            f"hp.{name}": np.asarray(hp.default, np.float32)
            for name, hp in manifest.hyper_parameters.items()
        }
    return {i.name: values.get(i.name, x) for i in session.get_inputs()}


def main() -> None:
    """Measure one graph."""
    graph, bundle, batch, threads = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = int(threads), 3
    before = anonymous_mb()
    session = onnxruntime.InferenceSession(graph, options)
    loaded = anonymous_mb() - before
    values = feeds(session, bundle, int(batch))
    start = anonymous_mb()
    with Peak() as peak:
        for _ in range(RUNS):
            session.run(None, values)
    assert "torch" not in sys.modules
    print(json.dumps({"loaded_mb": loaded, "running_mb": peak.mb - start}))


if __name__ == "__main__":
    main()
