"""Commits are numbered, so that one that was lost is missed, and no second owner goes unnoticed.

The number is written with each commit, into the database, beside who wrote it. A commit is promised
once it is in the database itself; its log, which damage could take it from, is empty then. While
somebody reads, the log cannot be emptied. So the number is then also written to a small file
beside the database, as a promise that the next opening holds against what it finds.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgemem.files.atomic import sync_folder
from edgemem.state.connection import Connection
from edgemem.state.lock import PRIVATE

_LARGEST = (1 << 53) - 1


@dataclass(frozen=True)
class NumberedCommit:
    """The newest commit of a file: its number, and the process and the opening that wrote it."""

    number: int = 0
    process: int = 0
    opening: str = ""


class CommitNumbers:
    """Of one opening of a state file. lost: how many commits were promised and are not there."""

    def __init__(self, database: Connection, path: Path) -> None:
        self._database, self._file = database, Path(f"{path}-promised")
        self._opening = os.urandom(8).hex()
        promised = self._promised()  # read first: a commit is made before it is promised
        self._found = self.newest()
        self._promise = promised > 0
        self._least = max(promised, self._found.number)
        self.lost = max(0, promised - self._found.number)

    def newest(self) -> NumberedCommit:
        """The newest commit; number 0 where there is none, or damage took its number."""
        found = self._database.rows("SELECT value FROM about WHERE name = 'commit'")
        try:
            number, process, opening = json.loads(found[0][0])
        except (IndexError, ValueError, TypeError, RecursionError):
            return NumberedCommit()
        if not (type(number) is type(process) is int and type(opening) is str):
            return NumberedCommit()
        return NumberedCommit(number if 0 < number <= _LARGEST else 0, process, opening)

    def intruder(self) -> NumberedCommit | None:
        """The newest commit if another owner has made it since the opening of this one."""
        newest = self.newest()
        return None if newest == self._found or newest.opening == self._opening else newest

    def count(self) -> int:
        """Number the commit that is under way."""
        number = max(self.newest().number, self._least) + 1
        value = json.dumps([number, os.getpid(), self._opening])
        self._database.rows("INSERT OR REPLACE INTO about VALUES ('commit', ?)", (value,))
        return number

    def settle(self, number: int) -> None:
        """Bring this commit from the log into the database; while somebody reads, promise it.

        Raises:
            sqlite3.Error, OSError: the disk refuses both.
        """
        if self._database.empties_log(0):
            self.keep()
        else:
            self._promise_it(number)

    def keep(self) -> None:
        """All commits are in the database itself: nothing is left to be promised.

        What was lost is told until there is another commit.
        """
        if self._promise and self.newest().number >= self._least:
            with suppress(OSError):  # what stays promises no more than there is
                self._file.unlink(missing_ok=True)
            self._promise = False

    def _promise_it(self, number: int) -> None:
        self._promise = True
        follow_nothing = getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | follow_nothing, PRIVATE)
        try:
            os.write(handle, f"{number:>16}\n".encode())  # always as long: nothing is cut off first
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_folder(self._file.parent)

    def _promised(self) -> int:
        try:
            with self._file.open("rb") as file:
                number = int(file.read(32))
        except (OSError, ValueError):
            return 0
        return number if 0 < number <= _LARGEST else 0
