"""Streams: an .npz with `x`, optional labels `y` and optional `context`, read chunk by chunk."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import InputSpec
from edgemem.bundle.rows import fields, joined
from edgemem.errors import InputError
from edgemem.files.npz import Npz, NpzHeader
from edgemem.printable import shown
from edgemem.runtime.frames import bad_frames

SCAN = 64  # frames that are looked at at once
MOST_FRAMES = 1 << 22  # each takes a hundred bytes of a report, too
MOST_CONTEXTS = 1 << 12
MOST_BYTES = 1 << 28  # of one frame, or of all names of contexts
CALL_BYTES = 1 << 30  # of the frames of one call
SCAN_BYTES = 1 << 24


class Stream:
    """A recorded stream. Frames stay on disk; only one chunk of them is in memory.

    labels: [n] int64 or None. contexts: [n] text or None. shape: of one frame. skipped: how many
    frames are left out, see `without`.

    Raises:
        InputError: missing, damaged, empty, too large, or arrays of different lengths.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        remedy = "Save it with numpy.savez(path, x=frames, y=labels, context=names)"
        self._file = Npz(self.path, "is not a readable stream", remedy)
        self._header = self._file.header("x")
        self._require_frames(self._header)
        self.frames, self.shape = self._header.shape[0], self._header.shape[1:]
        self.dtype = self._header.dtype
        self.labels = self._labels()
        self.contexts = self._contexts()
        self._kept = np.ones(self.frames, np.bool_)
        self._beside: tuple[InputSpec, ...] = ()

    @property
    def skipped(self) -> int:
        """How many frames are left out."""
        return len(self._kept) - self.frames

    def require_shape(self, spec: FrameSpec) -> None:
        """Check the shape of a frame before any is read, and what a bundle takes beside it.

        From now on `chunks` are rows of all that. Raises InputError for what does not fit.
        """
        if self.shape not in spec.shapes:
            raise InputError(
                f"{self.path}: frames",
                f"have shape {[self.frames, *self.shape]}; this bundle takes {spec.shown}",
                "Resize or transpose them (channels come first)",
            )

        for given in spec.inputs:
            self._require_beside(given)
        self._beside = spec.inputs

    def _require_beside(self, given: InputSpec) -> None:
        thing, remedy = f"{self.path}: {given.name}", f"Save it beside x: {given.name}=array"
        if given.name not in self._file.names:
            raise InputError(thing, "is missing, and this bundle takes it beside frames", remedy)
        found, shape = self._file.header(given.name), (len(self._kept), *given.shape)
        if found.shape != shape:
            reason = f"has shape {list(found.shape)}; this bundle takes {list(shape)}"
            raise InputError(thing, reason, "Save one row for each frame")

    def require_labels(self, classes: int) -> None:
        """Check that every label, if there are any, is one of so many classes.

        Raises InputError.
        """
        if self.labels is None:
            return
        first, last = int(self.labels.min()), int(self.labels.max())
        if first < 0 or last >= classes:
            raise InputError(
                f"{self.path}: y",
                f"runs from {first} to {last}; the bundle's classes are 0 to {classes - 1}",
                "Number the classes from 0, in the model's order",
            )

    def bad_frames(self) -> NDArray[np.int64]:
        """Places of the frames that hold NaN, infinite or too large values."""
        if self.dtype.kind != "f" and not self._beside:
            return np.zeros(0, np.int64)
        size = max(1, min(SCAN, SCAN_BYTES // self._frame_bytes))
        return np.concatenate(
            [
                start + np.unique(np.concatenate([bad_frames(x) for x in fields(rows).values()]))
                for start, rows in self.chunks(size)
            ]
        )

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
        """Position and frames [size, *shape] of each chunk, in order, with what comes beside them.

        The last chunk may be shorter, and so may those with frames that are left out.

        Raises:
            InputError: damaged, changed since it was opened, or chunks too large for memory.
        """
        if min(size, len(self._kept)) * self._frame_bytes > CALL_BYTES:
            reason = f"of {self._frame_bytes:,} bytes take more than {CALL_BYTES:,}"
            raise InputError(f"{shown(size)} frames", reason, "Use fewer frames per call")
        if self._file.header("x") != self._header:
            raise InputError(str(self.path), "was changed while in use", "Start again")
        position, recorded = 0, 0
        others = [self._file.rows(given.name, size) for given in self._beside]
        for x, *beside in zip(self._file.rows("x", size), *others, strict=True):
            names = [given.tensor for given in self._beside]
            frames = joined(x, dict(zip(names, beside, strict=True)))
            kept = self._kept[recorded : recorded + len(frames)]
            recorded += len(frames)
            if not kept.any():
                continue
            yield position, frames if kept.all() else frames[kept]
            position += int(kept.sum())

    @property
    def _frame_bytes(self) -> int:
        return self._header.nbytes // len(self._kept)

    def _require_frames(self, header: NpzHeader) -> None:
        thing, shape = f"{self.path}: x", header.shape
        if header.dtype.kind not in "biuf" or not shape:
            reason = f"is {header.dtype}{list(shape)}, not a plain array of frames"
            raise InputError(thing, reason, "Save frames [n, ...] as uint8 or float32")
        if shape[0] == 0:
            raise InputError(str(self.path), "holds no frames", "Record at least one frame")
        if header.nbytes == 0:
            raise InputError(thing, f"has shape {list(shape)}, frames of no value", "Save frames")
        if shape[0] > MOST_FRAMES:
            reason = f"has {shape[0]:,} frames, and {MOST_FRAMES:,} are allowed"
            remedy = "Cut it into parts; with --state, each goes on where the one before ended"
            raise InputError(thing, reason, remedy)
        if header.nbytes // shape[0] > MOST_BYTES:
            reason = f"has frames of {header.nbytes // shape[0]:,} bytes"
            raise InputError(thing, reason, f"Save frames of at most {MOST_BYTES:,} bytes")

    def _labels(self) -> NDArray[np.int64] | None:
        if (values := self._column("y")) is None:
            return None
        thing = f"{self.path}: y"
        if values.dtype.kind not in "iu":
            raise InputError(thing, f"has dtype {values.dtype}", "Save integer labels")
        if int(values.max()) > np.iinfo(np.int64).max:
            raise InputError(thing, f"holds {values.max()}, which is no class", "Number from 0")
        return values.astype(np.int64)

    def _contexts(self) -> NDArray[np.str_] | None:
        if (values := self._column("context")) is None:
            return None
        thing, remedy = f"{self.path}: context", "Save a name per frame, such as fog"
        try:
            found: NDArray[np.str_] = values.astype(np.str_)
            different = set(found.tolist())
        except Exception as error:  # numpy raises even SystemError for what is no character
            raise InputError(thing, f"is not text ({error})", remedy) from error
        if len(different) > MOST_CONTEXTS:
            reason = f"has {len(different):,} names, and {MOST_CONTEXTS:,} are allowed"
            raise InputError(thing, reason, "Use one name for frames of one kind of place")
        return found

    def _column(self, name: str) -> NDArray[Any] | None:
        if name not in self._file.names:
            return None
        shape = self._file.header(name).shape
        if shape != (self.frames,):
            raise InputError(
                f"{self.path}: {name}",
                f"has shape {list(shape)} for {self.frames} frames",
                "Save one value per frame",
            )
        return self._file.array(name, MOST_BYTES, "Use shorter names, or fewer frames")
