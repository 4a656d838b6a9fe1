"""Going on from what a state file holds, as far as it is intact and fits the bundle."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgemem.bundle import Bundle
from edgemem.errors import StateError
from edgemem.runtime.class_table import ClassTable, own_classes
from edgemem.runtime.commits import Commits
from edgemem.runtime.guard import Guard
from edgemem.runtime.learner import COUNTERS, Learner
from edgemem.runtime.result import Event
from edgemem.runtime.ring import Ring
from edgemem.runtime.snapshots import CLASSES, Checked, carried, checked_snapshot, shared
from edgemem.runtime.teacher import Teacher

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory
    from edgemem.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What there is to go on from. checked: the newest commit that can be taken; None without any.
    damage: what was passed over, in words."""

    checked: Checked | None = None
    damage: tuple[str, ...] = ()


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

    def find(self, state: State | None) -> Found:
        """The newest commit with a sound block, and the names of its classes if any commit has
        those; nothing changes.

        Raises:
            StateError: the file cannot be read at present.
        """
        damage, nameless = list[str](), Found()
        if state is not None and (lost := state.lost) is not None:
            damage.append(f"{self.path}: {lost.reason}")
        for snapshot in () if state is None else state.snapshots():
            damage += [f"{self.path}: {text}" for text in snapshot.damage]
            try:
                checked = checked_snapshot(snapshot, self.bundle.manifest, self.path)
            except StateError as error:
                damage.append(f"{self.path}: {error.reason}. This commit is passed over")
                continue
            told = "".join(snapshot.damage)
            misfits = [
                f"{self.path}: {name} of a commit does not fit"
                for name in checked.lost
                if f"(its {name}" not in told
            ]
            found = Found(checked, (*damage, *misfits))
            if CLASSES not in checked.lost:
                return found
            damage += misfits
            nameless = found if nameless.checked is None else nameless
        if nameless.checked is None and damage:
            damage.append(f"{self.path}: no commit is intact. The written blocks are taken")
            return Found(None, tuple(damage))
        return nameless

    def go_on(self, found: Found, contexts: ContextMemory | None) -> list[Event]:
        """Go on from a commit, and from written blocks even without one; what was damaged.

        Raises:
            StateError: the file cannot be read.
        """
        if found.checked is not None:
            checked, counters = found.checked, self.learner.counters
            self.ring.push(checked.frames)
            self.ring.pending = checked.pending
            counters.update({name: checked.counters.get(name, 0) for name in COUNTERS})
            if self.commits is not None:
                self.commits.step = counters["steps"]
        return self.take_blocks(found, contexts)

    def take_blocks(self, found: Found, contexts: ContextMemory | None) -> list[Event]:
        """Take the blocks that a commit holds; nothing changes if the file cannot be read. Raises
        as `go_on`."""
        checked, generic, learner = found.checked, self.bundle.generic, self.learner
        changed, noticed = None, list[Event]()
        # Equal blocks become one object again: `Learner` must not try the same values twice.
        block = generic if checked is None else shared(checked.block, generic)
        table = own_classes(self.bundle.manifest) if checked is None else checked.table
        arrays, counters = ({}, {}) if checked is None else (checked.arrays, checked.counters)
        if contexts is not None:
            known = None if checked is None else block
            changed, noticed = contexts.load(arrays, counters, known, table.taught)
        if checked is None:
            learner.take(block)
        else:
            learner.go_on(block, shared(checked.good, generic, block), checked.slots)
        learner.take(None if changed is None else shared(changed, generic))
        self.teacher.table = self._carrying(table, contexts)
        if contexts is None and self.commits is not None:
            self.commits.carried = carried(arrays, counters)
        self.guard.load(arrays, counters)
        for text in found.damage:
            log.warning("damaged: %s", text)
        return [*noticed, *(Event("damaged", text) for text in found.damage)]

    def _carrying(self, table: ClassTable, contexts: ContextMemory | None) -> ClassTable:
        """With the arrays of classes that were imported, which no lesson here has changed."""
        teaching = self.bundle.manifest.teaching
        if teaching is None or contexts is None:
            return table
        imported = {name for name in teaching.arrays if contexts.root[name].any()}
        return replace(table, taught=tuple(sorted({*table.taught, *imported})))
