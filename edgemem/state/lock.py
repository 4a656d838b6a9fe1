"""One owner at a time: a lock on the database itself, which the system ends with the process.

On Linux the lock (`flock`) is held on the database file. It cannot be removed without what it
guards, and every name of the file leads to it. SQLite's own locks there are of another kind
(POSIX), which `flock` does not meet, but which end as soon as the process closes any descriptor of
the file. So a process has one descriptor of each database, shared by all who have it open, and
closes it after the last of their connections.

A file beside the database, `NAME-lock`, says which process it is, for the error that others get.
Elsewhere than on Linux both kinds of locks may be one, so there the lock is held on that file.
Whoever removes it can become a second owner there; commits are numbered, so that this is noticed.

A fork is no owner: the lock stays with the process that took it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgemem.forks import call_in_child

ON_DATABASE = sys.platform in ("linux", "android")
PRIVATE = 0o600

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class OpenInParentError(OSError):
    """This process was forked from one that had the file open."""


class _Descriptor:
    """The one descriptor that this process has of a file, and the connections that it outlives."""

    def __init__(self, number: int, key: tuple[int, int]) -> None:
        self.number, self.key = number, key
        self.owner: weakref.ref[Handle] | None = None
        self.connections: list[Any] = []
        call_in_child(self)

    def __del__(self) -> None:
        if self.number >= 0:
            for connection in self.connections:
                with suppress(Exception):
                    connection.close()
            os.close(self.number)

    def forked(self) -> None:
        """In a forked child: the lock stays with the parent, and ends with it."""
        if self.number >= 0:
            os.close(self.number)
            self.number = -1
            _of_parent.add(self.key)


_guard = threading.RLock()  # a signal may come in between
_files: weakref.WeakValueDictionary[tuple[int, int], _Descriptor] = weakref.WeakValueDictionary()
_of_parent: set[tuple[int, int]] = set()


class Handle:
    """A share in this process's descriptor of a database.

    Elsewhere than on Linux: of its lock, for those who write.

    Raises:
        FileNotFoundError: there is no such file.
        OpenInParentError: the parent had it open when this process was forked.
        OSError: it cannot be opened, or is no regular file.
    """

    # Of the class, so that one that was interrupted while it was made can be given back, too.
    _connection: Any = None
    _file: _Descriptor | None = None

    def __init__(self, database: Path, *, write: bool) -> None:
        self._note = _note(database)
        self._path = database if ON_DATABASE else self._note
        if write or ON_DATABASE:
            with _guard:
                self._file = _shared(self._path, write)

    def own(self) -> None:
        """Become the owner, until `release` or the end of the process.

        Raises:
            BlockingIOError, PermissionError: somebody else is (POSIX, Windows).
        """
        assert self._file is not None
        with _guard:  # the descriptor is shared, so the system would let another thread in
            owner = None if self._file.owner is None else self._file.owner()
            if owner not in (None, self):
                raise BlockingIOError
            self._file.owner = weakref.ref(self)
            try:
                _lock(self._file.number)
            except OSError:
                self._file.owner = None
                raise
        with suppress(OSError):  # it is for a message alone
            _write(self._note, f"{os.getpid()}\n".encode())

    def is_current(self) -> bool:
        """Whether the file is still the one at its path."""
        return self._file is not None and same_file(self._path, os.fstat(self._file.number))

    def keep_for(self, connection: Any) -> None:
        """Stay open until this connection of SQLite's is closed, even if both are lost."""
        self._connection = connection
        if self._file is not None:
            self._file.connections.append(connection)

    def release(self) -> None:
        """Give the file back, after its connection was closed. Safe to call twice."""
        file = self._file
        if file is None:
            return
        if self._connection in file.connections:
            file.connections.remove(self._connection)
        # None: the owner is this one, or was lost, for a lost object's references die before it.
        if file.owner is not None and file.owner() in (None, self):
            if sys.platform != "win32":
                # While it is still locked, so that nobody can lock what is about to vanish.
                with suppress(OSError):  # what stays means nothing
                    self._note.unlink()
            if file.number >= 0:
                _unlock(file.number)
            file.owner = None
        with _guard:  # nobody may be given a descriptor that is just being closed
            self._file = None  # last: what an interrupt cuts short is ended by the next call
            del file

    def __del__(self) -> None:
        """Whoever is lost gives the file back."""
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
        with suppress(Exception):
            self.release()


def owned(database: Path) -> Handle:
    """The handle of an existing database, as its owner; raises as `Handle` and `Handle.own`."""
    while True:
        handle = Handle(database, write=True)
        handle.own()
        if handle.is_current():
            return handle  # else its last owner removed it after we had opened it


def holder(database: Path) -> int | None:
    """The process that has a locked database, if it could be noted."""
    try:
        with _note(database).open("rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def make_private(path: Path) -> bool:
    """Make an empty file that its user alone may read, unless it is there; whether it was made.

    Raises:
        OSError: it cannot be made.
    """
    with _guard:  # nobody here has a connection to it that closing it could harm
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))
        except FileExistsError:
            return False
    return True


def same_file(path: Path, known: os.stat_result) -> bool:
    """Whether the file at a path is still the known one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return _key(found) == _key(known)


def _note(database: Path) -> Path:
    return Path(f"{database}-lock")


def _write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, PRIVATE)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _shared(path: Path, write: bool) -> _Descriptor:
    flags = os.O_RDWR if write else os.O_RDONLY
    with suppress(FileNotFoundError):
        key = _key(path.stat())
        if key in _of_parent:
            raise OpenInParentError(errno.EBUSY, "is open in the process that forked this one")
        if (known := _files.get(key)) is not None:
            return known
    flags |= 0 if ON_DATABASE else os.O_CREAT
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), PRIVATE)
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "is no regular file")
    file = _Descriptor(number, _key(found))
    if (known := _files.get(file.key)) is not None:  # it came to this path after the look above
        file.number = -1  # stays open, for closing it would end the locks of the known one
        return known
    _files[file.key] = file
    return file


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _forked() -> None:
    global _guard  # noqa: PLW0603 - another thread of the parent may have held it
    _guard = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
