"""Source keys on disk: [N, d], too many for memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgemem.errors import InputError

Keys = NDArray[np.float32]
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
CHUNK_BYTES = 8 << 20
REMEDY = "Save it with numpy.save(path, keys) or numpy.savez(path, keys=keys)"


def open_keys(path: Path, folder: Path, progress: Callable[[int, int], None]) -> Keys:
    """Keys [N, d] float32, mapped from disk and checked to be finite.

    A .npy of float32 is mapped as it is; anything else is first written to `folder` as one.

    Raises:
        InputError: missing, damaged, not [N, d] of floats, or not finite.
    """
    try:
        if path.suffix != ".npz":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            _check_form(mapped.shape, mapped.dtype)
            if mapped.dtype == np.float32 and mapped.flags.c_contiguous:
                for _ in _checked(path, _slices(mapped), len(mapped), progress):
                    pass
                return mapped  # type: ignore[no-any-return]
            return _copied(path, folder, mapped.shape, _slices(mapped), progress)
        with zipfile.ZipFile(path) as archive, archive.open("keys.npy") as file:
            shape, fortran, dtype = HEADERS[npy.read_magic(file)](file)
            stored = archive.getinfo("keys.npy").file_size - file.tell()
            _check_form(shape, dtype)
            if fortran or shape[0] * shape[1] * dtype.itemsize != stored:
                raise ValueError("keys are not an array in row order of their stated size")
            return _copied(path, folder, shape, _read(file, shape, dtype), progress)
    except FileNotFoundError as error:
        raise InputError(str(path), "does not exist", "Check the path") from error
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damage
        raise InputError(str(path), f"holds no readable keys ({error})", REMEDY) from error


def _check_form(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 2 or min(shape) < 1 or dtype.kind != "f":
        raise ValueError(f"they are {dtype}{list(shape)}, not floats [N, d]")


def _copied(
    path: Path,
    folder: Path,
    shape: tuple[int, ...],
    parts: Iterator[NDArray[Any]],
    progress: Callable[[int, int], None],
) -> Keys:
    copy = npy.open_memmap(folder / "keys.npy", "w+", np.float32, (shape[0], shape[1]))
    first = 0
    for part in _checked(path, parts, shape[0], progress):
        copy[first : first + len(part)] = part
        first += len(part)
    return copy


def _checked(
    path: Path, parts: Iterator[NDArray[Any]], total: int, progress: Callable[[int, int], None]
) -> Iterator[Keys]:
    first = 0
    for part in parts:
        with np.errstate(over="ignore"):
            keys = part.astype(np.float32, copy=False)
        finite = np.isfinite(keys).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise InputError(f"{path}: key {row}", "is not finite", "Leave such keys out")
        yield keys
        first += len(part)
        progress(first, total)


def _slices(keys: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = _step(keys.shape, keys.dtype)
    for first in range(0, len(keys), step):
        yield keys[first : first + step]


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
