"""Where the root and the leaves of contexts are kept: in memory until a commit, then in the state.

A written block "context-7" is the leaf of context 7; its path tells which shipped rows it stands
on. The written block "root" is the root.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from edgemem.bank.record import LEAF, ROOT, Provenance, Record
from edgemem.bank.written import WrittenBlocks
from edgemem.block import Array, Arrays, is_sound
from edgemem.bundle import Bundle
from edgemem.errors import StateError
from edgemem.runtime.contexts import Context
from edgemem.runtime.result import Event
from edgemem.state import State

PREFIX, ROOT_ID = "context-", "root"
BANK_BYTES = 256 << 20  # that written blocks may take
LONGEST_NUMBER = 15  # digits
LARGEST_NUMBER = 10**9  # of a context taken from elsewhere: those to come are larger


@dataclass
class Kept:
    """Root and leaves as they are at present.

    root: the part of the block that all contexts share. paths: the shipped rows that a context
    stands on, none if that is empty; not there as long as it is unknown.
    """

    root: Arrays
    paths: dict[int, tuple[int, ...]] = field(default_factory=dict)
    leaves: dict[int, Arrays] = field(default_factory=dict)  # those that are not yet written
    gone: set[int] = field(default_factory=set)
    why_root: str = ""  # not empty: the root is not yet written
    root_is_gone: bool = False


@dataclass(frozen=True)
class Loaded:
    """What the state file holds: the root, the records of contexts, and what was damaged."""

    kept: Kept
    records: dict[int, Record]
    events: list[Event]


class ContextStore:
    """Root and leaves of one runtime; without a state they are kept in memory alone."""

    def __init__(self, bundle: Bundle, state: State | None) -> None:
        self._bundle, self._spec, self._state = bundle, bundle.manifest.block, state
        self._written = None if state is None else WrittenBlocks(state)
        self.kept = Kept(bundle.generic)

    def set_root(self, root: Arrays, why: str) -> None:
        """Take another root; written with the next commit."""
        self.kept.root, self.kept.why_root = root, why

    def leaf(self, number: int, events: list[Event]) -> Arrays:
        """The leaf of a known context; if that is damaged, which is told, its newest sound version,
        and zero without any."""
        if number in self.kept.leaves:
            return self.kept.leaves[number]
        found = self._newest(f"{PREFIX}{number}", events)
        return zeros_like(self.kept.root) if found is None else found[1]

    def keep(self, number: int, leaf: Arrays) -> None:
        """Keep a leaf; written with the next commit."""
        self.kept.leaves[number] = leaf

    def mend(self, events: list[Event]) -> None:
        """Before a commit: a root and leaves that are not sound start afresh."""
        if not self._is_sound(self.kept.root):
            events.append(Event("damaged", "the root is no sound block; it starts afresh"))
            self.set_root(self._bundle.generic, "the root was not sound")
        for number, leaf in self.kept.leaves.items():
            if not self._is_sound(leaf):
                events.append(Event("damaged", f"{PREFIX}{number} is not sound; it starts afresh"))
                self.keep(number, zeros_like(self.kept.root))

    def clear(self, cleared: Callable[[Arrays], Arrays]) -> None:
        """Replace root and leaves by what `cleared` makes of them; written with the next commit."""
        if (root := cleared(self.kept.root)) is not self.kept.root:
            self.set_root(root, "a class was forgotten")
        self.kept.leaves = {number: cleared(leaf) for number, leaf in self.kept.leaves.items()}

    def saved(self) -> Callable[[], None]:
        """What takes back all that changed in memory since."""
        kept = self.kept
        before = replace(
            kept, paths=dict(kept.paths), leaves=dict(kept.leaves), gone=set(kept.gone)
        )

        def take_back() -> None:
            self.kept = before

        return take_back

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget contexts; their written blocks go with the next commit."""
        for number in numbers:
            self.kept.leaves.pop(number, None)
            self.kept.paths.pop(number, None)
            self.kept.gone.add(number)

    def reset(self, numbers: Iterable[int], root: Arrays) -> None:
        """Forget everything that was learnt, and go on with a root."""
        self.drop(numbers)
        is_generic = root is self._bundle.generic
        self.kept.root_is_gone = is_generic
        self.set_root(root, "" if is_generic else "rolled back")

    def version(self, number: int | None) -> int | None:
        """Version of the written leaf of a context (None: of the root); 0 if there is none, None if
        the number is damaged."""
        name = ROOT_ID if number is None else f"{PREFIX}{number}"
        try:
            return 0 if self._written is None else self._written.version(name)
        except StateError:
            return None

    def is_written(self, number: int) -> bool:
        """Whether the file has the leaf of a context, and nothing newer waits to be written."""
        return number not in self.kept.leaves and bool(self.version(number))

    def write(
        self, known: dict[int, Context], present: int, steps: int, entropy: float, why: str
    ) -> list[int]:
        """Write what changed, inside a transaction; numbers of contexts that had to make room.

        `committed` must follow when the transaction has ended well; until then nothing changes here.
        """
        if self._written is None:
            return []
        kept, identity = self.kept, self._bundle.identity
        for number in filter(self.version, kept.gone):
            self._written.discard(f"{PREFIX}{number}")
        if kept.root_is_gone and self.version(None):
            self._written.discard(ROOT_ID)
        for number, leaf in kept.leaves.items():
            if self._is_unsettled(number):
                continue
            about = Provenance(identity, steps, entropy, why)
            key, count = known[number].key, known[number].count
            path = "/".join([*map(str, kept.paths.get(number, ())), LEAF])
            self._put(f"{PREFIX}{number}", leaf, path, key, count, about)
        if kept.why_root:
            about = Provenance(identity, steps, entropy, kept.why_root)
            self._put(ROOT_ID, kept.root, ROOT, np.zeros(0, np.float32), len(known), about)
        evicted = self._written.evict(BANK_BYTES, {ROOT_ID, f"{PREFIX}{present}"})
        return [number for number in map(_number, evicted) if number]

    def committed(self, evicted: Collection[int]) -> None:
        """What `write` wrote is in the file for good."""
        self.drop(evicted)
        kept = self.kept
        unsettled = {n: leaf for n, leaf in kept.leaves.items() if self._is_unsettled(n)}
        self.kept = Kept(kept.root, kept.paths, unsettled)

    def load(self, key_length: int) -> Loaded:
        """What the state holds; take it by setting `kept`.

        Raises:
            StateError: the file cannot be read.
        """
        assert self._written is not None, "there is a state to load from"
        listing = self._written.listing()
        events = [Event("damaged", str(error)) for error in listing.damage]
        root, why = self._bundle.generic, ""
        if self.version(None) != 0:
            place, root = self._newest(ROOT_ID, events) or (1, root)
            why = "the root was damaged" if place else ""
        records = {
            _number(record.id): record
            for record in listing.records
            if 0 < _number(record.id) <= LARGEST_NUMBER and record.key.size == key_length
        }
        records = dict(sorted(records.items()))
        paths = {number: _rows(record.path) for number, record in records.items()}
        return Loaded(Kept(root, paths, why_root=why), records, events)

    def _is_unsettled(self, number: int) -> bool:
        """Whether it is unknown on which shipped rows a leaf is to stand: they never arrived."""
        return self._bundle.bank is not None and number not in self.kept.paths

    def _is_sound(self, arrays: Arrays) -> bool:
        """Whether root or leaf may be committed, and taken up again."""
        return self._spec.mismatch(arrays) is None and is_sound(arrays)

    def _newest(self, name: str, events: list[Event]) -> tuple[int, Arrays] | None:
        """The newest sound version of root or leaf, and its place among all (0: the current one);
        None without any. What is not current is told."""
        found = None
        if self._written is not None:
            versions = self._written.intact(name)
            found = next((v for v in versions if self._is_sound(v[1])), None)
        if found is None:
            events.append(Event("damaged", f"block {name!r}: is damaged; it starts afresh"))
        elif found[0]:
            events.append(
                Event("damaged", f"block {name!r}: is damaged; an earlier version is taken")
            )
        return found

    def _put(
        self, name: str, arrays: Arrays, path: str, key: Array, count: int, about: Provenance
    ) -> None:
        assert self._written is not None and self._state is not None
        if not self._is_sound(arrays):
            raise StateError(
                f"{self._state.path}: block {name!r}",
                "was not written: it would not fit the bundle when it is read",
                "The last commit is still there: runtime.rollback() goes back to it",
            )
        self._written.put(name, arrays, path=path, key=key, count=count, provenance=about)


def zeros_like(block: Arrays) -> Arrays:
    """The leaf of a context that has learnt nothing."""
    return {name: np.zeros_like(array) for name, array in block.items()}


def _number(name: str) -> int:
    """Number of the context of a written block; 0 if it is none."""
    text = name.removeprefix(PREFIX)
    plain = text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= LONGEST_NUMBER
    return int(text) if name.startswith(PREFIX) and plain else 0


def _rows(path: str) -> tuple[int, ...]:
    return tuple(int(part) for part in path.split("/") if part not in (ROOT, LEAF))
