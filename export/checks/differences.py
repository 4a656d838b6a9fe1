"""How far the numbers of an engine are from torch's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemem.block import Array
from edgemem.bundle.manifest import CLOSED
from edgemem.export.checks.onnx_graphs import Arrays

SLOT_FLOOR = 1e-5


def slot_differences(found: Arrays, expected: Arrays) -> dict[str, float]:
    """Largest difference of every slot, relative to that slot.

    Those of almost nothing but rounding noise are relative to a small part of the largest slot of
    their kind.
    """
    largest: dict[str, float] = {}
    sizes = {n: float(np.abs(v).max()) for n, v in expected.items() if n.startswith("next.opt.")}
    for name, size in sizes.items():
        kind = name.split(".")[2]
        largest[kind] = max(size, largest.get(kind, 0.0))
    differences = {}
    for name, size in sizes.items():
        scale = max(size, SLOT_FLOOR * largest[name.split(".")[2]])
        if scale > 0 or found[name].any():
            off = float(np.abs(found[name] - expected[name]).max())
            differences[name] = off / scale if scale else float("inf")
    return differences


def least(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """The smaller difference of each name."""
    return {name: min(value, before.get(name, value)) for name, value in now.items()}


def difference(found: Array, expected: Array, floor: float = 1.0) -> float:
    """Largest difference, relative to the largest expected value where that is above `floor`.

    Logits of classes that are not there do not count for large.
    """
    if expected.size == 0:
        return 0.0
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    there = np.where(expected == CLOSED, 0.0, expected)
    scale = max(floor, float(np.abs(there).max()))
    return float(np.abs(found - expected).max()) / scale
