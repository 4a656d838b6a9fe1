"""A stream through a runtime: what it answers, and what it tells of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgemem


def answers(result: edgemem.Result) -> NDArray[np.float32]:
    """Logits of classes, or the first output of another task."""
    return result.logits if result.logits.size else next(iter(result.outputs.values()))


def stream(
    runtime: edgemem.Runtime, x: NDArray[Any], batch: int
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Answers to frames [n, ...] in batches, each from before its step; how often what happened."""
    found, told = [], Counter[str]()
    for start in range(0, len(x), batch):
        result = runtime.step(x[start : start + batch])
        found.append(answers(result))
        told.update(str(event.kind) for event in result.events)
    return np.concatenate(found), dict(told)
