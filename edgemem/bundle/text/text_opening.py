"""Bundles of text and banks of memories, opened only when they are as they were written.

Every byte is checked at opening but those of levels: of these sizes and headers, and each row when
it is first read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.level_folder import IN_BUNDLE, open_levels
from edgemem.block import Block, unpack
from edgemem.bundle.checked_files import KnownFiles
from edgemem.bundle.manifest import REMEDY, FileRecord
from edgemem.bundle.opening import check_files, explained, known_files, read_manifest
from edgemem.bundle.sealed_document import MANIFEST
from edgemem.bundle.text.memory_spec import MemorySpec
from edgemem.bundle.text.text_manifest import (
    GENERIC,
    KEY,
    MemoryManifest,
    TextManifest,
    memories_from_json,
    text_from_json,
)
from edgemem.errors import BankError, BundleError

WEIGHTS = "weights"  # in the file of the key: what each of its numbers is multiplied with


@dataclass(frozen=True)
class Memories:
    """What is held in memory of a bank of memories.

    Attributes:
        folder: of the levels.
        generic: the block that belongs to no text.
        weights: [length of a key], see docs/formats/text.md.
    """

    spec: MemorySpec
    folder: Path
    generic: Block
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class TextBundle:
    """A verified bundle of text. identity: SHA-256 of the manifest."""

    path: Path
    manifest: TextManifest
    identity: str
    memories: Memories | None

    @property
    def files(self) -> KnownFiles:
        """Everything that was hashed when the bundle was opened: all files but the levels."""
        return known_files(self.path, self.manifest.files)


@dataclass(frozen=True)
class MemoryFolder:
    """A verified bank of memories that is no part of a bundle."""

    path: Path
    manifest: MemoryManifest
    memories: Memories


def open_text_bundle(path: Path | str) -> TextBundle:
    """Open a bundle of text after checking all but the rows of its levels.

    Raises:
        BundleError: whatever is not as the manifest says, naming the file.
    """
    folder = Path(path).absolute()
    with explained(folder):
        content = read_manifest(folder)
        manifest = text_from_json(content, f"{folder.name}/{MANIFEST}")
        check_files(folder, manifest.files)
        memories = None
        if manifest.memories is not None:
            memories = _memories(folder, manifest.memories, manifest.files)
    return TextBundle(folder, manifest, hashlib.sha256(content).hexdigest(), memories)


def open_memories(path: Path | str) -> MemoryFolder:
    """Open a bank of memories, as `open_text_bundle` does.

    Raises:
        BundleError: whatever is not as the manifest says, naming the file.
    """
    folder = Path(path).absolute()
    with explained(folder):
        manifest = memories_from_json(read_manifest(folder), f"{folder.name}/{MANIFEST}")
        check_files(folder, manifest.files)
        return MemoryFolder(folder, manifest, _memories(folder, manifest.memories, manifest.files))


def _memories(folder: Path, spec: MemorySpec, records: Mapping[str, FileRecord]) -> Memories:
    bank = folder / IN_BUNDLE
    try:
        levels = open_levels(bank, spec.elements, spec.key.length)
    except BankError as error:
        raise BundleError(error.thing, error.reason, REMEDY) from error
    for level in levels:
        level.close()
    generic = _arrays(folder, records, GENERIC)
    if reason := spec.inputs().mismatch(generic):
        raise BundleError(f"{folder.name}/{GENERIC}", reason, REMEDY)
    weights = _arrays(folder, records, KEY).get(WEIGHTS, np.zeros(0, np.float32))
    if weights.shape != (spec.key.length,) or weights.dtype != np.float32:
        found = f"holds {weights.dtype}{list(weights.shape)}, not float32[{spec.key.length}]"
        raise BundleError(f"{folder.name}/{KEY}", found, REMEDY)
    return Memories(spec, bank, generic, weights)


def _arrays(folder: Path, records: Mapping[str, FileRecord], name: str) -> Block:
    thing = f"{folder.name}/{name}"
    content = known_files(folder, records).read(folder / name)
    block = Block(unpack(content, thing, BundleError, REMEDY))
    if not block.is_sound():
        raise BundleError(thing, "holds values that are not finite, or too large", REMEDY)
    return block
