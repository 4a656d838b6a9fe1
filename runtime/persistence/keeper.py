"""Keeps a session: takes the next one, commits it, and closes what a runtime holds."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from edgemem.block import Block
from edgemem.errors import EdgeMemError, StateError
from edgemem.runtime.contexts.context_blocks import Arrival, settle
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.contexts.shipped_rows import LAST_PATIENCE
from edgemem.runtime.ownership import Turn
from edgemem.runtime.persistence.commits import Commit, Commits
from edgemem.runtime.persistence.saved_contexts import carried
from edgemem.runtime.persistence.saved_session import Found, counted, find, resumed, started_again
from edgemem.runtime.persistence.snapshot_checks import holds_frames
from edgemem.runtime.result import Event, EventKind, Events, tell
from edgemem.runtime.session import Session
from edgemem.runtime.step.full_batch import learn
from edgemem.runtime.step.ring import Ring
from edgemem.runtime.step.schedule import Schedule

if TYPE_CHECKING:
    from edgemem.runtime.step.background import Background
    from edgemem.state.store import State

log = logging.getLogger(__name__)
PATIENCE = 10.0  # seconds, at the end of the interpreter, for a call that still runs
GO_ON = (
    "Mend that, such as by making room, and close it again; "
    "or give up what is not committed: runtime.rollback() and close it, or end the process"
)


class Keeper:
    """The one place where a session gives way to the next.

    Knows nothing of its runtime, which can therefore vanish while this ends its business.

    session: the present one. notices: what happened, to be told by the next call. changed: whether
    there is anything to commit. closed: whether all is released. commits: None without a state
    file. behind: runs steps; None = they run at once.
    """

    def __init__(
        self,
        session: Session,
        ring: Ring,
        files: ContextFiles,
        state: State | None,
        commits: Commits | None,
        behind: Background | None,
        schedule: Schedule,
        turn: Turn,
    ) -> None:
        self.session, self.commits, self.behind, self.schedule = session, commits, behind, schedule
        self._ring, self._files, self._state, self._turn = ring, files, state, turn
        self._process = os.getpid()
        self.notices: Events = ()
        self.changed = self.closed = False

    def take(self, session: Session, events: Events = ()) -> Events:
        """Go on with another session; what led to it, once it is in the log."""
        left, self.session = self.session.contexts.request, session
        if left is not None and left is not session.contexts.request:
            left.cancel()
        return tell(events)

    def follow(self, session: Session, events: Events) -> Events:
        """Take the session of a full batch; a change of context is a reason to commit."""
        if self.commits is not None:
            self.commits.moved |= session.contexts.name != self.session.contexts.name
        return self.take(session, events)

    def noticed(self) -> Events:
        """What is to be told, once."""
        events, self.notices = self.notices, ()
        return events

    def take_learnt(self, *, wait: bool = False) -> Events:
        """Go on with what a step in the background learnt, unless its block was left meanwhile.

        Raises:
            BundleError: the step failed.
        """
        learnt = None if self.behind is None else self.behind.take(wait=wait)
        if learnt is None:
            return ()
        self.schedule.spend(learnt.seconds)
        if learnt.block is not self.session.block:
            return ()
        session, _, events = learn(self.session, learnt.batch, learnt.outputs, self._files)
        return self.take(session, events)

    def settled(self) -> Session:
        """The session with what was being learnt and read, before its classes change.

        Raises as `take_learnt`.
        """
        self.notices += self.take_learnt(wait=True)
        self._settle_rows()
        return replace(self.session, lookahead=self.session.lookahead.dropped())

    def resume(self, *, adapting: bool, keep_frames: bool) -> None:
        """Go on from the state file, as far as there is one and it is intact.

        adapting: whether batches are looked at at all.

        Raises:
            StateError: the file cannot be read, or frames cannot be deleted from it.
        """
        if self.session.contexts.follows:
            self._files.open()
        found = self._find()
        if found.checked is not None:
            self._ring.push(found.checked.frames)
            self.take(counted(self.session, found.checked))
            if self.commits is not None:
                self.commits.step = self.session.counters.steps
        self._take_saved(found, adapting=adapting)
        if self._state is not None and not keep_frames and holds_frames(self._state.snapshots()):
            self._ring.clear()
            self.take(replace(self.session, pending=0))
            self.commit(Commit("frames are not kept", alone=True))
            self.scrub()

    def go_back(self, *, adapting: bool) -> None:
        """Go back to the last commit; raises StateError if the file cannot be read."""
        found = self._find()
        self._drop_learnt()
        self._take_saved(found, adapting=adapting)

    def start_again(self, start: Block) -> None:
        """Go on from a block of which nothing was learnt here."""
        self._drop_learnt()
        self.take(started_again(self.session, start, self._files))

    def flush(self) -> None:
        """Commit everything; raises as `Runtime.flush`."""
        try:
            self.notices += self.take_learnt(wait=True)
        finally:  # a step that failed takes nothing else with it
            if self.commits is not None:
                self._settle_rows()
            self.commit(Commit("flush"))

    def commit(self, commit: Commit, session: Session | None = None) -> None:
        """Write everything to the state file, if there is one, and go on from there.

        session: another one, which takes the present one's place once it is committed.
        """
        session = self.session if session is None else session
        if self.commits is not None:
            recent = self._ring.last(0 if commit.clear else self._ring.count)
            session, events = self.commits.write(session, recent, commit)
            self.notices += tell(events)
        if commit.clear is not None:  # nobody knows which recent frames show what is forgotten
            self._ring.clear()
        self.take(session)
        self.changed = False

    def commit_if_due(self) -> Events:
        """Commit what was learnt if one is due, see `Commits.due`."""
        why = None if self.commits is None else self.commits.due(self.session)
        if self.commits is None or why is None:
            return ()
        try:
            session, events = self.commits.write(
                self.session, self._ring.last(0), Commit(why, between=True)
            )
        except StateError as error:  # predictions must not be lost with it
            self.commits.put_off(self.session)
            return tell((Event(EventKind.UNWRITTEN, str(error), logging.WARNING),))
        return self.take(session, events)

    def scrub(self) -> None:
        """Take what was cleared out of the log of the state file, too; raises StateError."""
        if self.commits is not None:
            self.commits.scrub()

    def close(self) -> None:
        """Flush what changed and close.

        What cannot be committed keeps it open; raises as `Runtime.close`.
        """
        if self.closed:
            return
        try:
            if self.changed or (self.behind is not None and self.behind.busy):
                self.changed = True
                self.flush()
        except StateError as error:
            raise StateError(
                error.thing, f"{error.reason}; the runtime stays open", GO_ON
            ) from error
        finally:
            if not self.changed:  # else it is still to be committed
                self._release(wait=True)

    def lose(self) -> None:
        """Nobody has the runtime any more, or the interpreter ends: commit and close.

        It may run on any thread, at any moment. Only a call is waited for that a thread still makes
        while the interpreter ends, and not for ever. What a step in the background has not finished
        is lost; a disk that refuses is told in the log. In a fork nothing happens.
        """
        if self._process != os.getpid():
            return
        if not self._turn.lock.acquire(timeout=PATIENCE):
            log.warning("what was learnt since the last commit is lost: a call is still running")
            return
        try:
            if not self.closed:
                self._lose()
        finally:
            self._turn.lock.release()

    def _lose(self) -> None:
        try:
            try:
                self.take_learnt()
            except EdgeMemError as error:  # takes nothing else with it
                log.warning("a step in the background failed: %s", error)
            if self.changed:
                self.commit(Commit("lost"))
        except Exception as error:  # noqa: BLE001 - there is no caller who could be told
            log.warning("what was learnt since the last commit is lost: %s", error)
        finally:
            self._release(wait=False)

    def _find(self) -> Found:
        bundle = self._files.bundle
        path = bundle.path if self._state is None else self._state.path
        return find(self._state, bundle, path)

    def _take_saved(self, found: Found, *, adapting: bool) -> None:
        session, events = resumed(self.session, found, self._files, adapting=adapting)
        if self.commits is not None and not session.contexts.follows:
            held = found.checked
            self.commits.carried = carried(*((held.arrays, held.counters) if held else ({}, {})))
        self.notices += self.take(session, events)

    def _drop_learnt(self) -> None:
        """What a step in the background learnt is rolled back, too."""
        if self.behind is not None:
            self.behind.drop()

    def _settle_rows(self) -> None:
        """Wait for shipped rows that are being read, but not for ever."""
        arrival: Arrival = settle(self.session.contexts, self._files)
        session = replace(self.session, contexts=arrival.contexts)
        if arrival.block is not None:
            session = session.taking(arrival.block, self._files.bundle)
        self.notices += self.take(session, arrival.events)

    def _release(self, *, wait: bool) -> None:
        if self.behind is not None:
            self.behind.close(wait=wait)
        if (request := self.session.contexts.request) is not None:
            request.cancel()
        self._files.close(LAST_PATIENCE if wait else 0)
        if self._state is not None:
            self._state.close()
        self.closed = True  # last: what an interrupt cuts short is ended by the next call
