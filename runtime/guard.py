"""Guard rails: is the block in use still to be trusted? Without labels, beside two others.

The references are the frozen model and the block as exported. Where these two agree they are mostly
right, whatever the shift and however labels are ordered; so a block that contradicts both on most
such frames has gone astray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays, BlockSpec
from edgemem.bundle import Bundle
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.ladder import Ladder, Rung
from edgemem.runtime.learner import Learner
from edgemem.runtime.result import Event

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory

Logits = NDArray[np.float32]
CHECK_EVERY = 8  # updates
SHARE = 2  # one of so many frames of a batch takes part in a check
LEAST = 8  # frames on which the references must agree for a verdict
DISSENT = 0.5  # part of these frames on which a sound block does not contradict both
ONE_CLASS = 0.9  # part of the predictions
FARTHEST = 1.0  # see `farthest`
STILL = Event("still", "all frames of the batch are the same; nothing is learnt from them")


class Guard:
    """Watches the block of a learner. ladder: where it stands."""

    def __init__(self, bundle: Bundle, graphs: Graphs, learner: Learner) -> None:
        self._source, self._spec = bundle.generic, bundle.manifest.block
        self._graphs, self._learner = graphs, learner
        self.reset()

    def reset(self) -> None:
        """Trust the block in use, and learn."""
        self._go_on(Ladder(), self._learner.counters["updates"])

    def counters(self) -> dict[str, int]:
        """For the snapshot."""
        rung, calm = int(self.ladder.rung), self.ladder.calm
        return {"guard.rung": rung, "guard.calm": calm, "guard.checked": self._checked}

    def load(self, counters: Mapping[str, int]) -> None:
        """Go on from a snapshot."""
        rung = Rung(min(max(counters.get("guard.rung", 0), Rung.LEARN), Rung.FROZEN))
        ladder = Ladder(rung, counters.get("guard.calm", 0))
        self._go_on(ladder, counters.get("guard.checked", 0))

    def _go_on(self, ladder: Ladder, checked: int) -> None:
        self.ladder, self._checked = ladder, checked
        self._learner.frozen = ladder.rung is Rung.FROZEN

    def arrived(self) -> None:
        """Another context's block has been taken: check it on the next batch."""
        self._checked = -CHECK_EVERY

    def may_learn(
        self, window: Frames, contexts: ContextMemory | None, events: list[Event]
    ) -> bool:
        """Check the block in use if that is due, on a batch that nothing was learnt from, and do
        what the ladder says; whether a step may follow."""
        updates = self._learner.counters["updates"]
        if self.ladder.rung is Rung.LEARN and updates - self._checked < CHECK_EVERY:
            return True
        self._checked, before = updates, self.ladder
        found = self._examine(window, self._learner.block)
        self.ladder = before.after(found is not None)
        if found is not None:
            self._climb(found, window, contexts, events)
        elif self.ladder.rung is Rung.LEARN:
            self._learner.good = self._learner.block
            if before.rung is not Rung.LEARN:
                self._learner.frozen = False
                events.append(Event("recovered", "the block passes its checks; it learns again"))
        return self.ladder.rung is Rung.LEARN

    def _examine(self, window: Frames, block: Arrays) -> str | None:
        """What is wrong with a block, or None."""
        probe, graphs = window[::SHARE], self._graphs
        parameters = self._learner.hyper_parameters
        distance = farthest(self._spec, self._source, block)
        if not distance <= FARTHEST:
            return f"the block has drifted by {distance:.1f} from the source"
        own = graphs.predict(probe, block, parameters)
        if not np.isfinite(own).all():
            return "the block gives non-finite logits"
        source = graphs.predict(probe, self._source, parameters)
        return complaint(own, source, graphs.frozen(probe))

    def _climb(
        self, found: str, window: Frames, contexts: ContextMemory | None, events: list[Event]
    ) -> None:
        learner, rung = self._learner, self.ladder.rung
        if rung is Rung.SKIP:
            events.append(Event("skipped", f"{found}; it does not learn for now"))
        elif rung is Rung.LAST_GOOD:
            learner.take(learner.good)
            events.append(Event("restored", f"{found}; the last good block is back"))
        elif rung is Rung.SOURCE:
            fine = learner.fall_back(contexts, lambda b: self._examine(window, b) is None)
            learner.take(fine)
            events.append(Event("reset", f"{found}; what this context learnt is dropped"))
        elif not learner.frozen:
            learner.take(self._source)
            learner.frozen = True
            events.append(Event("frozen", f"{found}; the frozen model answers"))


def complaint(own: Logits, source: Logits, frozen: Logits) -> str | None:
    """What speaks against a block, from logits [n, classes] of it and of the references."""
    labels, trusted = own.argmax(1), frozen.argmax(1)
    agreed = trusted == source.argmax(1)
    if agreed.sum() < LEAST or not np.isfinite(source).all():
        return None
    dissent = float((labels != trusted)[agreed].mean())
    if dissent <= DISSENT:
        return None
    top = np.bincount(labels).max() / len(labels)
    name = "one class for nearly all frames" if top >= ONE_CLASS else "other classes"
    return f"the block predicts {name}, against source and frozen model on {dissent:.0%}"


def farthest(spec: BlockSpec, source: Arrays, block: Arrays) -> float:
    """How far the array that went farthest is from the source.

    Only arrays that learn count, not statistics. A kernel's distance is in lengths of the source's;
    the root mean square of a scale's or shift's is taken as it is, for one is their natural unit.
    """
    names = [array.name for array in spec.arrays if array.root_share]
    return max((_moved(source[name], block[name]) for name in names), default=0.0)


def _moved(source: Array, array: Array) -> float:
    if source is array:
        return 0.0
    length = float(np.linalg.norm(source)) if array.ndim > 1 else 0.0
    return float(np.linalg.norm(array - source)) / (length or np.sqrt(array.size))


def is_still(window: Frames) -> bool:
    """Whether all frames of a batch are the same: a covered lens, a stuck sensor."""
    return len(window) > 1 and bool((window[1:] == window[0]).all())
