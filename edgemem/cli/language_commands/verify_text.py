"""What `edgemem verify` does with a bundle of text, or with a bank of memories."""

from __future__ import annotations

from pathlib import Path

from edgemem.bundle.opening import check_levels
from edgemem.bundle.sealed_document import TEXT
from edgemem.bundle.text.text_opening import open_memories, open_text_bundle
from edgemem.cli.output import say
from edgemem.cli.show import Stages, print_json, print_table, progress


def print_verified(path: Path, kind: str, threads: int, *, json: bool) -> None:
    """Check every file, levels included, and what this device computes. kind: of its manifest.

    Raises:
        BundleError: damaged, altered, or this device computes something else.
    """
    from edgemem.runtime.language.text_verification import verify_text

    found = verify_text(path, threads) if kind == TEXT else None
    opened = open_text_bundle(path) if kind == TEXT else open_memories(path)
    with progress("bytes") as bar:
        check_levels(opened, Stages(bar))
    files = len(opened.manifest.files)
    if json:
        print_json({"files": files} if found is None else found.as_dict())
    elif found is None:
        say(f"{path.name}: {files} files as written")
    else:
        rows = [(n, f"{d:.1e}", f"{found.limit:.0e}") for n, d in found.differences.items()]
        title = f"{path.name}: {files} files as written; logits against transformers"
        print_table(title, ("block", "difference", "limit"), rows)
