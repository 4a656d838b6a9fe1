"""The block in use: what a step makes of it, and what comes back when it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Arrays, is_finite, is_sound
from edgemem.bundle import Bundle
from edgemem.runtime.contract import stripped
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.opinion import blended
from edgemem.runtime.policy import Verdict, judge
from edgemem.runtime.result import Event
from edgemem.runtime.settings import HyperParameters
from edgemem.runtime.snapshots import shared

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory

Logits = NDArray[np.float32]
COUNTERS = ("frames", "steps", "updates", "unreliable", "skipped", "restored")
UNRELIABLE = Event("unreliable", "no frame of the batch was reliable enough to learn from")
SKIPPED = Event("skipped", "the step gave non-finite values; the block stays as it was")
UNSOUND = "the block held what cannot be committed; the last good one is back"
FROZEN = Event("frozen", "the block gives non-finite logits; the frozen model answered")


class Learner:
    """block: the one in use. good: the last that was found to be sound. slots: the optimiser's.

    hyper_parameters: scalars by name. counters: see `Runtime`. entropy: mean of the last step.
    frozen_share: of the frozen model in an answer. familiar: whether it answers because frames are
    like the source's; in_order: read in order then, as the block's answers are. carries: arrays of
    what was taught with labels, which is no part of what steps learn: whatever block comes in its
    place has them, too.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs, hyper_parameters: HyperParameters) -> None:
        self._bundle, self._graphs = bundle, graphs
        self.carries: tuple[str, ...] = ()
        self.hyper_parameters = hyper_parameters
        self.block = self.good = bundle.generic
        self.slots = bundle.manifest.slots.zero()
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.entropy = 0.0
        self.frozen_share = 0.0
        self.familiar = self.in_order = False

    @property
    def taught(self) -> Arrays:
        """What was taught, as the block in use has it."""
        return {name: self.block[name] for name in self.carries}

    @property
    def source(self) -> Arrays:
        """The block as exported, with what was taught."""
        return self._bundle.generic | self.taught if self.carries else self._bundle.generic

    @property
    def without_steps(self) -> Arrays:
        """The block in use with what it remembers, but with nothing that followed a gradient."""
        arrays = self._bundle.manifest.block.arrays
        kept = {a.name: self.block[a.name] for a in arrays if not a.root_share}
        return self._bundle.generic | kept

    def frozen(self, window: Frames) -> Logits:
        """Logits of the frozen model with what was taught; without, if that fails."""
        if not self.carries:
            return self._graphs.frozen(window)
        logits = self._graphs.frozen_taught(window, self.hyper_parameters, self.taught)
        return logits if np.isfinite(logits).all() else self._graphs.frozen(window)

    def with_frozen(self, own: Logits, window: Frames, share: float) -> Logits:
        """The block's logits [n, classes] of the last frames of a window, blended with those of
        the frozen model."""
        return blended(own, self.frozen_in_order(window)[-len(own) :], share)

    def frozen_in_order(self, window: Frames) -> Logits:
        """Logits of the frozen model, read as those of the block are."""
        return self._graphs.frozen_read(window, self.hyper_parameters, self.taught)

    def take(self, block: Arrays | None) -> None:
        """Go on with another block, if there is one; the optimiser starts afresh."""
        if block is not None:
            self.block = self.good = block
            self.slots = self._bundle.manifest.slots.zero()

    def go_on(self, block: Arrays, good: Arrays, slots: Arrays) -> None:
        """Go on from what a commit held."""
        self.block, self.good, self.slots = block, good, slots

    def mend(self, events: list[Event]) -> None:
        """Before a commit: what is no sound block, or no sound slots, gives way to what is."""
        manifest = self._bundle.manifest
        if not is_sound(self.good):
            self.good = self.block if is_sound(self.block) else self._bundle.generic
        if not is_sound(self.block):
            self.take(self.good)
            self._count("restored", Event("restored", UNSOUND), events)
        if not is_finite(self.slots):
            self.slots = manifest.slots.zero()

    def step(self, window: Frames) -> Arrays:
        """Outputs of one step on a full batch; nothing changes."""
        return self._graphs.adapt(window, self.block, self.slots, self.hyper_parameters)

    def answer(
        self, window: Frames, n: int, events: list[Event], block: Arrays | None = None
    ) -> Logits:
        """Logits of the last n frames of a window: the block's, the frozen model's, or both's.

        block: another one than that in use, because these frames are clearly of another context.
        """
        if self.frozen_share == 1.0:
            return self.frozen(window[-n:])
        if self.familiar and not self.carries and (block is None or block is self.block):
            return self._familiar(window, n)
        own = self.own(window, events, block)[-n:]
        return self.with_frozen(own, window, self.frozen_share) if self.frozen_share else own

    def _familiar(self, window: Frames, n: int) -> Logits:
        return self.frozen_in_order(window)[-n:] if self.in_order else self.frozen(window[-n:])

    def own(self, window: Frames, events: list[Event], block: Arrays | None = None) -> Logits:
        """Logits of the block; the frozen model's if it fails."""
        block = self.block if block is None else block
        logits = self._graphs.predict(window, block, self.hyper_parameters)
        if np.isfinite(logits).all():
            return logits
        events.append(FROZEN)
        return self.frozen(window)

    def learn(
        self, window: Frames, outputs: Arrays, contexts: ContextMemory | None, events: list[Event]
    ) -> Logits:
        """Take the next block of a step, or what is right instead; the logits of the one before."""
        self.counters["steps"] += 1
        verdict = judge(outputs)
        if verdict is Verdict.KEEP and contexts is not None and contexts.reading:
            return outputs["logits"]  # of the generic block, which is not the one to learn in
        if verdict is Verdict.RESTORE:
            return self._restore(window, contexts, events)
        if verdict is Verdict.SKIP:
            self.slots = self._bundle.manifest.slots.zero()
            self._count("skipped", SKIPPED, events)
        elif verdict is Verdict.UNRELIABLE:
            self._count("unreliable", UNRELIABLE, events)
        else:
            self._note_entropy(outputs)
            self.block = stripped("next.block", outputs)
            self.slots = stripped("next.opt", outputs)
            self._count("updates", Event("adapted", f"step {self.counters['steps']}"), events)
        return outputs["logits"]

    def _restore(
        self, window: Frames, contexts: ContextMemory | None, events: list[Event]
    ) -> Logits:
        """The present block fails on these frames: back to the last good one, or further."""
        what = "the last good block is back"
        if self.good is not self.block:
            self.block = self.good
        else:
            found, source = self.fall_back(contexts, lambda b: self._works(window, b)), self.source
            self.block = self.good = found
            as_exported = shared(found, source) is source
            what = "the source block is back" if as_exported else "what was learnt here is dropped"
        self.slots = self._bundle.manifest.slots.zero()
        self._count("restored", Event("restored", f"the loss was not finite; {what}"), events)
        return self.own(window, events)

    def fall_back(self, contexts: ContextMemory | None, works: Callable[[Arrays], bool]) -> Arrays:
        """The first block to fall back on that is another one and works; the source's at last."""
        alone = self.without_steps
        found: list[tuple[Arrays, Callable[[], None]]] = [(alone, lambda: None)]
        if contexts is not None:
            found = contexts.fall_backs(alone, self.taught)
        for block, take in found:
            if works(block) and shared(self.block, block) is not block:
                take()
                return block
        return self.source

    def _works(self, window: Frames, block: Arrays) -> bool:
        return bool(np.isfinite(self._graphs.predict(window, block, self.hyper_parameters)).all())

    def _note_entropy(self, outputs: Arrays) -> None:
        entropy = float(outputs.get("stat.entropy", self.entropy))
        self.entropy = entropy if np.isfinite(entropy) else self.entropy

    def _count(self, counter: str, event: Event, events: list[Event]) -> None:
        self.counters[counter] += 1
        events.append(event)
