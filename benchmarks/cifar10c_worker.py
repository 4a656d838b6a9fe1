"""Device side of `cifar10c.py`: one method over the streams, in a process without torch.

Prints JSON lines: {"frames": just done} while running, {"result": {stream: figures}} at the end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgemem
from edgemem.runtime.memory import peak_rss_mb
from edgemem.runtime.replay import replay
from edgemem.runtime.stream import Stream

BATCH = 64
Wrong = NDArray[np.bool_]


def say(**message: Any) -> None:
    """One JSON line to the parent."""
    print(json.dumps(message), flush=True)


def say_progress(done: int, _: float | None = None) -> None:
    """How many frames the chunk that ends at `done` held."""
    say(frames=(done - 1) % BATCH + 1)


def run_frozen(runtime: edgemem.Runtime, stream: Stream) -> tuple[Wrong, float, dict[str, int]]:
    """The frozen model; errors, seconds, no events."""
    assert stream.labels is not None
    wrong, seconds = np.zeros(stream.frames, np.bool_), 0.0
    for start, frames in stream.chunks(BATCH):
        began = time.perf_counter()
        result = runtime.predict(frames, frozen=True)
        seconds += time.perf_counter() - began
        span = slice(start, start + len(frames))
        wrong[span] = result.labels != stream.labels[span]
        say_progress(span.stop)
    return wrong, seconds, {}


def run_steps(runtime: edgemem.Runtime, stream: Stream) -> tuple[Wrong, float, dict[str, int]]:
    """Every batch through `step`; errors, seconds in `step` alone, events."""
    report = replay(runtime, stream, chunk=BATCH, frozen=False, progress=say_progress)
    assert report.wrong is not None
    return report.wrong, report.ms_per_frame * stream.frames / 1000, report.events


def measure(bundle: Path, mode: str, path: Path, threads: int, wrong_path: Path) -> dict[str, Any]:
    """Figures of one method (frozen, predict or adapt) on one stream; `wrong` goes to a file."""
    stream = Stream(path)
    assert stream.contexts is not None
    # One state: what contexts are worth is measured where they come back, by the harness.
    options = {"adapt": mode == "adapt", "contexts": False, "threads": threads}
    with edgemem.open(bundle, **options) as runtime:  # type: ignore[arg-type]
        run = run_frozen if mode == "frozen" else run_steps
        wrong, seconds, events = run(runtime, stream)
    np.save(wrong_path, wrong)
    names = dict.fromkeys(stream.contexts.tolist())
    return {
        "frames": stream.frames,
        "per_context": {name: float(wrong[stream.contexts == name].mean()) for name in names},
        "ms_per_batch": 1000 * seconds / stream.frames * BATCH,
        "events": events,
    }


def main() -> None:
    """Arguments: bundle, mode, threads, file stem for errors, streams (.npz) …"""
    bundle, mode, threads, stem, *streams = sys.argv[1:]
    result = {}
    for path in map(Path, streams):
        wrong_path = Path(f"{stem}-{path.stem}.npy")
        result[path.stem] = measure(Path(bundle), mode, path, int(threads), wrong_path)
        result[path.stem]["peak_rss_mb"] = round(peak_rss_mb(), 1)
    assert "torch" not in sys.modules
    say(result=result)


if __name__ == "__main__":
    main()
