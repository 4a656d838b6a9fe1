"""Symptoms of a block gone astray, or of frames that spoil it; as pure functions, without labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays, BlockSpec
from edgemem.runtime.graphs import Frames

Logits = NDArray[np.float32]
LEAST = 8  # frames on which the references must agree for a verdict
DISSENT = 0.5  # part of these frames on which a sound block does not contradict both
ONE_CLASS = 0.9  # part of the predictions
FARTHEST = 1.1  # see `farthest`; the zero block, which may be asked for, is at one


def dissent(own: Logits, source: Logits, frozen: Logits) -> str | None:
    """What speaks against a block, from logits [n, classes] of it and of the references."""
    labels, trusted = own.argmax(1), frozen.argmax(1)
    agreed = trusted == source.argmax(1)
    if agreed.sum() < LEAST or not np.isfinite(source).all():
        return None
    against = float((labels != trusted)[agreed].mean())
    if against <= DISSENT:
        return None
    top = np.bincount(labels).max() / len(labels)
    name = "one class for nearly all frames" if top >= ONE_CLASS else "other classes"
    return f"the block predicts {name}, against source and frozen model on {against:.0%}"


def farthest(spec: BlockSpec, source: Arrays, block: Arrays) -> float:
    """How far the array that went farthest is from the source.

    Only arrays that learn count, not statistics. A kernel's distance is in lengths of the source's;
    the root mean square of a scale's or shift's is taken as it is, for one is their natural unit.
    """
    names = [array.name for array in spec.arrays if array.root_share]
    return max((_moved(source[name], block[name]) for name in names), default=0.0)


def _moved(source: Array, array: Array) -> float:
    if source is array:
        return 0.0
    length = float(np.linalg.norm(source)) if array.ndim > 1 else 0.0
    change = np.subtract(array, source, dtype=np.float64)
    return float(np.linalg.norm(change)) / (length or np.sqrt(array.size))


def is_still(window: Frames) -> bool:
    """Whether all frames of a batch are the same: a covered lens, a stuck sensor."""
    return len(window) > 1 and bool((window[1:] == window[0]).all())
