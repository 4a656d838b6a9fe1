"""One owner at a time: a lock that the operating system ends with the process.

The lock is held on an empty file of its own, not on the file that it guards: SQLite's locks on its
file end as soon as the same process closes any other handle of that file. A crash leaves the empty
file behind, but no lock; the next owner takes it over. A fork is no owner: the lock stays with the
process that took it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from edgemem.forks import call_in_child

if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnerLock:
    """Held from its making until `release` or the end of the process.

    Raises:
        BlockingIOError, PermissionError: somebody else holds it (POSIX, Windows).
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(handle)
                if same_file(path, os.fstat(handle)):
                    break
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its last owner removed it after we had opened it
        self._handle = handle
        call_in_child(self)

    def __del__(self) -> None:
        """A lock whose owner is lost is given back."""
        with suppress(Exception):
            self.release()

    def forked(self) -> None:
        """In a forked child: let go of the copy; the lock stays with the parent, and ends with it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def release(self) -> None:
        """End the lock and remove its file. Safe to call twice."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        try:
            # Removed while it is still locked, so that nobody can lock what is about to vanish.
            if sys.platform != "win32" and same_file(self._path, os.fstat(handle)):
                self._path.unlink()
        except OSError:
            pass  # an empty file stays; it means nothing
        finally:
            os.close(handle)


def same_file(path: Path, known: os.stat_result) -> bool:
    """Whether the file at a path is still the known one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (known.st_dev, known.st_ino)
