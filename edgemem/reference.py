"""Reference frames: the same numbers on every machine, without storing them.

A bundle holds what torch computed on these frames; `edgemem verify` computes it again.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgemem.manifest import FrameSpec

MULTIPLIER = 2654435761  # Knuth's multiplicative hash, 2**32 / golden ratio


def reference_frames(spec: FrameSpec, seed: int = 0) -> NDArray[np.float32]:
    """One batch [batch, *shape] float32 in [0, 1): coarse patterns with noise on top."""
    shape = (spec.batch, *spec.shape)
    noise = _hashed(math.prod(shape), seed).reshape(shape)
    level = _hashed(spec.batch, seed + 1).reshape(-1, *[1] * len(spec.shape))
    wave = np.zeros(shape, np.float64)
    for axis in range(2, len(shape)):
        phase = np.arange(shape[axis]) / shape[axis]
        wave = wave + np.reshape(phase, [-1 if a == axis else 1 for a in range(len(shape))])
    pattern = np.abs((wave * (1 + 3 * level) + level) % 1.0)
    return (0.75 * pattern + 0.25 * noise).astype(np.float32)


def _hashed(count: int, seed: int) -> NDArray[np.float64]:
    index = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed * 7919)
    mixed = (index * np.uint64(MULTIPLIER)) % np.uint64(1 << 32)
    mixed = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(MULTIPLIER)) % np.uint64(1 << 32)
    return mixed / float(1 << 32)
