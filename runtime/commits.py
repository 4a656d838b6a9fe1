"""Commits to the state file: what they hold, and when one is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgemem.bank.purge import purge
from edgemem.block import Arrays
from edgemem.manifest import Manifest
from edgemem.runtime.contract import prefixed
from edgemem.runtime.guard import Guard
from edgemem.runtime.learner import Learner
from edgemem.runtime.ring import Ring
from edgemem.runtime.snapshots import packed_frames
from edgemem.snapshot import Snapshot

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory
    from edgemem.runtime.result import Event
    from edgemem.state import State

# Flash wears out. On a change of context a commit comes at most so often in steps, and only if all
# commits together stay below so many bytes per 1,000 frames.
STEPS, BYTES = 16, 1 << 20


class Commits:
    """Writes what a learner and its surroundings have learnt. step: the last commit's. carried: what it passes on
    unread, for a runtime that tells contexts apart. moved: whether the context changed since."""

    def __init__(
        self, state: State, manifest: Manifest, learner: Learner, ring: Ring, guard: Guard
    ) -> None:
        self._state, self._manifest = state, manifest
        self._learner, self._ring, self._guard = learner, ring, guard
        self.step = 0
        self.moved = False
        self.carried = Snapshot({}, {})
        self._bytes = 0  # of the last commit

    def due(self, steps: int) -> bool:
        """Whether a change of context is to be committed now."""
        since = steps - self.step
        frames = since * self._manifest.frames.batch
        return self.moved and since >= STEPS and BYTES * frames >= 1000 * self._bytes

    def write(
        self,
        contexts: ContextMemory | None,
        events: list[Event],
        why: str,
        more: Arrays,
        cleared: Callable[[Arrays], Arrays] | None = None,
    ) -> None:
        """Commit, all or nothing; `contexts` are settled.

        Args:
            more: arrays for the snapshot.
            cleared: what is to be taken out of all blocks in the file; nothing that may hold it
                stays but this commit. `scrub` must follow.

        Raises:
            StateError: the disk refuses; the last commit is still there.
        """
        learner, ring = self._learner, self._ring
        arrays = {
            **prefixed("block", learner.block),
            **prefixed("good", learner.good),
            **prefixed("opt", learner.slots),
            "ring": packed_frames(ring.last(ring.count), self._manifest.frames.uint8_scale),
        }
        steps = learner.counters["steps"]
        counters = {
            **learner.counters,
            **self._guard.counters(),
            "pending": ring.pending,
            **self.carried.counters,
        }
        before, evicted = self._state.bytes_written, list[int]()
        with self._state.transaction():
            if contexts is not None:
                evicted = contexts.write(learner.block, steps, learner.entropy, why)
            if cleared is not None:
                purge(self._state, cleared, why)
            if contexts is not None:
                arrays |= contexts.arrays()
                counters |= contexts.counters()
            self._state.write(Snapshot(arrays | more | self.carried.arrays, counters))
            if cleared is not None:
                self._state.drop_earlier()
        if contexts is not None:
            contexts.committed(evicted, events)
        self.moved, self.step = False, steps
        self._bytes = self._state.bytes_written - before

    def scrub(self) -> None:
        """Take what was cleared out of the log of the file, too.

        Raises:
            StateError: somebody is reading the file.
        """
        with self._state.transaction():
            self._state.scrub()
