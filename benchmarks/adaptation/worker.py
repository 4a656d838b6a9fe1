"""One method on one stream, in a process of its own: writes what it answered, and figures.

One of ours runs without torch. Arguments: folder, method, protocol, seed, threads, path to write.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation.kept import keep
from benchmarks.adaptation.measures import known
from benchmarks.adaptation.methods import OURS, named
from benchmarks.adaptation.running import Running, running
from benchmarks.adaptation.streams import CLEAN, Stream, pool_path
from edgemem.runtime.engines.process_memory import peak_rss_mb

SOURCE_FRAMES = 1024  # of the error on source frames after the stream


class Pool:
    """Frames of all contexts on disk."""

    def __init__(self, folder: Path, contexts: tuple[str, ...]) -> None:
        self._images = [np.load(pool_path(folder, name), mmap_mode="r") for name in contexts]

    def frames(self, context: Any, image: Any) -> Any:
        """Frames [n, ...] uint8 by context and image."""
        return np.stack([self._images[c][i] for c, i in zip(context, image, strict=True)])


def run(folder: Path, method: Running, stream: Stream) -> dict[str, Any]:
    """Figures of one run; wrong: of every frame. Times are the processor's: other work on the
    machine does not count."""
    pool, wrong, seconds = Pool(folder, stream.contexts), np.zeros(len(stream), np.bool_), 0.0
    names: list[str | None] = []
    for start in range(0, len(stream), stream.batch):
        part = slice(start, start + stream.batch)
        frames = pool.frames(stream.context[part], stream.image[part])
        began = time.process_time()
        labels = method.answer(frames)
        seconds += time.process_time() - began
        wrong[part] = labels != stream.label[part]
        names.append(method.context)
    clean = np.load(pool_path(folder, CLEAN), mmap_mode="r")[:SOURCE_FRAMES]
    truth = np.load(folder / "clean_labels.npy")[:SOURCE_FRAMES]
    written = method.bytes_written
    return {
        "wrong": wrong,
        "known": known(names, stream),
        "kilobytes_per_1000_frames": None if written is None else written / len(stream),
        "source_after": float((method.evaluate(clean) != truth).mean()),
        "ms_per_frame": 1000 * seconds / len(stream),
        "peak_mb": peak_rss_mb(),
    }


def main() -> None:
    """See above."""
    place, name, protocol, seed, threads, path = sys.argv[1:]
    folder = Path(place)
    stream = Stream.load(folder / "streams" / f"{protocol}-{seed}.npz")
    with tempfile.TemporaryDirectory(dir=folder) as text:
        state = Path(text) / "state.db"
        with closing(running(folder, name, protocol, state, int(seed), int(threads))) as method:
            found = run(folder, method, stream)
    assert named(name)[0] not in OURS or "torch" not in sys.modules
    keep(Path(path), found.pop("wrong"), found)


if __name__ == "__main__":
    main()
