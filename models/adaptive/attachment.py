"""What `attach` is told of a model, and the choices that a step has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import InputSpec
from edgemem.bundle.manifest import OutputSpec
from edgemem.bundle.reference_frames import reference_frames
from edgemem.errors import AttachError
from edgemem.models.adaptive.meta_network import Form
from edgemem.models.adaptive.outputs import Outputs
from edgemem.models.tasks.task_outputs import Scale, Task
from edgemem.models.tensor_rows import Frames, frames_of, of_array, with_frames

Gradient = Literal["full", "meta"]
Learn = Literal["all", "norms"]
Statistics = Literal["source", "batch", "mix", "remembered"] | float
REMEMBERED_ALPHA = 0.8
SMALL = 0.1  # outputs that are no logits may be small throughout
PRIOR_FRAMES = 16  # BN-alpha, Schneider et al. 2020, figure 2: the source counts as N = 16 frames


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation per input channel, applied to frames as `(x - mean) / deviation`."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def applied(self, x: Tensor) -> Tensor:
        """Frames [n, channels, ...], normalised."""
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = torch.tensor(self.mean, device=x.device).view(shape)
        deviation = torch.tensor(self.deviation, device=x.device).view(shape)
        return (x - mean) / deviation


@dataclass(frozen=True)
class Attachment:
    """What `attach` was told: enough to attach again to the same model.

    measured: whether the norms have the moments of source frames, see `measure_source`.
    remembered_alpha: weight of what is remembered, with statistics "remembered".
    ids: least and largest token id; None = frames are float32.
    inputs: what comes beside the frames.
    """

    parts: tuple[str, ...]
    statistics: Statistics
    form: Form
    norm_affine: bool
    normalization: Normalization | None
    input_shape: tuple[int, ...]
    outputs: Outputs = "logits"
    sites: tuple[str, ...] = ()
    measured: bool = False
    remembered_alpha: float = REMEMBERED_ALPHA
    task: Task = "classes"
    named: tuple[OutputSpec, ...] = ()  # of other tasks than classes
    ids: tuple[int, int] | None = None
    inputs: tuple[InputSpec, ...] = ()

    def normalized(self, given: Frames) -> Frames:
        """Frames as the model takes them; what comes beside them as it is."""
        if self.normalization is None:
            return given
        return with_frames(given, self.normalization.applied(frames_of(given)))

    @property
    def plain(self) -> bool:
        """Whether float32 frames are all that the model takes."""
        return self.ids is None and not self.inputs

    def example(self, frames: int) -> Frames:
        """So many frames of no meaning, with what belongs to them."""
        if self.plain:
            return torch.zeros(frames, *self.input_shape)
        spec = FrameSpec(self.input_shape, frames, False, 0, ids=self.ids, inputs=self.inputs)
        return of_array(reference_frames(spec))

    @property
    def scale(self) -> Scale:
        """Of an output with classes at every position."""
        return "probabilities" if self.outputs == "probabilities" else "logits"

    @property
    def floor(self) -> float:
        """Differences of outputs whose largest value is smaller count in this unit."""
        return 1.0 if self.task == "classes" else SMALL

    def alpha(self, frames: int) -> float | None:
        """Weight of the batch's statistics for a batch of so many frames; None = source only."""
        if self.statistics == "source":
            return None
        if self.statistics == "remembered":
            return self.remembered_alpha
        if self.statistics == "mix":
            return frames / (frames + PRIOR_FRAMES)
        return 1.0 if self.statistics == "batch" else float(self.statistics)


def check_statistics(statistics: Statistics) -> None:
    """Refuse what is no choice of statistics; raises AttachError."""
    if statistics in ("source", "batch", "mix", "remembered"):
        return
    if not isinstance(statistics, (int, float)) or not 0.0 <= statistics <= 1.0:
        raise AttachError(
            f"statistics {statistics!r}",
            "is not a known choice",
            "Use 'source', 'batch', 'mix', 'remembered' or a weight between 0 and 1",
        )
