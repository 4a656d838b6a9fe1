"""Are the frames like the source? A running judgement, as pure functions.

On frames of the source nothing beats the frozen model, and there is nothing to adapt to. Two things
tell: the mean key of recent batches, which must be no further from the source's than chance and a
small tolerance allow; and the frozen model's mean entropy, which must be what it was on the source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MEMORY = 512.0  # frames over which keys and entropies average
TOLERANCE = 0.1  # distance of the mean key that does not count, in deviations of single frames
ENTROPY_TOLERANCE = 0.1  # part of the source's entropy that does not count
DEVIATIONS = 3.0  # of chance, that do not count either


@dataclass(frozen=True)
class Expected:
    """What source frames give. entropy: mean of the frozen model's predictions, in nats, and its
    deviation over frames. novelty: the distance of keys that a source batch exceeds once in a
    thousand, where one batch is about one from the mean."""

    entropy: float
    deviation: float
    novelty: float


@dataclass(frozen=True, eq=False)
class Seen:
    """Of recent batches. frames: that the means stand for, at most twice `MEMORY`. key: mean key,
    in the coordinates of the policy. entropy: mean of the frozen model's."""

    frames: float = 0.0
    key: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    entropy: float = 0.0

    def after(self, key: NDArray[np.float32], entropy: float, batch: int) -> Seen:
        """With one more batch of so many frames."""
        count = self.frames + batch
        share = np.float32(max(batch / count, batch / (MEMORY + batch)))
        mean = key if not self.key.size else self.key + share * (key - self.key)
        return Seen(
            min(count, 2 * MEMORY), np.asarray(mean, np.float32),
            self.entropy + float(share) * (entropy - self.entropy),
        )  # fmt: skip


def is_familiar(seen: Seen, expected: Expected, batch: int) -> bool:
    """Whether the frames seen may be of the source."""
    if seen.frames == 0:
        return False
    distance = float(seen.key @ seen.key) / batch
    chance = expected.novelty**2 / seen.frames
    room = ENTROPY_TOLERANCE * expected.entropy + DEVIATIONS * expected.deviation / math.sqrt(seen.frames)
    return distance <= TOLERANCE**2 + chance and abs(seen.entropy - expected.entropy) <= room
