"""Sizes of frames as text, and frames made another size."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from edgemem.errors import InputError

LONGEST = 10  # digits
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by axes behind the channels


def size_name(shape: tuple[int, ...]) -> str:
    """A size as people write it: all of the shape of a frame but the channels."""
    return "x".join(map(str, shape[1:]))


def shapes_of(text: str | None, first: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Shapes of one frame by text such as 48x160,48x320: all but the channels, those of `first`.

    Raises:
        InputError: not such text, or of other axes than `first` has.
    """
    if text is None:
        return ()
    wanted = size_name(first)
    remedy = f"Write each as this model's own, which is {wanted}" if wanted else "Leave it out"
    found = []
    for size in text.split(","):
        parts = size.strip().split("x")
        if not all(_is_count(part) for part in parts):
            raise InputError(f"--sizes {text}", f"holds {size.strip()!r}, which is no size", remedy)
        if len(parts) != len(first) - 1:
            reason = f"has {len(parts)} numbers in {size.strip()!r}"
            raise InputError(f"--sizes {text}", reason, remedy)
        found.append((first[0], *map(int, parts)))
    return tuple(found)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < LONGEST and int(text) > 0


def resized(frames: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Frames [n, channels, ...] at another size, by linear interpolation."""
    if frames.shape[1:] == shape:
        return frames
    mode = MODES[len(shape) - 1]
    found: Tensor = interpolate(frames, size=shape[1:], mode=mode, align_corners=False)
    return found
