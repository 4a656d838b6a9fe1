"""What a bank is built from: keys and blocks on disk, [N, d] each, too many for memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgemem.errors import InputError

Keys = NDArray[np.float32]
Blocks = NDArray[np.float32]
Progress = Callable[[int, int], None]
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
CHUNK_BYTES = 8 << 20
REMEDY = "Save it with numpy.savez(path, keys=keys) or numpy.savez(path, keys=keys, blocks=blocks)"


@dataclass(frozen=True)
class Source:
    """keys: [N, d] float32. blocks: [N, elements] float32, one a key, or None. Both on disk."""

    keys: Keys
    blocks: Blocks | None = None


def open_keys(path: Path, folder: Path, progress: Progress) -> Keys:
    """Keys [N, d] float32, mapped from disk and checked to be finite.

    A .npy of float32 is mapped as it is; anything else is first written to `folder` as one.

    Raises:
        InputError: missing, damaged, not [N, d] of floats, or not finite.
    """
    return _opened(path, "keys", folder, progress)


def open_blocks(path: Path, folder: Path, progress: Progress) -> Blocks | None:
    """Blocks [N, elements] float32 of an .npz with `blocks`, as `open_keys`; None without any."""
    if path.suffix != ".npz":
        return None
    with zipfile.ZipFile(path) as archive:
        if "blocks.npy" not in archive.namelist():
            return None
    return _opened(path, "blocks", folder, progress)


def _opened(path: Path, name: str, folder: Path, progress: Progress) -> NDArray[np.float32]:
    copy = folder / f"{name}.npy"
    try:
        if path.suffix != ".npz":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            _check_form(mapped.shape, mapped.dtype)
            parts = _checked(f"{path}: key", _slices(mapped), len(mapped), progress)
            if mapped.dtype == np.float32 and mapped.flags.c_contiguous:
                for _ in parts:
                    pass
                return mapped  # type: ignore[no-any-return]
            return _copied(copy, mapped.shape, parts)
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, fortran, dtype = HEADERS[npy.read_magic(file)](file)
            stored = archive.getinfo(f"{name}.npy").file_size - file.tell()
            _check_form(shape, dtype)
            if fortran or shape[0] * shape[1] * dtype.itemsize != stored:
                raise ValueError(f"{name} are not an array in row order of their stated size")
            thing = f"{path}: {name[:-1]}"
            parts = _checked(thing, _read(file, shape, dtype), shape[0], progress)
            return _copied(copy, shape, parts)
    except FileNotFoundError as error:
        raise InputError(str(path), "does not exist", "Check the path") from error
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damage
        raise InputError(str(path), f"holds no readable {name} ({error})", REMEDY) from error


def _check_form(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 2 or min(shape) < 1 or dtype.kind != "f":
        raise ValueError(f"they are {dtype}{list(shape)}, not floats [N, d]")


def _copied(
    copy: Path, shape: tuple[int, ...], parts: Iterator[NDArray[np.float32]]
) -> NDArray[np.float32]:
    found = npy.open_memmap(copy, "w+", np.float32, (shape[0], shape[1]))
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
    step = _step(values.shape, values.dtype)
    for first in range(0, len(values), step):
        yield values[first : first + step]


def _read(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    step, row = _step(shape, dtype), shape[1] * dtype.itemsize
    for first in range(0, shape[0], step):
        count = min(step, shape[0] - first)
        content = file.read(count * row)
        if len(content) != count * row:
            raise ValueError("they end early")
        yield np.frombuffer(content, dtype).reshape(count, shape[1])


def _step(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return max(1, CHUNK_BYTES // (shape[1] * dtype.itemsize))
