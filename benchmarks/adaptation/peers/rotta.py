"""RoTTA: slow statistics, a balanced memory and a slow teacher.

Settings are those of the paper, as in mariodoebler/test-time-adaptation: Adam at 1e-3 on scales
and shifts of the batch norms. The step there raises TypeError without mixed precision; the rule
does not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.adaptation.peers.balanced_memory import BalancedMemory
from benchmarks.adaptation.peers.base import (
    Peer,
    Source,
    captured_features,
    copied,
    entropies,
)
from benchmarks.adaptation.peers.cotta import cross_entropy, move_towards

CAPACITY = 64
EVERY = 64
TEACHER_RATE = 0.001
STATISTICS_RATE = 0.05


class RobustNorm(nn.Module):
    """Robust batch normalisation: its statistics move slowly to those of training batches.

    In train mode a batch is normalised by the moved statistics, and gradients go through the
    batch's share of them. For [n, c], [n, c, t] and [n, c, h, w].
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        self.register_buffer("mean", norm.running_mean.clone())
        self.register_buffer("variance", norm.running_var.clone())
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone())
        self.eps = norm.eps

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values; in train mode the statistics have moved first."""
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        if self.training:
            axes = [axis for axis in range(values.ndim) if axis != 1]
            batch_variance, batch_mean = torch.var_mean(values, axes, unbiased=False)
            mean = (1 - STATISTICS_RATE) * mean + STATISTICS_RATE * batch_mean
            variance = (1 - STATISTICS_RATE) * variance + STATISTICS_RATE * batch_variance
            self.mean, self.variance = mean.detach(), variance.detach()
        shape = [1, -1] + [1] * (values.ndim - 2)
        scaled = (values - mean.view(shape)) / (variance.view(shape) + self.eps).sqrt()
        return scaled * self.weight.view(shape) + self.bias.view(shape)


def use_robust_norms(model: nn.Module) -> None:
    """Replaces all batch norms; their scales and shifts are trainable."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, RobustNorm(child).train(child.training))


class Rotta:
    """Yuan et al., CVPR 2023. It answers with the teacher.

    One step for every 64 frames, whatever the size of the calls: frames of a call that come after
    a step keep the prediction that the call made before it.
    """

    def __init__(self, model: nn.Module, source: Source, learning_rate: float) -> None:
        self.student = copied(model)
        use_robust_norms(self.student)
        self.teacher = copied(self.student)
        self.parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.memory = BalancedMemory(CAPACITY, source.classes)
        self.augment = source.augment
        self.steps = 0

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """The teacher's logits under its own statistics."""
        logits: Tensor = self.teacher.eval()(frames)
        return logits

    def adapt(self, frames: Tensor) -> Tensor:
        """The teacher's logits from before any step of this call."""
        with captured_features(self.teacher) as seen:
            logits = self.predict(frames)
        labels, uncertain = logits.argmax(1).tolist(), entropies(logits).tolist()
        for k, frame in enumerate(frames):
            self._take(frame, labels[k], uncertain[k], seen[0][k])
            if self.memory.offered % EVERY == 0:
                with torch.enable_grad():
                    self._step()
                self.steps += 1
        return logits

    def _take(self, frame: Tensor, label: int, entropy: float, feature: Tensor) -> None:
        self.memory.add(frame.clone(), label, entropy)

    def _step(self) -> None:
        """Robust training with timeliness: to the teacher on strong views, recent frames first."""
        frames, ages = self.memory.frames(), self.memory.ages()
        with torch.no_grad():
            targets = self.teacher.train()(frames)
        logits = self.student.train()(self.augment(frames))
        self._update((cross_entropy(logits, targets) * torch.sigmoid(-ages)).mean())
        move_towards(self.teacher, self.student, TEACHER_RATE)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


PEERS: dict[str, Peer] = {"RoTTA": Peer(Rotta, 1e-3, "Yuan et al., CVPR 2023")}
