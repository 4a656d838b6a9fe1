"""Builds the tree of a bank of memories, and writes the bank whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.levels.level_folder import IN_BUNDLE, level_path, open_levels
from edgemem.bank.levels.level_header import LevelShape
from edgemem.bank.levels.level_writer import write_level
from edgemem.bank.read.tree import descend
from edgemem.block import Block, pack
from edgemem.bundle.copying import check_kind, file_records
from edgemem.bundle.sealed_document import MANIFEST, MEMORIES
from edgemem.bundle.text.memory_spec import MemorySpec
from edgemem.bundle.text.text_manifest import GENERIC, KEY, MemoryManifest, memories_to_json
from edgemem.bundle.text.text_opening import WEIGHTS, MemoryFolder, open_memories
from edgemem.errors import InputError
from edgemem.files.atomic import explain_write_errors, new_folder

Row = NDArray[np.float32]


@dataclass(frozen=True)
class MemoryTree:
    """Nodes of every level, level 1 first.

    Attributes:
        branch: children of a node.
        keys: [branch ** level, length] of each level; infinite = absent.
        counts: [branch ** level] texts below a node, of each level.
    """

    branch: int
    keys: tuple[NDArray[np.float32], ...]
    counts: tuple[NDArray[np.int64], ...]

    def path(self, key: NDArray[np.float32]) -> tuple[int, ...]:
        """The way of a key [length] down the tree, as a device finds it."""

        def children(level: int, row: int) -> NDArray[np.float32]:
            return self.keys[level][row * self.branch : (row + 1) * self.branch]

        return descend(children, len(self.keys), key).path


def build_tree(keys: NDArray[np.float32], *, levels: int, branch: int, seed: int = 0) -> MemoryTree:
    """The tree of texts with these keys [N, length], by hierarchical k-means.

    Raises:
        InputError: no tree of that form, or keys that are none.
    """
    with tempfile.TemporaryDirectory() as place:
        source, out = Path(place, "keys.npy"), Path(place, "bank")
        np.save(source, keys)
        counts = build_bank(source, out, levels=levels, branch=branch, elements=0, seed=seed)
        with ExitStack() as opened:
            found = [opened.enter_context(level) for level in open_levels(out)]
            return MemoryTree(branch, tuple(level.column("keys") for level in found), tuple(counts))


def write_memories(
    out: Path | str,
    spec: MemorySpec,
    tree: MemoryTree,
    rows: Sequence[Iterable[Row]],
    generic: Block,
    weights: NDArray[np.float32],
    *,
    storage: str = "float16",
    trained_on: dict[str, Any] | None = None,
) -> MemoryFolder:
    """Write a bank of memories; it is wholly there afterwards, or the old one still is.

    Args:
        out: folder to write.
        spec: what blocks are, level by level.
        tree: where they belong.
        rows: of each level, a block [elements] for each node; anything finite for absent ones.
        generic: the block that belongs to no text, as `spec.inputs()` has it.
        weights: of the key, [length].
        storage: of blocks: "float32", "float16", or "int8" with one scale a block.
        trained_on: for people.

    Raises:
        InputError: blocks that do not fit the spec or the storage, or a folder that cannot be
            written, or holds something else.
    """
    out = Path(out).absolute()
    check_kind(out, MEMORIES)
    if reason := spec.mismatch() or spec.inputs().mismatch(generic):
        raise InputError("memories", reason, "Pass blocks as the spec has them")
    if not generic.is_sound():
        reason = "holds values that are not finite, or too large"
        raise InputError("generic block", reason, "Train it again with a smaller rate")
    if not len(spec.levels) == len(tree.keys) == len(rows):
        raise InputError("memories", "have another number of levels than the tree", "Pass as many")
    with explain_write_errors(out), new_folder(out) as draft:
        (draft / IN_BUNDLE).mkdir()
        for level, (keys, counts, blocks) in enumerate(
            zip(tree.keys, tree.counts, rows, strict=True)
        ):
            number, length = level + 1, spec.key.length
            shape = LevelShape(number, tree.branch, length, spec.elements[level], storage)
            write_level(level_path(draft / IN_BUNDLE, number), shape, keys, counts, blocks)
        (draft / GENERIC).write_bytes(pack(generic))
        (draft / KEY).write_bytes(pack({WEIGHTS: weights}))
        name = out.name.removesuffix(".memories")
        manifest = MemoryManifest(name, spec, file_records(draft), trained_on or {})
        (draft / MANIFEST).write_bytes(memories_to_json(manifest))
        open_memories(draft)  # what a device would refuse is not written
    return open_memories(out)
