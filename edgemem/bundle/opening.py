"""Bundles: the immutable folder shipped to a device, opened only when it is as it was written.

Every byte is checked at opening but those of the bank's levels, which may be many gigabytes: of
these only sizes and headers, and each row when it is first read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgemem.bank.levels.level_folder import IN_BUNDLE, is_level, open_levels
from edgemem.block import Block, unpack
from edgemem.bundle.checked_files import KnownFiles
from edgemem.bundle.manifest import REMEDY, FileRecord, Manifest
from edgemem.bundle.manifest_file import from_json
from edgemem.bundle.sealed_document import MANIFEST, MOST_BYTES, sealed_kind
from edgemem.errors import BankError, BundleError
from edgemem.files.atomic import inside, sha256_file, sha256_rest

# Beside hidden files and folders, such as .gitattributes, .cache and .DS_Store.
LEFT_BY_OTHERS = ("readme.md", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        identity: SHA-256 of the manifest, which holds the hashes of all other files.
        generic: the block as exported; it belongs to no context and is always there.
    """

    path: Path
    manifest: Manifest
    identity: str
    generic: Block

    @property
    def bank(self) -> Path | None:
        """The folder of the shipped levels; None without any."""
        return self.path / IN_BUNDLE if self.manifest.levels else None

    @property
    def files(self) -> KnownFiles:
        """Everything that was hashed when the bundle was opened: all files but the levels."""
        return known_files(self.path, self.manifest.files)

    def read(self, name: str) -> bytes:
        """The bytes of a listed file that is no level; raises BundleError if it was changed."""
        return self.files.read(self.path / name)


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle after checking version, paths, sizes, hashes and the generic block.

    Levels of the bank are not hashed, see `check_levels`; a damaged row is noticed on its first
    use. Files may be links, as in the cache of a model hub.

    Raises:
        BundleError: whatever is not as the manifest says, naming the file.
    """
    if not isinstance(path, str | os.PathLike):  # such as importlib.resources gives for an archive
        raise _packed(path, "an archive")
    folder = Path(path).absolute()  # graphs are opened later, perhaps from another directory
    with explained(folder):
        content = read_manifest(folder)
        manifest = from_json(content, f"{folder.name}/{MANIFEST}")
        check_files(folder, manifest.files)
        generic = _read_generic(folder, manifest)
        _check_headers(folder, manifest)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest(), generic)


def kind_of(path: Path) -> str:
    """Which kind of bundle a folder is: `FRAMES`, `TEXT` or `MEMORIES`; its files are not checked.

    Raises:
        BundleError: it is none.
    """
    folder = path.absolute()
    with explained(folder):
        return sealed_kind(read_manifest(folder), f"{folder.name}/{MANIFEST}")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What cannot be read meanwhile is told as a BundleError."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            str(error.filename or folder), f"cannot be read ({error.strerror or error})", REMEDY
        ) from error


def known_files(folder: Path, records: Mapping[str, FileRecord]) -> KnownFiles:
    """Everything that `check_files` hashes: all listed files but the levels."""
    return KnownFiles({folder / n: record for n, record in records.items() if not is_level(n)})


def check_files(folder: Path, records: Mapping[str, FileRecord]) -> None:
    """Check that every listed file is inside, of the right size and hash, and none is extra.

    Levels of the bank: all of this but the hash.

    Raises:
        BundleError: naming the file.
    """
    for name, record in records.items():
        file = inside(folder, name, BundleError)
        thing = f"{folder.name}/{name}"
        if not file.is_file():
            reason = "is a link to a file that is not there" if file.is_symlink() else "is missing"
            raise BundleError(thing, reason, REMEDY)
        with file.open("rb") as content:  # size and hash are of one file, whatever a link becomes
            size = os.fstat(content.fileno()).st_size
            if size != record.size:
                raise BundleError(thing, f"has {size} bytes instead of {record.size}", REMEDY)
            if not is_level(name) and sha256_rest(content) != record.sha256:
                raise BundleError(thing, "does not have the hash in the manifest", REMEDY)
    listed = {*records, MANIFEST}
    for name in sorted(_names(folder)):
        if name not in listed:
            raise BundleError(f"{folder.name}/{name}", "is not in the manifest", "Remove the file")


def _names(folder: Path) -> Iterator[str]:
    """Files of a bundle, and links to folders.

    What hubs and file managers leave there is left out; it is never read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in (*files, *links):
            if not name.startswith(".") and name.lower() not in LEFT_BY_OTHERS:
                yield Path(root, name).relative_to(folder).as_posix()


class FileList(Protocol):
    """A manifest, as far as it lists files."""

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """By their paths."""


class OpenFolder(Protocol):
    """A folder that was opened with its manifest."""

    @property
    def path(self) -> Path:
        """Of the folder."""

    @property
    def manifest(self) -> FileList:
        """What it lists."""


def check_levels(
    bundle: OpenFolder, progress: Callable[[str, int, int], None] = lambda file, done, total: None
) -> None:
    """Hash every level of a shipped bank; reads all of it.

    Args:
        bundle: an opened one, of any kind, or a bank of memories.
        progress: called before and after each level with its file, bytes done and of all.

    Raises:
        BundleError: a level is not as the manifest says.
    """
    for name in filter(is_level, bundle.manifest.files):
        record, thing = bundle.manifest.files[name], f"{bundle.path.name}/{name}"
        progress(name, 0, record.size)
        try:
            found = sha256_file(bundle.path / name)
        except OSError as error:
            raise BundleError(thing, f"cannot be read ({error.strerror})", REMEDY) from error
        if found != record.sha256:
            raise BundleError(
                thing,
                "does not have the hash in the manifest",
                "Get a fresh copy; edgemem bank verify names the damaged rows",
            )
        progress(name, record.size, record.size)


def _check_headers(folder: Path, manifest: Manifest) -> None:
    if not manifest.levels:
        return
    try:
        levels = open_levels(folder / IN_BUNDLE, manifest.block.elements, manifest.key)
    except BankError as error:
        raise BundleError(error.thing, error.reason, REMEDY) from error
    for level in levels:
        level.close()


def read_manifest(folder: Path) -> bytes:
    """The bytes of the manifest of a bundle, not looked at yet.

    Raises:
        BundleError: the folder is no bundle, or lies in an archive.
    """
    if not folder.is_dir():
        archive = next((place for place in folder.parents if place.is_file()), None)
        if archive is not None:
            raise _packed(folder, archive.name)
        raise BundleError(
            str(folder), "is not a folder", "Pass the path of a bundle made by edgemem export"
        )
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            str(folder), f"has no {MANIFEST}", "Pass the path of a bundle made by edgemem export"
        )
    if path.stat().st_size > MOST_BYTES:
        raise BundleError(f"{folder.name}/{MANIFEST}", "is too large", REMEDY)
    return path.read_bytes()


def _packed(path: object, archive: str) -> BundleError:
    return BundleError(
        str(path), f"lies inside {archive}, and engines need files", "Unpack it and pass the folder"
    )


def _read_generic(folder: Path, manifest: Manifest) -> Block:
    name = manifest.generic_block
    thing = f"{folder.name}/{name}"
    content = known_files(folder, manifest.files).read(folder / name)
    block = Block(unpack(content, thing, BundleError, REMEDY))
    if reason := manifest.block.mismatch(block):
        raise BundleError(thing, reason, REMEDY)
    if not block.is_finite():
        raise BundleError(thing, "holds NaN or infinite values", REMEDY)
    return block
