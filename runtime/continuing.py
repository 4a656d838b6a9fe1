"""Going on from what a state file holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgemem.bundle import Bundle
from edgemem.runtime.class_table import TABLE, ClassTable, table_of
from edgemem.runtime.commits import Commits
from edgemem.runtime.contract import stripped
from edgemem.runtime.guard import Guard
from edgemem.runtime.learner import COUNTERS, Learner
from edgemem.runtime.result import Event
from edgemem.runtime.ring import Ring
from edgemem.runtime.snapshots import carried, checked_snapshot, shared
from edgemem.runtime.teacher import Teacher
from edgemem.snapshot import Snapshot

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Continuing:
    """The parts of a runtime that a snapshot tells about. path: of the state file."""

    bundle: Bundle
    path: Path
    ring: Ring
    learner: Learner
    guard: Guard
    teacher: Teacher
    commits: Commits | None

    def go_on(self, snapshot: Snapshot | None, contexts: ContextMemory | None) -> list[Event]:
        """Go on from a snapshot, and from written blocks even without one; what was damaged.

        Raises:
            StateError: something that does not fit the bundle.
        """
        if snapshot is not None:
            frames, pending = checked_snapshot(snapshot, self.bundle.manifest, self.path)
            self.ring.push(frames)
            self.ring.pending = pending
            counters = self.learner.counters
            counters.update({name: snapshot.counters.get(name, 0) for name in COUNTERS})
            if self.commits is not None:
                self.commits.step = counters["steps"]
        return self.take_blocks(snapshot, contexts)

    def _carrying(self, table: ClassTable, contexts: ContextMemory | None) -> ClassTable:
        """With the arrays of classes that were imported, which no lesson here has changed."""
        teaching = self.bundle.manifest.teaching
        if teaching is None or contexts is None:
            return table
        imported = {name for name in teaching.arrays if contexts.root[name].any()}
        return replace(table, taught=tuple(sorted({*table.taught, *imported})))

    def check(self, snapshot: Snapshot) -> None:
        """Refuse a snapshot that cannot be gone on from.

        Raises:
            StateError: something that does not fit the bundle.
        """
        checked_snapshot(snapshot, self.bundle.manifest, self.path)
        table_of(snapshot.arrays.get(TABLE), self.bundle.manifest, str(self.path))

    def take_blocks(self, snapshot: Snapshot | None, contexts: ContextMemory | None) -> list[Event]:
        """Take the blocks that a snapshot holds; nothing changes if these or the written ones do not
        fit. Raises as `go_on`."""
        generic, changed, noticed = self.bundle.generic, None, list[Event]()
        arrays, counters = ({}, {}) if snapshot is None else (snapshot.arrays, snapshot.counters)
        table = table_of(arrays.get(TABLE), self.bundle.manifest, str(self.path))
        # Equal blocks become one object again: `Learner` must not try the same values twice.
        block = shared(stripped("block", arrays), generic) if arrays else generic
        if contexts is not None:
            known = block if arrays else None
            changed, noticed = contexts.load(arrays, counters, known, table.taught)
        learner = self.learner
        if arrays:
            good = shared(stripped("good", arrays), generic, block)
            slots = stripped("opt", arrays) or self.bundle.manifest.slots.zero()
            learner.go_on(block, good, slots)
        else:
            learner.take(block)
        learner.take(None if changed is None else shared(changed, generic))
        self.teacher.table = self._carrying(table, contexts)
        if contexts is None and self.commits is not None:
            self.commits.carried = carried(arrays, counters)
        self.guard.load(arrays, counters)
        for text in () if snapshot is None else snapshot.damage:
            log.warning("damaged: %s", text)
            noticed.append(Event("damaged", f"{text} An earlier commit is taken"))
        return noticed
