"""What a bank is built from: keys and blocks on disk, [N, d] each, too many for memory."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgemem.errors import InputError
from edgemem.files.npz import Npz, NpzHeader, read_header
from edgemem.files.untrusted import require_file

Keys = NDArray[np.float32]
Blocks = NDArray[np.float32]
Progress = Callable[[int, int], None]
CHUNK_BYTES = 8 << 20
MOST_BYTES = 1 << 28  # of one key or block
REMEDY = "Save it with numpy.savez(path, keys=keys) or numpy.savez(path, keys=keys, blocks=blocks)"


@dataclass(frozen=True)
class Source:
    """Keys, and blocks that belong to them, on disk.

    Attributes:
        keys: [N, d] float32.
        blocks: [N, elements] float32, one a key, or None. Both on disk.
    """

    keys: Keys
    blocks: Blocks | None = None


def open_keys(path: Path, folder: Path, progress: Progress) -> Keys:
    """Keys [N, d] float32, mapped from disk and checked to be finite.

    A .npy of float32 is mapped as it is; anything else is first written to `folder` as one.

    Raises:
        InputError: missing, damaged, not [N, d] of floats, or not finite.
        OSError: no space in `folder`.
    """
    return _opened(path, "keys", folder, progress)


def open_blocks(path: Path, folder: Path, progress: Progress) -> Blocks | None:
    """Blocks [N, elements] float32 of an .npz with `blocks`, as `open_keys`; None without any."""
    if path.suffix != ".npz" or "blocks" not in _archive(path, "blocks").names:
        return None
    return _opened(path, "blocks", folder, progress)


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A new array on disk, mapped.

    Its space is taken at once: a disk that is full later would end the process at the first write.

    Raises:
        OSError: no space.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise OSError(errno.ENOSPC, f"{size:,} bytes are needed, {free:,} are free", str(path))
    array = npy.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate") and size:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _opened(path: Path, name: str, folder: Path, progress: Progress) -> NDArray[np.float32]:
    copy, thing = folder / f"{name}.npy", f"{path}: {name[:-1]}"
    if path.suffix == ".npz":
        archive = _archive(path, name)
        header = archive.header(name)
        _check_form(path, name, header)
        parts = _checked(thing, archive.rows(name, _step(header)), header.shape[0], progress)
        return _copied(copy, header.shape, parts)
    mapped = _mapped(path, name)
    parts = _checked(thing, _slices(mapped), len(mapped), progress)
    if mapped.dtype == np.float32 and mapped.flags.c_contiguous:
        for _ in parts:
            pass
        return mapped
    return _copied(copy, mapped.shape, parts)


def _archive(path: Path, name: str) -> Npz:
    return Npz(path, f"holds no readable {name}", REMEDY)


def _mapped(path: Path, name: str) -> NDArray[Any]:
    """The array of a .npy, mapped from disk."""
    size = require_file(path)
    try:
        with path.open("rb") as file:
            header = read_header(file, size)
        _check_form(path, name, header)
        order: Literal["F", "C"] = "F" if header.columns else "C"
        return np.memmap(path, header.dtype, "r", header.start, header.shape, order)
    except InputError:
        raise
    except Exception as error:  # numpy raises a dozen kinds on damage
        raise InputError(str(path), f"holds no readable {name} ({error})", REMEDY) from error


def _check_form(path: Path, name: str, header: NpzHeader) -> None:
    shape, dtype = header.shape, header.dtype
    if len(shape) != 2 or min(shape) < 1 or dtype.kind != "f":
        reason = f"holds no readable {name} (they are {dtype}{list(shape)}, not floats [N, d])"
        raise InputError(str(path), reason, REMEDY)
    if header.nbytes // shape[0] > MOST_BYTES:
        reason = f"holds {name} of {header.nbytes // shape[0]:,} bytes each"
        raise InputError(str(path), reason, f"Save {name} of at most {MOST_BYTES:,} bytes")


def _copied(
    copy: Path, shape: tuple[int, ...], parts: Iterator[NDArray[np.float32]]
) -> NDArray[np.float32]:
    found = new_array(copy, np.float32, shape)
    first = 0
    for part in parts:
        found[first : first + len(part)] = part
        first += len(part)
    return found


def _checked(
    thing: str, parts: Iterator[NDArray[Any]], total: int, progress: Progress
) -> Iterator[NDArray[np.float32]]:
    first = 0
    for part in parts:
        with np.errstate(over="ignore"):
            values = part.astype(np.float32, copy=False)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise InputError(f"{thing} {row}", "is not finite", "Leave such keys out")
        yield values
        first += len(part)
        progress(first, total)


def _slices(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, CHUNK_BYTES // (values.nbytes // len(values)))
    for first in range(0, len(values), step):
        yield values[first : first + step]


def _step(header: NpzHeader) -> int:
    """Rows that are read at once."""
    return max(1, CHUNK_BYTES // (header.nbytes // header.shape[0]))
