"""Guard rails: is the block in use still to be trusted? Without labels, beside two others.

Checks: the references are the frozen model and the block as exported. Where these two agree they are
mostly right, whatever the shift and however labels are ordered; so a block that contradicts both on
most such frames has gone astray, and goes up the ladder.

Familiar frames: where what comes in is like the source's, the frozen model answers and nothing is
learnt, see `familiar`.

Second opinion: batches of few classes spoil statistics that are taken from them, which no block can
help. The adapted model is then far less certain than the frozen one, which gets the larger a share
of the answer, while the block goes on learning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgemem.block import Array, Arrays, is_finite
from edgemem.bundle import Bundle
from edgemem.runtime.familiar import Seen, goes_on, is_as_certain, is_near, nothing_seen, seen_of
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.ladder import MOST_RELAPSES, Ladder, Rung
from edgemem.runtime.learner import Learner, Logits
from edgemem.runtime.opinion import SHARES, averaged, frozen_share, used
from edgemem.runtime.result import Event
from edgemem.runtime.source_keys import source_keys
from edgemem.runtime.symptoms import FARTHEST, dissent, farthest

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory
    from edgemem.runtime.contexts import SourceKeys

CHECK_EVERY, PROBATION = 8, 2  # updates between checks: in general, and after an alarm
SHARE = 2  # one of so many frames of a batch takes part in a check
OPINION_EVERY = 4  # batches, while the frozen model has no share of the answer
SEEN = "seen"  # name of an array in a snapshot
CLEAR_UP = 256.0  # frames about which the frozen model is asked one batch after the other
HALF = 0.5  # a share that is worth telling
FAMILIAR = {
    True: "the frames are like the source's; the frozen model answers, nothing is learnt",
    False: "the frames are not like the source's any more",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """What is wrong with a block. lasting: it does not depend on the batch."""

    text: str
    lasting: bool


class Guard:
    """Watches the block of a learner. ladder: where it stands. share: of the frozen model in the
    answer, because it is more certain; used where it is large enough."""

    def __init__(self, bundle: Bundle, graphs: Graphs, learner: Learner) -> None:
        self._bundle, self._spec = bundle, bundle.manifest.block
        self._keys: SourceKeys | None = None
        manifest = bundle.manifest
        # Statistics of the source no batch can spoil; without its keys nothing is known of it.
        self._asks = manifest.frames.companions and manifest.source is not None
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
            "guard.share": round(SHARES * self.share),
            "guard.batches": self._batches,
            "guard.familiar": int(self._learner.familiar),
        }

    def arrays(self) -> Arrays:
        """For the snapshot."""
        return {SEEN: self._seen.to_array()}

    def load(self, arrays: Arrays, counters: Mapping[str, int]) -> None:
        """Go on from a snapshot."""
        rung = Rung(min(max(counters.get("guard.rung", 0), Rung.LEARN), Rung.FROZEN))
        relapses = min(max(counters.get("guard.relapses", 0), 0), MOST_RELAPSES)
        ladder = Ladder(rung, counters.get("guard.calm", 0), relapses)
        self._go_on(ladder, counters.get("guard.checked", 0))
        self.share = min(max(counters.get("guard.share", 0), 0), SHARES) / SHARES
        self._batches = counters.get("guard.batches", 0)
        manifest = self._bundle.manifest
        self._seen = seen_of(arrays.get(SEEN), manifest.key, manifest.classes)
        self._learner.familiar = bool(counters.get("guard.familiar", 0))
        self._learner.in_order = goes_on(self._seen)
        self._choose()

    def _go_on(self, ladder: Ladder, checked: int) -> None:
        self.ladder, self._checked = ladder, checked
        self.share = 0.0
        self._batches = 0  # that a second opinion might have been asked for
        self._seen = self._nothing_seen()
        self._learner.familiar = self._learner.in_order = False
        self._choose()

    @property
    def _pause(self) -> int:
        """Updates between two checks."""
        return PROBATION if self.ladder.relapses else CHECK_EVERY

    def _choose(self) -> None:
        self._learner.frozen_share = 1.0 if self.ladder.rung is Rung.FROZEN else used(self.share)

    def arrived(self) -> None:
        """Another context's block has been taken: check it on the next batch."""
        self._checked, self._batches = -CHECK_EVERY, 0
        self._seen = self._nothing_seen()

    def key(self, window: Frames) -> Array | None:
        """Context key of a batch; None where nothing is known of keys, or it is not finite."""
        if self._bundle.manifest.source is None:
            return None
        key = self._graphs.key(window)
        return key if is_finite({"": key}) else None

    def is_familiar(self, window: Frames, key: Array, events: list[Event]) -> bool:
        """Whether this batch goes on what is like the source's; takes note of it. Frames that
        classes were taught from are not: the source has none."""
        source, size = self._source_keys(), len(window)
        self._seen = self._seen.with_key(source.normal(key), size)
        near = not self._learner.carries and is_near(self._seen, source, size)
        if near and (self._seen.asked < CLEAR_UP or self._batches % OPINION_EVERY == 0):
            self._seen = self._seen.with_answers(self._graphs.frozen(window))
        found = near and is_as_certain(self._seen, source)
        if found:
            self._batches += 1
        if found != self._learner.familiar:
            kind = "familiar" if found else "unfamiliar"
            tell(events, kind, FAMILIAR[found], logging.INFO)
        self._learner.familiar, self._learner.in_order = found, goes_on(self._seen)
        return found

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
                tell(
                    events,
                    "recovered",
                    "the block passes its checks; it learns again",
                    logging.INFO,
                )
        self._choose()
        return self.ladder.rung is Rung.LEARN

    def second_opinion(
        self, window: Frames, key: Array | None, own: Logits, events: list[Event]
    ) -> Logits:
        """The logits [n, classes] to answer a full batch with: the block's own, or those of block
        and frozen model together; what is found holds for the frames after it, too."""
        if self.ladder.rung is Rung.FROZEN:
            return self._learner.frozen(window)
        self._batches += 1
        if (
            not self._asks
            or key is None
            or (not used(self.share) and self._batches % OPINION_EVERY != 1)
        ):
            return own
        frozen, before = self._learner.frozen(window), self.share
        newest = frozen_share(own, frozen, self._distance(key))
        self.share = newest if self._batches == 1 else averaged(before, newest)
        if before < HALF <= self.share:
            text = f"the adapted model is unsure; the frozen one has {self.share:.0%} of the answer"
            tell(events, "frozen", text, logging.INFO)
        elif self.share < HALF <= before:
            tell(events, "recovered", "the adapted model is sure again", logging.INFO)
        self._choose()
        return self._learner.with_frozen(own, window, used(self.share)) if used(self.share) else own

    def _nothing_seen(self) -> Seen:
        return nothing_seen(self._bundle.manifest.key, self._bundle.manifest.classes)

    def _distance(self, key: Array) -> float:
        """Of a batch from the source."""
        return float(np.sqrt(np.mean(np.square(self._source_keys().normal(key)))))

    def _source_keys(self) -> SourceKeys:
        if self._keys is None:
            self._keys = source_keys(self._bundle)
        return self._keys

    def _examine(self, window: Frames, block: Arrays) -> Finding | None:
        """What is wrong with a block, or None."""
        probe, graphs, learner = window[::SHARE], self._graphs, self._learner
        distance = farthest(self._spec, self._bundle.generic, block)
        if not distance <= FARTHEST:
            return Finding(f"the block has drifted by {distance:.1f} from the source", lasting=True)
        own = graphs.predict(probe, block, learner.hyper_parameters)
        if not np.isfinite(own).all():
            return Finding("the block gives non-finite logits", lasting=True)
        source = graphs.predict(probe, learner.source, learner.hyper_parameters)
        text = dissent(own, source, learner.frozen(probe))
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
            learner.counters["skipped"] += 1
            tell(events, "skipped", f"{found.text}; nothing is learnt")
        elif rung is Rung.LAST_GOOD:
            learner.take(learner.good)
            learner.counters["restored"] += 1
            tell(events, "restored", f"{found.text}; the last good block is back")
        elif rung is Rung.SOURCE:
            learner.take(
                learner.fall_back(
                    contexts, lambda block: self._examine(window, block) is None, learner.source
                )
            )
            tell(events, "reset", f"{found.text}; what this context learnt is dropped")
        elif before is not Rung.FROZEN:
            learner.take(learner.source)
            tell(events, "frozen", f"{found.text}; the frozen model answers")


def tell(events: list[Event], kind: str, message: str, level: int = logging.WARNING) -> None:
    """An event, and a line in the log."""
    log.log(level, "%s: %s", kind, message)
    events.append(Event(kind, message))
