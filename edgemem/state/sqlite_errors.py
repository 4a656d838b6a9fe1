"""What went wrong with a state file, in words.

One error for all that SQLite and the system raise.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgemem.errors import StateError
from edgemem.state.connection import Connection


def state_error(path: Path, reason: str, remedy: str) -> StateError:
    """An error of the state file at a path."""
    return StateError(str(path), reason, remedy)


def refused(path: Path, error: Exception) -> StateError:
    """The error for what the system refuses."""
    return state_error(
        path,
        f"cannot be used ({error})",
        "Choose a writable folder with free space on a local disk; open a state file only once",
    )


@contextmanager
def explained(path: Path, database: Connection | None = None) -> Iterator[None]:
    """Turn errors of SQLite and the system into StateErrors that say what to do."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise state_error(path, "is closed", "Open it again") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
        # UnicodeDecodeError: SQLite quotes damaged names in its messages.
        endless = database is not None and database.limit is not None and database.limit.endless
        if isinstance(error, (sqlite3.OperationalError, OSError)) and not endless:
            raise refused(path, error) from error
        reason = "its pages lead in circles" if endless else str(error)
        raise state_error(
            path,
            f"is damaged or not a state file ({reason})",
            "Pass another path, or delete the file and those beside it",
        ) from error
