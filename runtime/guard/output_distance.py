"""How far outputs without classes are from the frozen model's, in units of what source frames show.

A summary is a few numbers for each frame, which graphs return beside the outputs. Its deviation
over source frames says how much its numbers differ from frame to frame where nothing is wrong.

A large distance alone does not tell who is wrong: under a shift that statistics undo it is the
frozen model. So it counts against the block only where the frozen model's summaries are the more
like those of source frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgemem.bundle.manifest import TaskSpec
from edgemem.runtime.answers import Answers

SMALLEST = 1e-3  # part of the mean deviation: numbers that hardly vary do not count for more
LEAST = 1e-6


def deviations(summaries: Answers) -> tuple[float, ...]:
    """Of each number of the summaries [n, k] of source frames."""
    found = summaries.astype(np.float64).std(0)
    return tuple(np.maximum(found, max(SMALLEST * float(found.mean()), LEAST)).tolist())


def distance(own: Answers, frozen: Answers, task: TaskSpec) -> float:
    """Root mean square difference of summaries [n, k] in the deviations of a task that has them."""
    return _length(own.astype(np.float64) - frozen, task)


def strayed(own: Answers, frozen: Answers, task: TaskSpec) -> float | None:
    """The distance of a block's summaries [n, k], where it speaks against the block; else None.

    Nothing does where no deviations are known, or the frozen model gives values that are no
    numbers.
    """
    if not task.deviation or not np.isfinite(frozen).all():
        return None
    away, mean = distance(own, frozen, task), np.asarray(task.mean)
    stranger = _length(own - mean, task) > _length(frozen - mean, task)
    return away if away > task.limit and stranger else None


def _length(values: NDArray[np.float64], task: TaskSpec) -> float:
    return float(np.sqrt(np.mean(np.square(values / np.asarray(task.deviation)))))
