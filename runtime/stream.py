"""Streams: an .npz with `x`, optional labels `y` and optional `context`, read chunk by chunk."""

from __future__ import annotations

import copy
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgemem.errors import InputError
from edgemem.runtime.frames import bad_frames

SCAN = 64  # frames that are looked at at once
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Stream:
    """A recorded stream. Frames stay on disk; only one chunk of them is in memory.

    labels: [n] int64 or None. contexts: [n] text or None. shape: of one frame. skipped: how many
    frames are left out, see `without`.

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
        self._kept = np.ones(count, np.bool_)

    @property
    def skipped(self) -> int:
        """How many frames are left out."""
        return len(self._kept) - self.frames

    def bad_frames(self) -> NDArray[np.int64]:
        """Places of the frames that hold NaN, infinite or too large values."""
        if self.dtype.kind != "f":
            return np.zeros(0, np.int64)
        return np.concatenate([start + bad_frames(x) for start, x in self.chunks(SCAN)])

    def without(self, places: NDArray[np.int64]) -> Stream:
        """The stream without some of its frames, their labels and contexts.

        Raises:
            InputError: no frame is left.
        """
        other = copy.copy(self)
        other._kept = self._kept.copy()
        other._kept[np.flatnonzero(self._kept)[places]] = False
        other.frames = int(other._kept.sum())
        if other.frames == 0:
            raise InputError(str(self.path), "holds no frame that can be used", "Record it again")
        others = np.delete(np.arange(self.frames), places)
        other.labels = None if self.labels is None else self.labels[others]
        other.contexts = None if self.contexts is None else self.contexts[others]
        return other

    def chunks(self, size: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Position and frames [size, *shape] (the last chunk may be shorter, and those with frames
        that are left out), in order."""
        position, recorded = 0, len(self._kept)
        row = math.prod(self.shape) * self.dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open("x.npy") as file:
            self._read_header(file)
            for start in range(0, recorded, size):
                count = min(size, recorded - start)
                try:
                    content = file.read(count * row)
                except Exception as error:
                    raise self._unreadable(error) from error
                if len(content) != count * row:
                    raise self._unreadable("it ends early")
                kept = self._kept[start : start + count]
                if not kept.any():
                    continue
                frames = np.frombuffer(content, self.dtype).reshape(count, *self.shape)
                yield position, frames if kept.all() else frames[kept]
                position += int(kept.sum())

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
