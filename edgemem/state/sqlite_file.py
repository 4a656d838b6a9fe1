"""The SQLite file of the state: its one owner, its transactions, its size.

Write-ahead log with synchronous=FULL: after a power cut the file holds what was committed, never a
part of a transaction. One process owns the file; others may read it while it is being written.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgemem.errors import StateError
from edgemem.files.atomic import sync_folder
from edgemem.forks import never_free_in_child
from edgemem.state.access import enter
from edgemem.state.commit_numbers import CommitNumbers
from edgemem.state.connection import SECONDS, connected
from edgemem.state.lock import PRIVATE, same_file
from edgemem.state.schema import create, foreign, identity, is_empty, mismatch
from edgemem.state.sqlite_errors import explained, state_error


class _Outermost:
    """Lives as long as an outermost transaction."""


class StateFile:
    """An open state file of one bundle.

    Args:
        path: the file; made if missing, when a bundle is named. Links are followed, and it is made
            absolute, once.
        bundle_identity: the bundle that it must belong to; None takes whichever it belongs to.
        read_only: change nothing. Works while another process writes.

    Raises:
        StateError: on opening, when the file is not a state file, is damaged, is of another
            bundle, is in use, or cannot be created; on writing, when the disk refuses, or when
            somebody else has become the owner.
    """

    def __init__(
        self, path: Path | str, bundle_identity: str | None, *, read_only: bool = False
    ) -> None:
        self.read_only = read_only
        self._process = os.getpid()
        never_free_in_child(self)
        self._scrub, self._blob_bytes = False, 0
        self._outermost: weakref.ref[_Outermost] | None = None
        self._parts = itertools.count()
        with ExitStack() as undo:
            make = bundle_identity is not None and not read_only
            door = enter(Path(path), make=make, read_only=read_only)
            self.path, self._handle, self._fresh = door.path, door.handle, door.fresh
            undo.callback(self._handle.release)
            with self._explained():
                self._database = connected(self.path, read_only=read_only)
                self._handle.keep_for(self._database)
                undo.callback(self._give_up)
                self.bundle_identity = self._checked_identity(bundle_identity)
                self._numbers = CommitNumbers(self._database, self.path)
                if not read_only:
                    self._prepare_to_write()
            undo.pop_all()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is written inside together, or, after an error, nothing of it.

        Transactions nest: an inner one that fails takes back only what it wrote itself.

        Raises:
            StateError: the file is read-only, gone, has another owner, or the disk refuses.
        """
        nested, number = self._is_nested(), 0
        begin, commit, undo = _inner(next(self._parts)) if nested else _OUTER
        under_way = _Outermost()
        try:  # an interrupt may come after any line: what has begun is always taken back
            self.rows(begin)
            if not nested:
                self._outermost = weakref.ref(under_way)
                self._require_owner()
            before = self._database.total_changes
            yield
            if not nested:
                self._require_same_files()
                if self._database.total_changes > before:
                    number = self._numbered()
            self.rows(commit)
        except BaseException:
            with suppress(sqlite3.Error):  # what went wrong first is what counts
                for command in undo if self._database.in_transaction else ():
                    self._database.execute(command)
            raise
        finally:
            if not nested:
                self._outermost = None
        if not nested:
            self._fresh = False
            self._settle(number)

    def take_back(self) -> None:
        """Take back what an interrupt left half done; only where no transaction is under way."""
        self._outermost = None
        with self._explained():
            left = self._database.in_transaction
        if left:
            self.rows("ROLLBACK")

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one SQL statement and return its rows.

        Raises:
            StateError: instead of any error of SQLite.
        """
        self._require_process()
        self._blob_bytes += sum(len(value) for value in values if type(value) is bytes)
        with self._explained():
            return self._database.rows(statement, values)

    @property
    def bytes_written(self) -> int:
        """Bytes of arrays written since opening: each to the log, and from there to the file."""
        return 2 * self._blob_bytes

    @property
    def lost(self) -> StateError | None:
        """What to say of commits that were promised and are not there."""
        if not (count := self._numbers.lost):
            return None
        return self._error(
            f"has lost its last {count} commits: its write-ahead log was damaged or taken away, "
            "or the file is an earlier copy",
            "Check the disk, and restore a newer copy if there is one",
        )

    def scrub(self) -> None:
        """Empty the write-ahead log after this transaction, so that deleted bytes are gone."""
        self._scrub = True

    def compact(self) -> int:
        """Give free space back to the disk; returns how many bytes the file became smaller.

        Needs free space of the size of what is kept while it runs.

        Raises:
            StateError: the disk is full, or somebody is reading; nothing is lost then.
        """
        if self.read_only or self._is_nested():
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
        if not self.read_only:
            with suppress(sqlite3.Error, StateError):  # somebody reads, or twice: it stays as it is
                self.take_back()
                # One plain file, which can be read even where nothing can be written.
                if self._database.rows("PRAGMA journal_mode = DELETE") == [("delete",)]:
                    self._numbers.keep()
        self._give_up()
        self._fresh = False
        self._handle.release()

    def _checked_identity(self, wanted: str | None) -> str:
        # What is left of a file that was cut off is no new file, though SQLite takes it for one.
        empty = is_empty(self._database)  # first: this takes back what a crash left half made
        status = self.path.stat()
        new = empty and status.st_size == 0
        if new and wanted is not None and not self.read_only:
            if status.st_mode & 0o077:  # an empty file that somebody put there
                self.path.chmod(PRIVATE)
            create(self._database, wanted)
            sync_folder(self.path.parent)
        if complaint := mismatch(self._database, wanted):
            raise self._error(*complaint)
        return identity(self._database)

    def _prepare_to_write(self) -> None:
        for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._database.rows(f"PRAGMA {setting}")
        self._database.rows("BEGIN IMMEDIATE")  # what cannot be written is refused now
        self._database.rows("ROLLBACK")
        files = [Path(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm")]
        self._files = {file: file.stat() for file in files if file.exists()}
        if self._nbytes() > self.path.stat().st_size:  # what a crash has left in the log
            self._settle(self._numbers.newest().number)

    def _is_nested(self) -> bool:
        """Whether a transaction is under way; what an interrupt left half done is none."""
        self._require_process()
        if self.read_only:
            raise self._error("is open read-only", "Open it without read_only to change it")
        under_way = self._outermost is not None and self._outermost() is not None
        if not under_way:
            self.take_back()
        elif not self._database.in_transaction:
            raise self._error("gave up this transaction", "Leave it and start another")
        return under_way

    def _require_process(self) -> None:
        if self._process != os.getpid():
            raise self._error(
                f"was opened by process {self._process}, of which this one is a fork",
                "Open it in one process, after the fork",
            )

    def _numbered(self) -> int:
        """Number the commit that is under way."""
        with self._explained():
            return self._numbers.count()

    def _require_owner(self) -> None:
        with self._explained():
            complaint, other = foreign(self._database), self._numbers.intruder()
        if complaint:
            raise self._error(*complaint)
        if other:
            raise self._error(
                f"has another owner: process {other.process} opened it, too, and has committed",
                "Close this one and open the file again, to go on from what the other has written",
            )

    def _require_same_files(self) -> None:
        for file, known in self._files.items():
            if not same_file(file, known):
                raise self._error(
                    f"lost its file {file.name}: it was deleted or replaced while in use",
                    "Close this state and open it again; restore the file first if you have a copy",
                )

    def _settle(self, number: int) -> None:
        """Bring a commit from the log into the database, or promise it beside the database."""
        if number:
            with suppress(sqlite3.Error, OSError):  # the disk is full: the log alone has it
                self._numbers.settle(number)
        if self._scrub:
            self._scrub = False
            self._empty_log()

    def _empty_log(self) -> None:
        with self._explained():
            emptied = self._database.empties_log(SECONDS)
        if not emptied:
            raise self._error(
                "is being read, so deleted bytes are still in its write-ahead log",
                "Close the readers; the next commit empties it, or edgemem bank compact",
            )

    def _nbytes(self) -> int:
        files = [self.path, Path(f"{self.path}-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.path, getattr(self, "_database", None))

    def _error(self, reason: str, remedy: str) -> StateError:
        return state_error(self.path, reason, remedy)

    def _give_up(self) -> None:
        """Close the connection; a file that this made, and that holds no commit, goes again."""
        self._database.close()
        if self._fresh and not self.read_only:
            for suffix in ("", "-wal", "-shm", "-journal", "-promised"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def _inner(number: int) -> tuple[str, str, tuple[str, ...]]:
    """Names of their own: what an interrupt left open inside ends with whatever is around it."""
    name = f"part{number}"
    return f"SAVEPOINT {name}", f"RELEASE {name}", (f"ROLLBACK TO {name}", f"RELEASE {name}")


# How an outermost transaction begins, ends and is taken back.
_OUTER = "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)
