"""The adaptive model: a frozen model, its meta networks, and one forward pass over both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgemem.models.meta_network import Form, MetaNetwork
from edgemem.models.parts import Part
from edgemem.models.statistics import Settings

Gradient = Literal["full", "meta"]
Statistics = Literal["source", "batch", "mix"] | float
PRIOR_FRAMES = 16  # BN-alpha, Schneider et al. 2020, figure 2: the source counts as N = 16 frames


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation per input channel, applied to frames as `(x - mean) / deviation`."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Attachment:
    """What `attach` was told: enough to attach again to the same model."""

    parts: tuple[str, ...]
    statistics: Statistics
    form: Form
    norm_affine: bool
    normalization: Normalization | None
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Output:
    """What one forward pass gives.

    logits: [n, classes]. key: context key [k]. distances: per meta network, the mean absolute
    difference between its output and the frozen output (R_k of EcoTTA, section 3.2).
    """

    logits: Tensor
    key: Tensor
    distances: tuple[Tensor, ...]


class AdaptiveModel(nn.Module):
    """A frozen model whose parts have meta networks. Made by `attach`.

    The trainable arrays (`named_parameters` that require a gradient) are the block; all of them
    zero, together with source statistics (`alpha=0`), is the frozen model.
    """

    def __init__(
        self,
        frozen: nn.Module,
        settings: Settings,
        attachment: Attachment,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.meta = nn.ModuleDict()
        self.attachment = attachment
        self.warm = False
        self.gradient: Gradient = "full"
        self.settings = settings
        self._distances: list[Tensor] = []
        self._inputs: dict[str, Tensor] = {}

    def add_meta_network(self, part: Part, meta: MetaNetwork) -> None:
        """Let `meta` replace what `part` returns."""
        key = part.name.replace(".", "/")  # module names must not contain dots
        self.meta[key] = meta

        def enter(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            if self.settings.plain:
                return args
            self._inputs[key] = args[0]
            return (args[0].detach(),) if self.gradient == "meta" else args

        def leave(_: nn.Module, __: object, output: Tensor) -> Tensor:
            if self.settings.plain:
                return output
            if self.gradient == "meta":
                output = output.detach()
            replaced: Tensor = meta(self._inputs.pop(key), output)
            difference = (replaced - output.detach()).abs()
            # In two stages: one fp32 sum over millions of values differs between engines.
            self._distances.append(difference.flatten(2).mean(2).mean())
            return replaced

        part.first.register_forward_pre_hook(enter)
        part.last.register_forward_hook(leave)

    def meta_networks(self) -> Iterator[MetaNetwork]:
        """The meta networks in the order they were attached."""
        for meta in self.meta.values():
            assert isinstance(meta, MetaNetwork)
            yield meta

    def alpha(self, frames: int) -> float | None:
        """Weight of the batch's statistics for a batch of so many frames; None = source only."""
        statistics = self.attachment.statistics
        if statistics == "source":
            return None
        if statistics == "mix":
            return frames / (frames + PRIOR_FRAMES)
        return 1.0 if statistics == "batch" else float(statistics)

    def block(self) -> dict[str, Tensor]:
        """The arrays that adapt, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def mark_warm(self) -> None:
        """Declare the meta networks trained and the source moments of their norms known."""
        self.warm = True
        for meta in self.meta_networks():
            meta.output_norm.known = True

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Output:
        """Frames [n, ...] float32 -> Output. alpha: weight of batch statistics; None = source."""
        self.settings.alpha, self.settings.key = alpha, None
        self._distances.clear()
        logits = logits_of(self.frozen(self._normalized(x)))
        distances, key = tuple(self._distances), self.settings.key
        self._distances.clear()
        self.settings.alpha = self.settings.key = None
        return Output(logits, logits.new_zeros(0) if key is None else key, distances)

    def frozen_logits(self, x: Tensor) -> Tensor:
        """What the model that was attached to returns: no meta network, torch's batch norm."""
        self.settings.plain = True
        try:
            return logits_of(self.frozen(self._normalized(x)))
        finally:
            self.settings.plain = False

    def _normalized(self, x: Tensor) -> Tensor:
        normalization = self.attachment.normalization
        if normalization is None:
            return x
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = torch.tensor(normalization.mean, device=x.device).view(shape)
        deviation = torch.tensor(normalization.deviation, device=x.device).view(shape)
        return (x - mean) / deviation


def logits_of(output: object) -> Tensor:
    """Logits of a plain tensor or of an output object of Hugging Face transformers."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        kind = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"the model returns {kind}, not logits [n, classes]")
    return logits
