"""Where the root and the leaves of contexts are kept: in memory until a commit, then in the state.

A written block "context-7" is the leaf of context 7; its path tells which shipped rows it stands
on. The written block "root" is the root.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from edgemem.bank.record import LEAF, ROOT, Provenance, Record
from edgemem.bank.written import WrittenBlocks
from edgemem.block import Array, Arrays, is_finite
from edgemem.bundle import Bundle
from edgemem.errors import InputError, StateError
from edgemem.runtime.contexts import Context
from edgemem.runtime.result import Event
from edgemem.state import State

PREFIX, ROOT_ID = "context-", "root"
BANK_BYTES = 256 << 20  # that written blocks may take


class ContextStore:
    """Root and leaves of one runtime; without a state they are kept in memory alone."""

    def __init__(self, bundle: Bundle, state: State | None) -> None:
        self._bundle, self._spec, self._state = bundle, bundle.manifest.block, state
        self._written = None if state is None else WrittenBlocks(state)
        self._leaves: dict[int, Arrays] = {}
        self._gone: set[int] = set()
        self._root = bundle.generic
        self._root_reason = ""
        self.paths: dict[int, tuple[int, ...]] = {}

    @property
    def root(self) -> Arrays:
        """The part of the block that all contexts share."""
        return self._root

    def set_root(self, root: Arrays, why: str) -> None:
        """Take another root; written with the next commit."""
        self._root, self._root_reason = root, why

    def leaf(self, number: int, events: list[Event]) -> Arrays:
        """The leaf of a known context; a damaged one is told, and is zero."""
        if number in self._leaves:
            return self._leaves[number]
        name = f"{PREFIX}{number}"
        try:
            if self._written is not None:
                leaf = self._written.read(name)[1]
                if self._spec.mismatch(leaf) is None and is_finite(leaf):
                    return leaf
            events.append(Event("damaged", f"{name} does not fit; it starts afresh"))
        except (StateError, InputError) as error:
            events.append(Event("damaged", str(error)))
        return {array: np.zeros_like(value) for array, value in self._root.items()}

    def keep(self, number: int, leaf: Arrays) -> None:
        """Keep a leaf; written with the next commit."""
        self._leaves[number] = leaf

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget contexts; their written blocks go with the next commit."""
        for number in numbers:
            self._leaves.pop(number, None)
            self.paths.pop(number, None)
            self._gone.add(number)

    def reset(self, numbers: Iterable[int]) -> None:
        """Forget everything that was learnt, the root too."""
        self.drop(numbers)
        self.set_root(self._bundle.generic, "")

    def write(
        self, known: dict[int, Context], present: int, steps: int, entropy: float, why: str
    ) -> list[int]:
        """Write what changed, inside a transaction; numbers of contexts that had to make room."""
        if self._written is None:
            return []
        gone = {f"{PREFIX}{number}" for number in self._gone}
        if self._root is self._bundle.generic:
            gone.add(ROOT_ID)
        for name in filter(self._written.version, gone):
            self._written.forget(name)
        for number, leaf in self._leaves.items():
            about = Provenance(self._bundle.identity, steps, entropy, why)
            key, count, path = known[number].key, known[number].count, self._path(number)
            self._put(f"{PREFIX}{number}", leaf, path, key, count, about)
        if self._root_reason:
            about = Provenance(self._bundle.identity, steps, entropy, self._root_reason)
            self._put(ROOT_ID, self._root, ROOT, np.zeros(0, np.float32), len(known), about)
        self._gone, self._leaves, self._root_reason = set(), {}, ""
        return self._evict({ROOT_ID, f"{PREFIX}{present}"})

    def load(self, key_length: int) -> tuple[list[Record], list[Event]]:
        """Take the root, and the records of contexts, from the state; what was damaged is told.

        Raises:
            StateError: the root does not fit the bundle.
        """
        assert self._written is not None, "there is a state to load from"
        self._leaves, self._gone, self._root_reason = {}, set(), ""
        listing = self._written.listing()
        events = [Event("damaged", str(error)) for error in listing.damage]
        names = {record.id for record in listing.records}
        self._root = self._read_root(events) if ROOT_ID in names else self._bundle.generic
        records = [
            record
            for record in listing.records
            if _number(record.id) and record.key.size == key_length
        ]
        self.paths = {_number(r.id): _rows(r.path) for r in records}
        return records, events

    def _read_root(self, events: list[Event]) -> Arrays:
        assert self._written is not None and self._state is not None
        try:
            root = self._written.read(ROOT_ID)[1]
        except StateError as error:
            events.append(Event("damaged", str(error)))
            return self._bundle.generic
        if self._spec.mismatch(root) is not None or not is_finite(root):
            raise StateError(
                str(self._state.path), "holds a root that does not fit the bundle",
                "Delete the state file to start again from the bundle",
            )  # fmt: skip
        return root

    def _put(
        self, name: str, arrays: Arrays, path: str, key: Array, count: int, about: Provenance
    ) -> None:
        assert self._written is not None
        self._written.put(name, arrays, path=path, key=key, count=count, provenance=about)

    def _path(self, number: int) -> str:
        return "/".join([*map(str, self.paths.get(number, ())), LEAF])

    def _evict(self, keep: Collection[str]) -> list[int]:
        assert self._written is not None
        gone = [_number(name) for name in self._written.evict(BANK_BYTES, keep)]
        for number in gone:
            self.paths.pop(number, None)
        return [number for number in gone if number]


def _number(name: str) -> int:
    """Number of the context of a written block; 0 if it is none."""
    text = name.removeprefix(PREFIX)
    return int(text) if name.startswith(PREFIX) and text.isascii() and text.isdigit() else 0


def _rows(path: str) -> tuple[int, ...]:
    return tuple(int(part) for part in path.split("/") if part not in (ROOT, LEAF))
