"""Classes that are taught on the device: learnt, forgotten, renamed; each as a whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from edgemem.block import Arrays
from edgemem.bundle import Bundle
from edgemem.errors import InputError
from edgemem.manifest import Teaching
from edgemem.runtime.class_table import TABLE, ClassTable, Label, own_classes
from edgemem.runtime.graphs import Frames, Graphs, Logits
from edgemem.runtime.labels import Labels, checked_labels, require_no_contradiction
from edgemem.runtime.learner import Learner
from edgemem.runtime.result import Event
from edgemem.runtime.ring import Ring
from edgemem.runtime.snapshots import shared
from edgemem.runtime.teaching import Lesson, clearing, teach

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory

Commit = Callable[[str, Callable[[Arrays], Arrays] | None], None]


class Teacher:
    """Changes classes and the block in use. table: the classes as they are.

    commit: writes everything to the state file, told why, and what to clear in it.
    """

    def __init__(
        self, bundle: Bundle, graphs: Graphs, learner: Learner, ring: Ring, commit: Commit
    ) -> None:
        self._manifest, self._graphs, self._commit = bundle.manifest, graphs, commit
        self._learner, self._ring = learner, ring
        self._table = own_classes(bundle.manifest)

    @property
    def table(self) -> ClassTable:
        """The classes as they are; blocks that were imported know some without names."""
        teaching = self._manifest.teaching
        if teaching is None:
            return self._table
        return self._table.covering(self._learner.block[teaching.arrays[0]])

    @table.setter
    def table(self, table: ClassTable) -> None:
        self._table, self._learner.carries = table, table.taught

    def arrays(self) -> Arrays:
        """For the snapshot."""
        return {} if self._manifest.teaching is None else {TABLE: self.table.to_array()}

    def lesson(self, frames: Frames, labels: Labels) -> Lesson:
        """Check labelled frames; nothing changes.

        Raises:
            InputError: see `Runtime.learn`.
        """
        self._require_teaching()
        self._graphs.open("learn")
        table, numbers = self.table.opened(checked_labels(labels, len(frames)))
        if len(table.names) < 2:
            raise InputError(
                "labels", "are of the only class there is", "Teach two classes, or more, at once"
            )
        require_no_contradiction(frames, numbers)
        return Lesson(frames, numbers, table)

    def learn(self, lesson: Lesson, contexts: ContextMemory | None) -> tuple[Logits, Event]:
        """Learn a lesson, and commit it; the logits of its frames, and what happened.

        Raises:
            InputError: nothing finite comes of it.
            StateError: the disk refuses.
        """
        learner, teaching = self._learner, self._require_teaching()
        block, logits = teach(lesson, self._graphs, learner, self._ring)
        change = {name: np.asarray(block[name] - learner.block[name]) for name in block}
        moved = [name for name in teaching.arrays if change[name].any()]
        with self._all_or_nothing(contexts):
            learner.good = shared(learner.good | {name: block[name] for name in moved}, block)
            learner.block = block
            if contexts is not None:
                contexts.teach(change)
            self.table = lesson.table.given(lesson.numbers, moved)
            self._commit("learnt", None)
        return logits, Event("learnt", self._told(lesson))

    def forget(self, label: Label, contexts: ContextMemory | None) -> None:
        """Forget what was taught of a class, everywhere, and commit that. Nobody knows which of the
        recent frames show it, so all of them go.

        Raises:
            InputError: see `Runtime.forget_class`.
            StateError: the disk refuses, or a written block is damaged.
        """
        teaching, (checked,) = self._require_teaching(), checked_labels(label, 1)
        number = self.table.number(checked)
        table, learner = self.table.forgotten(number), self._learner
        own = number < len(table.own)  # how common one of these is was not taught
        cleared = clearing(table.taught if own else teaching.arrays, number)
        with self._all_or_nothing(contexts):
            learner.good, learner.block = cleared(learner.good), cleared(learner.block)
            learner.good = shared(learner.good, learner.block)
            if contexts is not None:
                contexts.forget_rows(cleared)
            self.table = table
            with self._without_frames():
                self._commit("forgot a class", cleared)

    def rename(self, label: Label, name: str, contexts: ContextMemory | None) -> None:
        """Give a class another name, and commit that.

        Raises:
            InputError: see `Runtime.rename_class`.
            StateError: the disk refuses.
        """
        self._require_teaching()
        (checked,) = checked_labels(label, 1)
        table = self.table.renamed(self.table.number(checked), name)
        with self._all_or_nothing(contexts):
            self.table = table
            self._commit("renamed a class", None)

    @contextmanager
    def _all_or_nothing(self, contexts: ContextMemory | None) -> Iterator[None]:
        """Take back what was changed inside, in memory, if it cannot be committed."""
        learner, table = self._learner, self._table
        block, good = learner.block, learner.good
        take_back = None if contexts is None else contexts.saved()
        try:
            yield
        except BaseException:
            learner.block, learner.good, self.table = block, good, table
            if take_back is not None:
                take_back()
            raise

    @contextmanager
    def _without_frames(self) -> Iterator[None]:
        """Empty the ring, unless what follows fails."""
        take_back = self._ring.clear()
        try:
            yield
        except BaseException:
            take_back()
            raise

    def _require_teaching(self) -> Teaching:
        if self._manifest.teaching is None:
            raise InputError(
                f"bundle {self._manifest.name!r}",
                "learns no classes",
                "Export it again with --max-classes",
            )
        return self._manifest.teaching

    @staticmethod
    def _told(lesson: Lesson) -> str:
        counts = Counter(lesson.numbers)
        parts = [f"{lesson.table.names[n]!r} from {counts[n]}" for n in sorted(counts)]
        return f"{', '.join(parts)} labelled frame{'s' if len(lesson.numbers) > 1 else ''}"
