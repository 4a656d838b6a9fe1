"""Guard rails: is the block in use still to be trusted? Without labels, beside two others.

The references are the frozen model, and the block without what its steps have learnt. Where these
two agree they are mostly right, whatever the shift and however labels are ordered; so a block that
contradicts both on more of such frames than chance allows goes up the ladder. Evidence is gathered
over checks, for batches may be small.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgemem.block import Array, Arrays
from edgemem.bundle import Bundle
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.ladder import MOST_RELAPSES, Ladder, Rung
from edgemem.runtime.learner import Learner, Logits
from edgemem.runtime.result import Event, tell
from edgemem.runtime.second_opinion import SecondOpinion
from edgemem.runtime.symptoms import FARTHEST, Evidence, farthest, names_one_class

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory

CHECK_EVERY, PROBATION = 8, 2  # updates between checks: in general, and after an alarm
PROBE = 16  # frames of a batch that take part in a check, at least
ENOUGH = 32  # frames whose verdict is no whim of a batch: what steps have learnt is dropped at once
EVIDENCE = "guard.evidence"  # name of an array in a snapshot


@dataclass(frozen=True)
class Finding:
    """What is wrong with a block. rung: the least one that helps."""

    text: str
    rung: Rung


class Guard:
    """Watches the block of a learner. ladder: where it stands. opinion: whether the frozen model
    answers in its place, or beside it. adapting: whether batches are looked at at all."""

    def __init__(self, bundle: Bundle, graphs: Graphs, learner: Learner, *, adapting: bool) -> None:
        self._adapting = adapting
        self._bundle, self._spec = bundle, bundle.manifest.block
        self._graphs, self._learner = graphs, learner
        self.opinion = SecondOpinion(bundle, graphs, learner)
        self.reset()

    def reset(self) -> None:
        """Trust the block in use, and learn."""
        self.opinion.reset()
        self._go_on(Ladder(), self._learner.counters["updates"])

    def counters(self) -> dict[str, int]:
        """For the snapshot."""
        return {
            "guard.rung": int(self.ladder.rung),
            "guard.calm": self.ladder.calm,
            "guard.relapses": self.ladder.relapses,
            "guard.checked": self._checked,
            **self.opinion.counters(),
        }

    def arrays(self) -> Arrays:
        """For the snapshot."""
        evidence = [self._evidence.agreed, self._evidence.against]
        return {EVIDENCE: np.asarray(evidence, np.float32), **self.opinion.arrays()}

    def load(self, arrays: Arrays, counters: Mapping[str, int]) -> None:
        """Go on from a snapshot."""
        rung = Rung(min(max(counters.get("guard.rung", 0), Rung.LEARN), Rung.FROZEN))
        relapses = min(max(counters.get("guard.relapses", 0), 0), MOST_RELAPSES)
        if self._adapting:  # else what was found of some batch would hold for ever
            self.opinion.load(arrays, counters)
        ladder = Ladder(rung, counters.get("guard.calm", 0), relapses)
        self._go_on(ladder, counters.get("guard.checked", 0))
        held = arrays.get(EVIDENCE)
        if held is not None and held.shape == (2,):
            self._evidence = Evidence(*held.tolist())

    def _go_on(self, ladder: Ladder, checked: int) -> None:
        self.ladder, self._checked, self._evidence = ladder, checked, Evidence()
        self._choose()

    @property
    def _pause(self) -> int:
        """Updates between two checks; small batches need more of them."""
        often = max(1, min(CHECK_EVERY, self._bundle.manifest.frames.batch // 2))
        return min(PROBATION, often) if self.ladder.relapses else often

    def _choose(self) -> None:
        frozen = self.ladder.rung is Rung.FROZEN
        self._learner.frozen_share = 1.0 if frozen else self.opinion.used

    def arrived(self) -> None:
        """Another context's block has been taken: check it on the next batch."""
        self._checked, self._evidence = -CHECK_EVERY, Evidence()
        self.opinion.arrived()

    def second_opinion(
        self, window: Frames, key: Array | None, own: Logits, events: list[Event]
    ) -> Logits:
        """The logits [n, classes] to answer a full batch with: the block's own, or those of block
        and frozen model together; what is found holds for the frames after it, too."""
        if self.ladder.rung is Rung.FROZEN:
            return self._learner.frozen(window)
        answered = self.opinion.on(window, key, own, events)
        self._choose()
        return answered

    def may_learn(
        self, window: Frames, contexts: ContextMemory | None, events: list[Event]
    ) -> bool:
        """Check the block in use if that is due, on a batch that nothing was learnt from, and do
        what the ladder says; whether a step may follow."""
        updates = self._learner.counters["updates"]
        if self.ladder.rung is Rung.LEARN and updates - self._checked < self._pause:
            return True
        self._checked, before = updates, self.ladder.rung
        found, self._evidence = self._examine(window, self._learner.block, self._evidence)
        self.ladder = self.ladder.after(found is not None)
        if found is not None:
            self._climb(before, found, window, contexts, events)
        elif self.ladder.rung is Rung.LEARN:
            self._learner.good = self._learner.block
            if before is not Rung.LEARN:
                tell(events, "recovered", "the block passes its checks; it learns again")
        self._choose()
        return self.ladder.rung is Rung.LEARN

    def _examine(
        self, window: Frames, block: Arrays, evidence: Evidence
    ) -> tuple[Finding | None, Evidence]:
        """What is wrong with a block, or None; and the evidence with this batch."""
        graphs, learner = self._graphs, self._learner
        probe = window[:: max(1, len(window) // PROBE)]
        distance = farthest(self._spec, self._bundle.generic, block)
        if not distance <= FARTHEST:
            text = f"the block has drifted by {distance:.1f} from the source"
            return Finding(text, Rung.LAST_GOOD), evidence
        own = graphs.predict(probe, block, learner.hyper_parameters)
        if not np.isfinite(own).all():
            return Finding("the block gives non-finite logits", Rung.LAST_GOOD), evidence
        reference = graphs.predict(probe, learner.without_steps, learner.hyper_parameters)
        evidence = evidence.after(own, reference, learner.frozen(probe))
        if not evidence.is_enough():
            return None, evidence
        name = "one class for nearly all frames" if names_one_class(own) else "other classes"
        text = (
            f"the block predicts {name}, against frozen model and no step on {evidence.share:.0%}"
        )
        whim = self.ladder.rung is Rung.LEARN and evidence.agreed < ENOUGH
        return Finding(text, Rung.SKIP if whim else Rung.SOURCE), evidence

    def _climb(
        self,
        before: Rung,
        found: Finding,
        window: Frames,
        contexts: ContextMemory | None,
        events: list[Event],
    ) -> None:
        learner = self._learner
        if self.ladder.rung < found.rung:
            self.ladder = replace(self.ladder, rung=found.rung)
        if self.ladder.rung is Rung.LAST_GOOD and learner.good is learner.block:
            self.ladder = replace(self.ladder, rung=Rung.SOURCE)
        rung = self.ladder.rung
        if rung is Rung.SKIP:
            learner.counters["skipped"] += 1
            tell(events, "skipped", f"{found.text}; nothing is learnt", logging.WARNING)
            return
        self._evidence = Evidence()  # of a block that is given up
        if rung is Rung.LAST_GOOD:
            learner.take(learner.good)
            learner.counters["restored"] += 1
            tell(events, "restored", f"{found.text}; the last good block is back", logging.WARNING)
        elif rung is Rung.SOURCE:
            learner.take(learner.fall_back(contexts, self._passes(window)))
            tell(
                events,
                "reset",
                f"{found.text}; what this context learnt is dropped",
                logging.WARNING,
            )
        elif before is not Rung.FROZEN:
            learner.take(learner.source)
            tell(events, "frozen", f"{found.text}; the frozen model answers", logging.WARNING)

    def _passes(self, window: Frames) -> Callable[[Arrays], bool]:
        """Whether nothing speaks against a block on this batch alone."""
        return lambda block: self._examine(window, block, Evidence())[0] is None
