"""Writes a level file row by row: memory does not depend on the size of the blocks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.level import MOST_VALUE, can_be_added, row_crc
from edgemem.bank.levels.level_header import INDEX, STORAGES, LevelShape, encode_header
from edgemem.errors import InputError
from edgemem.files.atomic import new_file

CHUNK_ROWS = 4096
Row = NDArray[np.float32]
Index = dict[str, NDArray[Any]]


def write_level(
    path: Path | str,
    shape: LevelShape,
    keys: NDArray[np.float32],
    count: NDArray[np.int64],
    rows: Iterable[Row],
) -> None:
    """Write a level; it is wholly there afterwards, or the old file still is.

    Parents follow from the shape: the parent of row i is i // branch.

    Args:
        path: of the file.
        shape: level, branch, and how keys and blocks are stored.
        keys: [n, d]; +inf for absent children. May be mapped from disk.
        count: [n] source keys that each row stands for; 0 for absent children.
        rows: n blocks [elements] float32, taken one by one.

    Raises:
        InputError: arrays that do not fit the shape, numbers that the storage cannot hold, or a
            folder that cannot be written.
    """
    path = Path(path)
    _check(path, shape, keys, count)
    with new_file(path) as file:
        # Blocks first: their check sums and scales lie before them in the file.
        index = _write_blocks(file, path, shape, rows)
        _write_index(file, shape, {"keys": keys, "count": count, **index})


def _write_blocks(file: IO[bytes], path: Path, shape: LevelShape, rows: Iterable[Row]) -> Index:
    n, written = shape.rows, 0
    scale, crc = np.zeros(n, "<f4"), np.zeros(n, "<u4")
    file.seek(len(encode_header(shape)) + shape.index_bytes)
    for row in rows:
        if written == n:
            raise InputError(f"{path}: rows", f"are more than {n}", "Pass one row per node")
        stored, scale[written] = _stored(row, shape, f"{path}: row {written}")
        crc[written] = row_crc(stored, scale[written] if shape.storage == "int8" else None)
        file.write(stored.tobytes())
        written += 1
    if written != n:
        raise InputError(f"{path}: rows", f"are {written}, not {n}", "Pass one row per node")
    return {"scale": scale, "crc": crc}


def _write_index(file: IO[bytes], shape: LevelShape, index: Index) -> None:
    keys, n = index["keys"], shape.rows
    crcs = (zlib.crc32(key) for part in _chunks(keys, "<f4") for key in part)
    index["key_crc"] = np.fromiter(crcs, "<u4", n)
    file.seek(len(encode_header(shape)))
    index_crc = 0
    for name in filter(shape.tensors().__contains__, INDEX):
        parts = _parents(shape) if name == "parent" else _chunks(index[name])
        for part in parts:
            content = part.astype(part.dtype.newbyteorder("<")).tobytes()
            index_crc = zlib.crc32(content, index_crc)
            file.write(content)
    file.seek(0)
    file.write(encode_header(shape, index_crc))


def _chunks(array: NDArray[Any], dtype: str | None = None) -> Iterator[NDArray[Any]]:
    for first in range(0, len(array), CHUNK_ROWS):
        yield np.ascontiguousarray(array[first : first + CHUNK_ROWS], dtype)


def _parents(shape: LevelShape) -> Iterator[NDArray[np.int64]]:
    for first in range(0, shape.rows, CHUNK_ROWS):
        rows = np.arange(first, min(first + CHUNK_ROWS, shape.rows), dtype=np.int64)
        yield rows // shape.branch  # level 1 has `branch` rows: all 0


def _stored(row: Row, shape: LevelShape, thing: str) -> tuple[NDArray[Any], float]:
    """A row as its storage holds it, and its scale."""
    if row.shape != (shape.elements,) or row.dtype != np.float32:
        found = f"is {row.dtype}{list(row.shape)}, not float32[{shape.elements}]"
        raise InputError(thing, found, "Pass blocks of the shape of the level")
    scale = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        if shape.storage == "int8":
            scale = float(np.abs(row).max(initial=0) / np.float32(127))
            # Numbers too small for a scale are stored as zeros.
            scaled = row / np.float32(scale) if scale else np.zeros_like(row)
        else:
            scaled = np.ascontiguousarray(row, shape.dtype)
    if not np.isfinite(scaled).all():
        raise InputError(
            thing, f"holds numbers that {shape.storage} cannot", "Store finite numbers as float32"
        )
    stored: NDArray[Any] = scaled
    if shape.storage == "int8":
        stored = np.clip(np.rint(scaled), -127, 127).astype(np.int8)
    if not can_be_added(stored, scale):
        raise InputError(thing, "holds numbers too large to be added", f"Stay below {MOST_VALUE}")
    return stored, scale


def _check(
    path: Path, shape: LevelShape, keys: NDArray[np.float32], count: NDArray[np.int64]
) -> None:
    n, remedy = shape.rows, "Pass arrays of the shape of the level"
    if shape.storage not in STORAGES:
        raise InputError(f"storage {shape.storage!r}", "is unknown", f"Use {', '.join(STORAGES)}")
    if reason := shape.too_large():
        raise InputError(f"{path}: a level", reason, "Use a smaller branch")
    if keys.shape != (n, shape.key_length) or keys.dtype != np.float32:
        raise InputError(f"{path}: keys", f"are {keys.dtype}{list(keys.shape)}", remedy)
    if count.shape != (n,) or count.dtype != np.int64:
        raise InputError(f"{path}: count", f"is {count.dtype}{list(count.shape)}", remedy)
    for first in range(0, n, CHUNK_ROWS):
        part, present = keys[first : first + CHUNK_ROWS], count[first : first + CHUNK_ROWS] > 0
        if not (np.isfinite(part[present]).all() and (part[~present] == np.inf).all()):
            raise InputError(
                f"{path}: keys", "are not finite where the count is", "Use +inf for absent children"
            )
