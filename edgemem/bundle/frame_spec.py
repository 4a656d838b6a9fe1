"""The frames that a bundle takes, and the sizes that it has graphs for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgemem.bundle.further_input import InputSpec


@dataclass(frozen=True)
class FrameSize:
    """Another size of frames, with graphs for it; all else of a bundle is the same.

    Attributes:
        shape: of one frame.
        graphs: name -> file, as `Manifest.graphs`.
        reference: file with outputs that every device must reproduce.
        outputs: shape of what each output of a task says of one frame, in their order.
    """

    shape: tuple[int, ...]
    graphs: dict[str, str]
    reference: str
    outputs: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class FrameSpec:
    """The frames a bundle takes: [n, *shape] float32, or uint8 to be divided by `uint8_scale`.

    Or int64, where frames are token ids.

    Attributes:
        batch: frames in one adaptation step.
        companions: whether the prediction of a frame depends on the frames beside it (batch
            statistics), so that short calls are filled with recent frames.
        known_companions: how many are enough once the block remembers its context.
        source_range: what values of source frames lie between, lowest and highest of each channel;
            None = not known.
        ids: least and largest number of frames that are token ids; None = they are float32.
        inputs: what comes beside the frames, in order.
        sizes: that frames may have, too; all frames of one call have one size.
    """

    shape: tuple[int, ...]
    batch: int
    companions: bool
    known_companions: int
    uint8_scale: float = 255.0
    source_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    ids: tuple[int, int] | None = None
    inputs: tuple[InputSpec, ...] = ()
    sizes: tuple[FrameSize, ...] = ()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """All shapes that a frame may have, its first one first."""
        return (self.shape, *(size.shape for size in self.sizes))

    @property
    def shown(self) -> str:
        """These shapes for n frames, for people."""
        each = (f"[{', '.join(('n', *map(str, shape)))}]" for shape in self.shapes)
        return " or ".join(each)

    @property
    def dtype(self) -> str:
        """Of the frames, as graphs take them."""
        return "float32" if self.ids is None else "int64"

    @property
    def values(self) -> int:
        """Of one frame of the first shape and what comes beside it."""
        return math.prod(self.shape) + sum(math.prod(given.shape) for given in self.inputs)
