"""A changed copy of a bundle, beside the old one, and the records of its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from edgemem.bundle.manifest import FileRecord
from edgemem.bundle.opening import Bundle, read_manifest
from edgemem.bundle.sealed_document import MANIFEST, read_sealed
from edgemem.errors import BundleError, InputError
from edgemem.files.atomic import sha256_file


def check_beside(out: Path, *places: Path) -> None:
    """Check that a bundle can be written there, and lies beside these places, not in them.

    Raises:
        InputError: it holds something else, or is or lies in one of the places, or they in it.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise InputError(str(out), "exists and is not a bundle", "Choose another folder")
    for place in places:
        one, other = Path(os.path.realpath(out)), Path(os.path.realpath(place))  # loops, too
        if one == other or one in other.parents or other in one.parents:
            raise InputError(
                str(out), f"and {place} lie in each other", "Choose a folder beside the bundle"
            )


def check_kind(out: Path, kind: str) -> None:
    """Check that what is at a place may be replaced: nothing, or a folder of the same kind.

    Raises:
        InputError: it is something else, or damaged.
    """
    if not out.exists():
        return
    try:
        read_sealed(read_manifest(out), str(out), kind)
    except (BundleError, OSError) as error:
        reason = f"exists, and is no folder of kind {kind} that could be replaced"
        raise InputError(str(out), reason, "Choose another folder") from error


def copy_files(bundle: Bundle, draft: Path, names: Collection[str]) -> None:
    """Copy files of a bundle, by their names in it."""
    for name in names:
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, draft / name)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file below a folder, by its name there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, sha256_file(path))
        for path in files
    }
