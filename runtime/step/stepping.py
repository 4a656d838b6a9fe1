"""What a runtime does with the frames of one call, a batch at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from edgemem.block import Arrays, Block
from edgemem.runtime.answers import Answers
from edgemem.runtime.batch import Batch
from edgemem.runtime.contexts.context_blocks import glimpse
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.contexts.lookahead import LOOK, Companions, Lookahead
from edgemem.runtime.contexts.recognition import NONE
from edgemem.runtime.guard.frozen_fallback import may_be_familiar
from edgemem.runtime.persistence.keeper import Keeper
from edgemem.runtime.result import Event, EventKind, Events, tell
from edgemem.runtime.session import Session
from edgemem.runtime.step.full_batch import answer, apply, decide
from edgemem.runtime.step.graphs import Frames, Graphs
from edgemem.runtime.step.hyper_parameters import HyperParameters
from edgemem.runtime.step.ring import Ring

if TYPE_CHECKING:
    from edgemem.runtime.step.background import Background

Found = TypeVar("Found")


class Stepping:
    """Runs the graphs that a step needs, between what is decided and what becomes of it."""

    def __init__(
        self,
        keeper: Keeper,
        graphs: Graphs,
        parameters: HyperParameters,
        ring: Ring,
        files: ContextFiles,
    ) -> None:
        self._keeper, self._graphs, self._parameters = keeper, graphs, parameters
        self._ring, self._files, self._companions = ring, files, Companions(files.bundle)

    @property
    def missing(self) -> int:
        """Frames until the next full batch."""
        return self._ring.size - self._waiting

    def missing_like(self, frames: Frames) -> int:
        """Frames until the next full batch of frames like these."""
        return self.missing if self._ring.suits(frames) else self._ring.size

    def turn_to(self, frames: Frames) -> Events:
        """Before frames of another size than those that wait: these wait no longer."""
        if self._ring.suits(frames):
            return ()
        session, waiting = self._keeper.session, self._waiting
        let_go = session.let_go + waiting
        self._keeper.take(replace(session, pending=0, lookahead=Lookahead(), let_go=let_go))
        self._ring.turn_to(frames)
        if not waiting:
            return ()
        text = f"frames of another size came: nothing is learnt from {waiting} that waited"
        return (Event(EventKind.RESIZED, text, logging.DEBUG),)

    @property
    def _waiting(self) -> int:
        # An interrupt while a class is forgotten may leave a ring that is empty already.
        return min(self._keeper.session.pending, self._ring.count)

    def step(self, part: Frames, *, adapting: bool) -> tuple[Answers, Events]:
        """Answers to frames, from before the step that follows if they fill a batch.

        part: at most as many as are missing. adapting: whether batches are looked at at all.
        """
        keeper, n, resized = self._keeper, len(part), tell(self.turn_to(part))
        waiting = self._waiting + n
        full = waiting == self._ring.size
        session = replace(keeper.session.counting(frames=n), pending=waiting % self._ring.size)
        keeper.changed = True
        self._ring.push(part)
        keeper.take(replace(session, lookahead=Lookahead()) if full else session)
        if full and adapting:
            answers, events = self._adapt(self._batch(self._ring.last(self._ring.size)))
            return answers[-n:], resized + events
        if not full:
            lookahead = self._of_present(lambda session: self._looked_ahead(session, n))
            keeper.take(replace(keeper.session, lookahead=lookahead))
        answers, events = self.between(self._ring.last(self._ring.count), n)
        return answers, resized + tell(events)

    def between(self, recent: Frames, n: int) -> tuple[Answers, Events]:
        """Answers to the last n of the most recent frames, which make no full batch."""
        session, batch = self._keeper.session, self._batch(recent)
        if may_be_familiar(session, batch, self._files):
            return batch.last(n).frozen(session.taught), ()
        block, beside = self._companions.chosen(session.lookahead, session.block, n)
        return answer(session, batch.last(beside), n, block)

    def _batch(self, frames: Frames) -> Batch:
        return Batch(frames, self._graphs, self._parameters.now())

    def _adapt(self, batch: Batch) -> tuple[Answers, Events]:
        """Answers to a full batch; the session goes on from there, after a step if one is due."""
        keeper, files, outputs = self._keeper, self._files, None
        plan = self._of_present(lambda session: decide(session, batch, files))
        events = keeper.follow(plan.session, plan.events)
        if plan.learns and self._is_due(plan.session):
            if keeper.behind is None:
                outputs = self._timed_step(plan.session, batch)
            else:
                events += self._step_behind(batch, keeper.behind)

        def applied(session: Session) -> tuple[Session, Answers, Events]:
            step = outputs if session is plan.session else None
            return apply(session, plan, batch, step, files)

        session, answers, more = self._of_present(applied)
        return answers, events + keeper.take(session, more)

    def _of_present(self, function: Callable[[Session], Found]) -> Found:
        """What a function makes of the present session, running graphs meanwhile.

        Again, where a signal's handler has called the runtime in between: what it changed holds.
        """
        while True:
            session = self._keeper.session
            found = function(session)
            if self._keeper.session is session:
                return found

    def _is_due(self, session: Session) -> bool:
        # Full batches.
        before = (session.counters.frames - session.let_go) // self._ring.size - 1
        return self._keeper.schedule.due(before, session.contexts.is_drifting(self._files))

    def _timed_step(self, session: Session, batch: Batch) -> Arrays:
        began = time.monotonic()
        outputs = batch.step(session.block, session.slots)
        self._keeper.schedule.spend(time.monotonic() - began)
        return outputs

    def _step_behind(self, batch: Batch, behind: Background) -> Events:
        """Take what the last step learnt, and start the next one, if none is running."""
        learnt = self._keeper.take_learnt()
        if not behind.busy:
            session, frames = self._keeper.session, batch.frames.copy()  # the ring goes on filling
            behind.start(self._batch(frames), session.block, session.slots)
        return learnt

    def _looked_ahead(self, session: Session, n: int) -> Lookahead:
        """After n more frames in the ring, which fill no batch."""
        contexts = session.contexts

        def found(noise: float) -> Block | None:
            if contexts.policy.present == NONE:
                return None
            key = self._batch(self._ring.last(LOOK)).key
            return None if key is None else glimpse(contexts, key, noise, self._files)

        return session.lookahead.after(n, self._ring.size, found)
