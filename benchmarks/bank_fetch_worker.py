"""Measures one bank in a process of its own: fetches, bare reads of the same bytes, memory."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgemem.bank.folder import open_levels
from edgemem.bank.level_header import read_header
from edgemem.bank.shipped import ShippedBank

CONTEXTS = 40
WARM = ("bare", "fetch", "fetch, cached", "bare, rows alone", "fetch, rows alone")


class BareReads:
    """os.pread of the bytes that a fetch reads below the pinned level: children's keys, rows."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("level-*.safetensors"))
        self.handles = [os.open(path, os.O_RDONLY) for path in paths]
        self.headers = [read_header(handle, "level") for handle in self.handles]

    def __call__(self, path: tuple[int, ...]) -> None:
        """Read what a fetch along the path reads."""
        for level in range(1, len(path)):
            shape, begin = self.headers[level].shape, self.headers[level].begin["keys"]
            size = 4 * shape.branch * shape.key_length
            os.pread(self.handles[level], size, begin + size * path[level - 1])
        self.rows(path)

    def rows(self, path: tuple[int, ...]) -> None:
        """Read the rows alone."""
        for level in range(1, len(path)):
            size, begin = self.headers[level].shape.row_bytes, self.headers[level].begin["blocks"]
            os.pread(self.handles[level], size, begin + size * path[level])

    def drop(self) -> None:
        """Drop the pages of the files from the page cache."""
        for handle in self.handles:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def timed(call: Callable[[], Any]) -> float:
    """Microseconds."""
    began = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - began)


def figures(times: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"p50": float(np.median(times)), "p99": float(np.quantile(times, 0.99))}


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB: no mapped files, no page cache."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure_memory(folder: Path, elements: int, keys: Any) -> dict[str, float]:
    """Growth by opening and fetching; run first, while nothing else was reserved."""
    before = anonymous_mb()
    with ShippedBank(folder, elements) as bank:
        for key in keys:
            bank.fetch(key)
        grown = anonymous_mb() - before
        pinned = bank.levels[0].shape
    size = pinned.rows * (pinned.row_bytes + 4 * pinned.key_length) / 1e6
    return {"grown_mb": grown, "pinned_mb": size}


def measure_cold(folder: Path, elements: int, keys: Any, repeats: int) -> dict[str, Any]:
    """Pages dropped before each fetch and each bare read; both of contexts drawn at random."""
    bare, times = BareReads(folder), {"bare": [], "fetch": []}
    with ShippedBank(folder, elements, cache_bytes=0) as bank:
        # Paths first: looking one up just before its bare read would warm caches of the disk.
        paths = [bank.descend(key, []).path for key in keys[:repeats]]
        for path, second in zip(paths, keys[repeats : 2 * repeats], strict=True):
            bare.drop()
            times["bare"].append(timed(lambda path=path: bare(path)))
            bare.drop()
            times["fetch"].append(timed(lambda second=second: bank.fetch(second)))
    return {name: figures(values) for name, values in times.items()}


def measure_warm(folder: Path, elements: int, keys: Any, repeats: int) -> dict[str, Any]:
    """Pages in the page cache; fetches without a cache of our own, and with one."""
    bare = BareReads(folder)
    times: dict[str, list[float]] = {name: [] for name in WARM}
    room = 1 << 30
    with (
        ShippedBank(folder, elements, cache_bytes=0) as bank,
        ShippedBank(folder, elements, cache_bytes=room) as cached,
    ):
        paths = [bank.fetch(key).path for key in keys[:CONTEXTS]]
        for key in keys[:CONTEXTS]:
            bank.fetch(key)
            cached.fetch(key)
        for number in range(repeats):
            key, path = keys[number % CONTEXTS], paths[number % CONTEXTS]
            times["bare"].append(timed(lambda path=path: bare(path)))
            times["fetch"].append(timed(lambda key=key: bank.fetch(key)))
            times["fetch, cached"].append(timed(lambda key=key: cached.fetch(key)))
            times["bare, rows alone"].append(timed(lambda path=path: bare.rows(path)))
            times["fetch, rows alone"].append(timed(lambda path=path: bank.sum_rows(path, [])))
    return {name: figures(values) for name, values in times.items()}


def measure_descent(folder: Path, keys: Any, repeats: int) -> dict[str, float]:
    """From key to leaf, keys of the children in the page cache but not in ours."""
    with ShippedBank(folder, 0, cache_bytes=0) as bank:
        for key in keys[:CONTEXTS]:
            bank.descend(key, [])
        chosen = [keys[number % CONTEXTS] for number in range(repeats)]
        return figures([timed(lambda key=key: bank.descend(key, [])) for key in chosen])


def main() -> None:
    """Print the figures of a bank as JSON."""
    folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
    levels = open_levels(folder)
    shape = levels[-1].shape
    for level in levels:
        level.close()
    random = np.random.default_rng(0)
    keys = random.normal(size=(2 * repeats, shape.key_length)).astype(np.float32)
    if shape.elements == 0:
        print(json.dumps({"descent": measure_descent(folder, keys, repeats)}))
        return
    found = {"memory": measure_memory(folder, shape.elements, keys)}
    found["cold"] = measure_cold(folder, shape.elements, keys, repeats)
    found["warm"] = measure_warm(folder, shape.elements, keys, repeats)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
