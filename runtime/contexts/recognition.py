"""Which context the frames come from: a pure policy over keys.

A batch's key is compared with the mean keys of the known contexts, in the distance in which a
source batch is about one away from the source mean. A context that holds is left only for one
that is clearly nearer (margin), or when the key is clearly not of it; a key that is near to none
opens a context on trial, which is kept once a second batch confirms it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Key = NDArray[np.float32]

MARGIN = 0.8  # another context must be nearer than this part of the distance to the present one
HOLD = 1.5  # the present context reaches this much further than others
REACH = 1.25  # in root mean square distances of a context's own keys
DWELL = 2  # batches in a row that must prefer a context before it takes over from one that holds
MEMORY = 100  # batches over which the mean key of a context averages
YOUNG = 16  # batches in which a context changes most
NONE = -1
FAR = 1e12  # further away than this nothing is told apart, and squares stay in float32


@dataclass(frozen=True, eq=False)
class SourceKeys:
    """What keys of source batches look like.

    Attributes:
        mean: [k].
        whitening: [k, k].
        novelty: the distance beyond which a key is of no context.
        entropy: mean of the frozen model's predictions, in nats.
        entropy_deviation: over frames.
    """

    mean: Key
    whitening: Key
    novelty: float
    entropy: float = 0.0
    entropy_deviation: float = 0.0

    def normal(self, key: Key) -> Key:
        """A finite key in coordinates in which the distance is that of the policy.

        It is at most `FAR` from the source's mean.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            found: Key = self.whitening @ (key - self.mean)
        if np.abs(found).max(initial=0.0) <= FAR / max(1, len(found)):
            return found
        exact = self.whitening.astype(np.float64) @ (key.astype(np.float64) - self.mean)
        length = float(np.linalg.norm(exact))
        return (exact * min(1.0, FAR / length)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Context:
    """A context: its number, its mean key (normal), and how many batches it has seen.

    spread: mean squared distance of their keys from the mean.
    """

    number: int
    key: Key
    count: int
    spread: float = 0.0

    @property
    def on_trial(self) -> bool:
        """Whether only one batch speaks for it."""
        return self.count < DWELL

    def after(self, key: Key) -> Context:
        """With one more batch."""
        count, away = self.count + 1, key - self.key
        share = np.float32(1 / min(count, MEMORY))
        spread = self.spread + float(share) * (float(away @ away) - self.spread)
        return Context(self.number, self.key + away * share, count, spread)

    def reach(self, novelty: float) -> float:
        """How far a key may be and still be of this context: some scatter more than the source."""
        return max(novelty, REACH * math.sqrt(self.spread))


@dataclass(frozen=True, eq=False)
class Contexts:
    """All known contexts, the present one, and which other one the last batches preferred.

    present: number, or NONE at the start. rival: number of the preferred one; votes: in a row.
    opened: how many there ever were; numbers are not used twice. drift: distance of the last key
    from the present context.
    """

    known: dict[int, Context] = field(default_factory=dict)
    present: int = NONE
    rival: int = NONE
    votes: int = 0
    opened: int = 0
    drift: float = 0.0


def drifting(contexts: Contexts, novelty: float) -> bool:
    """Whether the present context is young, or its last key lay further off than is usual."""
    present = contexts.known.get(contexts.present)
    if present is None or present.count <= YOUNG:
        return True
    return contexts.drift > present.reach(novelty)


def elsewhere(contexts: Contexts, key: Key, novelty: float) -> int | None:
    """The context that a (normal) key speaks for, where that is clearly not the present one.

    Its number, or NONE for one that is not known; None where the present one may hold.

    novelty: for keys of few frames, larger than that of batches.
    """
    present = contexts.known.get(contexts.present)
    distances = {n: float(np.linalg.norm(c.key - key)) for n, c in contexts.known.items()}
    if present is None or distances[present.number] <= max(novelty, present.reach(0.0)):
        return None
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= novelty else NONE


def follow(contexts: Contexts, key: Key, novelty: float, capacity: int) -> Contexts:
    """The contexts after one more batch with this (normal) key."""
    distances = {n: float(np.linalg.norm(c.key - key)) for n, c in contexts.known.items()}
    if not distances:
        return _open(contexts, key, capacity)
    nearest = min(distances, key=distances.__getitem__)
    here = distances.get(contexts.present, np.inf)
    holds = contexts.present != NONE and here <= _hold(contexts, novelty)
    if holds and (nearest == contexts.present or distances[nearest] > MARGIN * here):
        return _go(contexts, contexts.present, key, here)
    if nearest != contexts.present and distances[nearest] <= contexts.known[nearest].reach(novelty):
        votes = contexts.votes + 1 if nearest == contexts.rival else 1
        if not holds or votes >= DWELL:
            return _go(contexts, nearest, key, distances[nearest])
        stay = _go(contexts, contexts.present, None, here)
        return replace(stay, rival=nearest, votes=votes)
    if holds:
        return _go(contexts, contexts.present, key, here)
    return _open(contexts, key, capacity)


def _hold(contexts: Contexts, novelty: float) -> float:
    """How far from the present context a key may be while it lasts.

    A context on trial has no spread yet, only room: half way to the next one, or to the source.
    """
    present = contexts.known[contexts.present]
    if not present.on_trial:
        return HOLD * present.reach(novelty)
    others = [c.key for n, c in contexts.known.items() if n != present.number]
    others.append(np.zeros_like(present.key))  # the source
    room = min(float(np.linalg.norm(present.key - other)) for other in others)
    return max(HOLD * novelty, 0.5 * room)


def _go(contexts: Contexts, number: int, key: Key | None, distance: float) -> Contexts:
    known = dict(contexts.known)
    left = known.get(contexts.present)
    if left is not None and left.number != number and left.on_trial:
        del known[left.number]
    if key is not None:
        known[number] = known[number].after(key)
    return Contexts(known, number, opened=contexts.opened, drift=distance)


def _open(contexts: Contexts, key: Key, capacity: int) -> Contexts:
    """A new context on trial; the one that has seen least goes when there are too many."""
    known = dict(contexts.known)
    present = known.get(contexts.present)
    if present is not None and present.on_trial:
        del known[present.number]
    while len(known) >= capacity:
        del known[min(known, key=lambda number: (known[number].count, number))]
    number = contexts.opened + 1
    known[number] = Context(number, key, 1)
    return Contexts(known, number, opened=number)
