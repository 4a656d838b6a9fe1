"""Synthetic shifts of source frames, for any number of axes: what may happen to a sensor.

Frames [n, channels, ...] float32 in a range; so are the results. They stand for no benchmark's
corruptions, and are not made to look like them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]
Shift = Callable[[Frames, np.random.Generator], Frames]


def noise(frames: Frames, rng: np.random.Generator) -> Frames:
    """Independent noise, as of a sensor in the dark."""
    deviation = 0.15 * _span(frames)
    return frames + rng.normal(0, deviation, frames.shape).astype(np.float32)


def blur(frames: Frames, rng: np.random.Generator) -> Frames:
    """Means of three neighbours, twice, along every axis of a frame."""
    for _ in range(2):
        for axis in range(2, frames.ndim):
            edges = [(0, 0)] * frames.ndim
            edges[axis] = (1, 1)
            wide, size = np.pad(frames, edges, mode="edge"), frames.shape[axis]
            parts = [np.take(wide, np.arange(k, k + size), axis) for k in range(3)]
            frames = np.asarray(sum(parts) / np.float32(3), np.float32)
    return frames


def strong_blur(frames: Frames, rng: np.random.Generator) -> Frames:
    """The same, ten times: two and a half neighbours far."""
    for _ in range(5):
        frames = blur(frames, rng)
    return frames


def impulse(frames: Frames, rng: np.random.Generator) -> Frames:
    """One value in twenty becomes the least or the largest of all."""
    ends = rng.choice(np.array([frames.min(), frames.max()], np.float32), frames.shape)
    return np.where(rng.random(frames.shape) < 0.05, ends, frames)


def contrast(frames: Frames, rng: np.random.Generator) -> Frames:
    """A third of every frame's distance from its mean."""
    axes = tuple(range(1, frames.ndim))
    mean = frames.mean(axes, keepdims=True)
    return np.asarray(mean + (frames - mean) / 3, np.float32)


def brightness(frames: Frames, rng: np.random.Generator) -> Frames:
    """A quarter of the range more."""
    return np.asarray(frames + 0.25 * _span(frames), np.float32)


def gain(frames: Frames, rng: np.random.Generator) -> Frames:
    """Every channel times a number between a half and one and a half."""
    shape = (1, frames.shape[1], *[1] * (frames.ndim - 2))
    return np.asarray(frames * rng.uniform(0.5, 1.5, shape), np.float32)


SHIFTS: dict[str, Shift] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
    "gain": gain,
}
# Those by which it is found out which model is right: also some that no sites were chosen by.
FURTHER = SHIFTS | {"strong blur": strong_blur, "impulse": impulse}


def _span(frames: Frames) -> float:
    return float(frames.max() - frames.min())
