"""Arrays in files of numpy that others wrote, known by their headers before they are read.

Nothing is unpickled or unpacked to a place that the file names, and what a header says is compared
with what is stored and with a bound before memory is taken for it.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgemem.errors import InputError
from edgemem.files.untrusted import require_file

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
HEAD = 1 << 14  # bytes; headers of plain arrays take a hundred
PLAIN = "biufSU"  # kinds of dtype: numbers and text
PIECE = 1 << 20


@dataclass(frozen=True)
class NpzHeader:
    """What a file says of an array.

    Attributes:
        start: of its values, in bytes from where the header begins.
        columns: whether they are stored column by column.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    columns: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], stored: int) -> NpzHeader:
    """The header of an array at the present place of a file. stored: bytes from there to the end.

    Raises:
        ValueError: not an array of numbers or text, or not of the size that is stored.
    """
    head = io.BytesIO(file.read(HEAD))
    version = npy.read_magic(head)
    if version not in HEADERS:
        raise ValueError(f"an array of format {version[0]}.{version[1]}")
    shape, fortran, dtype = HEADERS[version](head)
    header = NpzHeader(shape, dtype, head.tell(), fortran and len(shape) > 1)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded, as they may run code")
    if dtype.kind not in PLAIN or dtype.itemsize == 0:
        raise ValueError(f"{dtype} is neither numbers nor text")
    if min(shape, default=0) < 0 or header.nbytes != stored - header.start:
        raise ValueError(f"{stored - header.start} bytes are not {list(shape)} {dtype}")
    return header


class Npz:
    """An archive of arrays. names: of those that are in it.

    Args:
        refusal: what is said of a file that is none, such as "is not a readable stream".
        remedy: how to make one.

    Raises:
        InputError: here and by every method, for whatever is wrong with the file.
    """

    def __init__(self, path: Path, refusal: str, remedy: str) -> None:
        self.path, self._refusal, self._remedy = path, refusal, remedy
        require_file(path)
        with self._explained(), zipfile.ZipFile(path) as archive:
            found = archive.namelist()
            if len(set(found)) != len(found):
                raise ValueError("two arrays of one name")
            if len(found) != _entries(path):
                raise ValueError("its list of names is damaged")
            for about in archive.infolist():  # compares the two places that hold each name:
                archive.open(about).close()  # a damaged one would hide an array
        self.names = frozenset(n.removesuffix(".npy") for n in found if n.endswith(".npy"))

    def header(self, name: str) -> NpzHeader:
        """What is known of an array without reading it."""
        with self._explained(), self._opened(name) as (_, header):
            return header

    def array(self, name: str, most_bytes: int, smaller: str) -> NDArray[Any]:
        """An array in memory. smaller: what to do if it takes more than so many bytes."""
        with self._explained(), self._opened(name) as (file, header):
            if header.nbytes > most_bytes:
                reason = f"takes {header.nbytes:,} bytes, and {most_bytes:,} are allowed"
                raise InputError(f"{self.path}: {name}", reason, smaller)
            values = np.empty(header.shape, header.dtype)
            if header.nbytes:
                _fill(file, values)
            return values

    def rows(self, name: str, count: int) -> Iterator[NDArray[Any]]:
        """So many rows of an array at a time, in order; not to be written to."""
        with self._explained(), self._opened(name) as (file, header):
            row = header.nbytes // header.shape[0]
            for start in range(0, header.shape[0], count):
                number = min(count, header.shape[0] - start)
                content = file.read(number * row)
                if len(content) != number * row:
                    raise ValueError("it ends early")
                part = np.frombuffer(content, header.dtype)
                yield part.reshape(number, *header.shape[1:])

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[IO[bytes], NpzHeader]]:
        """The values of an array, and its header."""
        with zipfile.ZipFile(self.path) as archive:
            about = archive.getinfo(f"{name}.npy")
            if about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is compressed in a way that numpy does not use")
            stored = about.file_size
            with archive.open(f"{name}.npy") as file:
                header = read_header(file, stored)
            if header.columns:
                raise InputError(
                    f"{self.path}: {name}",
                    "is stored column by column",
                    f"Save it as {name}=numpy.ascontiguousarray(...)",
                )
            with archive.open(f"{name}.npy") as file:
                file.read(header.start)
                yield file, header

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damage
            reason = f"{self._refusal} ({error})"
            raise InputError(str(self.path), reason, self._remedy) from error


def _fill(file: IO[bytes], values: NDArray[Any]) -> None:
    """Read the values of an array."""
    content = values.reshape(-1).view(np.uint8)
    for start in range(0, len(content), PIECE):
        piece = file.read(min(PIECE, len(content) - start))
        if len(piece) != min(PIECE, len(content) - start):
            raise ValueError("it ends early")
        content[start : start + len(piece)] = np.frombuffer(piece, np.uint8)


def _entries(path: Path) -> int:
    """How many names the end of a zip says that its list has.

    One that is damaged may hide others.
    """
    with path.open("rb") as file:
        file.seek(-22, 2)  # the record at the end; numpy writes no comment behind it
        record = file.read()
    return int.from_bytes(record[10:12], "little")
