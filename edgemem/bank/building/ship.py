"""Makes levels part of a bundle: a copy of the bundle that holds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.levels.level_folder import IN_BUNDLE, level_numbers, level_path, open_levels
from edgemem.bundle.copying import check_beside, copy_files
from edgemem.bundle.manifest import FileRecord, Manifest
from edgemem.bundle.manifest_file import to_json
from edgemem.bundle.opening import Bundle, open_bundle
from edgemem.bundle.sealed_document import MANIFEST
from edgemem.errors import BankError, BundleError
from edgemem.files.atomic import explain_write_errors, new_folder, sha256_file

Progress = Callable[[str, int, int], None]


def ship(
    bank: Path,
    bundle: Path | str,
    out: Path,
    progress: Progress = lambda stage, done, total: None,
) -> Bundle:
    """Write a copy of a bundle with the levels of a bank in it; the new bundle, opened.

    Levels that the bundle has are left out. The new bundle has an identity of its own, so state
    files of the old one do not go on with it. An old bundle at `out` is replaced when all is done.

    Args:
        bank: folder with level-1.safetensors …
        bundle: what is copied.
        out: folder to write.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        BundleError: the bundle is damaged, or tells no contexts apart.
        BankError: a level is damaged, or does not fit the bundle.
        InputError: `out` holds something else, or cannot be written.
    """
    out = out.absolute()
    opened = open_bundle(bundle)
    if reason := opened.manifest.refuses_levels():
        remedy = "Warm the model up and export it again, with a block of float32 arrays"
        raise BundleError(str(bundle), f"cannot hold levels: {reason}", remedy)
    check_beside(out, opened.path, bank.absolute())
    for level in open_levels(bank, opened.manifest.block.elements, opened.manifest.key):
        level.close()
    for fault in verify_bank(bank, progress):
        raise BankError(str(bank), f"is damaged, {fault}", "Build it again or get a fresh copy")
    with explain_write_errors(out), new_folder(out) as draft:
        copy_files(opened, draft, set(opened.manifest.files) - set(opened.manifest.levels))
        manifest = _with_levels(opened.manifest, bank, draft, progress)
        (draft / MANIFEST).write_bytes(to_json(manifest))
        open_bundle(draft)
    return open_bundle(out)


def _with_levels(manifest: Manifest, bank: Path, draft: Path, progress: Progress) -> Manifest:
    """Copy the levels of a bank; the manifest that lists them."""
    files = {n: record for n, record in manifest.files.items() if n not in manifest.levels}
    (draft / IN_BUNDLE).mkdir(exist_ok=True)
    numbers = level_numbers(bank)
    for done, number in enumerate(numbers):
        progress("copy levels", done, len(numbers))
        path = level_path(bank, number)
        copy = Path(shutil.copyfile(path, draft / IN_BUNDLE / path.name))
        files[f"{IN_BUNDLE}/{path.name}"] = FileRecord(copy.stat().st_size, sha256_file(copy))
        progress("copy levels", done + 1, len(numbers))
    return replace(manifest, files=files)
