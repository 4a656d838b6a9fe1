"""The shipped bank: read-only levels in a folder, fetched row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.byte_cache import ByteCache
from edgemem.bank.levels.level import Keys, nothing
from edgemem.bank.levels.level_folder import open_levels
from edgemem.bank.read.stored_row import StoredRow, Values, as_floats, read_row
from edgemem.bank.read.tree import Descent, descend
from edgemem.errors import BankError, InputError

CACHE_BYTES = 32 << 20
MOST_REPORTS = 1000


@dataclass(frozen=True)
class Fetched:
    """What a fetch found. values: float32 [elements], the sum of the rows along the path.

    Attributes:
        path: as in Descent.
        distances: as in Descent.
        faults: readable texts about rows that count as zero.
    """

    path: tuple[int, ...]
    distances: tuple[float, ...]
    values: Values
    faults: list[str]


class ShippedBank:
    """The levels of a folder.

    Level 1 is pinned in memory, unless it takes more than `cache_bytes` and 32 MiB; of the others,
    `cache_bytes` are kept.

    Memory does not depend on the size of the bank. For one thread at a time.

    Raises:
        BankError: no level 1, a gap between levels, or levels that do not fit each other or the
            expected elements.
    """

    def __init__(self, folder: Path | str, elements: int, cache_bytes: int = CACHE_BYTES) -> None:
        self.folder, self.elements = Path(folder), elements
        self.levels = open_levels(self.folder, elements)
        first = self.levels[0].shape
        self.branch, self.key_length = first.branch, first.key_length
        self._cache: ByteCache[Any] = ByteCache(cache_bytes)
        self._cache_bytes = cache_bytes
        self._reported: set[str] = set()
        self._keys_waited = False
        self._scratch = np.empty(elements, np.float32)
        # For rows that the cache has no room for.
        self._buffers = [np.empty(elements, level.shape.dtype) for level in self.levels]
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

        self._keys_waited = False

        def children(level: int, row: int) -> Keys | None:
            return self._children(level, row, faults)

        return descend(children, len(self.levels), key)

    def sum_rows(self, path: tuple[int, ...], faults: list[str]) -> Values:
        """The block [elements] of a path: the sum of its rows; damaged ones count as zero."""
        if self._keys_waited and path:  # then its rows will hardly be in memory
            self._will_need(len(path) - 1, path[-1])
        values = np.empty(self.elements, np.float32)
        total: Values | None = None  # the first row itself, until a second one is added
        for level, row in enumerate(path):
            buffer = self._buffers[level]
            if total is not values and buffer.dtype == np.float32:
                buffer = values  # nothing is in it yet; adding in place takes less than a copy
            stored, scale, _ = self._row(level, row, faults, buffer, path[level + 1 : level + 2])
            if stored is None:
                continue
            if total is None:
                total = as_floats(stored, scale, values)
            else:
                total = np.add(total, as_floats(stored, scale, self._scratch), out=values)
        if total is None:
            values.fill(0)
        elif total is not values:
            np.copyto(values, total)
        return values

    def close(self) -> None:
        """Close the files; closing twice does no harm."""
        for level in self.levels:
            level.close()

    def __enter__(self) -> ShippedBank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pin(self) -> None:
        self._pinned_faults: list[str] = []
        self._root_keys = self._read_keys(0, 0, self._pinned_faults)
        first, like = self.levels[0], self._buffers[0]
        pinned = range(self.branch)
        if self.branch * first.shape.row_bytes > max(self._cache_bytes, CACHE_BYTES):
            pinned = range(0)
        self._pinned = [read_row(first, row, np.empty_like(like)) for row in pinned]

    def _children(self, level: int, row: int, faults: list[str]) -> Keys | None:
        if level == 0:
            faults += self._pinned_faults
            self._pinned_faults = []
            return self._root_keys
        name = ("keys", level, row)
        keys: Keys | None = self._cache.get(name)
        if keys is None:
            keys = self._read_keys(level, row, faults)
            if keys is not None:
                self._cache.put(name, keys, keys.nbytes)
        return keys

    def _will_need(self, level: int, row: int) -> None:
        """Let a row of the path arrive while another read waits for the disk."""
        pinned = level == 0 and self._pinned
        if not pinned and ("row", level, row) not in self._cache:
            self.levels[level].will_need(row)

    def _wait_for_keys(self, level: int, row: int) -> None:
        self._keys_waited = True
        self._will_need(level - 1, row)  # the row above is on the path

    def _read_keys(self, level: int, row: int, faults: list[str]) -> Keys | None:
        try:
            waiting = partial(self._wait_for_keys, level, row)
            keys = self.levels[level].children_keys(row, waiting)
        except BankError as error:
            self._report(f"{error.thing}: children of {row}: {error.reason}", faults)
            return None
        lowest = keys[:, 0].min()
        if not math.isnan(lowest):
            return keys
        for child in np.flatnonzero(np.isnan(keys[:, 0])):
            path = self.levels[level].path
            row_of_child = row * self.branch + int(child)
            self._report(f"{path}: key {row_of_child} is damaged and never chosen", faults)
        return keys

    def _row(
        self,
        level: int,
        row: int,
        faults: list[str],
        buffer: NDArray[Any],
        below: tuple[int, ...],
    ) -> StoredRow:
        """A row; in `buffer` if it is not pinned and the cache has no room for any.

        below: the next row of the path, if there is one.
        """
        name = ("row", level, row)
        pinned = level == 0 and self._pinned
        stored: StoredRow | None = self._pinned[row] if pinned else self._cache.get(name)
        if stored is None:
            waiting = partial(self._will_need, level + 1, *below) if below else nothing
            keep = buffer.nbytes <= self._cache_bytes
            values = np.empty_like(buffer) if keep else buffer
            stored = read_row(self.levels[level], row, values, waiting)
            if keep:
                self._cache.put(name, stored, stored.nbytes)
        if stored.values is None:
            self._report(stored.fault, faults)
        return stored

    def _report(self, text: str, faults: list[str]) -> None:
        if text not in self._reported and len(self._reported) < MOST_REPORTS:
            self._reported.add(text)
            faults.append(text)
