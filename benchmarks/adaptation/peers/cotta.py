"""CoTTA: an averaged teacher over many views, and weights that fall back to the source.

Settings are those published for CIFAR-10-C in mariodoebler/test-time-adaptation: Adam at 1e-3, one
step a batch, all weights, batch norms on the statistics of each batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.adaptation.peers.base import Peer, Source, copied, use_batch_statistics

KEEP = 0.999
RESTORED = 0.01
VIEWS = 32


class Cotta:
    """Wang et al., CVPR 2022, Algorithm 1. It answers with the teacher.

    confidence: the teacher looks at views when the source model's mean confidence is below
    (supplement): 0.92 for CIFAR-10, 0.72 for CIFAR-100.
    """

    def __init__(self, model: nn.Module, source: Source, learning_rate: float) -> None:
        self.student = copied(model)
        use_batch_statistics(self.student)
        self.teacher = copied(self.student)
        self.anchor = copied(self.student)
        self.student.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=learning_rate)
        self.confidence = 0.92 if source.classes <= 10 else 0.72
        self.augment = source.augment

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """The teacher's logits of the frames as they are."""
        logits: Tensor = self.teacher(frames)
        return logits

    def adapt(self, frames: Tensor) -> Tensor:
        """The teacher's logits from before the step, averaged over the views if there are any."""
        with torch.enable_grad():
            answers: Tensor = self.student(frames)
            targets = self.targets(frames)
            loss = cross_entropy(answers, targets).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        move_towards(self.teacher, self.student, 1 - KEEP)
        restore(self.student, self.anchor, RESTORED)
        return targets

    @torch.no_grad()
    def targets(self, frames: Tensor) -> Tensor:
        """Mean logits of the teacher over views, or those of the frames, as pseudo-labels."""
        certain = self.anchor(frames).softmax(1).amax(1).mean()
        if certain >= self.confidence:
            return self.predict(frames)
        return torch.stack([self.predict(self.augment(frames)) for _ in range(VIEWS)]).mean(0)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each prediction with the prediction that the target logits make, [n]."""
    return -(targets.softmax(1) * logits.log_softmax(1)).sum(1)


@torch.no_grad()
def move_towards(teacher: nn.Module, student: nn.Module, share: float) -> None:
    """Every weight of the teacher moves by this share of the way to the student's."""
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.mul_(1 - share).add_(fast, alpha=share)


@torch.no_grad()
def restore(model: nn.Module, anchor: nn.Module, share: float) -> None:
    """Stochastic restoration: each weight, with this probability, takes the anchor's value."""
    for weight, origin in zip(model.parameters(), anchor.parameters(), strict=True):
        weight.copy_(torch.where(torch.rand(weight.shape) < share, origin, weight))


PEERS: dict[str, Peer] = {"CoTTA": Peer(Cotta, 1e-3, "Wang et al., CVPR 2022")}
