"""Frames that go through the graphs together, and what the graphs say of them.

Context key, and answers under each block and of the frozen model, are computed once.

The answer to a frame may depend on the frames beside it, for statistics are taken over all of them.
So a batch of some of the frames is another batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import ReferenceType, ref

import numpy as np

from edgemem.block import Array, Arrays, Block, is_finite
from edgemem.runtime.answers import Answers
from edgemem.runtime.step.graphs import Frames, Graphs

NOTHING_TAUGHT = Block({})


class Batch:
    """Frames [n, ...] and their answers under any block.

    parameters: hyper-parameters as they are for all of these answers.
    """

    def __init__(
        self,
        frames: Frames,
        graphs: Graphs,
        parameters: Mapping[str, float],
        part_of: tuple[ReferenceType[Batch], int] | None = None,
    ) -> None:
        self.frames, self._part_of = frames, part_of
        self._graphs, self._parameters = graphs, parameters
        self._answers = list[tuple[Block, Answers]]()
        self._frozen = list[tuple[Block, Answers]]()
        self._parts: dict[int, Batch] = {}
        self._key: Array | None = None

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def key(self) -> Array | None:
        """Context key of the frames; None where it is not finite, or the bundle knows no keys."""
        if self._key is None and self._graphs.knows_keys:
            self._key = self._graphs.key(self.frames)
        return self._key if self._key is not None and is_finite({"": self._key}) else None

    @property
    def tells_classes(self) -> bool:
        """Whether answers are logits of classes."""
        return self._graphs.tells_classes

    def every(self, n: int) -> Batch:
        """One of so many frames, together with no others."""
        if n == 1:
            return self
        if n not in self._parts:
            # Weakly, or the two would wait for the garbage collector.
            whole = ref(self), n
            self._parts[n] = Batch(self.frames[::n], self._graphs, self._parameters, whole)
        return self._parts[n]

    def last(self, n: int) -> Batch:
        """The latest frames alone."""
        return self if n >= len(self) else Batch(self.frames[-n:], self._graphs, self._parameters)

    def answers(self, block: Block) -> Answers:
        """What the model says of them under a block, finite or not."""
        known = _known(self._answers, block)
        if known is None:
            known = self._graphs.predict(self.frames, block, self._parameters)
            self._answers.append((block, known))
        return known

    def works(self, block: Block) -> bool:
        """Whether a block gives finite answers."""
        return bool(np.isfinite(self.answers(block)).all())

    def frozen(self, taught: Block = NOTHING_TAUGHT) -> Answers:
        """Answers of the frozen model with what was taught; without, if that fails."""
        known = self._known_frozen(taught)
        if known is None:
            known = self._ask_frozen(taught)
            self._frozen.append((taught, known))
        return known

    def _known_frozen(self, taught: Block) -> Answers | None:
        """The frozen model answers each frame by itself: so a part has the answers of its whole."""
        if self._part_of is not None and (whole := self._part_of[0]()) is not None:
            known = _known(whole._frozen, taught)
            if known is not None:
                return known[:: self._part_of[1]]
        return _known(self._frozen, taught)

    def frozen_in_order(self, taught: Block) -> Answers:
        """Answers of the frozen model, read as those of a block are."""
        return self._graphs.frozen_read(self.frames, self._parameters, taught)

    def told(self, outputs: Arrays) -> Answers:
        """The answers among the outputs of a step."""
        return self._graphs.rows(outputs, self.frames)

    def step(self, block: Block, slots: Block) -> Arrays:
        """All outputs of one adaptation step from a block; nothing changes."""
        return self._graphs.adapt(self.frames, block, slots, self._parameters)

    def _ask_frozen(self, taught: Block) -> Answers:
        if not taught:
            return self._graphs.frozen(self.frames)
        logits = self._graphs.frozen_taught(self.frames, self._parameters, taught)
        return logits if np.isfinite(logits).all() else self.frozen()


def _known(answers: list[tuple[Block, Answers]], block: Block) -> Answers | None:
    return next((found for asked, found in answers if asked.has_values_of(block)), None)
