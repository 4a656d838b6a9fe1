"""Reads the memories of a text: descends the tree by its key, and fetches a block of each level.

What is held is what was fetched; the bank stays on disk, whatever its size.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.level import Keys, Level
from edgemem.bank.levels.level_folder import open_levels
from edgemem.bank.memories.memory_path import MemoryPath, cut, shown_path
from edgemem.bank.read.tree import descend
from edgemem.block import Block
from edgemem.bundle.text.memory_spec import SUM, MemorySpec
from edgemem.errors import BankError, InputError


@dataclass(frozen=True)
class FetchedMemory:
    """What a fetch found.

    Attributes:
        path: rows of the levels that the block holds, level 1 first.
        block: the arrays `LEVEL.NAME`; levels below the path are zero. None where a row or key is
            damaged: then the generic block is to be used.
        fault: what is damaged, for people; empty = nothing.
        denied: whether the path ends where access is denied, or damage hides whether it does.
    """

    path: MemoryPath
    block: Block | None
    fault: str = ""
    denied: bool = False


class MemoryBank:
    """The levels of a bank of memories. For one thread at a time.

    Args:
        folder: of the levels.
        spec: what they hold.
        deny: paths whose nodes, and all below them, are never read.

    Raises:
        BankError: a level is missing, damaged in its header, or not as the spec says.
        InputError: a denied path that this tree does not have.
    """

    def __init__(self, folder: Path, spec: MemorySpec, deny: Collection[MemoryPath] = ()) -> None:
        self._spec, self._levels = spec, open_levels(folder, spec.elements, spec.key.length)
        self._deny = tuple(deny)
        try:
            for path in self._deny:
                self._check(path)
        except BaseException:
            self.close()
            raise

    def fetch(self, key: NDArray[np.float32]) -> FetchedMemory:
        """The memories of the text with this key [length]."""
        try:
            path = descend(self._children, len(self._levels), key).path
        except BankError as error:
            return FetchedMemory((), None, str(error), denied=bool(self._deny))
        allowed = cut(path, self._deny)
        return self._read(allowed, denied=allowed != path)

    def at(self, path: MemoryPath) -> FetchedMemory:
        """The memories along a path.

        Raises:
            InputError: no such path, nothing is there, or it is denied.
        """
        self._check(path)
        if cut(path, self._deny) != path:
            raise InputError(f"block {shown_path(path)}", "is denied", "Choose another block")
        try:
            count = int(self._levels[len(path) - 1].column("count", path[-1], 1)[0])
        except BankError as error:
            return FetchedMemory((), None, str(error))
        if count == 0:
            raise InputError(f"block {shown_path(path)}", "is absent", "Choose another block")
        return self._read(path)

    def close(self) -> None:
        """Close the files; closing twice does no harm."""
        for level in self._levels:
            level.close()

    def _children(self, level: int, row: int) -> Keys:
        """Keys of the children of a node; damaged ones may be the nearest, so none is taken."""
        keys = self._levels[level].children_keys(row)
        if np.isnan(keys).any():
            thing = f"{self._levels[level].path}, keys below row {row}"
            raise BankError(thing, "are damaged (check sum)", "Get a fresh copy of the bank")
        return keys

    def _read(self, path: MemoryPath, *, denied: bool = False) -> FetchedMemory:
        """The block of a path, or why there is none."""
        parts = {
            level: np.zeros(size, np.float32)
            for level, size in enumerate(self._spec.elements)
            if self._spec.home(level) == level
        }
        try:
            for level, row in enumerate(path):
                _add(self._levels[level], row, parts[self._spec.home(level)], self._sums(level))
        except BankError as error:
            return FetchedMemory((), None, str(error), denied)
        values = np.concatenate([parts[level] for level in sorted(parts)])
        return FetchedMemory(path, self._spec.inputs().unflatten(values), denied=denied)

    def _sums(self, level: int) -> bool:
        return self._spec.levels[level].combine == SUM

    def _check(self, path: MemoryPath) -> None:
        branch, above = self._levels[0].shape.branch, 0
        for row in path:
            if row // branch != above:
                break
            above = row
        else:
            if 0 < len(path) <= len(self._levels):
                return
        reason = f"is no path of {len(self._levels)} levels with {branch} children a node"
        remedy = f"The children of row i are rows i*{branch} to i*{branch} + {branch - 1}"
        raise InputError(f"block {shown_path(path)}", reason, remedy)


def _add(level: Level, row: int, out: NDArray[np.float32], summed: bool) -> None:
    if not summed:
        level.read_row(row, out)
        return
    part = np.empty_like(out)
    level.read_row(row, part)
    out += part
