"""Between full batches: which block answers single frames, and beside how many others.

A block that remembers its context needs few frames beside a new one, and costs little. But until
the next full batch nobody notices another context. So the key of the latest frames is looked at in
between; when it is clearly not of the present context, a block of the nearest known one answers,
beside the frames since then. What is learnt, and which context holds, is settled by full batches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgemem.block import Arrays, is_finite
from edgemem.bundle import Bundle
from edgemem.runtime.graphs import Graphs
from edgemem.runtime.ring import Ring

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory

LOOK = 16  # frames of one look
LOOK_EVERY = 4  # frames
LOOKS = 2  # in a row that must find something else


class Lookout:
    """Looks at the frames of a ring that have not filled a batch yet."""

    def __init__(self, bundle: Bundle, graphs: Graphs, ring: Ring) -> None:
        self._frames, self._source = bundle.manifest.frames, bundle.generic
        # What labelled frames have taught says nothing of a context.
        teaching = bundle.manifest.teaching
        taught = () if teaching is None else teaching.arrays
        self._remembers = [
            a.name
            for a in bundle.manifest.block.arrays
            if not a.root_share and a.name not in taught
        ]
        self._graphs, self._ring = graphs, ring
        self._known: tuple[Arrays, bool] | None = None
        self.reset()

    def reset(self) -> None:
        """A full batch has settled which context holds."""
        self._since = self._looks = self._others = 0
        self._borrowed: Arrays | None = None

    def drop(self) -> None:
        """Answer with the block in use, until another context is found again."""
        self._others, self._borrowed = 0, None

    def look(self, n: int, contexts: ContextMemory | None) -> None:
        """Take note of n more frames in the ring."""
        self._since += n
        if contexts is None or self._since < LOOK or self._ring.size <= LOOK:
            return
        if self._since < LOOK + self._looks * LOOK_EVERY:
            return
        self._looks = 1 + (self._since - LOOK) // LOOK_EVERY
        key = self._graphs.key(self._ring.last(LOOK))
        noise = math.sqrt(self._ring.size / LOOK)
        other = contexts.glimpse(key, noise) if is_finite({"": key}) else None
        self._others = self._others + 1 if other is not None else 0
        if other is None:
            self._borrowed = None
        elif self._others == LOOKS or self._borrowed is not None:
            self._borrowed = other

    def chosen(self, block: Arrays, n: int) -> tuple[Arrays, int]:
        """The block that answers n new frames, the learner's or another, and how many of the latest
        frames, these included, should go through it, if there are as many."""
        if not self._frames.companions:
            return block, n
        if self._borrowed is not None:
            since = LOOK + (self._others - 1) * LOOK_EVERY
            return self._borrowed, max(n, since)
        enough = self._frames.known_companions if self.knows(block) else self._ring.size
        return block, min(n + enough, self._ring.size)

    def knows(self, block: Arrays) -> bool:
        """Whether a block remembers anything of its context."""
        if self._known is None or self._known[0] is not block:
            names = self._remembers
            found = any(not np.array_equal(block[n], self._source[n]) for n in names)
            self._known = block, found
        return self._known[1]
