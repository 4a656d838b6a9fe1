"""What comes beside the frames, as a manifest says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgemem.files.typed_json import Value

FRAMES = "x"  # input of graphs
BESIDE = "in."  # before the names of other inputs
INPUT_DTYPES = ("float32", "int64", "bool")
MOST_DIMENSIONS, MOST_INPUTS = 8, 256


@dataclass(frozen=True)
class InputSpec:
    """An input that comes beside the frames, one array for each frame: a mask, a length, a vector.

    Attributes:
        dtype: one of `INPUT_DTYPES`.
        shape: of what belongs to one frame; () = one value.
        low, high: least and largest value. Whole numbers may be no others; of other inputs these
            say what reference values lie between.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0

    @property
    def tensor(self) -> str:
        """Its name in the graphs."""
        return f"{BESIDE}{self.name}"


def read_ids(frames: Value) -> tuple[int, int] | None:
    """Least and largest token id; None where frames are none."""
    given = frames.object().get("ids")
    if given is None:
        return None
    low, high = (value.count() for value in given.list(2, 2))
    return low, high


def read_inputs(frames: Value) -> tuple[InputSpec, ...]:
    """What comes beside the frames of a manifest; not there where nothing does."""
    given = frames.object().get("inputs")
    return () if given is None else tuple(_input(item) for item in given.list(MOST_INPUTS))


def frames_document(found: dict[str, Any]) -> dict[str, Any]:
    """Fields of frames for a manifest, without those that a bundle of frames alone has not."""
    further = {"ids", "inputs", "sizes"}
    return {name: value for name, value in found.items() if name not in further or value}


def _input(entry: Value) -> InputSpec:
    return InputSpec(
        entry.field("name").text(),
        entry.field("dtype").choice(INPUT_DTYPES),
        tuple(size.count(least=1) for size in entry.field("shape").list(MOST_DIMENSIONS)),
        entry.field("low").single(),
        entry.field("high").single(),
    )
