"""Between full batches: which block answers single frames, and beside how many others.

A block that remembers its context needs few frames beside a new one, and costs little. But until
the next full batch nobody notices another context. So the key of the latest frames is looked at in
between; when it is clearly not of the present context, a block of the nearest known one answers,
beside the frames since then. What is learnt, and which context holds, is settled by full batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import ReferenceType, ref

import numpy as np

from edgemem.block import Block
from edgemem.bundle.opening import Bundle

LOOK = 16  # frames of one look
LOOK_EVERY = 4  # frames
LOOKS = 2  # in a row that must find something else
Glimpse = Callable[[float], Block | None]


@dataclass(frozen=True, eq=False)
class Lookahead:
    """What was seen of another context since the last full batch.

    Attributes:
        since: frames since the last full batch.
        looks: at them.
        others: looks in a row that found another context.
        borrowed: the block that answers for it.
    """

    since: int = 0
    looks: int = 0
    others: int = 0
    borrowed: Block | None = None

    def dropped(self) -> Lookahead:
        """Answering with the block in use, until another context is found again."""
        return replace(self, others=0, borrowed=None)

    def after(self, n: int, batch: int, glimpse: Glimpse) -> Lookahead:
        """After so many more frames. batch: frames of a full one.

        glimpse: the block that the latest frames speak for, told how many times as far their key
        scatters as that of a full batch; None where they may be of the present context.
        """
        since = self.since + n
        if batch <= LOOK or since < LOOK + self.looks * LOOK_EVERY:
            return replace(self, since=since)
        looks = 1 + (since - LOOK) // LOOK_EVERY
        other = glimpse(math.sqrt(batch / LOOK))
        if other is None:
            return Lookahead(since, looks)
        others = self.others + 1
        taken = others == LOOKS or self.borrowed is not None
        return Lookahead(since, looks, others, other if taken else None)


class Companions:
    """How many of the frames before it a frame is answered beside."""

    def __init__(self, bundle: Bundle) -> None:
        self._frames, self._source = bundle.manifest.frames, bundle.generic
        # What labelled frames have taught says nothing of a context.
        teaching = bundle.manifest.teaching
        taught = () if teaching is None else teaching.arrays
        self._remembers = [
            a.name for a in bundle.manifest.block.arrays if not a.learns and a.name not in taught
        ]
        self._known: tuple[ReferenceType[Block], bool] | None = None

    def chosen(self, lookahead: Lookahead, block: Block, n: int) -> tuple[Block, int]:
        """The block that answers n new frames, and how many frames should go through it.

        The block is the one in use or another. The frames are the latest, these included, if there
        are as many.
        """
        if not self._frames.companions:
            return block, n
        if lookahead.borrowed is not None:
            since = LOOK + (lookahead.others - 1) * LOOK_EVERY
            return lookahead.borrowed, max(n, since)
        size = self._frames.batch
        enough = self._frames.known_companions if self.knows(block) else size
        return block, min(n + enough, size)

    def knows(self, block: Block) -> bool:
        """Whether a block remembers anything of its context."""
        if self._known is not None and self._known[0]() is block:
            return self._known[1]
        found = any(not np.array_equal(block[n], self._source[n]) for n in self._remembers)
        self._known = ref(block), found  # weakly: a block may hold what is to be forgotten
        return found
