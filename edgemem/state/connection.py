"""A connection to the SQLite file of the state, for a file that anybody may have made.

What SQLite offers against such files is on: nothing in the schema may do anything, sizes of cells
are checked, and a statement that takes more steps than a file of that size can need is ended.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SECONDS = 1.0  # that whoever writes at this moment is waited for
# As SQLite's "Defense against the dark arts" has them; statements here are short.
_LIMITS = {
    "SQL_LENGTH": 1 << 16,
    "COLUMN": 100,
    "EXPR_DEPTH": 20,
    "COMPOUND_SELECT": 5,
    "FUNCTION_ARG": 8,
    "LIKE_PATTERN_LENGTH": 100,
    "VARIABLE_NUMBER": 100,
    "TRIGGER_DEPTH": 1,
}
_SWITCHES = {
    "DEFENSIVE": True,
    "TRUSTED_SCHEMA": False,
    "ENABLE_TRIGGER": False,
    "ENABLE_VIEW": False,
}
_ROUND = 10_000  # steps of SQLite's machine


class StepLimit:
    """Ends a statement on the file at a path that takes too many steps.

    endless: whether it did. raised: what a signal handler raised meanwhile, which Python drops.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self.begin()

    def begin(self) -> None:
        """Another statement begins."""
        self.endless, self._rounds = False, 0
        self.raised: BaseException | None = None

    def round(self) -> bool:
        """Whether to end the statement: no row takes more steps than it has bytes.

        Holes of the file count nothing.
        """
        try:
            self._rounds += 1
            if self._rounds > 20:
                size = _stored(self._path) + _stored(f"{self._path}-wal")
                self.endless = self._rounds > 20 + size // _ROUND
        except BaseException as error:
            self.raised = error
            raise
        return self.endless


class Connection(sqlite3.Connection):
    """A connection whose statements end. limit: ends them, once it is there."""

    limit: StepLimit | None = None

    def rows(self, statement: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; raises as SQLite does."""
        if self.limit is not None:
            self.limit.begin()
        try:
            return self.execute(statement, tuple(values)).fetchall()
        except sqlite3.OperationalError as error:
            # Python drops what a signal raises while SQLite asks whether to go on.
            if str(error) == "interrupted" and self.limit is not None and not self.limit.endless:
                raise self.limit.raised or KeyboardInterrupt() from error
            raise

    def empties_log(self, seconds: float) -> bool:
        """Whether the write-ahead log could be emptied, after waiting so long for readers."""
        try:
            self.rows(f"PRAGMA busy_timeout = {int(1000 * seconds)}")
            return not self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
        finally:
            self.rows(f"PRAGMA busy_timeout = {int(1000 * SECONDS)}")


def connected(path: Path, *, read_only: bool) -> Connection:
    """Connect to an existing file.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    mode = "ro" if read_only else "rw"
    database = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        timeout=SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
        factory=Connection,
    )
    try:
        database.limit = StepLimit(path)
        database.set_progress_handler(database.limit.round, _ROUND)
        # Damaged text must reach the check of its hash, not end the reading of all other rows.
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for name, most in _LIMITS.items():
            database.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), most)
        if sys.version_info >= (3, 12):
            for name, on in _SWITCHES.items():
                if (switch := getattr(sqlite3, f"SQLITE_DBCONFIG_{name}", None)) is not None:
                    database.setconfig(switch, on)
        for setting in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
            database.execute(f"PRAGMA {setting}")
    except BaseException:
        database.close()
        raise
    return database


def _stored(path: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116 - often, and of a path that is text
    except OSError:
        return 0
    return min(status.st_size, getattr(status, "st_blocks", 1 << 60) * 512)
