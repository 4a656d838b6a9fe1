"""What happens on a full batch: the context is followed, the block checked, and a step is run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays
from edgemem.runtime.commits import Commits
from edgemem.runtime.consolidation import Outlook, Probe, outlook
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.guard import Guard
from edgemem.runtime.learner import Learner, Logits
from edgemem.runtime.result import Event, tell
from edgemem.runtime.ring import Ring
from edgemem.runtime.schedule import Schedule
from edgemem.runtime.symptoms import is_still

if TYPE_CHECKING:
    from edgemem.runtime.background import Background
    from edgemem.runtime.context_memory import ContextMemory

PROBE_EVERY = 2  # one of so many frames of a batch takes part in the probe of a consolidation


class Adaptation:
    """Adapts the block of a learner to the frames of a ring. behind: runs the steps; None = they
    run at once."""

    def __init__(
        self,
        graphs: Graphs,
        learner: Learner,
        guard: Guard,
        ring: Ring,
        schedule: Schedule,
        commits: Commits | None,
        behind: Background | None,
        contexts: Callable[[], ContextMemory | None],
    ) -> None:
        self._graphs, self._learner, self._guard, self._ring = graphs, learner, guard, ring
        self._schedule, self._commits, self._behind = schedule, commits, behind
        self._contexts = contexts

    def adapt(self, events: list[Event]) -> Logits:
        """Logits of all frames of the ring, from before the step that follows if one is due."""
        window = self._ring.last(self._ring.size)
        if is_still(window):
            tell(events, "still", "all frames of the batch are the same")
            return self._learner.answer(window, len(window), events)
        key = self._guard.opinion.key(window)
        if key is not None:
            self._follow(key, window, events)
        if self._guard.opinion.is_familiar(window, key, events):
            return self._learner.answer(window, len(window), events)
        own = self._adapted(window, events)
        return self._guard.second_opinion(window, key, own, events)

    def take_learnt(self, events: list[Event], *, wait: bool = False) -> None:
        """Go on with what a step in the background learnt, unless its block was left meanwhile."""
        learnt = None if self._behind is None else self._behind.take(wait=wait)
        if learnt is not None:
            self._schedule.spend(learnt.seconds)
        if learnt is not None and learnt.block is self._learner.block:
            self._learn(learnt.window, learnt.outputs, events)

    def _adapted(self, window: Frames, events: list[Event]) -> Logits:
        """The block's own logits; adapts it, if all agrees."""
        contexts = self._contexts()
        batch = self._learner.counters["frames"] // self._ring.size - 1
        sound = self._guard.may_learn(window, contexts, events)
        drifting = contexts is None or contexts.drifting
        if not sound or not self._schedule.due(batch, drifting):
            return self._learner.own(window, events)
        if self._behind is not None:
            return self._adapt_behind(self._behind, window, events)
        began = time.monotonic()
        outputs = self._learner.step(window)
        self._schedule.spend(time.monotonic() - began)
        return self._learn(window, outputs, events)

    def _adapt_behind(self, behind: Background, window: Frames, events: list[Event]) -> Logits:
        """Predict; take what the last step learnt, and start the next one, if none is running."""
        self.take_learnt(events)
        if not behind.busy:
            window = window.copy()  # the ring goes on filling
            block, slots = self._learner.block, self._learner.slots
            parameters = dict(self._learner.hyper_parameters)
            behind.start(
                window, block, lambda: self._graphs.adapt(window, block, slots, parameters)
            )
        return self._learner.own(window, events)

    def _learn(self, window: Frames, outputs: Arrays, events: list[Event]) -> Logits:
        return self._learner.learn(window, outputs, self._contexts(), events)

    def _follow(self, key: Array, window: Frames, events: list[Event]) -> None:
        """Take the block of the context that the frames come from."""
        contexts = self._contexts()
        if contexts is None:
            return
        context, probe = contexts.name, self._probe(window[::PROBE_EVERY])
        arrived = contexts.arrive(key, self._learner.block, probe, events)
        if arrived is not None:
            self._learner.take(arrived)
            self._guard.arrived()
        if self._commits is not None:
            self._commits.moved |= contexts.name != context

    def _probe(self, window: Frames) -> Probe:
        """Judges blocks by frames, beside the frozen model."""
        frozen: list[NDArray[np.int64]] = []

        def look(block: Arrays) -> Outlook:
            if not frozen:
                frozen.append(self._learner.frozen(window).argmax(1))
            logits = self._graphs.predict(window, block, self._learner.hyper_parameters)
            return outlook(logits, frozen[0])

        return look
