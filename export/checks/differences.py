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
    return _relative(found, expected, _slot_kinds(expected))


def slot_shares(expected: Arrays) -> dict[str, float]:
    """Size of every slot as a part of the largest one of its kind; the small part at least."""
    kinds = _slot_kinds(expected)
    sizes, largest = _sizes(expected, kinds)
    return {n: max(SLOT_FLOOR, sizes[n] / (largest[k] or 1.0)) for n, k in kinds.items()}


def _slot_kinds(expected: Arrays) -> dict[str, str]:
    return {n: n.split(".")[2] for n in expected if n.startswith("next.opt.")}


def block_differences(found: Arrays, expected: Arrays) -> dict[str, float]:
    """The same of every array of the next block."""
    kinds = {n: n.rpartition(".")[2] for n in expected if n.startswith("next.block.")}
    return _relative(found, expected, kinds)


def _relative(found: Arrays, expected: Arrays, kinds: Mapping[str, str]) -> dict[str, float]:
    sizes, largest = _sizes(expected, kinds)
    differences = {}
    for name, kind in kinds.items():
        scale = max(sizes[name], SLOT_FLOOR * largest[kind])
        if scale > 0 or found[name].any():
            off = float(np.abs(found[name] - expected[name]).max(initial=0.0))
            differences[name] = off / scale if scale else float("inf")
    return differences


def _sizes(expected: Arrays, kinds: Mapping[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """Largest value of every array, and of all arrays of every kind."""
    largest: dict[str, float] = {}
    sizes = {name: float(np.abs(expected[name]).max(initial=0.0)) for name in kinds}
    for name, kind in kinds.items():
        largest[kind] = max(sizes[name], largest.get(kind, 0.0))
    return sizes, largest


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
