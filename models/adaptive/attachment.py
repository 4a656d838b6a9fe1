"""What `attach` is told of a model, and the choices that a step has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgemem.models.adaptive.meta_network import Form
from edgemem.models.adaptive.outputs import Outputs

Gradient = Literal["full", "meta"]
Learn = Literal["all", "norms"]
Statistics = Literal["source", "batch", "mix", "remembered"] | float
REMEMBERED_ALPHA = 0.8
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
    """What `attach` was told: enough to attach again to the same model."""

    parts: tuple[str, ...]
    statistics: Statistics
    form: Form
    norm_affine: bool
    normalization: Normalization | None
    input_shape: tuple[int, ...]
    outputs: Outputs = "logits"

    def alpha(self, frames: int) -> float | None:
        """Weight of the batch's statistics for a batch of so many frames; None = source only."""
        if self.statistics == "source":
            return None
        if self.statistics == "remembered":
            return REMEMBERED_ALPHA
        if self.statistics == "mix":
            return frames / (frames + PRIOR_FRAMES)
        return 1.0 if self.statistics == "batch" else float(self.statistics)
