"""EcoTTA: meta networks beside the parts of a frozen model.

Song et al., CVPR 2023, Section 3 and Algorithm 1, in the form of the community's code
(Lily-Le/EcoTTA; there is none of the authors), with its settings: SGD at 5e-3 with momentum 0.9,
two forward passes and two steps a batch. All batch norms, frozen ones too, use the statistics of
each batch. Where a batch has no reliable prediction the entropy step is skipped; the code there
steps with a zero gradient, so momentum moves the weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.adaptation.peers.base import Peer, Source, copied, entropies, use_batch_statistics
from edgemem.models.adaptive.parts import Part, find_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.adaptation.peers.base import Augment

LEARNING_RATE = 5e-3
MOMENTUM = 0.9
REGULARISATION = 0.25
MARGIN = 0.4
DECAY = 0.2

Shape = torch.Size


class MetaNetwork(nn.Module):
    """Figure 3: u = BN(x) + ReLU(BN'(Conv3x3(u_in))) for a part's output x and input u_in."""

    def __init__(self, entering: Shape, leaving: Shape) -> None:
        super().__init__()
        flat = len(entering) == 3
        convolution, norm = (nn.Conv1d, nn.BatchNorm1d) if flat else (nn.Conv2d, nn.BatchNorm2d)
        stride = tuple(i // o for i, o in zip(entering[2:], leaving[2:], strict=True))
        self.norm = norm(leaving[1])
        self.conv = convolution(entering[1], leaving[1], 3, stride, 1, bias=False)
        self.conv_norm = norm(leaving[1])

    def forward(self, entering: Tensor, leaving: Tensor) -> Tensor:
        """What the next part gets."""
        adapted: Tensor = self.norm(leaving)
        return adapted + functional.relu(self.conv_norm(self.conv(entering)))


class MetaPart:
    """A part of a model with its meta network; its hooks put u in place of x.

    While `alone` is set, no gradient enters from other parts and `distance` is the mean absolute
    difference of u and x.
    """

    def __init__(self, part: Part, meta: MetaNetwork) -> None:
        self.meta = meta
        self.alone = False
        self.entering = self.distance = torch.empty(0)
        part.first.register_forward_pre_hook(self._enter)
        part.last.register_forward_hook(self._leave)

    def _enter(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.entering = inputs[0].detach() if self.alone else inputs[0]
        return (self.entering, *inputs[1:])

    def _leave(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        adapted: Tensor = self.meta(self.entering, output)
        if self.alone:
            self.distance = (adapted - output.detach()).abs().mean()
        return adapted


class MetaModel:
    """A frozen copy of a model with a meta network beside each of the named parts.

    parts: as in `edgemem.models.adaptive.parts`, one after the other. frames: two or more, for the
    shapes.
    """

    def __init__(self, model: nn.Module, parts: Sequence[str], frames: Tensor) -> None:
        self.model = copied(model)
        use_batch_statistics(self.model)
        found = [find_part(self.model, name) for name in parts]
        shapes = shapes_of(self.model, found, frames)
        self.metas = nn.ModuleList(MetaNetwork(*shape) for shape in shapes)
        use_batch_statistics(self.metas)
        self.parts = [
            MetaPart(part, meta)
            for part, meta in zip(found, self.metas, strict=True)
            if isinstance(meta, MetaNetwork)
        ]

    def __call__(self, frames: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.model(frames)
        return logits

    def distances(self, frames: Tensor) -> Tensor:
        """Sum over parts of their mean absolute difference from the frozen outputs."""
        for part in self.parts:
            part.alone = True
        self(frames)
        for part in self.parts:
            part.alone = False
        return torch.stack([part.distance for part in self.parts]).sum()


@torch.no_grad()
def shapes_of(model: nn.Module, parts: Sequence[Part], frames: Tensor) -> list[tuple[Shape, Shape]]:
    """Shapes of what enters and leaves each part."""
    entering, leaving, handles = {}, {}, []
    for part in parts:

        def enter(_: nn.Module, inputs: tuple[Tensor, ...], name: str = part.name) -> None:
            entering[name] = inputs[0].shape

        def leave(_: nn.Module, inputs: object, output: Tensor, name: str = part.name) -> None:
            leaving[name] = output.shape

        handles += [
            part.first.register_forward_pre_hook(enter),
            part.last.register_forward_hook(leave),
        ]
    model(frames)
    for handle in handles:
        handle.remove()
    return [(entering[part.name], leaving[part.name]) for part in parts]


class EcoTta:
    """Algorithm 1. It answers between the two steps, as in the community's code."""

    def __init__(self, model: MetaModel, classes: int, learning_rate: float) -> None:
        self.model = model
        self.margin = MARGIN * math.log(classes)
        parameters = model.metas.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=MOMENTUM)

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Logits under the statistics of these frames."""
        return self.model(frames)

    def adapt(self, frames: Tensor) -> Tensor:
        """A step of the regulariser, the answer, a step of the entropy of reliable predictions."""
        with torch.enable_grad():
            self._step(REGULARISATION * self.model.distances(frames))
            logits = self.model(frames)
            uncertain = entropies(logits)
            reliable = uncertain < self.margin
            if reliable.any():
                self._step(uncertain[reliable].mean())
        return logits.detach()

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def make_ecotta(
    model: nn.Module,
    source: Source,
    learning_rate: float,
    parts: Sequence[str],
    warmed: dict[str, Tensor] | None = None,
) -> EcoTta:
    """The method with meta networks at these parts; warmed: what `warm_up` gave."""
    adapted = MetaModel(model, parts, source.frames[:2])
    if warmed is not None:
        adapted.metas.load_state_dict(warmed)
    return EcoTta(adapted, source.classes, learning_rate)


def warm_up(
    model: nn.Module,
    source: Source,
    parts: Sequence[str],
    *,
    epochs: int = 10,
    batch: int = 64,
    learning_rate: float = 0.05,
    milestones: Sequence[int] = (3, 6, 8),
    view: Augment | None = None,
) -> dict[str, Tensor]:
    """Meta networks trained on source frames by cross-entropy, before deployment.

    The rate rises in the first epoch and falls to a fifth at the start of each milestone, epochs
    counted from one. view: random view of a batch; `augment.warm_up_view` as published.
    """
    warmed = MetaModel(model, parts, source.frames[:2])
    optimizer = torch.optim.SGD(warmed.metas.parameters(), lr=learning_rate, momentum=MOMENTUM)
    for epoch in range(1, epochs + 1):
        batches = torch.randperm(len(source.frames)).split(batch)
        for k, chosen in enumerate(batches):
            ramp = k / len(batches) if epoch == 1 else 1.0
            rate = learning_rate * ramp * DECAY ** sum(epoch >= m for m in milestones)
            optimizer.param_groups[0]["lr"] = rate
            frames = source.frames[chosen]
            logits = warmed(view(frames) if view else frames)
            optimizer.zero_grad()
            functional.cross_entropy(logits, source.labels[chosen]).backward()
            optimizer.step()
    return warmed.metas.state_dict()


def _from_source(model: nn.Module, source: Source, learning_rate: float) -> EcoTta:
    return make_ecotta(model, source, learning_rate, source.parts, source.warmed)


PEERS: dict[str, Peer] = {
    "EcoTTA": Peer(_from_source, LEARNING_RATE, "Song et al., CVPR 2023"),
}
