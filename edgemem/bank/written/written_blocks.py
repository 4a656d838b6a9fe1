"""Written blocks: what the device learnt about its contexts, in the state file.

Every write adds a version; the highest version of a block is the block. Versions are numbered by
one clock for the whole file that only grows: `forget` gives no number back, and an import moves it
past the imported versions. So the higher version is the later one, on any device, and nothing
needs to be guessed or to trust the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from edgemem.bank.written.block_table import REMEDY, BlockTable, sha256, total_of
from edgemem.bank.written.eviction import least_first
from edgemem.bank.written.record import Provenance, Record
from edgemem.block import Array, Arrays, pack, unpack
from edgemem.errors import InputError, StateError
from edgemem.state.store import State


@dataclass(frozen=True)
class Listing:
    """The current version of every block, and what is wrong with those that are left out."""

    records: list[Record]
    damage: list[StateError]


class WrittenBlocks:
    """The written blocks of an open state file.

    For one thread. Several writes inside `state.transaction()` are committed together. All methods
    raise StateError when the file cannot be read or written; nothing has changed then.
    """

    def __init__(self, state: State) -> None:
        self._state, self._table = state, BlockTable(state)

    def put(
        self,
        block_id: str,
        arrays: Mapping[str, Array],
        *,
        path: str,
        key: ArrayLike,
        count: int,
        provenance: Provenance,
    ) -> Record:
        """Write a block, or the next version of one; when this returns, it is committed.

        Args:
            block_id: printable text, at most 128 characters.
            arrays: whatever the caller keeps of a block.
            path: place in the tree: "3/51", or "3/51/+" for a new leaf under that node.
            key: [d] numbers, finite; stored as float32.
            count: what the block stands for; it adds to its worth.
            provenance: where the block comes from.

        Raises:
            InputError: a value that cannot be stored.
        """
        payload = pack(arrays)
        with self._state.transaction():
            self._table.delete(block_id, self._damaged_versions(block_id))
            version = self._table.next_version(block_id)
            before = [v for v in self._table.versions(block_id)[:1] if type(v) is int]
            record = Record(
                block_id, path, version, before[0] if before else 0, np.array(key, np.float32),
                count, _now(), provenance, len(payload), sha256(payload),
            )  # fmt: skip
            self._table.insert(record, payload)
        return record

    def read(self, block_id: str) -> tuple[Record, Arrays]:
        """The current version of a block, with its arrays.

        Raises:
            InputError: no such block.
            StateError: it is damaged; an earlier version is never taken for it.
        """
        record, payload = self.payload(block_id)
        thing = f"{self._state.path}: block {block_id!r}"
        return record, unpack(payload, thing, StateError, REMEDY)

    def payload(self, block_id: str) -> tuple[Record, bytes]:
        """The current version of a block, with its arrays as safetensors bytes, as `read`."""
        return self._table.read(block_id, self._table.known(block_id)[0])

    def version(self, block_id: str) -> int:
        """The current version of a block; 0 if there is none.

        Raises:
            StateError: the number is damaged.
        """
        versions = self._table.versions(block_id)
        if versions and type(versions[0]) is not int:
            raise self._table.damaged(block_id)
        return versions[0] if versions else 0

    def intact(self, block_id: str) -> Iterator[tuple[int, Arrays]]:
        """The kept versions of a block that are intact, newest first.

        For each its place among all (0: the current one), and its arrays.
        """
        for place, version in enumerate(self._table.versions(block_id)):
            with suppress(StateError):
                _, payload = self._table.read(block_id, version)
                yield place, unpack(payload, block_id, StateError, REMEDY)

    def listing(self) -> Listing:
        """The current version of every block, by id, without reading arrays.

        A block whose current row is damaged is left out; all damage is named.
        """
        current: dict[str, tuple[float, Record | None]] = {}
        damage, rows = list[StateError](), self._table.scan()
        for name, number, _, record in rows:
            if record is None:
                damage.append(self._table.damaged(name))
            # Damage to the number itself: the row may have been the newest.
            version = number if type(number) is int else float("inf")
            if name not in current or version > current[name][0]:
                current[name] = version, record
        tally = self._table.tally()
        total = total_of(digest for _, _, digest, _ in rows)
        if not damage and (tally.rows, tally.total) != (len(rows), total):
            damage.append(self._table.miscounted())
        records = [record for _, record in current.values() if record is not None]
        return Listing(sorted(records, key=lambda record: record.id), damage)

    def verify(self) -> list[StateError]:
        """What is wrong, after reading every version of every block with its arrays."""
        damage = {str(error): error for error in self.listing().damage}
        for block_id, version in self._table.sizes():
            try:
                self._table.read(block_id, version)
            except StateError as error:
                damage[str(error)] = error
        return list(damage.values())

    def rollback(self, block_id: str) -> Record:
        """Make the version before the current one current, by writing it again as a new one.

        Again and again it goes further back, past versions that are damaged or were deleted. A
        damaged current version is replaced by the newest intact one.

        Raises:
            InputError: no such block, or no version before is kept.
        """
        with self._state.transaction():
            record, payload = self._before(block_id)
            self._table.delete(block_id, self._damaged_versions(block_id))
            version = self._table.next_version(block_id)
            why = f"rolled back to version {record.version}"
            again = replace(
                record,
                version=version,
                created=_now(),
                provenance=replace(record.provenance, why=why),
            )
            self._table.insert(again, payload)
        return again

    def adopt(self, record: Record, payload: bytes) -> None:
        """Write a version from elsewhere as it is; its number must be above the block's own.

        Raises:
            InputError: it is not, or a value cannot be stored.
        """
        with self._state.transaction():
            own = self.version(record.id)
            if own >= record.version:
                reason = f"is there as version {own} and cannot become {record.version}"
                raise InputError(f"block {record.id!r}", reason, "Keep the higher version")
            self._table.insert(record, payload)

    def forget(self, block_id: str) -> None:
        """Delete every version of a block, and its bytes from the file and its log.

        What the disk itself, a backup, an export or the snapshot keeps is out of reach.

        Raises:
            InputError: no such block.
        """
        with self._state.transaction():
            self.discard(block_id)
            self._state.scrub()

    def discard(self, block_id: str) -> None:
        """Delete every version of a block; its bytes leave the log with the next checkpoint.

        Works while others read, as `forget` does not.

        Raises:
            InputError: no such block.
        """
        with self._state.transaction():
            self._table.delete(block_id, self._table.known(block_id))

    def evict(self, budget: int, keep: Collection[str] = ()) -> list[str]:
        """Delete what is worth least until all arrays fit into `budget` bytes.

        Earlier versions go first, oldest first; then whole blocks, least worth first
        (`eviction.worth`). Blocks in `keep` stay, and so do damaged ones, which a person has to
        decide on.

        Returns:
            Ids of the blocks that are gone.
        """
        gone = []
        with self._state.transaction():
            sizes, records = self._table.sizes(), self.listing().records
            total, current = sum(sizes.values()), {(r.id, r.version) for r in records}
            for item in least_first(records, sizes, self._table.tally().clock, keep):
                if total <= budget:
                    break
                total -= sizes.get(item, 0)
                if item in current:
                    self._table.delete(item[0], self._table.versions(item[0]))
                    gone.append(item[0])
                else:
                    self._table.delete(item[0], [item[1]])
        return gone

    def compact(self) -> int:
        """Give free space back to the disk; returns how many bytes.

        What is there counts as all there should be: lost blocks are not reported again.
        """
        self._table.recount()
        return self._state.compact()

    def _damaged_versions(self, block_id: str) -> list[object]:
        """Numbers that are none: such a row would stay the newest for ever."""
        return [v for v in self._table.versions(block_id) if type(v) is not int]

    def _before(self, block_id: str) -> tuple[Record, bytes]:
        """The version to go back to."""
        current, *earlier = self._table.known(block_id)
        try:
            parent = self._table.read(block_id, current)[0].parent
        except StateError:
            parent = None
        for version in earlier:  # the parent, or where that is gone or damaged, what was before it
            if type(version) is int and (parent is None or version <= parent):
                try:
                    return self._table.read(block_id, version)
                except StateError:
                    continue
        raise InputError(
            f"{self._state.path}: block {block_id!r}",
            "has no intact earlier version",
            "Keep it, or remove it with edgemem bank forget",
        )


def _now() -> int:
    return max(0, int(time.time()))
