"""The ring buffer: the most recent frames in order, without copying on read."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from edgemem.block import Array


class Ring:
    """Keeps the last `size` rows, of a shape and dtype. count: how many there are.

    Each frame is stored twice, `size` rows apart, so that any window is one contiguous view.
    """

    def __init__(self, size: int, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> None:
        self.size = size
        self._rows = np.zeros((2 * size, *shape), dtype)
        self._next = 0
        self.count = 0

    def push(self, frames: Array) -> None:
        """Add frames, at most `size`. Where they have another shape, those before them go."""
        self.turn_to(frames)
        for frame in frames:
            self._rows[self._next] = self._rows[self._next + self.size] = frame
            self._next = (self._next + 1) % self.size
        self.count = min(self.count + len(frames), self.size)

    def suits(self, frames: Array) -> bool:
        """Whether frames have the shape of those that are kept."""
        return frames.shape[1:] == self._rows.shape[1:]

    def turn_to(self, frames: Array) -> None:
        """Be for frames like these; those of another shape go."""
        if not self.suits(frames):
            self.count = 0  # first, for an interrupt: rows that are not there are no frames
            self._rows = np.zeros((2 * self.size, *frames.shape[1:]), self._rows.dtype)
            self._next = 0

    def clear(self) -> None:
        """Forget all frames."""
        self.count = 0
        self._rows[:] = np.zeros((), self._rows.dtype)

    def beside(self, frames: Array) -> Array:
        """All frames that can stand beside these, oldest first: none where these differ."""
        return self.last(self.count) if self.suits(frames) else frames[:0]

    def last(self, n: int) -> Array:
        """The n most recent frames, oldest first, as a view."""
        stop = self._next + self.size
        return self._rows[stop - n : stop]
