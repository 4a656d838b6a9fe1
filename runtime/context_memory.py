"""Blocks of contexts: which one is in use, what it is the sum of, and where its changes go.

The block in use is root + shipped rows + leaf. The root is slow, and shared by all contexts; the
rows are what the bundle knows of contexts like this one; all that is learnt goes to the leaf. When
a context is left, consolidation gives a part of that to the root.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from edgemem.block import Array, Arrays, is_finite, is_sound
from edgemem.bundle import Bundle
from edgemem.runtime.consolidation import Probe, moved, shared_part
from edgemem.runtime.context_snapshot import contexts_of, to_arrays, to_counters
from edgemem.runtime.context_store import PREFIX, ContextStore, Loaded, zeros_like
from edgemem.runtime.contexts import HOLD, NONE, Contexts, drifting, elsewhere, follow
from edgemem.runtime.contract import stripped
from edgemem.runtime.result import Event, tell
from edgemem.runtime.shipped_rows import LAST_PATIENCE, NOTHING, PATIENCE, Rows, ShippedRows
from edgemem.runtime.source_keys import source_keys
from edgemem.state import State

CAPACITY = 64  # contexts


class ContextMemory:
    """All contexts of one runtime. contexts: what the policy knows of them.

    Raises:
        BundleError: source keys or shipped levels that do not fit the manifest.
    """

    def __init__(self, bundle: Bundle, state: State | None) -> None:
        self._bundle, self._spec, self._state = bundle, bundle.manifest.block, state
        self._teaching = bundle.manifest.teaching
        self.contexts = Contexts()
        self._source = source_keys(bundle)
        self._store = ContextStore(bundle, state)
        self._shipped = None if bundle.bank is None else ShippedRows(bundle.bank, self._spec)
        self._rows = NOTHING
        self._arrived: Arrays = self.root  # the block with which the present visit began

    @property
    def name(self) -> str:
        """Name of the present context."""
        present = self.contexts.present
        return "generic" if present == NONE else f"{PREFIX}{present}"

    @property
    def root(self) -> Arrays:
        """The block of a context of which nothing is known."""
        return self._store.kept.root

    @property
    def drift(self) -> float:
        """Distance of the last key from the present context; a source batch is about one from the
        mean of the source."""
        return self.contexts.drift

    @property
    def drifting(self) -> bool:
        """Whether there is something to adapt to: see `contexts.drifting`."""
        return drifting(self.contexts, self._source.novelty)

    @property
    def reading(self) -> bool:
        """Whether the shipped rows of the present context are not there yet."""
        return self._shipped is not None and self._shipped.reading

    def arrive(self, key: Array, block: Arrays, probe: Probe, events: list[Event]) -> Arrays | None:
        """Follow the key of a batch; the block to go on with, or None to stay with the present.

        Args:
            block: the one in use. probe: judges a block by the frames of this batch.
        """
        before, was_reading = self.contexts, self.reading
        normal = self._source.normal(key)
        self.contexts = after = follow(before, normal, self._source.novelty, CAPACITY)
        if after.present == before.present:
            return self._rows_arrived(events) if was_reading else None
        learnt = None
        if before.present in after.known and not was_reading:
            learnt = {n: np.asarray(block[n] - self._arrived[n]) for n in block}
            self._store.keep(before.present, difference(block, self._base()))
        self._store.drop(set(before.known) - set(after.known))
        new = after.present not in before.known
        self._ask_rows()
        tell(events, "context", f"{self.name} is {'new' if new else 'back'}")
        if new:
            self._store.keep(after.present, zeros_like(block))
        arrived = self._rows_arrived(events)
        if learnt is not None and not self.reading:
            self._consolidate(before.present, learnt, probe, events)
            arrived = self._arrived
        return self._generic if arrived is None else arrived

    def glimpse(self, key: Array, noise: float) -> Arrays | None:
        """The block for a few frames with this key, where they are clearly not of the present
        context; None where they may be. Nothing changes.

        noise: how many times as far as that of a full batch such a key scatters.
        """
        number = elsewhere(self.contexts, self._source.normal(key), noise * self._source.novelty)
        if number is None:
            return None
        if number == NONE or self._store.kept.paths.get(number):
            return self.root  # shipped rows take too long to read
        block = total(self.root, self._store.leaf(number, []))
        return block if is_sound(block) else None

    def settle(self, events: list[Event]) -> Arrays | None:
        """Wait for the rows that are being read, but not for ever; the block to go on with."""
        return self._rows_arrived(events, LAST_PATIENCE) if self.reading else None

    def fall_backs(
        self, without_steps: Arrays, taught: Arrays
    ) -> list[tuple[Arrays, Callable[[], None]]]:
        """Blocks for a present context whose own has failed, nearest first, each with what makes
        it the context's own: the root gets nothing of what was learnt on the way there. Nothing of
        other contexts is lost by any of them.

        without_steps: the block in use without what steps have learnt.
        taught: arrays that labelled frames have changed, of the block in use; all of them get it.
        """
        base, root, generic = (
            block | taught if taught else block
            for block in (self._base(), self.root, self._bundle.generic)
        )
        found = [(generic, lambda: self._start_from(generic, new_root=True))]
        if self.contexts.present != NONE:
            found.insert(0, (root, lambda: self._start_from(root)))
            if self._rows.path:
                found.insert(0, (base, lambda: self._start_from(base, keep_rows=True)))
        found.insert(0, (without_steps, lambda: self._start_from(without_steps, keep_rows=True)))
        return found

    def teach(self, change: Arrays) -> None:
        """Take the change that labelled frames made to the block in use.

        Of the arrays that are taught the root takes its share at once, so that all contexts know
        the classes; the rest is the present context's, and so is what the frames changed beside
        them. Without a context, or while its rows are being read, there is only the root.
        """
        assert self._teaching is not None, "otherwise there is no graph that learns"
        alone = self.contexts.present == NONE or self.reading
        share = 1.0 if alone else self._teaching.root_share
        rooted = self.contexts.present == NONE
        taught = {
            name: np.asarray(np.asarray(share, value.dtype) * value)
            for name, value in change.items()
            if rooted or name in self._teaching.arrays
        }
        self._store.set_root(moved(self.root, taught), "taught")
        told = change if rooted else {name: change[name] for name in self._teaching.arrays}
        self._arrived = moved(self._arrived, told)

    def forget_rows(self, cleared: Callable[[Arrays], Arrays]) -> None:
        """Clear root and leaves of what was taught of a class, as far as they are in memory."""
        self._arrived = cleared(self._arrived)
        self._store.clear(cleared)

    def saved(self) -> Callable[[], None]:
        """What takes back all that was taught or forgotten since."""
        restore, arrived = self._store.saved(), self._arrived

        def take_back() -> None:
            restore()
            self._arrived = arrived

        return take_back

    def mend(self, events: list[Event]) -> None:
        """Before a commit: what is no sound block, or no sound context, starts afresh."""
        self._store.mend(events)
        if not is_sound(self._arrived):
            self._arrived = self._standing(self.contexts.present, events)
        known = self.contexts.known
        sound = {
            n: c for n, c in known.items() if is_finite({"key": c.key, "": np.array(c.spread)})
        }
        for number in set(known) - set(sound):
            tell(events, "damaged", f"{PREFIX}{number} has no finite key; it is dropped")
        if len(sound) < len(known):
            self._store.drop(set(known) - set(sound))
            present = self.contexts.present if self.contexts.present in sound else NONE
            self.contexts = replace(self.contexts, known=sound, present=present)

    def write(
        self, block: Arrays, steps: int, entropy: float, why: str, *, between: bool = False
    ) -> list[int]:
        """Write what changed; inside a transaction of the state file, after `settle` and `mend`.

        between: leave the present leaf as it was written last. The snapshot has the block, and the
        leaf follows when the context is left.

        Returns:
            Numbers of contexts that had to make room, for `committed`, which must follow when the
            transaction has ended well. Until then nothing changes here.
        """
        present, known = self.contexts.present, self.contexts.known
        if (
            present != NONE
            and not self.reading
            and not (between and self._store.is_written(present))
        ):
            self._store.keep(present, difference(block, self._base()))
        return self._store.write(known, present, steps, entropy, why)

    def committed(self, evicted: Collection[int], events: list[Event]) -> None:
        """What `write` wrote is in the file for good."""
        self._store.committed(evicted)
        kept = {n: context for n, context in self.contexts.known.items() if n not in evicted}
        self.contexts = replace(self.contexts, known=kept)
        for number in evicted:
            tell(events, "evicted", f"{PREFIX}{number} had to make room")

    def counters(self) -> dict[str, int]:
        """For the snapshot, after `write`. Where rows are still being read the visit is not told:
        it begins anew."""
        told = replace(self.contexts, present=NONE) if self.reading else self.contexts
        return to_counters(told) | self._versions(told.present)

    def arrays(self) -> Arrays:
        """For the snapshot."""
        return to_arrays(self.contexts, self._arrived, self._spec)

    def load(
        self,
        arrays: Arrays,
        counters: Mapping[str, int],
        block: Arrays | None,
        taught: Collection[str] = (),
    ) -> tuple[Arrays | None, list[Event]]:
        """Go on from a snapshot, its block (None: there is no snapshot) and the written blocks.

        arrays: checked, see `snapshots`. taught: names of those that labelled frames have changed.

        Returns:
            The block to go on with where that is not the snapshot's; and what was damaged.

        Raises:
            StateError: the file cannot be read; nothing has changed then.
        """
        if self._state is None:
            return None, []
        arrived = stripped("arrived", arrays)
        loaded = self._store.load(self._source.mean.size)
        events = loaded.events
        usable = {number for number in loaded.records if self._is_usable(number, loaded)}
        self._store.kept = loaded.kept
        self.contexts = contexts_of(arrays, counters, loaded.records, usable)
        self._ask_rows()
        self._rows = self._answer(events, LAST_PATIENCE) or NOTHING
        changed = self._taken_up(arrived, counters, block, events)
        if block is not None and changed is None and self.contexts.present == NONE:
            self._root_from(block, taught)
        return changed, events

    def reset(self, root: Arrays) -> None:
        """Forget every context; the written blocks go with the next commit. Go on with a root."""
        self._store.reset(self.contexts.known, root)
        if self._shipped is not None:
            self._shipped.cancel()
        self._rows, self._arrived = NOTHING, self.root
        self.contexts = Contexts(opened=self.contexts.opened)

    def close(self, *, wait: bool = True) -> None:
        """Close the files of the shipped bank. wait: for a read that is under way, not for ever."""
        if self._shipped is not None:
            self._shipped.close(LAST_PATIENCE if wait else 0)

    def _is_usable(self, number: int, loaded: Loaded) -> bool:
        path = loaded.kept.paths[number]
        if not path or (self._shipped is not None and self._shipped.has(path)):
            return True
        record = loaded.records[number]
        text = f"{record.id} stands on {record.path}, which is not in this bundle"
        tell(loaded.events, "damaged", text, logging.WARNING)
        return False

    def _taken_up(
        self,
        arrived: Arrays,
        counters: Mapping[str, int],
        block: Arrays | None,
        events: list[Event],
    ) -> Arrays | None:
        """The block to go on with where that is not the snapshot's."""
        present = self.contexts.present
        now = self._versions(present)
        if block is not None and all(counters.get(n, v) == v for n, v in now.items()):
            self._arrived = block | arrived
            return None
        self._arrived = self._standing(present, events)
        if block is not None:
            tell(events, "context", f"the written blocks have changed; {self.name} is taken")
        return self._arrived

    def _versions(self, present: int) -> dict[str, int]:
        """Versions of the written root and leaf, as far as these are not damaged."""
        leaf = self._store.version(present) if present != NONE else 0
        found = {"version.root": self._store.version(None), "version.leaf": leaf}
        return {name: version for name, version in found.items() if version is not None}

    @property
    def _generic(self) -> Arrays:
        """The block as exported, with what all contexts were taught."""
        return self._with_taught(self._bundle.generic)

    def _with_taught(self, block: Arrays) -> Arrays:
        if self._teaching is None:
            return block
        return block | {name: self.root[name] for name in self._teaching.arrays}

    def _root_from(self, block: Arrays, taught: Collection[str]) -> None:
        """Take what was taught while contexts were not told apart. The root has all of it then, so
        leaves give up their part, which would count twice."""
        told = {name: block[name] for name in taught}
        if all(np.array_equal(self.root[name], told[name]) for name in told):
            return
        self._store.set_root(self.root | told, "taught without contexts")
        nothing = zeros_like(told)
        for number in self.contexts.known:
            self._store.keep(number, self._store.leaf(number, []) | nothing)

    def _start_from(
        self, block: Arrays, *, keep_rows: bool = False, new_root: bool = False
    ) -> None:
        if new_root:
            self._store.set_root(self._with_taught(block), "the root had failed")
        if not keep_rows:
            self._rows = NOTHING
            self._store.kept.paths[self.contexts.present] = ()
        if self.contexts.present != NONE:
            self._store.keep(self.contexts.present, difference(block, self._base()))
        self._arrived = block

    def _standing(self, number: int, events: list[Event]) -> Arrays:
        """The block of a context; without its leaf if that makes no sound block of it."""
        if number == NONE:
            return self._base()
        block = total(self._base(), self._store.leaf(number, events))
        if is_sound(block):
            return block
        tell(events, "damaged", f"{PREFIX}{number} is no sound block; it starts afresh")
        self._store.keep(number, zeros_like(block))
        return self._base()

    def _base(self) -> Arrays:
        """What the leaf of the present context stands on."""
        return moved(self.root, self._rows.values)

    def _ask_rows(self) -> None:
        """Ask for the rows of the present context: by its path, or, as long as that is unknown,
        by its key."""
        self._rows, present = NOTHING, self.contexts.present
        if self._shipped is None:
            return
        self._shipped.cancel()
        if present == NONE:
            return
        path = self._store.kept.paths.get(present)
        if path is None:
            key = self.contexts.known[present].key
            self._shipped.ask_nearest(key, HOLD * self._source.novelty)
        elif path:
            self._shipped.ask(path)

    def _rows_arrived(self, events: list[Event], patience: float = PATIENCE) -> Arrays | None:
        """The block of the present context, if its rows are there."""
        asked = self.reading
        rows = self._answer(events, patience)
        if rows is None:
            tell(events, "reading", f"rows of {self.name} are on the way; generic block")
            return None
        self._rows = rows
        if asked:
            self._store.kept.paths[self.contexts.present] = rows.path
        self._arrived = self._standing(self.contexts.present, events)
        return self._arrived

    def _answer(self, events: list[Event], patience: float) -> Rows | None:
        if self._shipped is None:
            return NOTHING
        rows = self._shipped.answer(patience)
        for fault in () if rows is None else rows.faults:
            tell(events, "damaged", fault, logging.WARNING)
        return rows

    def _consolidate(self, left: int, learnt: Arrays, probe: Probe, events: list[Event]) -> None:
        """Give the root its part of what a context learnt, unless the present one suffers."""
        part = shared_part(self._spec, learnt, len(self.contexts.known))
        if not any(change.any() for change in part.values()):
            return
        changed = moved(self._arrived, part)
        if not probe(changed).no_worse_than(probe(self._arrived)):
            tell(events, "refused", f"others would suffer from what {PREFIX}{left} learnt")
            return
        leaf = self._store.leaf(left, events)
        self._store.set_root(moved(self.root, part), f"consolidated {PREFIX}{left}")
        self._store.keep(left, moved(leaf, part, -1))
        self._arrived = self._standing(self.contexts.present, events)
        tell(events, "consolidated", f"the root took its part of {PREFIX}{left}")


def difference(block: Arrays, base: Arrays) -> Arrays:
    """The leaf of a block."""
    return {name: np.asarray(block[name] - base[name]) for name in block}


def total(base: Arrays, leaf: Arrays) -> Arrays:
    """The block of a leaf."""
    return {name: np.asarray(base[name] + leaf[name]) for name in base}
