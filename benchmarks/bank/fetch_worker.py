"""Measures one bank in a process of its own: fetches, bare reads of the same bytes, memory."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgemem.bank.levels.level_folder import open_levels
from edgemem.bank.levels.level_header import read_header
from edgemem.bank.read.shipped_bank import ShippedBank

CONTEXTS = 40
FEW_BYTES = 1 << 20


class BareReads:
    """os.preadv of the bytes that a fetch reads below the pinned level: children's keys, rows.

    As bare as Python allows: into buffers that are there already, from places that are known.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("level-*.safetensors"))
        self.handles = [os.open(path, os.O_RDONLY) for path in paths]
        headers = [read_header(handle, "level") for handle in self.handles]
        shapes = [header.shape for header in headers]
        self._keys = [(4 * shape.branch * shape.key_length) for shape in shapes]
        self._rows = [shape.row_bytes for shape in shapes]
        self._begin = [(header.begin["keys"], header.begin["blocks"]) for header in headers]
        self._buffers = {size: np.empty(size, np.uint8) for size in {*self._keys, *self._rows}}

    def keys(self, path: tuple[int, ...]) -> list[tuple[int, Any, int]]:
        """Reads of the keys: handle, buffer, offset."""
        return [
            (self.handles[level], (self._buffers[size],), self._begin[level][0] + size * row)
            for level, (size, row) in enumerate(zip(self._keys[1:], path, strict=False), start=1)
        ]

    def rows(self, path: tuple[int, ...]) -> list[tuple[int, Any, int]]:
        """Reads of the rows."""
        return [
            (self.handles[level], (self._buffers[size],), self._begin[level][1] + size * row)
            for level, (size, row) in enumerate(zip(self._rows, path, strict=True))
            if level > 0
        ]

    def drop(self) -> None:
        """Drop the pages of the files from the page cache."""
        for handle in self.handles:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def read_bare(reads: list[tuple[int, Any, int]]) -> None:
    """Do these reads, and nothing else."""
    for handle, buffers, offset in reads:
        os.preadv(handle, buffers, offset)


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
            reads = bare.keys(path) + bare.rows(path)
            bare.drop()
            times["bare"].append(timed(lambda reads=reads: read_bare(reads)))
            bare.drop()
            times["fetch"].append(timed(lambda second=second: bank.fetch(second)))
    return {name: figures(values) for name, values in times.items()}


def measure_warm(folder: Path, elements: int, keys: Any, repeats: int) -> dict[str, Any]:
    """Pages in the page cache; fetches without a cache of our own, with a small and a large one.

    Every way takes another context than the one before it, so that none finds its bytes in the
    caches of the processor just because another way has read them.
    """
    bare = BareReads(folder)
    with ExitStack() as stack:
        bank, missed, cached = (
            stack.enter_context(ShippedBank(folder, elements, cache_bytes=size))
            for size in (0, FEW_BYTES, 1 << 30)
        )
        chosen = keys[:CONTEXTS]
        paths = [bank.fetch(key).path for key in chosen]
        for key in [*chosen, *chosen]:
            for each in (bank, missed, cached):
                each.fetch(key)
        rows = [bare.rows(path) for path in paths]
        reads = [bare.keys(path) + one for path, one in zip(paths, rows, strict=True)]
        buffer = np.empty(elements, bank.levels[-1].shape.dtype)

        def read_rows(path: tuple[int, ...]) -> None:
            for level in range(1, len(path)):
                bank.levels[level].read_stored(path[level], buffer)

        ways: dict[str, Callable[[int], Any]] = {
            "bare": lambda i: read_bare(reads[i]),
            "fetch": lambda i: bank.fetch(chosen[i]),
            "fetch, cache too small": lambda i: missed.fetch(chosen[i]),
            "fetch, cached": lambda i: cached.fetch(chosen[i]),
            "descent alone": lambda i: bank.descend(chosen[i], []),
            "bare, rows alone": lambda i: read_bare(rows[i]),
            "rows read": lambda i: read_rows(paths[i]),
            "rows summed": lambda i: bank.sum_rows(paths[i], []),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(repeats):
            for place, (name, way) in enumerate(ways.items()):
                i = (number + place * CONTEXTS // len(ways)) % CONTEXTS
                times[name].append(timed(partial(way, i)))
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
