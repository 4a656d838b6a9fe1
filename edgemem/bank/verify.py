"""Checks every number of a bank that can be checked."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.folder import open_levels
from edgemem.bank.level import Level
from edgemem.errors import BankError

# Stage, done, total.
Progress = Callable[[str, int, int], None]


def verify_bank(
    folder: Path, progress: Progress = lambda stage, done, total: None
) -> Iterator[str]:
    """What is wrong with the levels of a folder, one readable text each.

    Checks the check sums of index and rows, that parents follow from rows, that absent children
    have no key, and that the counts of children add up to their parent's.

    Raises:
        BankError: a file cannot be opened, or its header is damaged.
    """
    levels = open_levels(folder)
    try:
        above: NDArray[np.int64] | None = None
        for level in levels:
            if not level.index_is_whole():
                yield f"{level.path}: keys, parents, counts or check sums are damaged"
            count = level.column("count")
            yield from _index_faults(level, count, above)
            yield from _row_faults(level, progress)
            above = count
    finally:
        for level in levels:
            level.close()


def _index_faults(
    level: Level, count: NDArray[np.int64], above: NDArray[np.int64] | None
) -> Iterator[str]:
    branch = level.shape.branch
    for first, parent in level.columns("parent"):
        rows = np.arange(first, first + len(parent))
        for row in rows[parent != rows // branch].tolist():
            yield f"{level.path}: row {row} has another parent than {row // branch}"
    for first, keys in level.columns("keys"):
        present = count[first : first + len(keys)] > 0
        finite, absent = np.isfinite(keys).all(axis=1), (keys == np.inf).all(axis=1)
        for row in np.flatnonzero(np.where(present, ~finite, ~absent)).tolist():
            yield f"{level.path}: key {first + row} does not fit its count"
        stored = level.column("key_crc", first, len(keys))
        for row in np.flatnonzero(stored != [zlib.crc32(key) for key in keys]).tolist():
            yield f"{level.path}: key {first + row} is damaged (check sum)"
    if above is not None:
        sums = count.reshape(-1, branch).sum(axis=1)
        # A node whose children are all absent is a leaf.
        for row in np.flatnonzero((sums != above) & (sums != 0)).tolist():
            yield (
                f"{level.path}: the children of row {row} count {sums[row]}, "
                f"their parent {above[row]}"
            )


def _row_faults(level: Level, progress: Progress) -> Iterator[str]:
    stored = np.empty(level.shape.elements, level.shape.dtype)
    total, step = level.shape.rows, max(1, level.shape.rows // 1000)
    for row in range(total):
        try:
            level.read_stored(row, stored)
        except BankError as error:
            yield f"{error.thing}: {error.reason}"
        if (row + 1) % step == 0 or row + 1 == total:
            progress(level.path.name, row + 1, total)
