"""SAR: entropy of reliable samples, lowered where the loss around the weights is worst.

Settings are those published for CIFAR-10-C in mariodoebler/test-time-adaptation: batches of 200,
one step a batch, learning rate 1e-3. Its configuration says Adam, but its code takes SGD with
momentum 0.9 whatever the configuration says, and so does this.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from benchmarks.adaptation.peers.base import (
    Peer,
    Source,
    batch_norms,
    copied,
    entropies,
    use_batch_statistics,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


class SharpnessAware:
    """Foret et al. ICLR 2021: SGD with the gradient from the worst point within a radius."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], learning_rate: float, radius: float = 0.05
    ) -> None:
        self.parameters = list(parameters)
        self.radius = radius
        self.base = torch.optim.SGD(self.parameters, lr=learning_rate, momentum=0.9)
        self.before: list[Tensor] = []

    def climb(self, loss: Tensor) -> None:
        """Go to the worst point (SAR Eq. 4): a radius along the gradient of the loss."""
        gradients = torch.autograd.grad(loss, self.parameters)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        self.before = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.add_(gradient * (self.radius / (norm + 1e-12)))

    @torch.no_grad()
    def go_back(self) -> None:
        """To where the climb began."""
        for parameter, before in zip(self.parameters, self.before, strict=True):
            parameter.copy_(before)

    def descend(self, loss: Tensor) -> None:
        """From where the climb began, a step along the gradient at the worst point."""
        self.base.zero_grad()
        loss.backward()
        self.go_back()
        self.base.step()


class Sar:
    """Niu et al. ICLR 2023, Eq. 2 to 4 and its model recovery.

    Samples of low entropy only (Eq. 2), chosen again at the worst point; back to the source once
    the running mean of the loss there falls under reset_below. In two places mariodoebler's
    code lets momentum live on, and this does not: a batch without any such sample moves nothing,
    and a reset forgets the momentum too.
    """

    def __init__(
        self, model: nn.Module, source: Source, learning_rate: float, reset_below: float = 0.2
    ) -> None:
        self.model = copied(model)
        use_batch_statistics(self.model)
        self.margin = 0.4 * math.log(source.classes)
        self.reset_below = reset_below
        self.parameters = lower_norm_affine(self.model)
        self.anchors = [parameter.detach().clone() for parameter in self.parameters]
        self.learning_rate = learning_rate
        self.optimizer = SharpnessAware(self.parameters, learning_rate)
        self.mean_loss: float | None = None

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Logits under the statistics of these frames."""
        logits: Tensor = self.model(frames)
        return logits

    def adapt(self, frames: Tensor) -> Tensor:
        """Logits from before the step, then one step and perhaps a reset."""
        with torch.enable_grad():
            logits: Tensor = self.model(frames)
            self._learn(frames, entropies(logits))
        if self.mean_loss is not None and self.mean_loss < self.reset_below:
            self._reset()
        return logits.detach()

    def _learn(self, frames: Tensor, uncertain: Tensor) -> None:
        reliable = uncertain < self.margin
        if not reliable.any():
            return
        self.optimizer.climb(uncertain[reliable].mean())
        at_worst = entropies(self.model(frames))[reliable]
        still = at_worst < self.margin
        if not still.any():
            self.optimizer.go_back()
            return
        loss = at_worst[still].mean()
        self.optimizer.descend(loss)
        now = loss.item()
        self.mean_loss = now if self.mean_loss is None else 0.9 * self.mean_loss + 0.1 * now

    @torch.no_grad()
    def _reset(self) -> None:
        for parameter, anchor in zip(self.parameters, self.anchors, strict=True):
            parameter.copy_(anchor)
        self.optimizer = SharpnessAware(self.parameters, self.learning_rate)
        self.mean_loss = None


def lower_norm_affine(model: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts of batch norms, now trainable; not those of a ResNet's last stage."""
    top = [module for name, module in model.named_modules() if "layer4" in name.split(".")]
    frozen = {id(norm) for module in top for norm in batch_norms(module)}
    norms = [norm for norm in batch_norms(model) if id(norm) not in frozen]
    parameters: list[nn.Parameter] = [p for norm in norms for p in norm.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


PEERS: dict[str, Peer] = {"SAR": Peer(Sar, 1e-3, "Niu et al., ICLR 2023")}
