"""Blocks of a level: the mean over the keys of each node, less what the rows above it hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.level import Level
from edgemem.bank.levels.level_header import LevelShape

Row = NDArray[np.float32]
CHUNK_BYTES = 8 << 20


def mean_rows(
    shape: LevelShape,
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    blocks: NDArray[np.float32] | None,
    above: Sequence[Level],
    progress: Callable[[int, int], None],
) -> Iterator[Row]:
    """The rows of a level, one by one; all zeros without blocks.

    What lies above is taken as it is stored, rounding included, so that rounding errors do not add
    up: the sum along a path misses the mean by the rounding of its last row alone.

    Args:
        shape: of the level.
        counts: [n] keys of each node; 0 = absent, its row is zero.
        order: numbers of the keys, those of a node side by side, nodes by row.
        blocks: [N, elements], one a key.
        above: the levels above as written, level 1 first.
        progress: called with rows done and of all.
    """
    zero, start, parent = np.zeros(shape.elements, np.float32), 0, -1
    for row, count in enumerate(counts.tolist()):
        if blocks is None or count == 0:
            yield zero
            continue
        if above and row // shape.branch != parent:
            parent = row // shape.branch
            value = path_value(above, parent)
        mean = _mean(blocks, order[start : start + count])
        start += count
        yield (mean - value if above else mean).astype(np.float32)
        progress(start, len(order))


def path_value(levels: Sequence[Level], row: int) -> Row:
    """Sum [elements] of the rows of a path, added up as on a device.

    Args:
        levels: level 1 and those below it, at least one.
        row: where the path ends, in the last of them.

    Raises:
        BankError: a row is damaged or cannot be read.
    """
    shape = levels[-1].shape
    values, stored = np.zeros(shape.elements, np.float32), np.empty(shape.elements, np.float32)
    for steps, level in zip(reversed(range(len(levels))), levels, strict=True):
        level.read_row(row // shape.branch**steps, stored)
        values += stored
    return values


def _mean(blocks: NDArray[np.float32], members: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.zeros(blocks.shape[1])
    step = max(1, CHUNK_BYTES // (4 * blocks.shape[1]))
    for first in range(0, len(members), step):
        total += blocks[members[first : first + step]].sum(axis=0, dtype=np.float64)
    return total / len(members)
