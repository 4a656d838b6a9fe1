"""The table of written blocks in the state file: checked rows in, checked rows out.

A tally counts the rows and sums their hashes, so that a row that damage hides is missed, and holds
the clock that numbers versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgemem.bank.written.record import COLUMNS, LARGEST, Record, checked, from_row, is_id
from edgemem.errors import InputError, StateError
from edgemem.state.store import State

HISTORY = 4
REMEDY = "Run edgemem bank rollback for an earlier version, or edgemem bank forget"
_HEAD = ", ".join(COLUMNS)
_MODULUS = 1 << 256


@dataclass(frozen=True)
class Tally:
    """Highest number that was given out, number of rows, sum of their hashes modulo 2^256."""

    clock: int = 0
    rows: int = 0
    total: int = 0


class BlockTable:
    """Rows of the table `block` of an open state file."""

    def __init__(self, state: State) -> None:
        self.state = state

    def versions(self, block_id: str) -> list[Any]:
        """Versions of a block, highest first; none if it is unknown. Damage may be among them."""
        return [version for _, version in self._rows_of(block_id)]

    def known(self, block_id: str) -> list[Any]:
        """Versions of a block that exists.

        Raises:
            InputError: it does not.
        """
        if found := self.versions(block_id):
            return found
        raise InputError(
            self._thing(block_id), "is not there", f"List them: edgemem bank blocks {self._path}"
        )

    def scan(self) -> list[tuple[str, Any, str, Record | None]]:
        """Id, version, hash and record of every row; no record where the row is damaged."""
        return [
            (row[0], row[2], row[-1], from_row(row))
            for row in self.state.rows(f"SELECT {_HEAD} FROM block")
        ]

    def read(self, block_id: str, version: Any) -> tuple[Record, bytes]:
        """One version, with its arrays as safetensors bytes.

        Raises:
            StateError: it is damaged.
        """
        row = next((r for r, v in self._rows_of(block_id) if v == version), None)
        found = self.state.rows(f"SELECT {_HEAD} FROM block WHERE row = ?", row)
        record = from_row(found[0]) if found else None
        # Compared once more: a damaged page can lead to the intact row of another block.
        if record is None or (record.id, record.version) != (block_id, version):
            raise self.damaged(block_id)
        content = self.state.rows("SELECT content FROM payload WHERE row = ?", row)
        payload = content[0][0] if content else None
        if type(payload) is not bytes or sha256(payload) != record.payload_sha256:
            raise self.damaged(block_id)
        return record, payload

    def insert(self, record: Record, payload: bytes) -> None:
        """Write one version; versions beyond the history of its block go.

        Raises:
            InputError: a value that cannot be stored.
        """
        checked(record, f"block {record.id!r}")
        row = record.row()
        with self.state.transaction():
            # Deleted first: the new version takes the place of the oldest on the disk.
            self.delete(record.id, self.versions(record.id)[HISTORY - 1 :])
            marks = ", ".join("?" * len(row))
            self.state.rows(f"INSERT INTO block ({', '.join(COLUMNS)}) VALUES ({marks})", *row)
            self.state.rows(
                "INSERT OR REPLACE INTO payload VALUES (last_insert_rowid(), ?)", payload
            )
            tally = self.tally()
            total = (tally.total + _number(row[-1])) % _MODULUS
            self._write(Tally(max(tally.clock, record.version), tally.rows + 1, total))

    def delete(self, block_id: str, versions: Iterable[Any]) -> None:
        """Delete versions of a block."""
        doomed = list(versions)
        with self.state.transaction():
            tally = self.tally()
            for row in [row for row, version in self._rows_of(block_id) if version in doomed]:
                gone = self.state.rows("SELECT sha256 FROM block WHERE row = ?", row)
                self.state.rows("DELETE FROM block WHERE row = ?", row)
                self.state.rows("DELETE FROM payload WHERE row = ?", row)
                total = (tally.total - total_of(digest for (digest,) in gone)) % _MODULUS
                tally = Tally(tally.clock, max(0, tally.rows - len(gone)), total)
            self._write(tally)

    def sizes(self) -> dict[tuple[str, int], int]:
        """Bytes of the arrays by id and version."""
        found = self.state.rows(
            "SELECT id, version, length(content) FROM block LEFT JOIN payload USING (row) "
            "WHERE typeof(id) = 'text' AND typeof(version) = 'integer'"
        )
        return {(name, version): size or 0 for name, version, size in found}

    def next_version(self, block_id: str) -> int:
        """A number above all that were ever given out."""
        numbers = (v for v in self.versions(block_id) if type(v) is int and v < LARGEST)
        return max(self.tally().clock, *numbers, 0) + 1

    def tally(self) -> Tally:
        """What should be there.

        Raises:
            StateError: the tally itself is damaged.
        """
        found = self.state.rows("SELECT value FROM about WHERE name = 'tally'")
        if not found:
            return Tally()
        try:
            clock, rows, total, digest = json.loads(found[0][0])
            if not (type(clock) is type(rows) is int and 0 <= clock <= LARGEST and rows >= 0):
                raise ValueError(clock)
            if digest != sha256(f"{clock} {rows} {total}".encode()):
                raise ValueError(digest)
            return Tally(clock, rows, int(total, 16))
        except (ValueError, TypeError, RecursionError) as error:
            raise self.miscounted() from error

    def recount(self) -> None:
        """Take the rows that are there for all there should be."""
        with self.state.transaction():
            rows = self.state.rows("SELECT sha256, version FROM block")
            numbers = [v for _, v in rows if type(v) is int and v <= LARGEST]
            known: Tally | None = None
            with suppress(StateError):
                known = self.tally()
            total = total_of(digest for digest, _ in rows)
            counted = Tally(max(known.clock if known else 0, *numbers, 0), len(rows), total)
            if counted != known:
                self._write(counted)

    def damaged(self, block_id: Any) -> StateError:
        """The error for a damaged block."""
        return StateError(self._thing(block_id), "is damaged", REMEDY)

    def miscounted(self) -> StateError:
        """The error for rows that are missing, or were put there by somebody else."""
        return StateError(
            self._path,
            "has lost written blocks, or holds foreign ones",
            "Restore a copy, or accept what is there with edgemem bank compact",
        )

    def _rows_of(self, block_id: str) -> list[tuple[int, Any]]:
        """Row and version, highest version first."""
        if not is_id(block_id):
            return []
        # There is no index on purpose: a damaged one would hide rows, and heads are small.
        found = self.state.rows(
            "SELECT row, version FROM block WHERE id = ? ORDER BY version DESC", block_id
        )
        return [(row, version) for row, version in found]

    @property
    def _path(self) -> str:
        return str(self.state.path)

    def _thing(self, block_id: Any) -> str:
        return f"{self._path}: block {block_id!r}"

    def _write(self, tally: Tally) -> None:
        numbers = [tally.clock, tally.rows, f"{tally.total:064x}"]
        value = json.dumps([*numbers, sha256(" ".join(map(str, numbers)).encode())])
        self.state.rows("INSERT OR REPLACE INTO about VALUES ('tally', ?)", value)


def sha256(payload: bytes) -> str:
    """Hex digest of the arrays of a block."""
    return hashlib.sha256(payload).hexdigest()


def total_of(hashes: Iterable[Any]) -> int:
    """Sum of hashes modulo 2^256: the same in any order."""
    return sum(map(_number, hashes)) % _MODULUS


def _number(digest: Any) -> int:
    """A hash as a number; 0 for what damage made of it."""
    try:
        return int(digest, 16)
    except (ValueError, TypeError):
        return 0
