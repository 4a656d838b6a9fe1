"""A changed copy of a bundle, beside the old one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from edgemem.bundle.manifest_file import MANIFEST
from edgemem.bundle.opening import Bundle
from edgemem.errors import InputError


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


def copy_files(bundle: Bundle, draft: Path, names: Collection[str]) -> None:
    """Copy files of a bundle, by their names in it."""
    for name in names:
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, draft / name)
