"""Files that are either wholly there or not at all, and paths that stay where they belong.

What only writing needs is imported there: a device that opens a bundle should not wait for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from edgemem.errors import EdgeMemError, InputError

HASH_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    with path.open("rb") as file:
        return sha256_rest(file)


def sha256_rest(file: BinaryIO) -> str:
    """Hex digest of what is still to be read of an open file, in chunks."""
    digest = hashlib.sha256()
    while chunk := file.read(HASH_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make every file and folder below `folder` durable."""
    for root, _, names in os.walk(folder):
        for name in names:
            with Path(root, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file as `new_file` does.

    Args:
        path: of the file.
        content: all of it.
        private: readable by its owner alone, for what was learnt on a device; else by all.

    Raises:
        InputError: something else than a plain file is there; the folder is missing, read-only or
            full.
    """
    with explain_write_errors(path):
        if path.exists() and not path.is_file():
            raise _in_the_way(path, "a plain file")
    with new_file(path, private=private) as file:
        file.write(content)


@contextmanager
def new_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Yield a file beside `path`, to write and read.

    It becomes `path` when the block ends without error: flush, fsync, rename, fsync the folder. The
    old file stays until the end.

    Args:
        path: of the file.
        private: as in `write_file`.

    Raises:
        InputError: the folder is missing, read-only or full.
    """
    import tempfile

    with explain_write_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            if not private:  # as mkstemp makes it
                os.fchmod(handle, 0o644)
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to fill; it becomes `path` when the block ends without error.

    An existing folder at `path` is replaced only then; after an error nothing is left behind.

    Raises:
        InputError: something else than a folder is there; the parent folder is missing, read-only
            or full.
    """
    import shutil
    import tempfile

    path = path.absolute()
    with explain_write_errors(path):
        if path.exists() and not path.is_dir():
            raise _in_the_way(path, "a folder")
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            draft.chmod(0o755)
            yield draft
            sync_tree(draft)
            _swap(draft, path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_folder(path.parent)


def _swap(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
        return
    import shutil
    import tempfile

    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    try:
        path.rename(old / "old")
        draft.rename(path)
    except BaseException:
        if (old / "old").exists():
            (old / "old").rename(path)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _in_the_way(path: Path, wanted: str) -> InputError:
    """What is there was not made by us, and may be a device that others need."""
    return InputError(str(path), f"is there, and is not {wanted}", "Choose another name")


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing into an InputError that names the path."""
    try:
        yield
    except OSError as error:
        raise InputError(
            str(path),
            f"cannot be written ({error.strerror or error})",
            "Choose a folder that exists, is writable and has space",
        ) from error


def inside(folder: Path, name: str, error: type[EdgeMemError]) -> Path:
    """The path of `name` in `folder`, which no name can lead out of.

    The file itself may be a link, as in the caches of model hubs: whoever calls checks its content,
    which is the same wherever it lies. A folder may not, for what else it holds would be in, too.

    Raises:
        error: `name` is absolute, holds `..` or a backslash, or passes through a link to a folder.
    """
    pure = PurePosixPath(name)
    remedy = "Do not use this bundle; export it again or get a fresh copy"
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise error(f"{folder.name}: path {name!r}", "leaves the folder", remedy)
    path = folder
    for part in pure.parts:
        path = path / part
        if path.is_symlink() and path != folder / name:
            raise error(f"{folder.name}: path {name!r}", "passes through a link", remedy)
    return path
