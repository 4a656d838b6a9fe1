"""One level of the bank on disk: a writer that streams rows, a reader that reads row by row."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.byte_cache import ByteCache
from edgemem.bank.levels.level_header import DTYPES, INDEX, REMEDY, read_header
from edgemem.errors import BankError
from edgemem.files.untrusted import require_file

Row = NDArray[np.float32]
Keys = NDArray[np.float32]
MOST_VALUE = 1e37  # a row of each of 32 levels, added, is still a float32
PAGE_ROWS = 1024
PAGES_BYTES = 1 << 20
CHUNK_BYTES = 4 << 20
# Reads only what is in memory; 0 where the system cannot tell.
READY = getattr(os, "RWF_NOWAIT", 0)


def nothing() -> None:
    """What to do while a read waits, by default."""


@dataclass
class Page:
    """Check sums and scales of 1,024 rows, and which of them were checked since it was read.

    Attributes:
        row_checked: 1 for a row or key that is as it was written.
        key_checked: 1 for a row or key that is as it was written.
    """

    crc: NDArray[np.uint32]
    key_crc: NDArray[np.uint32]
    scale: NDArray[np.float32] | None
    row_checked: bytearray
    key_checked: bytearray


class Level:
    """An open level file. Holds no more than 1 MiB, however large the file is.

    begin: where each of its arrays begins in the file, in bytes.

    Raises:
        BankError: missing, damaged, or not of the expected key length and elements.
    """

    def __init__(
        self, path: Path | str, *, elements: int | None = None, key_length: int | None = None
    ) -> None:
        self.path = Path(path)
        require_file(self.path, BankError)  # opening a pipe would never end
        try:
            self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(f"cannot be opened ({error.strerror})", REMEDY) from error
        try:
            header = read_header(self._handle, str(self.path))
            self.shape, self.index_crc = header.shape, header.index_crc
            self.begin = header.begin
            self._expect("numbers in a block", self.shape.elements, elements)
            self._expect("numbers in a key", self.shape.key_length, key_length)
        except BaseException:
            os.close(self._handle)
            raise
        self._row_bytes, self._ready = self.shape.row_bytes, READY
        self._pages: ByteCache[Page] = ByteCache(PAGES_BYTES)
        self._latest: tuple[int, Page] | None = None
        self._scratch: NDArray[Any] | None = None

    def children_keys(self, row: int, waiting: Callable[[], None] = nothing) -> Keys:
        """Keys [branch, d] of the children that row `row` of the level above has in this level.

        Absent children have infinite keys. A damaged or impossible key comes back as NaN.
        waiting: as in `read_stored`.

        Raises:
            BankError: the file cannot be read.
        """
        branch, length = self.shape.branch, self.shape.key_length
        keys = np.empty((branch, length), "<f4")
        first = row * branch
        self._read(keys, self.begin["keys"] + first * length * 4, waiting)
        self._check_keys(first, keys)
        return keys

    def read_row(self, row: int, out: Row) -> None:
        """Read a block into `out` [elements] float32.

        Raises:
            BankError: the row is damaged or cannot be read; `out` is undefined then.
        """
        if self.shape.storage == "float32":
            self.read_stored(row, out)
            return
        if self._scratch is None:
            self._scratch = np.empty(self.shape.elements, self.shape.dtype)
        scale = self.read_stored(row, self._scratch)
        np.multiply(self._scratch, np.float32(scale), out=out, dtype=np.float32)

    def read_stored(
        self, row: int, out: NDArray[Any], waiting: Callable[[], None] = nothing
    ) -> float:
        """Read a block as it is stored into `out` [elements]; the scale to multiply it with.

        Check sum and values are checked on the first touch. waiting: called before the read waits
        for the disk; not called when all is in memory.

        Raises:
            BankError: the row is damaged or cannot be read.
        """
        self._read(out, self.begin["blocks"] + row * self._row_bytes, waiting)
        page, place = self._page(row), row % PAGE_ROWS
        if not page.row_checked[place]:
            crc = row_crc(out, None if page.scale is None else page.scale[place])
            if crc != page.crc[place]:
                raise self._error("is damaged (check sum)", REMEDY, f", row {row}")
            if not can_be_added(out, 1.0 if page.scale is None else float(page.scale[place])):
                raise self._error("holds impossible values", REMEDY, f", row {row}")
            page.row_checked[place] = 1
        return 1.0 if page.scale is None else float(page.scale[place])

    def will_need(self, row: int) -> None:
        """Let the system read a block ahead, while other work goes on; changes nothing else."""
        offset, size = self.begin["blocks"] + row * self._row_bytes, self._row_bytes
        if hasattr(os, "posix_fadvise"):  # macOS has none
            with suppress(OSError):  # only advice
                os.posix_fadvise(self._handle, offset, size, os.POSIX_FADV_WILLNEED)

    def column(self, name: str, first: int = 0, rows: int | None = None) -> NDArray[Any]:
        """`rows` rows (default: all) of an array of the file as stored, unchecked.

        Raises:
            BankError: the file cannot be read.
        """
        code, sizes = self.shape.tensors()[name]
        count = self.shape.rows - first if rows is None else rows
        found = np.empty([count, *sizes[1:]], DTYPES[code])
        one = found.itemsize * int(np.prod(sizes[1:], dtype=np.int64))
        self._read(found, self.begin[name] + first * one)
        return found

    def columns(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """First row and array, chunk by chunk of about 4 MiB."""
        code, sizes = self.shape.tensors()[name]
        one = np.dtype(DTYPES[code]).itemsize * int(np.prod(sizes[1:], dtype=np.int64))
        step = max(1, CHUNK_BYTES // max(one, 1))
        for first in range(0, self.shape.rows, step):
            yield first, self.column(name, first, min(step, self.shape.rows - first))

    def index_is_whole(self) -> bool:
        """Whether everything but the blocks is as it was written; reads all of it."""
        crc = 0
        for name in INDEX:
            if name in self.begin:
                for _, part in self.columns(name):
                    crc = zlib.crc32(part.data, crc)
        return crc == self.index_crc

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Level:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_keys(self, first: int, keys: Keys) -> None:
        row, stop = first, first + len(keys)
        while row < stop:
            page, place = self._page(row), row % PAGE_ROWS
            count = min(stop - row, PAGE_ROWS - place)
            if page.key_checked.find(0, place, place + count) >= 0:
                part = keys[row - first : row - first + count]
                crcs = [zlib.crc32(key) for key in part]
                whole = page.key_crc[place : place + count] == crcs
                whole &= np.isfinite(part).all(axis=1) | (part == np.inf).all(axis=1)
                page.key_checked[place : place + count] = whole.tobytes()
                part[~whole] = np.nan
            row += count

    def _page(self, row: int) -> Page:
        number, latest = row // PAGE_ROWS, self._latest
        if latest is not None and latest[0] == number:
            return latest[1]
        page = self._pages.get(number)
        if page is None:
            first = number * PAGE_ROWS
            count = min(PAGE_ROWS, self.shape.rows - first)
            scale = self.column("scale", first, count) if "scale" in self.begin else None
            crc, key_crc = self.column("crc", first, count), self.column("key_crc", first, count)
            page = Page(crc, key_crc, scale, bytearray(count), bytearray(count))
            self._pages.put(number, page, 14 * count)
        self._latest = number, page
        return page

    def _read(self, out: NDArray[Any], offset: int, waiting: Callable[[], None] = nothing) -> None:
        done = self._read_ready(out, offset) if self._ready else 0
        if done == out.nbytes:
            return
        waiting()
        content = out.reshape(-1).view(np.uint8).data
        while done < content.nbytes:
            try:
                got = os.preadv(self._handle, (content[done:],), offset + done)
            except OSError as error:
                raise self._error(f"cannot be read ({error.strerror})", REMEDY) from error
            if got == 0:
                raise self._error("ends early", REMEDY)
            done += got

    def _read_ready(self, out: NDArray[Any], offset: int) -> int:
        """Read what is in memory; how many bytes.

        Not every file system can tell. Of a bad disk, the read that waits will hear.
        """
        try:
            return os.preadv(self._handle, (out.data,), offset, self._ready)
        except BlockingIOError:
            return 0
        except OSError:
            self._ready = 0
            return 0

    def _expect(self, what: str, found: int, expected: int | None) -> None:
        if expected is not None and found != expected:
            raise self._error(f"has {found} {what}, not {expected}", "Use the bank of this bundle")

    def _error(self, reason: str, remedy: str, place: str = "") -> BankError:
        return BankError(f"{self.path}{place}", reason, remedy)


def can_be_added(stored: NDArray[Any], scale: float) -> bool:
    """Whether a stored row is finite, and stays so when rows of all levels are added."""
    if stored.size == 0:
        return math.isfinite(scale)
    # Comparisons with NaN are false, and minimum and maximum are NaN where any number is.
    most = MOST_VALUE / max(abs(scale), 1.0) if math.isfinite(scale) else -1.0
    return float(stored.max()) <= most and float(stored.min()) >= -most


def row_crc(stored: NDArray[Any], scale: np.float32 | None) -> int:
    """Check sum of a stored row, and of its scale, if it has one."""
    crc = zlib.crc32(stored.data)
    return crc if scale is None else zlib.crc32(scale.tobytes(), crc)
