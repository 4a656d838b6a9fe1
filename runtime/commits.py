"""Commits to the state file: what they hold, and when one is due."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from edgemem.bank.purge import purge
from edgemem.block import Arrays, is_finite
from edgemem.errors import StateError
from edgemem.manifest import Manifest
from edgemem.runtime.contract import prefixed
from edgemem.runtime.guard import Guard
from edgemem.runtime.learner import Learner
from edgemem.runtime.ring import Ring
from edgemem.runtime.snapshots import packed_frames, require_readable
from edgemem.snapshot import Snapshot

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory
    from edgemem.runtime.result import Event
    from edgemem.state import State

# What a power cut may cost, whatever the context does: so many steps, and what was learnt in so many
# seconds. This comes before the next rule.
MOST_STEPS, MOST_SECONDS = 64, 60.0
# Flash wears out. On a change of context a commit comes at most so often in steps, and only if all
# commits together stay below so many bytes per 1,000 frames.
STEPS, BYTES = 16, 1 << 20


class Commits:
    """Writes what a learner and its surroundings have learnt. step: the last commit's. carried: what
    it passes on unread, for a runtime that tells contexts apart. moved: whether the context changed
    since. clock: seconds that only grow. keep_frames: whether recent frames are written."""

    def __init__(
        self,
        state: State,
        manifest: Manifest,
        learner: Learner,
        ring: Ring,
        guard: Guard,
        *,
        keep_frames: bool = True,
    ) -> None:
        self._state, self._manifest, self._keep_frames = state, manifest, keep_frames
        self._learner, self._ring, self._guard = learner, ring, guard
        self.step = 0
        self.moved = False
        self.carried = Snapshot({}, {})
        self.clock = time.monotonic
        self._time = self.clock()  # of the last commit
        self._bytes = 0  # that it wrote

    def due(self, *, reading: bool) -> str | None:
        """Why a commit is due now; None if it is not.

        reading: whether rows are on the way. A change of context waits for them.
        """
        since = self._learner.counters["steps"] - self.step
        if since >= MOST_STEPS or (since and self.clock() - self._time >= MOST_SECONDS):
            return "time"
        frames = since * self._manifest.frames.batch
        fits = since >= STEPS and BYTES * frames >= 1000 * self._bytes
        return "context change" if self.moved and fits and not reading else None

    def put_off(self) -> None:
        """The disk refuses: try again when as much as a power cut may cost has been learnt again."""
        self.step, self._time = self._learner.counters["steps"], self.clock()

    def write(
        self,
        contexts: ContextMemory | None,
        events: list[Event],
        why: str,
        more: Callable[[], Arrays],
        cleared: Callable[[Arrays], Arrays] | None = None,
        *,
        between: bool = False,
        alone: bool = False,
    ) -> None:
        """Commit, all or nothing; `contexts` are settled. What opening would refuse gives way to
        what is sound, which is told, and is never written.

        Args:
            more: arrays for the snapshot.
            alone: delete all earlier snapshots; `scrub` must follow.
            between: a commit that nobody asked for. It spares the flash: recent frames, the
                optimiser's slots and the leaf of the present context are left out. After a power
                cut the ring is empty and the optimiser starts afresh; nothing learnt is lost.
            cleared: what is to be taken out of all blocks in the file; nothing that may hold it
                stays but this commit. `scrub` must follow.

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
        self._write(contexts, events, why, more, cleared, between=between, alone=alone)

    def _is_writing(self) -> bool:
        """Whether this call came in the midst of a commit. Only the stack knows: whatever else notes
        it can be left behind by an interrupt."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is Commits._write.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def _write(
        self,
        contexts: ContextMemory | None,
        events: list[Event],
        why: str,
        more: Callable[[], Arrays],
        cleared: Callable[[Arrays], Arrays] | None,
        *,
        between: bool,
        alone: bool,
    ) -> None:
        learner = self._learner
        self._state.take_back()
        self._mend(contexts, events)
        arrays, counters = self._held(between=between)
        steps = learner.counters["steps"]
        before, evicted = self._state.bytes_written, list[int]()
        with self._state.transaction():
            if contexts is not None:
                evicted = contexts.write(
                    learner.block, steps, learner.entropy, why, between=between
                )
            if cleared is not None:
                purge(self._state, cleared, why)
            if contexts is not None:
                arrays |= contexts.arrays()
                counters |= contexts.counters()
            snapshot = Snapshot(arrays | more() | self.carried.arrays, counters)
            require_readable(snapshot, self._manifest, self._state.path)
            self._state.write(snapshot)
            if alone or cleared is not None:
                self._state.drop_earlier()
        if contexts is not None:
            contexts.committed(evicted, events)
        self.moved, self.step, self._time = False, steps, self.clock()
        self._bytes = self._state.bytes_written - before

    def _mend(self, contexts: ContextMemory | None, events: list[Event]) -> None:
        self._learner.mend(events)
        if not is_finite(self._guard.arrays()):
            self._guard.reset()
        if contexts is not None:
            contexts.mend(events)

    def _held(self, *, between: bool) -> tuple[Arrays, dict[str, int]]:
        """Arrays and counters of learner, guard and ring."""
        learner, ring = self._learner, self._ring
        frames = ring.last(ring.count if self._keep_frames and not between else 0)
        arrays = {
            **prefixed("block", learner.block),
            **prefixed("good", learner.good),
            **({} if between else prefixed("opt", learner.slots)),
            "ring": packed_frames(frames, self._manifest.frames.uint8_scale),
            **self._guard.arrays(),
        }
        counters = {
            **learner.counters,
            **self._guard.counters(),
            "pending": ring.pending if len(frames) else 0,
            **self.carried.counters,
        }
        return arrays, counters

    def scrub(self) -> None:
        """Take what was cleared out of the log of the file, too.

        Raises:
            StateError: somebody is reading the file.
        """
        with self._state.transaction():
            self._state.scrub()
