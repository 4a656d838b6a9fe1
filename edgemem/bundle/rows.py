"""Frames with what comes beside them: one numpy row for each frame.

A bundle with one input has plain arrays of frames. Where there are further inputs, a row is a
structured value of numpy with a field for each input, under its name in the graphs. So whatever
slices, joins, keeps or stores frames treats all inputs of a frame alike, and knows of none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from edgemem.block import Array, Arrays
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import BESIDE, FRAMES


def layout(spec: FrameSpec) -> tuple[tuple[int, ...], DTypeLike]:
    """Shape and dtype of one row."""
    if not spec.inputs:
        return spec.shape, np.dtype(spec.dtype)
    fields = [(FRAMES, np.dtype(spec.dtype), spec.shape)]
    fields += [(given.tensor, np.dtype(given.dtype), given.shape) for given in spec.inputs]
    return (), np.dtype(fields)


def joined(frames: Array, others: Mapping[str, Array]) -> Array:
    """Rows of frames [n, ...] and other inputs [n, ...], by their names in the graphs."""
    if not others:
        return frames
    fields = {FRAMES: frames, **others}
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in fields.items()]
    rows = np.empty(len(frames), kinds)
    for name, array in fields.items():
        rows[name] = array
    return rows


def fields(rows: Array) -> Arrays:
    """The inputs of rows by their names in the graphs, each one array."""
    if rows.dtype.names is None:
        return {FRAMES: rows}
    # Copies: of one row numpy takes any strides for contiguous, and engines do not.
    return {name: rows[name].copy() for name in rows.dtype.names}


def frames_of(rows: Array) -> Array:
    """The frames alone."""
    return rows if rows.dtype.names is None else rows[FRAMES]


def shape_of(rows: Array) -> tuple[int, ...]:
    """Of one frame."""
    return rows.shape[1:] if rows.dtype.names is None else rows.dtype[FRAMES].shape


def others_of(rows: Array) -> Arrays:
    """All but the frames, by their names in the graphs."""
    return {name: array for name, array in fields(rows).items() if name != FRAMES}


def with_frames(rows: Array, frames: Array) -> Array:
    """The same rows with other frames."""
    return joined(frames, others_of(rows))


def inputs_of(rows: Array) -> Arrays:
    """All but the frames, by their own names, as a runtime takes them."""
    return {name.removeprefix(BESIDE): array for name, array in others_of(rows).items()}
