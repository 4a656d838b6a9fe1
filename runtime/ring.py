"""The ring buffer: the most recent frames in order, without copying on read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]


class Ring:
    """Keeps the last `size` frames.

    Counts those not yet used by an adaptation step, fewer than `size`.

    Each frame is stored twice, `size` rows apart, so that any window is one contiguous view.
    """

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        self.size = size
        self._rows = np.zeros((2 * size, *shape), np.float32)
        self._next = 0
        self.count = 0
        self.pending = 0

    @property
    def missing(self) -> int:
        """Frames until the next adaptation step is due."""
        return self.size - self.pending

    def push(self, frames: Frames) -> bool:
        """Add at most `missing` frames; whether a step is due now, for which all of them count."""
        for frame in frames:
            self._rows[self._next] = self._rows[self._next + self.size] = frame
            self._next = (self._next + 1) % self.size
        self.count = min(self.count + len(frames), self.size)
        # One assignment: an interrupt after it finds either all of a batch waiting, or none.
        waiting = self.pending + len(frames)
        self.pending = waiting % self.size
        return waiting == self.size

    def clear(self) -> Callable[[], None]:
        """Forget all frames; what takes that back."""
        rows, place, count, pending = self._rows.copy(), self._next, self.count, self.pending
        self._rows[:] = 0
        self.count = self.pending = 0

        def take_back() -> None:
            self._rows[:] = rows
            self._next, self.count, self.pending = place, count, pending

        return take_back

    def last(self, n: int) -> Frames:
        """The n most recent frames, oldest first, as a view."""
        stop = self._next + self.size
        return self._rows[stop - n : stop]
