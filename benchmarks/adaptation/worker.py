"""One method on one stream, in a process of its own: prints its figures as a JSON line.

One of ours runs without torch. Arguments: folder, method, protocol, seed, threads.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from adaptation.measures import known, measures
from adaptation.methods import OURS, named
from adaptation.running import Running, running
from adaptation.streams import CLEAN, Stream
from edgemem.runtime.memory import peak_rss_mb

SOURCE_FRAMES = 1024  # of the error on source frames after the stream


class Pool:
    """Frames of all contexts on disk."""

    def __init__(self, folder: Path, contexts: tuple[str, ...]) -> None:
        self._images = [np.load(pool_path(folder, name), mmap_mode="r") for name in contexts]

    def frames(self, context: Any, image: Any) -> Any:
        """Frames [n, ...] uint8 by context and image."""
        return np.stack([self._images[c][i] for c, i in zip(context, image, strict=True)])


def pool_path(folder: Path, context: str) -> Path:
    """Where the frames of a context lie."""
    return folder / "pool" / f"{context.replace('/', '-')}.npy"


def run(folder: Path, method: Running, stream: Stream) -> dict[str, Any]:
    """Figures of one run; wrong: of every frame."""
    pool, wrong, seconds = Pool(folder, stream.contexts), np.zeros(len(stream), np.bool_), 0.0
    names: list[str | None] = []
    for start in range(0, len(stream), stream.batch):
        part = slice(start, start + stream.batch)
        frames = pool.frames(stream.context[part], stream.image[part])
        began = time.perf_counter()
        labels = method.answer(frames)
        seconds += time.perf_counter() - began
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
    place, name, protocol, seed, threads = sys.argv[1:]
    folder = Path(place)
    stream = Stream.load(folder / "streams" / f"{protocol}-{seed}.npz")
    with tempfile.TemporaryDirectory(dir=folder) as text:
        state = Path(text) / "state.db"
        with closing(running(folder, name, protocol, state, int(seed), int(threads))) as method:
            found = run(folder, method, stream)
    wrong = found.pop("wrong")
    assert named(name)[0] not in OURS or "torch" not in sys.modules
    curves = folder / "curves"
    curves.mkdir(exist_ok=True)
    np.save(curves / f"{protocol}-{seed}-{name}.npy", wrong)
    print(json.dumps({**found, **measures(wrong, stream)}))


if __name__ == "__main__":
    main()
