"""Checks every number of a bank that can be checked."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.level import Level
from edgemem.bank.levels.level_folder import open_levels
from edgemem.errors import BankError

CHUNK_ROWS = 1 << 18  # whose counts are compared at once
# Stage, done, total.
Progress = Callable[[str, int, int], None]


def verify_bank(
    folder: Path, progress: Progress = lambda stage, done, total: None
) -> Iterator[str]:
    """What is wrong with the levels of a folder, one readable text each.

    Checks the check sums of index and rows, that values can be used, that parents follow from rows,
    that absent children have no key, and that the counts of children add up to their parent's.

    Raises:
        BankError: a file cannot be opened, or its header is damaged.
    """
    levels = open_levels(folder)
    try:
        for above, level in zip([None, *levels], levels, strict=False):
            if not level.index_is_whole():
                yield f"{level.path}: keys, parents, counts or check sums are damaged"
            yield from _index_faults(level)
            if above is not None:
                yield from _count_faults(level, above)
            yield from _row_faults(level, progress)
    finally:
        for level in levels:
            level.close()


def _index_faults(level: Level) -> Iterator[str]:
    branch = level.shape.branch
    for first, parent in level.columns("parent"):
        rows = np.arange(first, first + len(parent))
        for row in rows[parent != rows // branch].tolist():
            yield f"{level.path}: row {row} has another parent than {row // branch}"
    for first, keys in level.columns("keys"):
        present = level.column("count", first, len(keys)) > 0
        finite, absent = np.isfinite(keys).all(axis=1), (keys == np.inf).all(axis=1)
        for row in np.flatnonzero(np.where(present, ~finite, ~absent)).tolist():
            yield f"{level.path}: key {first + row} does not fit its count"
        stored = level.column("key_crc", first, len(keys))
        for row in np.flatnonzero(stored != [zlib.crc32(key) for key in keys]).tolist():
            yield f"{level.path}: key {first + row} is damaged (check sum)"


def _count_faults(level: Level, above: Level) -> Iterator[str]:
    branch = level.shape.branch
    step = max(1, CHUNK_ROWS // branch)
    for first in range(0, above.shape.rows, step):
        parents: NDArray[np.int64] = above.column(
            "count", first, min(step, above.shape.rows - first)
        )
        children = level.column("count", first * branch, len(parents) * branch)
        sums = children.reshape(-1, branch).sum(axis=1)
        # A node whose children are all absent is a leaf.
        for place in np.flatnonzero((sums != parents) & (sums != 0)).tolist():
            yield (
                f"{level.path}: the children of row {first + place} count {sums[place]}, "
                f"their parent {parents[place]}"
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
