"""Checks on frames before anything else sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.errors import InputError
from edgemem.manifest import FrameSpec


def checked(frames: Array, spec: FrameSpec) -> NDArray[np.float32]:
    """Frames as the graphs take them: [n, *shape] float32, finite. One frame may come bare.

    Raises:
        InputError: wrong type, shape or dtype, no frames, or NaN or infinite values.
    """
    if not isinstance(frames, np.ndarray):
        raise InputError(
            "frames", f"are a {type(frames).__name__}, not a numpy array", "Pass a numpy array"
        )
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
    if not np.isfinite(frames).all():
        raise InputError("frames", "hold NaN or infinite values", "Drop those frames")
    return frames


def _sizes(spec: FrameSpec) -> str:
    return ", ".join(str(size) for size in spec.shape)
