"""Commits to the state file: what they hold, and when one is due."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING

from edgemem.block import Block
from edgemem.errors import StateError
from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.contexts.context_blocks import ContextBlocks
from edgemem.runtime.contexts.context_files import PREFIX, ContextFiles
from edgemem.runtime.contexts.recognition import NONE
from edgemem.runtime.guard import guard_rails
from edgemem.runtime.persistence.saved_contexts import saved_contexts
from edgemem.runtime.persistence.saved_session import saved_arrays, saved_counters
from edgemem.runtime.persistence.snapshot_checks import kept_rows, require_readable
from edgemem.runtime.result import Event, EventKind, Events
from edgemem.runtime.session import Session
from edgemem.runtime.step.graphs import Frames
from edgemem.state.snapshot import Snapshot

if TYPE_CHECKING:
    from edgemem.state.store import State

# What a power cut may cost, whatever the context does: so many steps, and what was learnt in so
# many seconds. This comes before the next rule.
MOST_STEPS, MOST_SECONDS = 64, 60.0
# Flash wears out. On a change of context a commit comes at most so often in steps, and only if all
# commits together stay below so many bytes per 1,000 frames.
STEPS, BYTES = 16, 1 << 20
UNSOUND = "the block held what cannot be committed; the last good one is back"


@dataclass(frozen=True)
class Commit:
    """What a commit is for. why: in words, for the provenance of blocks.

    between: one that nobody asked for. It spares the flash: recent frames, the optimiser's slots
    and the leaf of the present context are left out. After a power cut the ring is empty and the
    optimiser starts afresh; nothing learnt is lost. clear: takes out of all blocks in the file what
    is to be forgotten. alone: delete all earlier snapshots. After either `scrub` must follow.
    """

    why: str
    between: bool = False
    clear: Callable[[Block], Block] | None = None
    alone: bool = False


class Commits:
    """Writes sessions to a state file. keep_frames: whether recent frames are written.

    step: of the last commit. carried: what it passes on unread, for a runtime that tells contexts
    apart. moved: whether the context changed since. clock: seconds that only grow.
    """

    def __init__(self, state: State, files: ContextFiles, *, keep_frames: bool = True) -> None:
        self._state, self._files, self._keep_frames = state, files, keep_frames
        self._manifest = files.bundle.manifest
        self.step = 0
        self.moved = False
        self.carried = Snapshot({}, {})
        self.clock = time.monotonic
        self._time = self.clock()  # of the last commit
        self._bytes = 0  # that it wrote

    def due(self, session: Session) -> str | None:
        """Why a commit is due now; None if it is not. A change of context waits for its rows."""
        since = session.counters.steps - self.step
        if since >= MOST_STEPS or (since and self.clock() - self._time >= MOST_SECONDS):
            return "time"
        frames = since * self._manifest.frames.batch
        fits = since >= STEPS and BYTES * frames >= 1000 * self._bytes
        waits = session.contexts.reading
        return "context change" if self.moved and fits and not waits else None

    def put_off(self, session: Session) -> None:
        """The disk refuses: try again when as much as a power cut may cost has been learnt."""
        self.step, self._time = session.counters.steps, self.clock()

    def write(self, session: Session, recent: Frames, commit: Commit) -> tuple[Session, Events]:
        """Commit, all or nothing; contexts are settled.

        What opening would refuse gives way to what is sound, which is told, and is never written.

        Args:
            session: as it is.
            recent: the frames of the ring, oldest first.
            commit: what it is for.

        Returns:
            The session as it is committed.

        Raises:
            StateError: the disk refuses, or a signal handler asks for a commit in the midst of
                another; the last commit is still there.
        """
        if self._is_writing():
            raise StateError(
                str(self._state.path),
                "is being written: a signal came in the midst of a commit",
                "Let the signal handler only note the signal, and call once the call that it "
                "interrupted has returned",
            )
        return self._write(session, recent, commit)

    def scrub(self) -> None:
        """Take what was cleared out of the log of the file, too.

        Raises:
            StateError: somebody is reading the file.
        """
        with self._state.transaction():
            self._state.scrub()

    def _is_writing(self) -> bool:
        """Whether this call came in the midst of a commit.

        Only the stack knows: whatever else notes it can be left behind by an interrupt.
        """
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is Commits._write.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def _write(self, session: Session, recent: Frames, commit: Commit) -> tuple[Session, Events]:
        self._state.take_back()
        session, events = self._sound(session)
        session = replace(session, contexts=self._with_present(session, commit))
        held = self._held(session, recent[:0] if commit.between else recent, commit)
        before, evicted, steps = self._state.bytes_written, list[int](), session.counters.steps
        with self._state.transaction():
            if session.contexts.follows:
                evicted = self._write_blocks(session, commit)
            if commit.clear is not None:
                from edgemem.bank.written.purge import purge  # as SQLite, it loads when used

                purge(self._state, commit.clear, commit.why)
            if session.contexts.follows:
                contexts = saved_contexts(session.contexts, self._files)
                held = Snapshot(held.arrays | contexts.arrays, held.counters | contexts.counters)
            require_readable(held, self._manifest, self._state.path)
            self._state.write(held)
            if commit.alone or commit.clear is not None:
                self._state.drop_earlier()
        self.moved, self.step, self._time = False, steps, self.clock()
        self._bytes = self._state.bytes_written - before
        if not session.contexts.follows:
            return session, events
        told = (Event(EventKind.EVICTED, f"{PREFIX}{n} had to make room") for n in evicted)
        committed = self._committed(session.contexts, evicted)
        return replace(session, contexts=committed), (*events, *told)

    def _sound(self, session: Session) -> tuple[Session, Events]:
        """What is no sound block, or no sound slots, gives way to what is."""
        events: Events = ()
        if not session.good.is_sound():
            sound = session.block if session.block.is_sound() else self._files.bundle.generic
            session = replace(session, good=sound)
        if not session.block.is_sound():
            session = session.taking(session.good, self._files.bundle).counting(restored=1)
            events = (Event(EventKind.RESTORED, UNSOUND),)
        if not session.slots.is_finite():
            session = replace(session, slots=self._manifest.slots.zero())
        if not guard_rails.is_finite(session):
            session = guard_rails.starting_again(session, self._files)
        if not session.contexts.follows:
            return session, events
        contexts, more = context_blocks.sound(session.contexts, self._files)
        return replace(session, contexts=contexts), events + more

    def _with_present(self, session: Session, commit: Commit) -> ContextBlocks:
        """With the leaf of the present context, unless the last one that was written will do."""
        contexts = session.contexts
        present = contexts.policy.present
        if present == NONE or contexts.reading:
            return contexts
        if commit.between and self._files.is_written(contexts.kept, present):
            return contexts
        return contexts.with_leaf_of(session.block)

    def _write_blocks(self, session: Session, commit: Commit) -> list[int]:
        policy, steps = session.contexts.policy, session.counters.steps
        return self._files.write(
            session.contexts.kept, policy.known, policy.present, steps, session.entropy, commit.why
        )

    def _committed(self, contexts: ContextBlocks, evicted: list[int]) -> ContextBlocks:
        """After what was written is in the file for good."""
        known = {n: c for n, c in contexts.policy.known.items() if n not in evicted}
        kept = self._files.committed(contexts.kept, evicted)
        return replace(contexts, kept=kept, policy=replace(contexts.policy, known=known))

    def _held(self, session: Session, recent: Frames, commit: Commit) -> Snapshot:
        """The snapshot but for contexts."""
        frames = recent if self._keep_frames else recent[:0]
        bundle = self._files.bundle
        arrays = saved_arrays(session, bundle, slots=not commit.between)
        arrays |= kept_rows(frames, self._manifest.frames.uint8_scale)
        counters = saved_counters(session)
        counters["pending"] = min(session.pending, len(frames))
        return Snapshot(arrays | self.carried.arrays, counters | self.carried.counters)
