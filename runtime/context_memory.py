"""Blocks of contexts: which one is in use, what it is the sum of, and where its changes go.

The block in use is root + shipped rows + leaf. The root is slow, and shared by all contexts; the
rows are what the bundle knows of contexts like this one; all that is learnt goes to the leaf. When
a context is left, consolidation gives a part of that to the root.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from edgemem.block import Array, Arrays
from edgemem.bundle import Bundle
from edgemem.errors import StateError
from edgemem.runtime.consolidation import Probe, moved, shared_part
from edgemem.runtime.context_store import PREFIX, ContextStore
from edgemem.runtime.contexts import HOLD, NONE, Context, Contexts, follow
from edgemem.runtime.contract import prefixed, stripped
from edgemem.runtime.result import Event
from edgemem.runtime.shipped_rows import NOTHING, Rows, ShippedRows
from edgemem.runtime.source_keys import source_keys
from edgemem.state import State

CAPACITY = 64  # contexts
COUNTERS = ("present", "rival", "votes", "opened")
log = logging.getLogger(__name__)


class ContextMemory:
    """All contexts of one runtime. contexts: what the policy knows of them.

    Raises:
        BundleError: source keys or shipped levels that do not fit the manifest.
    """

    def __init__(self, bundle: Bundle, state: State | None) -> None:
        self._bundle, self._spec, self._state = bundle, bundle.manifest.block, state
        self.contexts = Contexts()
        self._source = source_keys(bundle)
        self._store = ContextStore(bundle, state)
        self._shipped = None if bundle.bank is None else ShippedRows(bundle.bank, self._spec)
        self._rows = NOTHING
        self._arrived: Arrays = self._store.root  # the block with which the present visit began

    @property
    def name(self) -> str:
        """Name of the present context."""
        present = self.contexts.present
        return "generic" if present == NONE else f"{PREFIX}{present}"

    @property
    def drift(self) -> float:
        """Distance of the last key from the present context; a source batch is about one from the
        mean of the source."""
        return self.contexts.drift

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
        self._ask_rows(after, normal, new)
        self._tell(events, "context", f"{self.name} is {'new' if new else 'back'}")
        if new:
            self._store.keep(after.present, {n: np.zeros_like(a) for n, a in block.items()})
        arrived = self._rows_arrived(events)
        if learnt is not None and not self.reading:
            self._consolidate(before.present, learnt, probe, events)
            arrived = self._arrived
        return self._bundle.generic if arrived is None else arrived

    def settle(self, events: list[Event]) -> Arrays | None:
        """Wait for the rows that are being read; the block to go on with, if there were any."""
        return self._rows_arrived(events, wait=True) if self.reading else None

    def write(self, block: Arrays, steps: int, entropy: float, why: str) -> list[Event]:
        """Write what changed; inside a transaction of the state file, after `settle`."""
        present, known = self.contexts.present, self.contexts.known
        if present != NONE:
            self._store.keep(present, difference(block, self._base()))
        events: list[Event] = []
        gone = self._store.write(known, present, steps, entropy, why)
        for number in gone:
            self._tell(events, "evicted", f"{PREFIX}{number} had to make room")
        kept = {number: context for number, context in known.items() if number not in gone}
        self.contexts = replace(self.contexts, known=kept)
        return events

    def counters(self) -> dict[str, int]:
        """For the snapshot."""
        return {name: getattr(self.contexts, name) for name in COUNTERS}

    def arrays(self) -> Arrays:
        """For the snapshot."""
        known = sorted(self.contexts.known)
        spreads = [self.contexts.known[number].spread for number in known]
        shared = {a.name: self._arrived[a.name] for a in self._spec.arrays if a.root_share}
        return prefixed("arrived", shared) | {
            "contexts.number": np.array(known, np.int64),
            "contexts.spread": np.array(spreads, np.float64),
        }

    def load(self, arrays: Arrays, counters: dict[str, int], block: Arrays) -> list[Event]:
        """Go on from a snapshot, its block, and the written blocks; what was damaged is told.

        Raises:
            StateError: arrays that do not fit the bundle.
        """
        if self._state is None:
            return []
        records, events = self._store.load(self._source.mean.size)
        spreads, known = _spreads(arrays), dict[int, Context]()
        for record in records:
            number = int(record.id.removeprefix(PREFIX))
            known[number] = Context(number, record.key, record.count, spreads.get(number, 0.0))
        values = {name: int(counters.get(name, 0)) for name in COUNTERS}
        values["opened"] = max([values["opened"], *known])
        if values["present"] not in known:
            values["present"] = NONE
        self.contexts = Contexts(
            known, values["present"], values["rival"], values["votes"], values["opened"]
        )
        self._ask_rows(self.contexts)
        self._rows = self._answer(events, wait=True) or NOTHING
        self._arrived = block | self._checked_arrived(stripped("arrived", arrays), block)
        return events

    def reset(self) -> None:
        """Forget every context; the written blocks go with the next commit."""
        self._store.reset(self.contexts.known)
        if self._shipped is not None:
            self._shipped.cancel()
        self._rows, self._arrived = NOTHING, self._store.root
        self.contexts = Contexts(opened=self.contexts.opened)

    def close(self) -> None:
        """Close the files of the shipped bank."""
        if self._shipped is not None:
            self._shipped.close()

    def _base(self) -> Arrays:
        """What the leaf of the present context stands on."""
        return moved(self._store.root, self._rows.values)

    def _ask_rows(self, contexts: Contexts, key: Array | None = None, new: bool = False) -> None:
        """Ask for the rows of the present context: by its key if it is new, else by its path."""
        self._rows = NOTHING
        if self._shipped is None:
            return
        self._shipped.cancel()
        path = self._store.paths.get(contexts.present, ())
        if new and key is not None:
            self._shipped.ask_nearest(key, HOLD * self._source.novelty)
        elif path:
            self._shipped.ask(path)

    def _rows_arrived(self, events: list[Event], wait: bool = False) -> Arrays | None:
        """The block of the present context, if its rows are there."""
        rows = self._answer(events, wait)
        if rows is None:
            self._tell(events, "reading", f"rows of {self.name} are on the way; generic block")
            return None
        self._rows = rows
        if rows.path:
            self._store.paths[self.contexts.present] = rows.path
        leaf = self._store.leaf(self.contexts.present, events)
        self._arrived = total(self._base(), leaf)
        return self._arrived

    def _answer(self, events: list[Event], wait: bool) -> Rows | None:
        if self._shipped is None:
            return NOTHING
        rows = self._shipped.answer(None) if wait else self._shipped.answer()
        for fault in () if rows is None else rows.faults:
            self._tell(events, "damaged", fault)
        return rows

    def _consolidate(self, left: int, learnt: Arrays, probe: Probe, events: list[Event]) -> None:
        """Give the root its part of what a context learnt, unless the present one suffers."""
        part = shared_part(self._spec, learnt, len(self.contexts.known))
        if not any(change.any() for change in part.values()):
            return
        changed = moved(self._arrived, part)
        if not probe(changed).no_worse_than(probe(self._arrived)):
            self._tell(events, "refused", f"others would suffer from what {PREFIX}{left} learnt")
            return
        leaf = self._store.leaf(left, events)
        self._store.set_root(moved(self._store.root, part), f"consolidated {PREFIX}{left}")
        self._store.keep(left, moved(leaf, part, -1))
        self._arrived = total(self._base(), self._store.leaf(self.contexts.present, events))
        self._tell(events, "consolidated", f"the root took its part of {PREFIX}{left}")

    def _checked_arrived(self, arrived: Arrays, block: Arrays) -> Arrays:
        for name, array in arrived.items():
            if name not in block or array.shape != block[name].shape:
                raise StateError(
                    str(self._state and self._state.path),
                    f"holds an array arrived.{name} that does not fit the bundle",
                    "Delete the state file to start again from the bundle",
                )
        return arrived

    def _tell(self, events: list[Event], kind: str, message: str) -> None:
        log.log(logging.WARNING if kind == "damaged" else logging.INFO, "%s: %s", kind, message)
        events.append(Event(kind, message))


def _spreads(arrays: Arrays) -> dict[int, float]:
    numbers, spreads = arrays.get("contexts.number"), arrays.get("contexts.spread")
    if numbers is None or spreads is None or numbers.shape != spreads.shape or numbers.ndim != 1:
        return {}
    return {int(n): float(s) for n, s in zip(numbers, spreads, strict=True) if s >= 0}


def difference(block: Arrays, base: Arrays) -> Arrays:
    """The leaf of a block."""
    return {name: np.asarray(block[name] - base[name]) for name in block}


def total(base: Arrays, leaf: Arrays) -> Arrays:
    """The block of a leaf."""
    return {name: np.asarray(base[name] + leaf[name]) for name in base}
