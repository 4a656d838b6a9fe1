"""PeTTA: RoTTA that senses how far it has drifted, and holds on to the source as much.

Rules of hthieu166/petta with its CIFAR-10 settings. Where paper and code differ, this follows the
code, because the published tables come from it:

- divergence: the paper takes 1 - exp(-distance) for each class, the distance summed over features,
  and averages over classes; the code averages the distance over features and classes first;
- source statistics: of the classes that the source model predicts, not of the labels;
- loss: the default is the symmetric one, of frames and of their views (the paper names both).

The code steps once a call, on batches of 64; here a step comes after every 64 frames, so both agree
on calls of 64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.adaptation.peers.base import Peer, Source, captured_features, copied
from benchmarks.adaptation.peers.cotta import cross_entropy, move_towards
from benchmarks.adaptation.peers.rotta import Rotta

TEACHER_RATE = 0.001
REGULARISATION = 10.0
PROTOTYPE_RATE = 0.05
BATCH = 256


class Petta(Rotta):
    """Hoang et al., NeurIPS 2024, Algorithm 1. It answers with the teacher."""

    def __init__(self, model: nn.Module, source: Source, learning_rate: float) -> None:
        super().__init__(model, source, learning_rate)
        self.anchor = copied(self.student)
        self.origins = [parameter.detach().clone() for parameter in self.parameters]
        self.means, self.variances = source_statistics(self.anchor, source)
        self.prototypes = self.means.clone()
        self.recent: list[tuple[int, Tensor]] = []
        self.divergence = 0.0

    def _take(self, frame: Tensor, label: int, entropy: float, feature: Tensor) -> None:
        super()._take(frame, label, entropy, feature)
        self.recent.append((label, feature))

    def _step(self) -> None:
        """Algorithm 1, lines 5 to 16, with the teacher update of Eq. 3."""
        self.divergence = self._sensed()
        loss = self._loss(self.memory.frames())
        self._update(loss + self.divergence * REGULARISATION * self._regularisation())
        move_towards(self.teacher, self.student, (1 - self.divergence) * TEACHER_RATE)

    def _sensed(self) -> float:
        """The divergence of the prototypes as they were; then these move (lines 5 to 10)."""
        labels = torch.tensor([label for label, _ in self.recent])
        features = torch.stack([feature for _, feature in self.recent])
        self.recent.clear()
        present = labels.unique()
        divergence = divergence_of(
            self.prototypes[present], self.means[present], self.variances[present]
        )
        for label in present:
            mean = features[labels == label].mean(0)
            self.prototypes[label] += PROTOTYPE_RATE * (mean - self.prototypes[label])
        return divergence

    def _loss(self, frames: Tensor) -> Tensor:
        """Self-training on frames and views, and the anchor loss; statistics move."""
        with torch.no_grad():
            targets = self.teacher.train()(frames)
        plain = self.student.train()(frames)
        with torch.no_grad():
            anchored = self.anchor.train()(frames)
        viewed = self.student(self.augment(frames))
        terms = [cross_entropy(logits, targets) for logits in (plain, viewed)]
        terms += [cross_entropy(targets, logits) for logits in (plain, viewed)]
        return torch.stack(terms).mean() + cross_entropy(viewed, anchored).mean()

    def _regularisation(self) -> Tensor:
        """Minus the mean cosine between the norms' parameters and the source's, R."""
        pairs = zip(self.parameters, self.origins, strict=True)
        return -torch.stack([functional.cosine_similarity(p, o, 0) for p, o in pairs]).mean()


def divergence_of(prototypes: Tensor, means: Tensor, variances: Tensor) -> float:
    """How far prototypes [k, d] of the predicted classes are from the source: 0 to 1."""
    distance = ((prototypes - means).square() / (variances + 1e-6)).mean()
    return 1 - (-distance).exp().item()


@torch.no_grad()
def source_statistics(model: nn.Module, source: Source) -> tuple[Tensor, Tensor]:
    """Mean and variance of the features of each predicted class, both [classes, d].

    A class with fewer than two frames takes those of all frames.
    """
    with captured_features(model) as seen:
        logits = torch.cat([model(frames) for frames in source.frames.split(BATCH)])
    features, labels = torch.cat(seen), logits.argmax(1)
    means, variances = [], []
    for k in range(source.classes):
        own = features[labels == k]
        own = own if len(own) > 1 else features
        means.append(own.mean(0))
        variances.append(own.var(0))
    return torch.stack(means), torch.stack(variances)


PEERS: dict[str, Peer] = {"PeTTA": Peer(Petta, 1e-3, "Hoang et al., NeurIPS 2024")}
