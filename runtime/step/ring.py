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
        """Add frames, at most `size`."""
        for frame in frames:
            self._rows[self._next] = self._rows[self._next + self.size] = frame
            self._next = (self._next + 1) % self.size
        self.count = min(self.count + len(frames), self.size)

    def clear(self) -> None:
        """Forget all frames."""
        self.count = 0
        self._rows[:] = np.zeros((), self._rows.dtype)

    def last(self, n: int) -> Array:
        """The n most recent frames, oldest first, as a view."""
        stop = self._next + self.size
        return self._rows[stop - n : stop]
