"""Guard rails: is the block in use still to be trusted? Without labels, beside two others.

Checks: the references are the frozen model and the block as exported. Where these two agree they are
mostly right, whatever the shift and however labels are ordered; so a block that contradicts both on
most such frames has gone astray, and goes up the ladder.

Second opinion: batches of few classes spoil statistics that are taken from them, which no block can
help. Predictions are then far less certain than the frozen model's, which answers as long as that
lasts, while the block goes on learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays, BlockSpec
from edgemem.bundle import Bundle
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.ladder import MOST_RELAPSES, Ladder, Rung
from edgemem.runtime.learner import Learner
from edgemem.runtime.result import Event, entropies

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory

Logits = NDArray[np.float32]
CHECK_EVERY, PROBATION = 8, 2  # updates between checks: in general, and after an alarm
SHARE = 2  # one of so many frames of a batch takes part in a check
LEAST = 8  # frames on which the references must agree for a verdict
DISSENT = 0.5  # part of these frames on which a sound block does not contradict both
ONE_CLASS = 0.9  # part of the predictions
FARTHEST = 1.0  # see `farthest`
# docs/benchmarks.md has what these were taken from.
OPINION_EVERY = 4  # batches
UNCERTAIN = 1.8  # times the frozen model's mean entropy
CERTAIN = 0.15  # of the entropy of a guess, at most, has a model whose opinion counts
STILL = Event("still", "all frames of the batch are the same; nothing is learnt from them")


@dataclass(frozen=True)
class Finding:
    """What is wrong with a block. lasting: it does not depend on the batch."""

    text: str
    lasting: bool


class Guard:
    """Watches the block of a learner. ladder: where it stands. doubted: whether the frozen model
    answers because it is more certain."""

    def __init__(self, bundle: Bundle, graphs: Graphs, learner: Learner) -> None:
        self._source, self._spec = bundle.generic, bundle.manifest.block
        self._graphs, self._learner = graphs, learner
        self.reset()

    def reset(self) -> None:
        """Trust the block in use, and learn."""
        self._go_on(Ladder(), self._learner.counters["updates"])

    def counters(self) -> dict[str, int]:
        """For the snapshot."""
        return {
            "guard.rung": int(self.ladder.rung),
            "guard.calm": self.ladder.calm,
            "guard.relapses": self.ladder.relapses,
            "guard.checked": self._checked,
            "guard.doubted": int(self.doubted),
            "guard.suspected": int(self._suspected),
            "guard.batches": self._batches,
        }

    def load(self, counters: Mapping[str, int]) -> None:
        """Go on from a snapshot."""
        rung = Rung(min(max(counters.get("guard.rung", 0), Rung.LEARN), Rung.FROZEN))
        relapses = min(max(counters.get("guard.relapses", 0), 0), MOST_RELAPSES)
        ladder = Ladder(rung, counters.get("guard.calm", 0), relapses)
        self._go_on(ladder, counters.get("guard.checked", 0))
        self.doubted = bool(counters.get("guard.doubted", 0))
        self._suspected = bool(counters.get("guard.suspected", 0))
        self._batches = counters.get("guard.batches", 0)
        self._choose()

    def _go_on(self, ladder: Ladder, checked: int) -> None:
        self.ladder, self._checked = ladder, checked
        self.doubted = self._suspected = False  # doubted: suspected twice in a row
        self._batches = 0  # asked for a second opinion
        self._choose()

    @property
    def _pause(self) -> int:
        """Updates between two checks."""
        return PROBATION if self.ladder.relapses else CHECK_EVERY

    def _choose(self) -> None:
        self._learner.frozen = self.doubted or self.ladder.rung is Rung.FROZEN

    def arrived(self) -> None:
        """Another context's block has been taken: check it on the next batch."""
        self._checked, self._batches = -CHECK_EVERY, 0

    def may_learn(
        self, window: Frames, contexts: ContextMemory | None, events: list[Event]
    ) -> bool:
        """Check the block in use if that is due, on a batch that nothing was learnt from, and do
        what the ladder says; whether a step may follow."""
        updates = self._learner.counters["updates"]
        if self.ladder.rung is Rung.LEARN and updates - self._checked < self._pause:
            return True
        self._checked, before = updates, self.ladder.rung
        found = self._examine(window, self._learner.block)
        self.ladder = self.ladder.after(found is not None)
        if found is not None:
            self._climb(before, found, window, contexts, events)
        elif self.ladder.rung is Rung.LEARN:
            self._learner.good = self._learner.block
            if before is not Rung.LEARN:
                events.append(Event("recovered", "the block passes its checks; it learns again"))
        self._choose()
        return self.ladder.rung is Rung.LEARN

    def second_opinion(self, window: Frames, own: Logits, events: list[Event]) -> Logits:
        """The logits to answer a full batch with, the block's own [n, classes] or the frozen
        model's; who answers from the next frame on is settled by the way."""
        if self.ladder.rung is Rung.FROZEN:
            return self._graphs.frozen(window)
        self._batches += 1
        before = self.doubted
        if not (before or self._suspected or self._batches % OPINION_EVERY == 1):
            return own
        share = 1 if before else SHARE
        frozen = self._graphs.frozen(window[::share])
        found = doubt(own[::share], frozen)
        self.doubted = found is not None and (before or self._suspected)
        self._suspected = found is not None and not self.doubted
        if self.doubted and not before:
            events.append(Event("frozen", f"{found}; the frozen model answers"))
        elif before and not self.doubted:
            events.append(Event("recovered", "the adapted model is certain again; it answers"))
        self._choose()
        return frozen if before else own

    def _examine(self, window: Frames, block: Arrays) -> Finding | None:
        """What is wrong with a block, or None."""
        probe, graphs = window[::SHARE], self._graphs
        distance = farthest(self._spec, self._source, block)
        if not distance <= FARTHEST:
            return Finding(f"the block has drifted by {distance:.1f} from the source", lasting=True)
        own = graphs.predict(probe, block, self._learner.hyper_parameters)
        if not np.isfinite(own).all():
            return Finding("the block gives non-finite logits", lasting=True)
        source = graphs.predict(probe, self._source, self._learner.hyper_parameters)
        text = dissent(own, source, graphs.frozen(probe))
        return None if text is None else Finding(text, lasting=False)

    def _climb(
        self,
        before: Rung,
        found: Finding,
        window: Frames,
        contexts: ContextMemory | None,
        events: list[Event],
    ) -> None:
        learner = self._learner
        if self.ladder.rung is Rung.SKIP and found.lasting:
            self.ladder = replace(self.ladder, rung=Rung.LAST_GOOD)
        if self.ladder.rung is Rung.LAST_GOOD and learner.good is learner.block:
            self.ladder = replace(self.ladder, rung=Rung.SOURCE)
        rung = self.ladder.rung
        if rung is Rung.SKIP:
            learner.count("skipped", Event("skipped", f"{found.text}; nothing is learnt"), events)
        elif rung is Rung.LAST_GOOD:
            learner.take(learner.good)
            event = Event("restored", f"{found.text}; the last good block is back")
            learner.count("restored", event, events)
        elif rung is Rung.SOURCE:
            learner.take(
                learner.fall_back(contexts, lambda block: self._examine(window, block) is None)
            )
            events.append(Event("reset", f"{found.text}; what this context learnt is dropped"))
        elif before is not Rung.FROZEN:
            learner.take(self._source)
            events.append(Event("frozen", f"{found.text}; the frozen model answers"))


def dissent(own: Logits, source: Logits, frozen: Logits) -> str | None:
    """What speaks against a block, from logits [n, classes] of it and of the references."""
    labels, trusted = own.argmax(1), frozen.argmax(1)
    agreed = trusted == source.argmax(1)
    if agreed.sum() < LEAST or not np.isfinite(source).all():
        return None
    against = float((labels != trusted)[agreed].mean())
    if against <= DISSENT:
        return None
    top = np.bincount(labels).max() / len(labels)
    name = "one class for nearly all frames" if top >= ONE_CLASS else "other classes"
    return f"the block predicts {name}, against source and frozen model on {against:.0%}"


def doubt(own: Logits, frozen: Logits) -> str | None:
    """What speaks for answering with the frozen model's logits [n, classes], or None."""
    uncertain, certain = float(entropies(own).mean()), float(entropies(frozen).mean())
    guess = np.log(max(2, own.shape[1]))
    if certain > CERTAIN * guess or uncertain <= UNCERTAIN * certain:
        return None
    return f"entropy {uncertain:.2f}, the frozen model's is {certain:.2f}"


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
    change = np.subtract(array, source, dtype=np.float64)
    return float(np.linalg.norm(change)) / (length or np.sqrt(array.size))


def is_still(window: Frames) -> bool:
    """Whether all frames of a batch are the same: a covered lens, a stuck sensor."""
    return len(window) > 1 and bool((window[1:] == window[0]).all())
