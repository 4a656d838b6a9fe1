"""Files that were checked, read so that the bytes that come are the bytes that were checked.

A file may be replaced between its check and its use. So whoever uses one takes the bytes from here,
where those very bytes are hashed, and not from the path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

from edgemem.bundle.manifest import FileRecord
from edgemem.errors import BundleError
from edgemem.files.atomic import sha256_rest

REMEDY = "Open the bundle again, and put new versions into a folder of their own"


class Files(Protocol):
    """Where an engine takes its files from."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file; raises BundleError where they are not what they should be."""

    def steady(self, path: Path) -> AbstractContextManager[None]:
        """The file is what it should be at the beginning, and still the same at the end.

        So others may open it by its path in between. Raises BundleError at either end.
        """


class OwnFiles:
    """Files that this process has written itself, and nobody vouches for."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file; raises BundleError if it cannot be read."""
        with _explained(path):
            return path.read_bytes()

    def steady(self, path: Path) -> AbstractContextManager[None]:
        """Nothing is looked at."""
        return nullcontext()


@dataclass(frozen=True)
class KnownFiles:
    """Files whose size and SHA-256 are known; every other is refused."""

    records: Mapping[Path, FileRecord]

    def read(self, path: Path) -> bytes:
        """All bytes of a file, hashed; raises BundleError if they are others."""
        record = self._record(path)
        with _explained(path), _opened(path) as file:
            content = file.read(record.size + 1)  # a file that has grown may have no end
        if len(content) != record.size or sha256(content).hexdigest() != record.sha256:
            raise _changed(path)
        return content

    @contextmanager
    def steady(self, path: Path) -> Iterator[None]:
        """The file has these bytes now; whoever alters it until the end is noticed.

        By the times that only the system sets: of whoever writes to it, or puts another in its
        place.
        """
        record = self._record(path)
        with _explained(path), _opened(path) as file:
            before = _state(os.fstat(file.fileno()))
            if os.fstat(file.fileno()).st_size != record.size or sha256_rest(file) != record.sha256:
                raise _changed(path)
            yield
            if not before == _state(os.fstat(file.fileno())) == _state(path.stat()):
                raise _changed(path)

    def _record(self, path: Path) -> FileRecord:
        record = self.records.get(path)
        if record is None:
            raise BundleError(_name(path), "is not a listed file that is read whole", REMEDY)
        return record


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise BundleError(_name(path), reason, REMEDY) from error


def _opened(path: Path) -> BinaryIO:
    """A plain file, or at least one that does not wait for a writer."""
    waiting = getattr(os, "O_NONBLOCK", 0)
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | waiting))


def _state(found: os.stat_result) -> tuple[int, ...]:
    """What tells one file, and one content of it, from another."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _changed(path: Path) -> BundleError:
    return BundleError(_name(path), "was changed after it was checked", REMEDY)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
