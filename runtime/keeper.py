"""Keeps what a runtime has learnt: commits it, and closes what the runtime holds, even a lost one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgemem.block import Arrays
from edgemem.errors import EdgeMemError, StateError
from edgemem.runtime.commits import Commits
from edgemem.runtime.known_contexts import KnownContexts
from edgemem.runtime.learner import Learner
from edgemem.runtime.ownership import Turn
from edgemem.runtime.result import Event

if TYPE_CHECKING:
    from edgemem.runtime.adaptation import Adaptation
    from edgemem.runtime.background import Background
    from edgemem.runtime.teacher import Teacher
    from edgemem.state import State

log = logging.getLogger(__name__)
PATIENCE = 10.0  # seconds, at the end of the interpreter, for a call that still runs
GO_ON = (
    "Mend that, such as by making room, and close it again; "
    "or give up what is not committed: runtime.rollback() and close it, or end the process"
)


class Keeper:
    """Knows nothing of its runtime, which can therefore vanish while this ends its business.

    notices: what happened, to be told by the next call. changed: whether there is anything to
    commit. teacher, adaptation: of the same runtime; set before anything is asked of this.
    """

    teacher: Teacher
    adaptation: Adaptation

    def __init__(
        self,
        state: State | None,
        commits: Commits | None,
        contexts: KnownContexts,
        learner: Learner,
        behind: Background | None,
        turn: Turn,
    ) -> None:
        self._state, self._commits, self._contexts = state, commits, contexts
        self._learner, self._behind, self._turn = learner, behind, turn
        self._process = os.getpid()
        self.notices: list[Event] = []
        self.changed = self.closed = False

    def noticed(self) -> list[Event]:
        """What is to be told, once."""
        events, self.notices = self.notices, []
        return events

    def settle(self) -> None:
        """Take what is being learnt, and what is being read.

        Raises:
            BundleError: the step in the background failed.
        """
        self.adaptation.take_learnt(self.notices, wait=True)
        self._settle_rows()

    def flush(self) -> None:
        """Commit everything; raises as `Runtime.flush`."""
        try:
            self.adaptation.take_learnt(self.notices, wait=True)
        finally:  # a step that failed takes nothing else with it
            if self._commits is not None:
                self._settle_rows()
            self.commit("flush")

    def commit(
        self,
        why: str,
        cleared: Callable[[Arrays], Arrays] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """Write everything to the state file, if there is one. cleared: takes out of what is
        written there what shall be forgotten. alone: delete all earlier snapshots."""
        if self._commits is not None:
            contexts = self._contexts.get()
            self._commits.write(
                contexts, self.notices, why, self.teacher.arrays, cleared, alone=alone
            )
        self.changed = False

    def commit_if_due(self, events: list[Event]) -> None:
        """Commit what was learnt if a change of context, or the bound on what a power cut may
        cost, asks for it."""
        if self._commits is None:
            return
        contexts = self._contexts.memory
        why = self._commits.due(reading=contexts is not None and contexts.reading)
        if why is None:
            return
        try:
            self._commits.write(contexts, events, why, self.teacher.arrays, between=True)
        except StateError as error:  # predictions must not be lost with it
            self._commits.put_off()
            events.append(Event("unwritten", str(error)))

    def drop_frames(self) -> None:
        """Commit without recent frames, and leave none in the file; raises StateError."""
        self.commit("frames are not kept", alone=True)
        self.scrub()

    def scrub(self) -> None:
        """Take what was cleared out of the log of the state file, too; raises StateError."""
        if self._commits is not None:
            self._commits.scrub()

    def close(self) -> None:
        """Flush what changed and close. What cannot be committed keeps it open; raises as
        `Runtime.close`."""
        if self.closed:
            return
        try:
            if self.changed or (self._behind is not None and self._behind.busy):
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
                self.adaptation.take_learnt(self.notices)
            except EdgeMemError as error:  # takes nothing else with it
                log.warning("a step in the background failed: %s", error)
            if self.changed:
                self.commit("lost")
        except Exception as error:  # noqa: BLE001 - there is no caller who could be told
            log.warning("what was learnt since the last commit is lost: %s", error)
        finally:
            self._release(wait=False)

    def _settle_rows(self) -> None:
        """Wait for shipped rows that are being read, but not for ever."""
        if (contexts := self._contexts.get()) is not None:
            self._learner.take(contexts.settle(self.notices))

    def _release(self, *, wait: bool) -> None:
        if self._behind is not None:
            self._behind.close(wait=wait)
        self._contexts.close(wait=wait)
        if self._state is not None:
            self._state.close()
        self.closed = True  # last: what an interrupt cuts short is ended by the next call
