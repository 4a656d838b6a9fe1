"""Checks on frames before anything else sees them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import InputSpec
from edgemem.bundle.rows import frames_of, joined
from edgemem.errors import InputError
from edgemem.printable import shown
from edgemem.runtime.result import Event, EventKind, Events

# Beyond it the squares that every norm sums leave float32, and what comes of them is no number.
LARGEST = 1e15
OUTSIDE, NARROW = 0.1, 50.0  # share of values far outside; part of the source's width


Inputs = Mapping[str, Array]


def checked(frames: Array, spec: FrameSpec, inputs: Inputs | None = None) -> Array:
    """Rows as the graphs take them: frames [n, *shape], finite, and what comes beside them.

    One frame may come bare, with what belongs to it bare, too.

    Raises:
        InputError: wrong type, shape or dtype, a mask, no frames, NaN, infinite values, or values
            beyond 1e15; an input that is missing, unknown, or not of as many frames.
    """
    x = _checked_frames(_plain("frames", "are", frames), spec)
    bare = frames.shape in spec.shapes
    return joined(x, _checked_inputs(inputs, spec, len(x), bare=bare))


def _plain(thing: str, verb: str, array: object) -> Array:
    if not isinstance(array, np.ndarray):
        reason = f"{verb} a {type(array).__name__}, not a numpy array"
        raise InputError(thing, reason, "Pass a numpy array")
    if isinstance(array, np.ma.MaskedArray):
        # Every check passes over what a mask hides; the graphs would not.
        remedy = "Pass frames.filled(0), or leave those frames out"
        raise InputError(thing, f"{verb} masked", remedy)
    return np.asarray(array)  # a subclass may compute in its own way


def _checked_inputs(
    inputs: object, spec: FrameSpec, frames: int, *, bare: bool
) -> dict[str, Array]:
    """What comes beside so many frames, by names in the graphs."""
    if inputs is not None and not isinstance(inputs, Mapping):
        reason = f"are a {type(inputs).__name__}, not a dict"
        raise InputError("inputs", reason, 'Pass arrays by name, such as {"mask": mask}')
    given, known = inputs or {}, {item.name: item for item in spec.inputs}
    for name in given:
        if name not in known:
            has = f"It takes {', '.join(known)} beside the frames" if known else "Leave it out"
            raise InputError(f"input {shown(name)}", "is unknown to this bundle", has)
    for name, item in known.items():
        if name not in given:
            example = f"inputs={{{name!r}: array}}, {item.dtype}[n{_comma(item.shape)}]"
            raise InputError(f"input {name!r}", "is missing", f"Pass {example}")
    return {
        item.tensor: _checked_input(given[name], item, frames, bare=bare)
        for name, item in known.items()
    }


def _checked_input(given: Array, spec: InputSpec, frames: int, *, bare: bool) -> Array:
    thing = f"input {spec.name!r}"
    array = _plain(thing, "is", given)
    if bare and array.shape == spec.shape:
        array = array[None]
    if array.shape != (frames, *spec.shape):
        reason = f"has shape {list(array.shape)}; with {frames} frames this bundle takes "
        raise InputError(
            thing, f"{reason}[{frames}{_comma(spec.shape)}]", "Pass one row for each frame"
        )
    if spec.dtype == "int64":
        return _checked_whole(thing, "has", array, int(spec.low), int(spec.high))
    if array.dtype != np.dtype(spec.dtype):
        remedy = (
            f"Pass it as {spec.dtype}: array.astype(numpy.{np.dtype(spec.dtype).type.__name__})"
        )
        raise InputError(thing, f"has dtype {array.dtype}", remedy)
    if len(bad := bad_frames(array)):
        reason = f"holds NaN, infinite or too large values (first frame {bad[0]})"
        raise InputError(thing, reason, "Drop those frames")
    return array


def _checked_whole(thing: str, verb: str, array: Array, low: int, high: int) -> Array:
    """Whole numbers as int64, within what the model takes."""
    if array.dtype.kind not in "iu":
        raise InputError(thing, f"{verb} dtype {array.dtype}", "Pass whole numbers, int64")
    if array.size and not (array.min() >= low and array.max() <= high):
        reason = f"{verb} numbers from {array.min()} to {array.max()}"
        raise InputError(thing, reason, f"This bundle takes {low} to {high}")
    return array.astype(np.int64)


def _comma(shape: tuple[int, ...]) -> str:
    return "".join(f", {size}" for size in shape)


def _checked_frames(frames: Array, spec: FrameSpec) -> Array:
    if frames.shape in spec.shapes:
        frames = frames[None]
    if frames.shape[1:] not in spec.shapes:
        raise InputError(
            "frames",
            f"have shape {list(frames.shape)}; this bundle takes {spec.shown}",
            "Resize or transpose them (channels come first)"
            if spec.ids is None
            else "Pad or cut the token ids",
        )
    if len(frames) == 0:
        raise InputError("frames", "are empty", "Pass at least one frame")
    if spec.ids is not None:
        return _checked_whole("frames", "have", frames, *spec.ids)
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

    def look(self, rows: Array) -> Events:
        """The event, where there is one to tell of frames as the graphs take them."""
        if self._told:
            return ()
        x = frames_of(rows)
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
