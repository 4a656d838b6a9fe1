"""Streams: an .npz with `x`, optional labels `y` and optional `context`, read chunk by chunk."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgemem.errors import InputError

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Stream:
    """A recorded stream. Frames stay on disk; only one chunk of them is in memory.

    labels: [n] int64 or None. contexts: [n] text or None. shape: of one frame.

    Raises:
        InputError: missing, damaged, empty, or arrays of different lengths.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            # Opened here: numpy leaves its own handle open when the archive is damaged.
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                names = set(data.files)
                labels = data["y"] if "y" in names else None
                contexts = data["context"].astype(str) if "context" in names else None
            count, self.shape, self.dtype = self._header()
        except FileNotFoundError as error:
            raise InputError(str(self.path), "does not exist", "Check the path") from error
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damage
            raise self._unreadable(error) from error
        self.frames = count
        if count == 0:
            raise InputError(str(self.path), "holds no frames", "Record at least one frame")
        self.labels: NDArray[np.int64] | None = self._column(labels, "y", np.int64)
        self.contexts: NDArray[np.str_] | None = self._column(contexts, "context", np.str_)

    def chunks(self, size: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Position and frames [size, *shape] (the last chunk may be shorter), in order."""
        row = math.prod(self.shape) * self.dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open("x.npy") as file:
            self._read_header(file)
            for start in range(0, self.frames, size):
                count = min(size, self.frames - start)
                try:
                    content = file.read(count * row)
                except Exception as error:
                    raise self._unreadable(error) from error
                if len(content) != count * row:
                    raise self._unreadable("it ends early")
                yield start, np.frombuffer(content, self.dtype).reshape(count, *self.shape)

    def _header(self) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        with zipfile.ZipFile(self.path) as archive, archive.open("x.npy") as file:
            shape, fortran, dtype = self._read_header(file)
            stored = archive.getinfo("x.npy").file_size - file.tell()
        if fortran or not shape or dtype.hasobject:
            raise ValueError("x is not a plain array in row order")
        if min(shape) < 0 or math.prod(shape) * dtype.itemsize != stored:
            raise ValueError(f"x has {stored} bytes of frames, not {list(shape)} {dtype}")
        return shape[0], shape[1:], dtype

    @staticmethod
    def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        return HEADERS[npy.read_magic(file)](file)

    def _column(self, values: Any, name: str, dtype: Any) -> Any:
        if values is None:
            return None
        if values.shape != (self.frames,):
            raise InputError(
                f"{self.path}: {name}",
                f"has shape {list(values.shape)} for {self.frames} frames",
                "Save one value per frame",
            )
        if dtype is np.int64 and values.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: {name}", f"has dtype {values.dtype}", "Save integer labels"
            )
        return values.astype(dtype)

    def _unreadable(self, reason: object) -> InputError:
        return InputError(
            str(self.path),
            f"is not a readable stream ({reason})",
            "Save it with numpy.savez(path, x=frames, y=labels, context=names)",
        )
