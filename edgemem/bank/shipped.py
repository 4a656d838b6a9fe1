"""The shipped bank: read-only levels in a folder, fetched row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.cache import ByteCache
from edgemem.bank.folder import open_levels
from edgemem.bank.level import Keys
from edgemem.bank.prefetch import Prefetcher
from edgemem.bank.tree import Descent, descend
from edgemem.errors import BankError, InputError

CACHE_BYTES = 32 << 20
MOST_REPORTS = 1000
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Fetched:
    """What a fetch found. values: float32 [elements], the sum of the rows along the path.

    path, distances: as in Descent. faults: readable texts about rows that count as zero.
    """

    path: tuple[int, ...]
    distances: tuple[float, ...]
    values: Values
    faults: list[str]


@dataclass(frozen=True)
class StoredRow:
    """A block as it is stored, or None and why: it counts as zero then."""

    values: NDArray[Any] | None
    scale: float = 1.0
    fault: str = ""


class ShippedBank:
    """The levels of a folder. Level 1 is pinned in memory; of the others, `cache_bytes` are kept.

    Memory does not depend on the size of the bank. For one thread; with `prefetch`, a second one
    reads the siblings of the last leaf into the cache.

    Raises:
        BankError: no level 1, a gap between levels, or levels that do not fit each other or the
            expected elements.
    """

    def __init__(
        self,
        folder: Path | str,
        elements: int,
        cache_bytes: int = CACHE_BYTES,
        prefetch: bool = False,
    ) -> None:
        self.folder, self.elements = Path(folder), elements
        self.levels = open_levels(self.folder, elements)
        first = self.levels[0].shape
        self.branch, self.key_length = first.branch, first.key_length
        self._cache: ByteCache[Any] = ByteCache(cache_bytes)
        self._cache_bytes = cache_bytes
        self._reported: set[str] = set()
        self._scratch = np.empty(elements, np.float32)
        self._prefetcher = Prefetcher(self._read_siblings) if prefetch else None
        try:
            self._pin()
        except BaseException:
            self.close()
            raise

    def fetch(self, key: NDArray[Any]) -> Fetched:
        """The block of the context nearest to a key [d]: the sum of the rows along its path.

        A damaged row counts as zero and is reported once; a damaged key is never chosen.

        Raises:
            InputError: a key of another length, or not finite.
        """
        faults: list[str] = []
        found = self.descend(key, faults)
        values = self.sum_rows(found.path, faults)
        if self._prefetcher is not None and len(found.path) > 1:
            self._prefetcher.ask((len(found.path) - 1, found.path[-1]))
        return Fetched(found.path, found.distances, values, faults)

    def descend(self, key: NDArray[Any], faults: list[str]) -> Descent:
        """Path and distances for a key [d]; what is damaged on the way is told in `faults`.

        Raises:
            InputError: a key of another length, or not finite.
        """
        key = np.asarray(key, np.float32)
        if key.shape != (self.key_length,) or not np.isfinite(key).all():
            raise InputError(
                "key",
                f"has shape {list(key.shape)} or numbers that are not finite",
                f"Pass {self.key_length} finite numbers",
            )

        def children(level: int, row: int) -> Keys | None:
            return self._children(level, row, faults)

        return descend(children, len(self.levels), key)

    def sum_rows(self, path: tuple[int, ...], faults: list[str]) -> Values:
        """The block [elements] of a path: the sum of its rows; damaged ones count as zero."""
        if path:
            self._will_need(len(path) - 1, path[-1])  # while the rows above are read and checked
        values = np.zeros(self.elements, np.float32)
        for level, row in enumerate(path):
            self.add_row(level, row, values, faults)
        return values

    def add_row(self, level: int, row: int, values: Values, faults: list[str]) -> None:
        """Add a row of a level (0 = the first) to values [elements]; a damaged one adds nothing."""
        stored = self._row(level, row, faults)
        if stored.values is None:
            return
        if stored.values.dtype == np.int8:
            scale = np.float32(stored.scale)
            np.multiply(stored.values, scale, out=self._scratch, dtype=np.float32)
            np.add(values, self._scratch, out=values)
        else:
            np.add(values, stored.values, out=values)

    def close(self) -> None:
        """Close the files and end the thread."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        for level in self.levels:
            level.close()

    def __enter__(self) -> ShippedBank:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _pin(self) -> None:
        self._pinned_faults: list[str] = []
        self._root_keys = self._read_keys(0, 0, self._pinned_faults)
        self._pinned = [self._read(0, row) for row in range(self.branch)]

    def _children(self, level: int, row: int, faults: list[str]) -> Keys | None:
        if level == 0:
            faults += self._pinned_faults
            self._pinned_faults = []
            return self._root_keys
        # The row above is on the path: it arrives while the keys of its children are read.
        self._will_need(level - 1, row)
        name = ("keys", level, row)
        keys: Keys | None = self._cache.get(name)
        if keys is None:
            keys = self._read_keys(level, row, faults)
            if keys is not None:
                self._cache.put(name, keys, keys.nbytes)
        return keys

    def _will_need(self, level: int, row: int) -> None:
        if level > 0 and ("row", level, row) not in self._cache:
            self.levels[level].will_need(row)

    def _read_keys(self, level: int, row: int, faults: list[str]) -> Keys | None:
        try:
            keys = self.levels[level].children_keys(row)
        except BankError as error:
            self._report(f"{error.thing}: children of {row}: {error.reason}", faults)
            return None
        for child in np.flatnonzero(np.isnan(keys[:, 0])):
            path = self.levels[level].path
            row_of_child = row * self.branch + int(child)
            self._report(f"{path}: key {row_of_child} is damaged and never chosen", faults)
        return keys

    def _row(self, level: int, row: int, faults: list[str]) -> StoredRow:
        name = ("row", level, row)
        stored: StoredRow | None = self._pinned[row] if level == 0 else self._cache.get(name)
        if stored is None:
            stored = self._read(level, row)
            self._keep(name, stored)
        if stored.values is None:
            self._report(stored.fault, faults)
        return stored

    def _read(self, level: int, row: int) -> StoredRow:
        values = np.empty(self.elements, self.levels[level].shape.dtype)
        try:
            return StoredRow(values, self.levels[level].read_stored(row, values))
        except BankError as error:
            return StoredRow(None, fault=f"{error.thing}: {error.reason}; counts as zero")

    def _keep(self, name: tuple[str, int, int], stored: StoredRow) -> None:
        size = 64 if stored.values is None else stored.values.nbytes
        self._cache.put(name, stored, size)

    def _report(self, text: str, faults: list[str]) -> None:
        if text not in self._reported and len(self._reported) < MOST_REPORTS:
            self._reported.add(text)
            faults.append(text)

    def _read_siblings(self, leaf: tuple[int, int]) -> None:
        """Read the other children of the leaf's parent, if a quarter of the cache holds them."""
        level, row = leaf
        first = row - row % self.branch
        if self.branch * self.levels[level].shape.row_bytes > self._cache_bytes // 4:
            return
        for sibling in range(first, first + self.branch):
            if self._prefetcher is None or self._prefetcher.waiting():
                return
            name = ("row", level, sibling)
            if name not in self._cache:
                self._keep(name, self._read(level, sibling))
