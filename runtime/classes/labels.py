"""Checks on labels before anything else sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemem.block import Array
from edgemem.errors import InputError
from edgemem.runtime.classes.class_table import Label

Labels = Sequence[Label] | Array | Label
WRONG = "Pass a class's name, or its number as an int"


def checked_labels(labels: Labels, frames: int) -> list[Label]:
    """One label for each frame, as int or str.

    Args:
        labels: [n] names or numbers, also mixed; for one frame a single one may come bare.
        frames: how many there are.

    Raises:
        InputError: another type, or not one for each frame.
    """
    found = [_checked(label) for label in _listed(labels)]
    if len(found) != frames:
        raise InputError(
            "labels", f"are {len(found)} for {frames} frames", "Pass one label for each frame"
        )
    return found


def require_no_contradiction(frames: Array, numbers: Sequence[int]) -> None:
    """Frames that are the same must be of the same class.

    Raises:
        InputError: which are not.
    """
    seen: dict[bytes, int] = {}
    for place, frame in enumerate(frames):
        first = seen.setdefault(frame.tobytes(), place)
        if numbers[first] != numbers[place]:
            raise InputError(
                f"frames {first} and {place}",
                "are the same, but have different labels",
                "Give every frame one label",
            )


def _listed(labels: Labels) -> Sequence[object]:
    if isinstance(labels, (str, int, np.integer, float, np.generic)):
        return [labels]
    if isinstance(labels, np.ndarray):
        if labels.ndim > 1:
            raise InputError("labels", f"have shape {list(labels.shape)}", "Pass a flat list")
        found: list[object] = list(np.atleast_1d(labels))
        return found
    if not isinstance(labels, Sequence) or isinstance(labels, (bytes, bytearray)):
        raise InputError("labels", f"are a {type(labels).__name__}", "Pass a list or a numpy array")
    return labels


def _checked(label: object) -> Label:
    if isinstance(label, str):
        return str(label)
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        return int(label)
    raise InputError(f"label {label!r}", f"is a {type(label).__name__}", WRONG)
