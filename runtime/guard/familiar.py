"""Are the frames like the source's?

A judgement that goes on from batch to batch, as pure functions.

On frames like the source's nothing beats the frozen model, and there is nothing to adapt to. Two
things tell. The mean key of recent batches must be no further from the source's than chance and a
small tolerance allow. And the frozen model must be as certain as it is of source frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.runtime.contexts.recognition import Key, SourceKeys
from edgemem.runtime.logits import Logits, entropies

MEMORY = 512.0  # frames over which keys and entropies average
# Chosen in trials on networks that are right on 40 to 90 % of their frames: up to this distance,
# in deviations of single frames, the frozen model loses a point or two, and adapting gains no more.
TOLERANCE = 0.1
ENTROPY_TOLERANCE = 0.1  # part of the source's mean entropy that does not count
GUESS_TOLERANCE = 0.02  # part of a guess's entropy that does not count either
HOLD = 2.0  # what is familiar stays so up to so many times the room
DEVIATIONS = 3.0  # of a mean, that may be chance


@dataclass(frozen=True, eq=False)
class Seen:
    """Of recent frames. key: mean key (normal). frames: that it stands for.

    Of the frozen model's predictions, asked about some of the batches: entropy: their mean, in
    nats. same: part of the frames with the label of the frame before. shares: [classes], of the
    labels. asked: frames that these stand for.
    """

    key: Key
    shares: NDArray[np.float32]
    frames: float = 0.0
    asked: float = 0.0
    entropy: float = 0.0
    same: float = 0.0

    def with_key(self, key: Key, batch: int) -> Seen:
        """After one more batch of so many frames."""
        share, frames = _share(self.frames, batch)
        return replace(self, key=self.key + np.float32(share) * (key - self.key), frames=frames)

    def with_answers(self, logits: Logits) -> Seen:
        """After the frozen model's answers [n, classes] for a batch, in order of time."""
        share, _ = _share(self.asked, len(logits))
        labels = logits.argmax(1)
        same = float((labels[1:] == labels[:-1]).mean()) if len(labels) > 1 else self.same
        counts = np.bincount(labels, minlength=len(self.shares)).astype(np.float32) / len(labels)
        return replace(
            self.with_entropies(entropies(logits)),
            shares=(self.shares + share * (counts - self.shares)).astype(np.float32),
            same=_kept(self.same + share * (same - self.same)),
        )

    def with_entropies(self, entropies: NDArray[np.float32]) -> Seen:
        """After as much of the frozen model's answers for a batch, [n], as other tasks know."""
        share, asked = _share(self.asked, len(entropies))
        entropy = _kept(self.entropy + share * (float(entropies.mean()) - self.entropy))
        return replace(self, asked=asked, entropy=entropy)

    def to_array(self) -> NDArray[np.float32]:
        """For a snapshot, [key + classes + 4]."""
        numbers = [self.frames, self.asked, self.entropy, self.same]
        return np.concatenate([self.key, self.shares, numbers]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Whether frames are like the source's, and what that rests on.

    Attributes:
        seen: of recent frames.
        looks: batches since the context began.
        holds: whether the frozen model answers because frames are like the source's.
    """

    seen: Seen
    looks: int = 0
    holds: bool = False

    @property
    def in_order(self) -> bool:
        """Whether its answers are read in order, as the block's are."""
        return goes_on(self.seen)


def nothing_seen(key: int, classes: int) -> Seen:
    """Before the first batch. key: size of keys."""
    return Seen(np.zeros(key, np.float32), np.zeros(classes, np.float32))


def seen_of(array: Array | None, key: int, classes: int) -> Seen:
    """From a snapshot; nothing seen where it holds nothing that fits."""
    if array is None or array.shape != (key + classes + 4,):
        return nothing_seen(key, classes)
    means, shares, numbers = np.split(np.asarray(array, np.float32), [key, key + classes])
    return Seen(means, shares, *(float(number) for number in numbers))


def is_near(seen: Seen, source: SourceKeys, batch: int, before: bool = False) -> bool:
    """Whether the mean key may be the source's.

    A source batch exceeds `source.novelty` once in a thousand; the mean of more frames scatters
    less. before: whether frames were familiar so far.
    """
    if not seen.frames:
        return False
    distance = float(seen.key @ seen.key) / batch
    room = TOLERANCE**2 + source.novelty**2 / seen.frames
    return distance <= room * (HOLD if before else 1.0)


def is_as_certain(seen: Seen, source: SourceKeys, before: bool = False) -> bool:
    """Whether the frozen model is as certain as of source frames.

    It may be more so where it is wrong. before: as in `is_near`.
    """
    if not seen.asked:
        return False
    chance = DEVIATIONS * source.entropy_deviation / math.sqrt(seen.asked)
    guess = math.log(max(len(seen.shares), 1))  # not of positions: most may be plain, as blanks are
    room = max(ENTROPY_TOLERANCE * source.entropy, GUESS_TOLERANCE * guess)
    return abs(seen.entropy - source.entropy) <= (room + chance) * (HOLD if before else 1.0)


def goes_on(seen: Seen) -> bool:
    """Whether a frame is mostly of the class of the frame before, and not by chance."""
    if not seen.asked:
        return False
    chance = min(1.0, float(np.square(seen.shares).sum()))
    deviation = math.sqrt(chance * (1.0 - chance) / seen.asked)
    return seen.same > chance + DEVIATIONS * deviation


def _kept(value: float) -> float:
    """As a snapshot holds it, so that a runtime that is opened again decides alike."""
    return float(np.float32(value))


def _share(before: float, batch: int) -> tuple[float, float]:
    """Weight of a batch in a mean over so many frames before it, and frames of the mean then."""
    share = max(batch / (before + batch), batch / (MEMORY + batch))
    return share, min(before + batch, 2 * MEMORY)
