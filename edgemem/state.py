"""State: what changes on the device, in one SQLite file that survives a power cut.

A snapshot is one row: block, optimiser slots, recent frames and counters as safetensors bytes with
their hash. Writing one is a single transaction (write-ahead log, synchronous=FULL): after a power
cut the file holds the old snapshot or the new one, never a mixture. The newest version wins.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgemem.block import Arrays, pack, unpack
from edgemem.errors import StateError
from edgemem.files import sync_folder

APPLICATION_ID = 0x45444D4D  # "EDMM", so that other SQLite files are recognised
SCHEMA_VERSION = 1
KEPT_VERSIONS = 2
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE snapshot (
    version INTEGER PRIMARY KEY,
    written REAL NOT NULL,
    counters TEXT NOT NULL,
    payload BLOB NOT NULL,
    sha256 TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Snapshot:
    """What one commit holds. counters: plain numbers by name."""

    arrays: Arrays
    counters: dict[str, int]


class State:
    """An open state file of one bundle.

    Raises:
        StateError: on opening, when the file is not a state file, is damaged, is of another
            bundle, is in use, or cannot be created; on writing, when the disk refuses.
    """

    def __init__(self, path: Path | str, bundle_identity: str) -> None:
        self.path = Path(path)
        self._fresh = not self.path.exists()
        with self._explained():
            self._database = sqlite3.connect(
                self.path, timeout=1.0, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explained():
                self._open(bundle_identity)
        except BaseException:
            self._database.close()
            if self._fresh:
                self._remove_empty()
            raise

    def _open(self, bundle_identity: str) -> None:
        database = self._database
        # One owner at a time: two runtimes on one file would overwrite each other's commits.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        application = database.execute("PRAGMA application_id").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise self._error("is not an EdgeMem state file", "Pass another path")
        if not tables:
            self._create(bundle_identity)
            sync_folder(self.path.absolute().parent)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise self._error(
                f"has schema version {version}; this EdgeMem reads {SCHEMA_VERSION}",
                "Update EdgeMem, or start with a new state file",
            )
        owner = database.execute("SELECT value FROM about WHERE name = 'bundle'").fetchone()
        if owner is None or owner[0] != bundle_identity:
            raise self._error(
                "belongs to another bundle",
                "Open it with the bundle that wrote it, or start with a new state file",
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with self._transaction():  # takes the lock now rather than at the first commit
            database.execute("UPDATE about SET value = value WHERE name = 'bundle'")

    def _create(self, bundle_identity: str) -> None:
        with self._transaction():
            for statement in SCHEMA.split(";"):
                self._database.execute(statement)
            self._database.execute("INSERT INTO about VALUES ('bundle', ?)", (bundle_identity,))
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def read(self) -> Snapshot | None:
        """The newest snapshot, or None before the first commit.

        Raises:
            StateError: its payload is damaged.
        """
        with self._explained():
            row = self._database.execute(
                "SELECT counters, payload, sha256 FROM snapshot ORDER BY version DESC LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        counters, payload, digest = row
        remedy = "Delete the state file to start again from the bundle"
        # Damage can change even the type of a column.
        typed = isinstance(counters, str) and isinstance(payload, bytes)
        if not typed or _digest(counters, payload) != digest:
            raise self._error("holds a damaged snapshot", remedy)
        return Snapshot(unpack(payload, str(self.path), StateError, remedy), json.loads(counters))

    def write(self, snapshot: Snapshot) -> None:
        """Commit a snapshot; when this returns, a power cut cannot lose it."""
        counters, payload = json.dumps(snapshot.counters), pack(snapshot.arrays)
        values = (time.time(), counters, payload, _digest(counters, payload))
        with self._explained(), self._transaction():
            self._database.execute(
                "INSERT INTO snapshot (version, written, counters, payload, sha256) VALUES "
                "((SELECT coalesce(max(version), 0) + 1 FROM snapshot), ?, ?, ?, ?)",
                values,
            )
            self._database.execute(
                "DELETE FROM snapshot WHERE version <= (SELECT max(version) FROM snapshot) - ?",
                (KEPT_VERSIONS,),
            )
        self._fresh = False

    def close(self) -> None:
        """Close the file; committed snapshots stay. A new file without any goes again."""
        self._database.close()
        if self._fresh:
            self._fresh = False
            for suffix in ("", "-wal", "-journal"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise self._error(
                f"cannot be used ({error})",
                "Choose a writable folder with free space, and open a state file only once",
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._error(
                f"is damaged or not a state file ({error})", "Pass another path or delete the file"
            ) from error

    def _error(self, reason: str, remedy: str) -> StateError:
        return StateError(str(self.path), reason, remedy)

    def _remove_empty(self) -> None:
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()


def _digest(counters: str, payload: bytes) -> str:
    return hashlib.sha256(counters.encode() + b"\0" + payload).hexdigest()
