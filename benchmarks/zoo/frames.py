"""Source frames with something to see, and a stream that drifts away from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]
TEMPLATES = 10
COARSE = 5  # random values along an axis, between which a template runs smoothly


def source_frames(shape: tuple[int, ...], count: int, seed: int = 0) -> Frames:
    """Frames [count, *shape] in 0..1: one of ten smooth random templates each, varied a little."""
    templates = _smooth(np.random.default_rng(0), TEMPLATES, shape)
    rng = np.random.default_rng(seed + 1)
    kind = rng.integers(TEMPLATES, size=count)
    wide = (count, *[1] * len(shape))
    strength = rng.uniform(0.6, 1.0, wide)
    frames = 0.5 + strength * (templates[kind] - 0.5) + 0.3 * (_smooth(rng, count, shape) - 0.5)
    return np.clip(frames + rng.normal(0, 0.02, frames.shape), 0, 1).astype(np.float32)


def drifting(shape: tuple[int, ...], batches: int, batch: int) -> Iterator[Frames]:
    """New frames of the same templates that grow brighter, flatter and noisier."""
    rng = np.random.default_rng(7)
    for number in range(batches):
        away = (number + 1) / batches
        frames = source_frames(shape, batch, seed=100 + number)
        frames = 0.5 + (1 - 0.5 * away) * (frames - 0.5) + 0.25 * away
        frames = frames + rng.normal(0, 0.15 * away, frames.shape)
        yield np.clip(frames, 0, 1).astype(np.float32)


def _smooth(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> Frames:
    """Values in 0..1 [count, *shape], smooth along every axis that is long."""
    coarse = tuple(min(size, COARSE) for size in shape)
    values = rng.uniform(0, 1, (count, *coarse))
    for axis, size in enumerate(shape, start=1):
        places = np.linspace(0, values.shape[axis] - 1, size)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        part = (places - low).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
        values = np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part
    return values.astype(np.float32)
