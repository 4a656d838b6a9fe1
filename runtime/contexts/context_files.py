"""What files know of contexts: the blocks written to the state, and the bundle's keys and rows.

A written block "context-7" is the leaf of context 7; its path tells which shipped rows it stands
on. The written block "root" is the root.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgemem.bank.written.record import LEAF, ROOT, Provenance, Record
from edgemem.block import Array, Block, is_sound
from edgemem.bundle.opening import Bundle
from edgemem.errors import StateError
from edgemem.runtime.contexts.kept_blocks import KeptBlocks
from edgemem.runtime.contexts.recognition import HOLD, Context, SourceKeys
from edgemem.runtime.contexts.shipped_rows import Request, ShippedRows
from edgemem.runtime.contexts.source_in_bundle import source_keys
from edgemem.runtime.result import Event, EventKind, Events

if TYPE_CHECKING:
    from edgemem.bank.written.written_blocks import WrittenBlocks
    from edgemem.state.store import State

PREFIX, ROOT_ID = "context-", "root"
LONGEST_NUMBER = 15  # digits
LARGEST_NUMBER = 10**9  # of a context taken from elsewhere: those to come are larger
BANK_BYTES = 256 << 20  # that written blocks may take


@dataclass(frozen=True)
class Loaded:
    """What the state file holds: root and paths, the records of contexts, and what was damaged."""

    kept: KeptBlocks
    records: Mapping[int, Record]
    events: Events


class ContextFiles:
    """Reads and writes blocks of contexts; opens each file when it is first needed.

    Without a state there are only the bundle's.
    """

    def __init__(self, bundle: Bundle, state: State | None) -> None:
        self.bundle, self._spec, self._state = bundle, bundle.manifest.block, state

    @cached_property
    def source(self) -> SourceKeys:
        """The bundle's keys of source data.

        Raises:
            BundleError: they do not fit the manifest.
        """
        return source_keys(self.bundle)

    @cached_property
    def rows(self) -> ShippedRows | None:
        """The bundle's levels; None without any.

        Raises:
            BankError: they do not fit each other or the block.
        """
        return None if self.bundle.bank is None else ShippedRows(self.bundle.bank, self._spec)

    @cached_property
    def _written(self) -> WrittenBlocks | None:
        from edgemem.bank.written.written_blocks import (
            WrittenBlocks,  # SQLite takes a while to load
        )

        return None if self._state is None else WrittenBlocks(self._state)

    def open(self) -> None:
        """Open the bundle's keys and levels before they are needed; raises as these."""
        _ = self.source, self.rows

    @property
    def has_state(self) -> bool:
        """Whether anything is written anywhere."""
        return self._state is not None

    def ask_rows(self, key: Array, path: tuple[int, ...] | None) -> Request | None:
        """Ask for the shipped rows of a context; None where it has none.

        By its path, or, as long as that is unknown, by its key.
        """
        if self.rows is None or path == ():
            return None
        if path is None:
            return self.rows.ask_nearest(key, HOLD * self.source.novelty)
        return self.rows.ask(path)

    def leaf(self, kept: KeptBlocks, number: int) -> tuple[Block, Events]:
        """The leaf of a known context.

        If that is damaged, which is told, its newest sound version, and zero without any.
        """
        if number in kept.leaves:
            return kept.leaves[number], ()
        found, events = self._newest(f"{PREFIX}{number}")
        return (kept.root.zeros() if found is None else found[1]), events

    def version(self, number: int | None) -> int | None:
        """Version of the written leaf of a context (None: of the root).

        0 if there is none, None if the number is damaged.

        None if the number is damaged.
        """
        name = ROOT_ID if number is None else f"{PREFIX}{number}"
        try:
            return 0 if self._written is None else self._written.version(name)
        except StateError:
            return None

    def is_written(self, kept: KeptBlocks, number: int) -> bool:
        """Whether the file has the leaf of a context, and nothing newer waits to be written."""
        return number not in kept.leaves and bool(self.version(number))

    def sound(self, kept: KeptBlocks) -> tuple[KeptBlocks, Events]:
        """Before a commit: a root and leaves that are not sound start afresh."""
        events = []
        if not self._is_sound(kept.root):
            events.append(_damaged("the root is no sound block; it starts afresh"))
            kept = kept.with_root(self.bundle.generic, "the root was not sound")
        for number, leaf in kept.leaves.items():
            if not self._is_sound(leaf):
                events.append(_damaged(f"{PREFIX}{number} is not sound; it starts afresh"))
                kept = kept.with_leaf(number, kept.root.zeros())
        return kept, tuple(events)

    def write(
        self,
        kept: KeptBlocks,
        known: Mapping[int, Context],
        present: int,
        steps: int,
        entropy: float,
        why: str,
    ) -> list[int]:
        """Write what changed, inside a transaction; numbers of contexts that had to make room."""
        if self._written is None:
            return []
        about = Provenance(self.bundle.identity, steps, entropy, why)
        for number in filter(self.version, kept.gone):
            self._written.discard(f"{PREFIX}{number}")
        if kept.root_is_gone and self.version(None):
            self._written.discard(ROOT_ID)
        for number, leaf in kept.leaves.items():
            if self._is_unsettled(kept, number):
                continue
            context = known[number]
            path = "/".join([*map(str, kept.paths.get(number, ())), LEAF])
            self._put(f"{PREFIX}{number}", leaf, path, context.key, context.count, about)
        if kept.why_root:
            because = replace(about, why=kept.why_root)
            self._put(ROOT_ID, kept.root, ROOT, np.zeros(0, np.float32), len(known), because)
        evicted = self._written.evict(BANK_BYTES, {ROOT_ID, f"{PREFIX}{present}"})
        return [number for number in map(_number, evicted) if number]

    def committed(self, kept: KeptBlocks, evicted: Collection[int]) -> KeptBlocks:
        """What is left to write once `write` has been committed."""
        left = kept.without(evicted)
        unsettled = {n: leaf for n, leaf in left.leaves.items() if self._is_unsettled(left, n)}
        return KeptBlocks(left.root, left.paths, unsettled)

    def load(self, key_length: int) -> Loaded:
        """What the state holds.

        Raises:
            StateError: the file cannot be read.
        """
        assert self._written is not None, "there is a state to load from"
        listing = self._written.listing()
        events: Events = tuple(_damaged(str(error)) for error in listing.damage)
        root, why = self.bundle.generic, ""
        if self.version(None) != 0:
            found, told = self._newest(ROOT_ID)
            place, root = found or (1, root)
            why, events = "the root was damaged" if place else "", events + told
        records = {
            _number(record.id): record
            for record in listing.records
            if 0 < _number(record.id) <= LARGEST_NUMBER and record.key.size == key_length
        }
        records = dict(sorted(records.items()))
        paths = {number: _rows(record.path) for number, record in records.items()}
        return Loaded(KeptBlocks(root, paths, why_root=why), records, events)

    def close(self, patience: float) -> None:
        """Close the shipped bank; wait so many seconds for a read that is under way."""
        if "rows" in self.__dict__ and self.rows is not None:
            self.rows.close(patience)

    def _is_unsettled(self, kept: KeptBlocks, number: int) -> bool:
        """Whether it is unknown on which shipped rows a leaf is to stand: they never arrived."""
        return self.bundle.bank is not None and number not in kept.paths

    def _is_sound(self, arrays: Mapping[str, Array]) -> bool:
        """Whether root or leaf may be committed, and taken up again."""
        return self._spec.mismatch(arrays) is None and is_sound(arrays)

    def _newest(self, name: str) -> tuple[tuple[int, Block] | None, Events]:
        """The newest sound version of root or leaf, and its place among all (0: the current one).

        None without any. What is not current is told.
        """
        found = None
        if self._written is not None:
            versions = self._written.intact(name)
            found = next(((n, Block(v)) for n, v in versions if self._is_sound(v)), None)
        if found is None:
            return None, (_damaged(f"block {name!r}: is damaged; it starts afresh"),)
        if found[0]:
            return found, (_damaged(f"block {name!r}: is damaged; an earlier version is taken"),)
        return found, ()

    def _put(
        self, name: str, block: Block, path: str, key: Array, count: int, about: Provenance
    ) -> None:
        assert self._written is not None and self._state is not None
        if not self._is_sound(block):
            raise StateError(
                f"{self._state.path}: block {name!r}",
                "was not written: it would not fit the bundle when it is read",
                "The last commit is still there: runtime.rollback() goes back to it",
            )
        self._written.put(name, block, path=path, key=key, count=count, provenance=about)


def _damaged(text: str) -> Event:
    return Event(EventKind.DAMAGED, text)


def _number(name: str) -> int:
    """Number of the context of a written block; 0 if it is none."""
    text = name.removeprefix(PREFIX)
    plain = text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= LONGEST_NUMBER
    return int(text) if name.startswith(PREFIX) and plain else 0


def _rows(path: str) -> tuple[int, ...]:
    return tuple(int(part) for part in path.split("/") if part not in (ROOT, LEAF))
