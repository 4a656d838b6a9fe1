"""Bundles: the immutable folder shipped to a device, opened only when every byte is as written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgemem.block import Arrays, is_finite, unpack
from edgemem.errors import BundleError
from edgemem.files import inside, sha256_file
from edgemem.manifest import REMEDY, Manifest, from_json

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    identity: SHA-256 of the manifest, which holds the hashes of all other files.
    generic: the block as exported; it belongs to no context and is always there.
    """

    path: Path
    manifest: Manifest
    identity: str
    generic: Arrays

    def graph_path(self, name: str) -> Path:
        """Where a graph lies."""
        return self.path / self.manifest.graphs[name]


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle after checking version, paths, sizes, hashes and the generic block.

    Raises:
        BundleError: whatever is not as the manifest says, naming the file.
    """
    folder = Path(path).absolute()  # graphs are opened later, perhaps from another directory
    try:
        content = _read_manifest(folder)
        manifest = from_json(content, f"{folder.name}/{MANIFEST}")
        check_files(folder, manifest)
        generic = _read_generic(folder, manifest)
    except OSError as error:
        raise BundleError(
            str(error.filename or folder), f"cannot be read ({error.strerror or error})", REMEDY
        ) from error
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest(), generic)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every listed file is inside, of the right size and hash, and none is extra.

    Raises:
        BundleError: naming the file.
    """
    for name, record in manifest.files.items():
        file = inside(folder, name, BundleError)
        thing = f"{folder.name}/{name}"
        if not file.is_file():
            raise BundleError(thing, "is missing", REMEDY)
        size = file.stat().st_size
        if size != record.size:
            raise BundleError(thing, f"has {size} bytes instead of {record.size}", REMEDY)
        if sha256_file(file) != record.sha256:
            raise BundleError(thing, "does not have the hash in the manifest", REMEDY)
    listed = {*manifest.files, MANIFEST}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if (file.is_symlink() or not file.is_dir()) and name not in listed:
            raise BundleError(f"{folder.name}/{name}", "is not in the manifest", "Remove the file")


def _read_manifest(folder: Path) -> bytes:
    if not folder.is_dir():
        raise BundleError(
            str(folder), "is not a folder", "Pass the path of a bundle made by edgemem export"
        )
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            str(folder), f"has no {MANIFEST}", "Pass the path of a bundle made by edgemem export"
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{folder.name}/{MANIFEST}", "is too large", REMEDY)
    return path.read_bytes()


def _read_generic(folder: Path, manifest: Manifest) -> Arrays:
    name = manifest.generic_block
    thing = f"{folder.name}/{name}"
    arrays = unpack((folder / name).read_bytes(), thing, BundleError, REMEDY)
    if reason := manifest.block.mismatch(arrays):
        raise BundleError(thing, reason, REMEDY)
    if not is_finite(arrays):
        raise BundleError(thing, "holds NaN or infinite values", REMEDY)
    return arrays
