"""State: what changes on the device, in one SQLite file that survives a power cut.

A snapshot is one row: counters, and the hashes of its parts. A part is a group of arrays (the
block, the optimiser's slots, recent frames) as safetensors bytes, in a row of its own that
snapshots share: what has not changed is not written again. Written blocks are rows of another table
(`edgemem.bank.written.written_blocks`). Whatever is written in one transaction is there after a
power cut as a whole or not at all. The newest intact version wins.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from string import hexdigits
from typing import Any

from edgemem.block import Arrays, pack, unpack
from edgemem.errors import StateError
from edgemem.state.snapshot import Snapshot
from edgemem.state.sqlite_file import StateFile

KEPT_VERSIONS = 2
LARGEST = (1 << 53) - 1  # of a counter; the least is -1
REMEDY = "Delete the state file and the files beside it to start again"


class State(StateFile):
    """An open state file of one bundle: snapshots, and transactions for whatever else it holds.

    Opening and its errors are those of `StateFile`.
    """

    def read(self) -> Snapshot | None:
        """The newest intact snapshot; None before the first commit.

        It names newer ones that are damaged.

        Raises:
            StateError: all are damaged; `snapshots` tells what is left of them.
        """
        damage = [] if (lost := self.lost) is None else [lost.reason]
        for found in self.snapshots():
            if not found.damage:
                return Snapshot(found.arrays, found.counters, tuple(damage))
            damage += found.damage
        if damage:
            raise self._error(damage[0], REMEDY)
        return None

    def snapshots(self) -> Iterator[Snapshot]:
        """What is left of every snapshot, newest first: the parts that are intact.

        damage names the others. Without its row nothing is left of one.
        """
        select = "SELECT version, counters, parts, sha256 FROM snapshot ORDER BY version DESC"
        rows = self._undamaged(select)
        if rows is not None and self._newest() not in (None, rows[0][0] if rows else 0):
            yield Snapshot({}, {}, ("has lost its newest snapshot, or the note of it",))
        for row in [(0, "", "", "")] if rows is None else rows:
            yield self._snapshot(*row)

    def write(self, snapshot: Snapshot) -> None:
        """Commit a snapshot; when this returns, a power cut cannot lose it.

        Inside `transaction` it is committed with the rest, at the end.

        Raises:
            StateError: as `transaction`; or a counter is no whole number from -1 (of the guard:
                from -(2^53 - 1)) to 2^53 - 1.
        """
        contents = {name: pack(arrays) for name, arrays in _grouped(snapshot.arrays).items()}
        hashes = {name: _sha256(content) for name, content in contents.items()}
        counters, parts = json.dumps(snapshot.counters), json.dumps(hashes)
        if _numbers(counters) is None:
            raise self._error(
                "was not written: a counter is no number that it takes", "Report this"
            )
        with self.transaction():
            ((version,),) = self.rows("SELECT coalesce(max(version), 0) + 1 FROM snapshot")
            # What is old goes first: what is new then takes its place on the disk.
            self.rows(
                "DELETE FROM snapshot WHERE version <= (SELECT max(version) FROM snapshot) - ?",
                KEPT_VERSIONS - 1,
            )
            here = self._drop_parts(hashes.values())
            for digest, content in {hashes[name]: contents[name] for name in hashes}.items():
                if digest not in here:
                    self.rows("INSERT INTO part (sha256, content) VALUES (?, ?)", digest, content)
            self.rows(
                "INSERT INTO snapshot (version, written, counters, parts, sha256) "
                "VALUES (?, ?, ?, ?, ?)",
                version, time.time(), counters, parts, _seal(version, counters, parts),
            )  # fmt: skip
            self.rows("INSERT OR REPLACE INTO about SELECT 'snapshot', max(version) FROM snapshot")

    def _newest(self) -> int | None:
        """The version of the newest snapshot, noted apart from it.

        Damage can hide a row without a trace. None where it was never noted; -1 where damage took
        the note.
        """
        found = self._undamaged("SELECT value FROM about WHERE name = 'snapshot'")
        try:
            return int(found[0][0]) if found else None
        except (ValueError, TypeError):
            return -1

    def drop_earlier(self) -> None:
        """Delete every snapshot but the newest; see `scrub` for their bytes in the log."""
        with self.transaction():
            self.rows("DELETE FROM snapshot WHERE version < (SELECT max(version) FROM snapshot)")
            self._drop_parts()

    def _snapshot(self, version: Any, counters: Any, parts: Any, digest: Any) -> Snapshot:
        # Damage can change even the type of a column, and anybody can compute a hash.
        typed = isinstance(counters, str) and isinstance(parts, str)
        if not typed or _seal(version, counters, parts) != digest:
            return Snapshot({}, {}, ("holds a damaged snapshot",))
        numbers, hashes = _numbers(counters), _hashes(parts)
        if numbers is None or hashes is None:
            return Snapshot({}, {}, ("holds a snapshot that EdgeMem did not write",))
        arrays, damage = Arrays(), list[str]()
        for name, part in hashes.items():
            if (content := self._part(part)) is None:
                damage.append(f"holds a damaged snapshot (its {name})")
                continue
            try:
                found = unpack(content, str(self.path), StateError, REMEDY)
            except StateError as error:
                damage.append(f"holds a damaged snapshot (its {name} {error.reason})")
            else:
                arrays |= {f"{name}{rest}": array for rest, array in found.items()}
        return Snapshot(arrays, numbers, tuple(damage))

    def _part(self, digest: str) -> bytes | None:
        """The content of a part, if it is there and whole."""
        select = "SELECT content FROM part WHERE sha256 = ?"
        for (content,) in self._undamaged(select, digest) or ():
            if type(content) is bytes and _sha256(content) == digest:
                return content
        return None

    def _undamaged(self, statement: str, *values: Any) -> list[tuple[Any, ...]] | None:
        """Rows of a statement; None where damage to the file's own order keeps SQLite from them."""
        try:
            return self.rows(statement, *values)
        except StateError as error:
            cause = error.__cause__
            # What passes, such as a disk that cannot be read now, is no damage.
            if isinstance(cause, sqlite3.OperationalError | OSError | sqlite3.ProgrammingError):
                raise
            return None

    def _drop_parts(self, needed: Collection[str] = ()) -> set[str]:
        """Delete parts that no snapshot needs, and damaged ones; the needed ones that are there.

        Needed are those that a snapshot has, or is to have.
        """
        here = {digest for digest in needed if self._part(digest) is not None}
        kept = set(here)
        for (parts,) in self.rows("SELECT parts FROM snapshot"):
            kept |= set((_hashes(parts) or {}).values()).difference(needed)
        for row, digest in self.rows("SELECT row, sha256 FROM part"):
            if digest not in kept:
                self.rows("DELETE FROM part WHERE row = ?", row)
        return here


def _grouped(arrays: Arrays) -> dict[str, Arrays]:
    """Arrays by the first word of their names; within a group by the rest of it."""
    groups: defaultdict[str, Arrays] = defaultdict(dict)
    for name, array in arrays.items():
        group = name.partition(".")[0]
        groups[group][name[len(group) :]] = array
    return groups


def _hashes(parts: Any) -> dict[str, str] | None:
    """Hashes of the parts of a snapshot, by name; None where that is not what it says."""
    found = _loaded(parts)
    right = (type(d) is str and len(d) == 64 and set(d) <= set(hexdigits) for d in found.values())
    return found if all(right) else None


def _numbers(counters: Any) -> dict[str, int] | None:
    """Counters of a snapshot, by name; None where these are no counters."""
    found = _loaded(counters)
    for name, number in found.items():
        least = -LARGEST if name.startswith("guard.") else -1  # "checked so many updates ago"
        if type(number) is not int or not least <= number <= LARGEST:
            return None
    return found


def _loaded(text: Any) -> dict[str, Any]:
    """A JSON object; of a single strange value where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"": None}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _seal(version: Any, counters: str, parts: str) -> str:
    return _sha256(f"{version}\0{counters}\0{parts}".encode())
