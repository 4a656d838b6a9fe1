"""The SQLite file of the state: its schema, its one owner, its transactions, its size.

Write-ahead log with synchronous=FULL: after a power cut the file holds what was committed, never a
part of a transaction. One process owns the file; others may read it while it is being written.
"""

from __future__ import annotations

import gc
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgemem.errors import StateError
from edgemem.files import sync_folder
from edgemem.forks import never_free_in_child
from edgemem.lock import OwnerLock, same_file
from edgemem.state_schema import create, identity, is_empty, mismatch

ONLY_ONCE = "Open a state file only once; others may read it with read_only=True"


class StateFile:
    """An open state file of one bundle.

    Args:
        path: the file; made if missing, when a bundle is named.
        bundle_identity: the bundle that it must belong to; None takes whichever it belongs to.
        read_only: change nothing. Works while another process writes.

    Raises:
        StateError: on opening, when the file is not a state file, is damaged, is of another
            bundle, is in use, or cannot be created; on writing, when the disk refuses.
    """

    def __init__(
        self, path: Path | str, bundle_identity: str | None, *, read_only: bool = False
    ) -> None:
        self.path, self.read_only = Path(path), read_only
        self._process = os.getpid()
        never_free_in_child(self)
        self._depth, self._scrub, self._blob_bytes = 0, False, 0
        with ExitStack() as undo:
            if not read_only:
                self._lock = self._locked()
                undo.callback(self._lock.release)
            self._fresh = not self.path.exists()
            if self._fresh and (read_only or bundle_identity is None):
                raise self._error("is not there", "Pass the path of a state file")
            with self._explained():
                self._database = self._connected()
                undo.callback(self._give_up)
                self.bundle_identity = self._checked_identity(bundle_identity)
                if not read_only:
                    self._prepare_to_write()
            undo.pop_all()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is written inside together, or, after an error, nothing of it.

        Transactions nest: an inner one that fails takes back only what it wrote itself.

        Raises:
            StateError: the file is read-only, gone, or the disk refuses.
        """
        if self.read_only:
            raise self._error("is open read-only", "Open it without read_only to change it")
        if self._depth and not self._database.in_transaction:
            raise self._error("gave up this transaction", "Leave it and start another")
        begin, commit, undo = _COMMANDS[self._depth > 0]
        self.rows(begin)
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self._require_same_files()
            self.rows(commit)
        except BaseException:
            with suppress(sqlite3.Error):  # what went wrong first is what counts
                if self._database.in_transaction:
                    for command in undo:
                        self._database.execute(command)
            raise
        finally:
            self._depth -= 1
        if not self._depth:
            self._fresh = False
            self._finish_scrub()

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one SQL statement and return its rows.

        Raises:
            StateError: instead of any error of SQLite.
        """
        if self._process != os.getpid():
            raise self._error(
                f"was opened by process {self._process}, of which this one is a fork",
                "Open it in one process, after the fork",
            )
        self._blob_bytes += sum(len(value) for value in values if type(value) is bytes)
        with self._explained():
            return self._database.execute(statement, values).fetchall()

    @property
    def bytes_written(self) -> int:
        """Bytes of arrays written since opening: each to the log, and from there to the file."""
        return 2 * self._blob_bytes

    def scrub(self) -> None:
        """Empty the write-ahead log after this transaction, so that deleted bytes are gone."""
        self._scrub = True

    def compact(self) -> int:
        """Give free space back to the disk; returns how many bytes the file became smaller.

        Needs free space of the size of what is kept while it runs.

        Raises:
            StateError: the disk is full, or somebody is reading; nothing is lost then.
        """
        if self.read_only or self._depth:
            raise self._error("cannot be compacted now", "Open it for writing; end the transaction")
        before = self._nbytes()
        self.rows("VACUUM")
        self._empty_log()
        return max(0, before - self._nbytes())

    def close(self) -> None:
        """Close the file; committed snapshots stay. A new file without any goes again.

        In a fork of the process that opened it nothing happens: it is not the fork's.
        """
        if self._process != os.getpid():
            return
        if self.read_only:
            self._database.close()
            return
        with suppress(sqlite3.Error):  # refused while somebody reads, or twice: it stays as it is
            # One plain file, which can be read even where nothing can be written.
            self._database.execute("PRAGMA journal_mode = DELETE")
        self._give_up()
        self._fresh = False
        self._lock.release()

    def _locked(self) -> OwnerLock:
        lock = Path(f"{self.path}-lock")
        try:
            try:
                return OwnerLock(lock)
            except BlockingIOError:  # by a handle that is lost, but not yet collected?
                gc.collect()
                return OwnerLock(lock)
        except (BlockingIOError, PermissionError) as error:
            if isinstance(error, PermissionError) and os.name == "posix":
                raise self._refused(error) from error
            raise self._error("is locked: it is open for writing already", ONLY_ONCE) from error
        except (OSError, ValueError) as error:
            raise self._refused(error) from error

    def _connected(self) -> sqlite3.Connection:
        target = f"{self.path.absolute().as_uri()}?mode=ro" if self.read_only else self.path
        database = sqlite3.connect(
            target,
            timeout=1.0,
            isolation_level=None,
            check_same_thread=False,
            uri=self.read_only,
        )
        # Damaged text must reach the check of its hash, not end the reading of all other rows.
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        return database

    def _checked_identity(self, wanted: str | None) -> str:
        # What is left of a file that was cut off is no new file, though SQLite takes it for one.
        new = is_empty(self._database) and self.path.stat().st_size == 0
        if new and wanted is not None and not self.read_only:
            create(self._database, wanted)
            sync_folder(self.path.absolute().parent)
        if complaint := mismatch(self._database, wanted):
            raise self._error(*complaint)
        return identity(self._database)

    def _prepare_to_write(self) -> None:
        for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("BEGIN IMMEDIATE")  # what cannot be written is refused now
        self._database.execute("ROLLBACK")
        files = [self.path, Path(f"{self.path}-wal")]
        self._files = {file: file.stat() for file in files if file.exists()}

    def _require_same_files(self) -> None:
        for file, known in self._files.items():
            if not same_file(file, known):
                raise self._error(
                    f"lost its file {file.name}: it was deleted or replaced while in use",
                    "Close this state and open it again; restore the file first if you have a copy",
                )

    def _finish_scrub(self) -> None:
        if self._scrub:
            self._scrub = False
            self._empty_log()

    def _empty_log(self) -> None:
        if self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise self._error(
                "is being read, so deleted bytes are still in its write-ahead log",
                "Close the readers, then run: edgemem bank compact",
            )

    def _nbytes(self) -> int:
        files = [self.path, Path(f"{self.path}-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise self._error("is closed", "Open it again") from error
        except (sqlite3.OperationalError, OSError) as error:
            raise self._refused(error) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # UnicodeDecodeError: SQLite quotes damaged names in its messages.
            raise self._error(
                f"is damaged or not a state file ({error})", "Pass another path or delete the file"
            ) from error

    def _refused(self, error: Exception) -> StateError:
        return self._error(
            f"cannot be used ({error})",
            "Choose a writable folder with free space, and open a state file only once",
        )

    def _error(self, reason: str, remedy: str) -> StateError:
        return StateError(str(self.path), reason, remedy)

    def _give_up(self) -> None:
        """Close the connection; a file that this made, and that holds no commit, goes again."""
        self._database.close()
        if self._fresh and not self.read_only:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)


# How an outer and an inner transaction begin, end and are taken back.
_COMMANDS = {
    False: ("BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)),
    True: ("SAVEPOINT part", "RELEASE part", ("ROLLBACK TO part", "RELEASE part")),
}
