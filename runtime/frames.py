"""Checks on frames before anything else sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.bundle.manifest import FrameSpec
from edgemem.errors import InputError
from edgemem.runtime.result import Event, EventKind, Events

# Beyond it the squares that every norm sums leave float32, and what comes of them is no number.
LARGEST = 1e15
OUTSIDE, NARROW = 0.1, 50.0  # share of values far outside; part of the source's width


def checked(frames: Array, spec: FrameSpec) -> NDArray[np.float32]:
    """Frames as the graphs take them: [n, *shape] float32, finite. One frame may come bare.

    Raises:
        InputError: wrong type, shape or dtype, a mask, no frames, NaN, infinite values, or values
            beyond 1e15.
    """
    if not isinstance(frames, np.ndarray):
        raise InputError(
            "frames", f"are a {type(frames).__name__}, not a numpy array", "Pass a numpy array"
        )
    if isinstance(frames, np.ma.MaskedArray):
        # Every check passes over what a mask hides; the graphs would not.
        raise InputError("frames", "are masked", "Pass frames.filled(0), or leave those frames out")
    frames = np.asarray(frames)  # a subclass may compute in its own way
    if frames.shape == spec.shape:
        frames = frames[None]
    if frames.shape[1:] != spec.shape:
        raise InputError(
            "frames",
            f"have shape {list(frames.shape)}; this bundle takes [n, {_sizes(spec)}]",
            "Resize or transpose them (channels come first)",
        )
    if len(frames) == 0:
        raise InputError("frames", "are empty", "Pass at least one frame")
    if frames.dtype == np.uint8:
        return frames.astype(np.float32) / np.float32(spec.uint8_scale)
    if frames.dtype != np.float32:
        raise InputError(
            "frames",
            f"have dtype {frames.dtype}",
            f"Pass uint8 (divided by {spec.uint8_scale:g} here) or float32 in the model's range",
        )
    if len(bad := bad_frames(frames)):
        finite = bool(np.isfinite(frames[bad[0]]).all())
        what = f"values beyond {LARGEST:g}" if finite else "NaN or infinite values"
        raise InputError(
            "frames",
            f"hold {what} ({len(bad)} of {len(frames)}, first frame {bad[0]})",
            "Drop those frames",
        )
    return frames


def bad_frames(frames: Array) -> NDArray[np.int64]:
    """Places of frames [n, ...] that hold NaN, infinite values, or values beyond 1e15."""
    if frames.dtype.kind != "f":
        return np.zeros(0, np.int64)
    rows = frames.reshape(len(frames), -1)
    # NaN is neither above nor below anything.
    # float16 has no number as large as that.
    most, least = (edge.astype(np.float64) for edge in (rows.max(1), rows.min(1)))
    return np.flatnonzero(~((most <= LARGEST) & (least >= -LARGEST)))


class RangeWatch:
    """Says once when frames are of another scale than the source frames were.

    A shift makes frames darker or noisier; it does not take a tenth of all values further out than
    the source's range is wide, nor narrow them to a fiftieth of it. Another unit does.
    """

    def __init__(self, spec: FrameSpec) -> None:
        self._told = spec.source_range is None
        shape = (1, -1, *[1] * (len(spec.shape) - 1))
        low, high = spec.source_range or ((0.0,), (1.0,))
        self._low, self._high = (np.asarray(v, np.float32).reshape(shape) for v in (low, high))
        width = self._high - self._low
        self._width = np.where(width > 0, width, np.maximum(1.0, np.abs(self._low)))

    def look(self, x: NDArray[np.float32]) -> Events:
        """The event, where there is one to tell of frames as the graphs take them."""
        if self._told:
            return ()
        below, above = x < self._low - self._width, x > self._high + self._width
        axes = (0, *range(2, x.ndim))
        span = x.max(axes, keepdims=True) - x.min(axes, keepdims=True)
        narrow = bool((span * NARROW < self._width).all()) and bool((span > 0).any())
        if not narrow and (below | above).mean() < OUTSIDE:
            return ()
        self._told = True
        text = (
            f"frames run from {x.min():.3g} to {x.max():.3g}, source frames ran from "
            f"{self._low.min():.3g} to {self._high.max():.3g}; are they scaled alike?"
        )
        return (Event(EventKind.RANGE, text),)


def _sizes(spec: FrameSpec) -> str:
    return ", ".join(str(size) for size in spec.shape)
