"""Child of `memory.py`: one figure, in a process without torch. Prints one JSON line."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend, OnnxRuntimeGraph
from edgemem.runtime.engines.process_memory import peak_rss_mb

RUNS = 6


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
            time.sleep(0.0005)


def plain_session(path: str, threads: int) -> Any:
    """A plain model as onnxruntime runs it by default, and its input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options)
    (only,) = session.get_inputs()
    x = np.random.default_rng(0).random(only.shape, np.float32)
    return lambda: session.run(None, {only.name: x})


def fed(graph: OnnxRuntimeGraph, inputs: Path) -> Any:
    """A call of a graph with its inputs."""
    with np.load(inputs) as values:
        feeds = {name: values[name] for name in graph.inputs}
    return lambda: graph.run(feeds)


def measured(calls: list[Any], loaded: float) -> dict[str, float]:
    """MB while the calls run, above now."""
    start, times = anonymous_mb(), []
    with Peak() as peak:
        for _ in range(RUNS):
            began = time.perf_counter()
            for call in calls:
                call()
            times.append(1000 * (time.perf_counter() - began))
    return {"loaded_mb": loaded, "running_mb": peak.mb - start, "ms": min(times)}


def graph(path: str, inputs: str, profile: str, threads: str) -> dict[str, float]:
    """One graph; inputs "-": a plain model."""
    before = anonymous_mb()
    if inputs == "-":
        call = plain_session(path, int(threads))
    else:
        call = fed(OnnxRuntimeBackend(int(threads), profile).open(Path(path)), Path(inputs))
    return measured([call], anonymous_mb() - before)


def shared(folder: str, profile: str, threads: str) -> dict[str, float]:
    """Both graphs of one weights file."""
    before, backend = anonymous_mb(), OnnxRuntimeBackend(int(threads), profile)
    place = Path(folder)
    calls = [
        fed(backend.open(place / f"{name}.onnx"), place / "inputs.npz")
        for name in ("predict", "meta")
    ]
    return measured(calls, anonymous_mb() - before)


def process(path: str, budget: str, threads: str) -> dict[str, Any]:
    """A runtime that adapts; budget "least": the leanest plan."""
    imports = peak_rss_mb()
    least = min(plan.bytes for plan in open_bundle(path).manifest.plans)
    limit = least if budget == "least" else None
    with edgemem.open(
        path, threads=int(threads), options=edgemem.Options(memory_budget=limit)
    ) as runtime:
        frames = runtime.bundle.manifest.frames
        x = np.random.default_rng(0).random((frames.batch, *frames.shape), np.float32)
        for _ in range(RUNS):
            runtime.step(x)
        assert runtime.plan is not None
        name = runtime.plan.name
    return {"imports_mb": imports, "peak_mb": peak_rss_mb(), "plan": name}


def step(path: str, inputs: str, profile: str, threads: str) -> dict[str, float]:
    """Peak of this process, which runs one graph."""
    call = fed(OnnxRuntimeBackend(int(threads), profile).open(Path(path)), Path(inputs))
    for _ in range(RUNS):
        call()
    return {"peak_mb": peak_rss_mb()}


KINDS = {"step": step, "graph": graph, "shared": shared, "process": process}

if __name__ == "__main__":
    result = KINDS[sys.argv[1]](*sys.argv[2:])
    assert "torch" not in sys.modules
    print(json.dumps(result))
