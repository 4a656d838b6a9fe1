"""The share of answers that are wrong, as people count it."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edgemem.models.tasks.task_outputs import Task


def share_wrong(
    task: Task, found: NDArray[np.int64], right: NDArray[np.int64], frames: int
) -> float:
    """From classes at all positions of so many frames, and those that are right, both [n].

    Of sequences what is read counts, not where: runs of one class are one, and the share is that of
    edits (Levenshtein), one at most. A character that is lost is one step of many.
    """
    if task != "sequence":
        return float((found != right).mean())
    pairs = zip(found.reshape(frames, -1), right.reshape(frames, -1), strict=True)
    read = [([k for k, _ in groupby(a)], [k for k, _ in groupby(b)]) for a, b in pairs]
    edits = sum(_edits(a, b) for a, b in read)
    return min(1.0, edits / sum(len(b) for _, b in read))


def _edits(one: list[int], other: list[int]) -> int:
    """Elements to insert, remove or replace."""
    row = np.arange(len(other) + 1)
    places, wanted = np.arange(1, len(other) + 1), np.asarray(other)
    for number, element in enumerate(one, start=1):
        kept = np.minimum(row[:-1] + (wanted != element), row[1:] + 1)
        # Insertions run along the row: the least of what came before, and one for each step.
        row = np.concatenate([[number], kept])
        row[1:] = np.minimum.accumulate(row - np.arange(len(row)))[1:] + places
    return int(row[-1])
