"""Methods that lower the entropy of their predictions: Tent, ETA, EATA and RDumb.

Settings are those published for CIFAR-10-C in mariodoebler/test-time-adaptation: batches of 200,
one step a batch, Adam at 1e-3 (0.9, 0.999, no weight decay) on scales and shifts of the batch
norms, which use the statistics of each batch. The answer is the one from before the step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from benchmarks.adaptation.peers.base import (
    Peer,
    Source,
    copied,
    entropies,
    norm_affine,
    use_batch_statistics,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

FISHER_FRAMES = 2000
FISHER_BATCH = 200


class Tent:
    """Wang et al. ICLR 2021, Section 3: lower the mean entropy by scales and shifts of norms."""

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self.model = copied(model)
        use_batch_statistics(self.model)
        self.parameters = norm_affine(self.model)
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Logits under the statistics of these frames."""
        logits: Tensor = self.model(frames)
        return logits

    def adapt(self, frames: Tensor) -> Tensor:
        """Logits from before the step, then one step."""
        with torch.enable_grad():
            logits: Tensor = self.model(frames)
            loss = self.loss(logits)
        if loss is not None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return logits.detach()

    def loss(self, logits: Tensor) -> Tensor | None:
        """What a step lowers; None: there is nothing to learn from."""
        return entropies(logits).mean()


class Eta(Tent):
    """Niu et al. ICML 2022, Eq. 2 to 6: entropy of reliable and non-redundant samples, weighted.

    similarity: how like the mean prediction a sample may be (d in Eq. 5), as absolute cosine.
    """

    def __init__(
        self, model: nn.Module, learning_rate: float, classes: int, similarity: float = 0.4
    ) -> None:
        super().__init__(model, learning_rate)
        self.margin = 0.4 * math.log(classes)
        self.similarity = similarity
        self.mean_prediction: Tensor | None = None

    def loss(self, logits: Tensor) -> Tensor | None:
        """Weighted mean entropy of the samples that were kept; the mean prediction moves on."""
        uncertain = entropies(logits)
        kept = self._kept(logits.detach(), uncertain.detach())
        if not kept.any():
            return None
        self._remember(logits.detach()[kept].softmax(1).mean(0))
        chosen = uncertain[kept]
        weights = (self.margin - chosen.detach()).exp()
        return (weights * chosen).mean()

    def _kept(self, logits: Tensor, uncertain: Tensor) -> Tensor:
        reliable = uncertain < self.margin
        if self.mean_prediction is None:
            return reliable
        likeness = functional.cosine_similarity(self.mean_prediction[None], logits.softmax(1))
        return reliable & (likeness.abs() < self.similarity)

    def _remember(self, prediction: Tensor) -> None:
        if self.mean_prediction is None:
            self.mean_prediction = prediction
        else:
            self.mean_prediction = 0.9 * self.mean_prediction + 0.1 * prediction


class Eata(Eta):
    """Niu et al. ICML 2022, Eq. 8 and 9: ETA, and weights that mattered at the source stay there.

    strength: weight of that term (beta in Eq. 8), 1 in both CIFAR settings.
    """

    def __init__(
        self, model: nn.Module, source: Source, learning_rate: float, strength: float = 1.0
    ) -> None:
        super().__init__(model, learning_rate, source.classes, published_similarity(source))
        self.strength = strength
        self.anchors = [parameter.detach().clone() for parameter in self.parameters]
        self.fisher = fisher_diagonal(self.model, source.frames, self.parameters)

    def loss(self, logits: Tensor) -> Tensor | None:
        """ETA's loss plus the distance from the source, weighted by the Fisher information."""
        loss = super().loss(logits)
        if loss is None:
            return None
        terms = zip(self.fisher, self.parameters, self.anchors, strict=True)
        for importance, parameter, anchor in terms:
            loss = loss + self.strength * (importance * (parameter - anchor).square()).sum()
        return loss


class RDumb(Eta):
    """Press et al. NeurIPS 2023: ETA, all of it back to the source every so many batches.

    every: batches between resets, 1,000 as published (PeTTA's tables reset every 1,000 images).
    Batches without a step count too, as in the authors' code.
    """

    def __init__(
        self, model: nn.Module, learning_rate: float, classes: int, every: int = 1000
    ) -> None:
        super().__init__(model, learning_rate, classes)
        self.every = every
        self.batches = 0
        self.anchors = [parameter.detach().clone() for parameter in self.parameters]

    def adapt(self, frames: Tensor) -> Tensor:
        """ETA's answer and step, then perhaps a reset."""
        logits = super().adapt(frames)
        self.batches += 1
        if self.batches % self.every == 0:
            self._reset()
        return logits

    @torch.no_grad()
    def _reset(self) -> None:
        for parameter, anchor in zip(self.parameters, self.anchors, strict=True):
            parameter.copy_(anchor)
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.learning_rate)
        self.mean_prediction = None


def fisher_diagonal(model: nn.Module, frames: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Niu et al. ICML 2022, Eq. 9: mean squared gradient, the model's own answer as label.

    The square is that of a batch's gradient, as in the authors' code, not of each sample's, on up
    to 2,000 frames drawn at random in batches of 200.
    """
    batches = torch.randperm(len(frames))[:FISHER_FRAMES].split(FISHER_BATCH)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        with torch.enable_grad():
            logits = model(frames[batch])
            loss = functional.cross_entropy(logits, logits.argmax(1))
        gradients = torch.autograd.grad(loss, list(parameters))
        total = [t + gradient.square() for t, gradient in zip(total, gradients, strict=True)]
    return [t / len(batches) for t in total]


def published_similarity(source: Source) -> float:
    """ETA's and EATA's likeness limit: 0.4 for CIFAR-10, 0.1 for CIFAR-100."""
    return 0.4 if source.classes <= 10 else 0.1


def _tent(model: nn.Module, source: Source, learning_rate: float) -> Tent:
    return Tent(model, learning_rate)


def _eta(model: nn.Module, source: Source, learning_rate: float) -> Eta:
    return Eta(model, learning_rate, source.classes, published_similarity(source))


def _eata(model: nn.Module, source: Source, learning_rate: float) -> Eata:
    return Eata(model, source, learning_rate)


def _rdumb(model: nn.Module, source: Source, learning_rate: float) -> RDumb:
    return RDumb(model, learning_rate, source.classes)


PEERS: dict[str, Peer] = {
    "Tent": Peer(_tent, 1e-3, "Wang et al., ICLR 2021"),
    "ETA": Peer(_eta, 1e-3, "Niu et al., ICML 2022"),
    "EATA": Peer(_eata, 1e-3, "Niu et al., ICML 2022"),
    "RDumb": Peer(_rdumb, 1e-3, "Press et al., NeurIPS 2023"),
}
