"""Methods without gradients: LAME corrects a batch's answers, T3A the classifier.

Both leave the model as it was, and its norms on the source's statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from benchmarks.adaptation.peers.base import (
    Peer,
    Source,
    captured_features,
    classifier,
    copied,
    entropies,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class Lame:
    """Boudiaf et al. CVPR 2022, Algorithm 1: neighbours in a batch should be answered alike.

    The kernel is mariodoebler/test-time-adaptation's for CIFAR: a Gaussian as wide as the mean
    distance to the 5th nearest feature, the sample itself counted. The answer is the logarithm of
    the corrected probabilities.
    """

    def __init__(self, model: nn.Module, neighbours: int = 5, rounds: int = 100) -> None:
        self.model = copied(model)
        self.neighbours = neighbours
        self.rounds = rounds

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Corrected log-probabilities of a batch."""
        logits, features = logits_and_features(self.model, frames)
        kernel = gaussian_kernel(functional.normalize(features, dim=1), self.neighbours)
        return corrected_answers((logits.softmax(1) + 1e-10).log(), kernel, self.rounds)

    def adapt(self, frames: Tensor) -> Tensor:
        """The same answer: nothing is learnt."""
        return self.predict(frames)


class T3A:
    """Iwasawa and Matsuo NeurIPS 2021: rows of the classifier become means of confident features.

    As in mr-eggplant/FOA's code (tta_library/t3a.py): the 20 supports of lowest entropy a class,
    labelled by the model's own classifier; a prototype is the unit sum of unit supports, no bias.
    """

    def __init__(self, model: nn.Module, keep: int = 20) -> None:
        self.model = copied(model)
        self.keep = keep
        head = classifier(self.model)
        self.classes = head.out_features
        self.supports = torch.empty_like(head.weight[:0])
        self.labels = torch.empty(0, dtype=torch.int64, device=head.weight.device)
        self.uncertain = torch.empty_like(head.weight[:0, 0])
        with torch.no_grad():
            self._add(head.weight, head(head.weight))

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Products of the features and the prototypes."""
        _, features = logits_and_features(self.model, frames)
        return features @ self._prototypes()

    @torch.no_grad()
    def adapt(self, frames: Tensor) -> Tensor:
        """Takes the frames among the supports, then answers."""
        logits, features = logits_and_features(self.model, frames)
        self._add(features, logits)
        return features @ self._prototypes()

    def _add(self, features: Tensor, logits: Tensor) -> None:
        """Supports join; the most certain of each class stay."""
        supports = torch.cat([self.supports, features])
        labels = torch.cat([self.labels, logits.argmax(1)])
        uncertain = torch.cat([self.uncertain, entropies(logits)])
        order = uncertain.argsort(stable=True)
        chosen = [order[labels[order] == label][: self.keep] for label in range(self.classes)]
        stay = torch.cat(chosen)
        self.supports, self.labels = supports[stay], labels[stay]
        self.uncertain = uncertain[stay]

    def _prototypes(self) -> Tensor:
        """One column a class, of length 1; 0 for a class without any support."""
        units = functional.normalize(self.supports, dim=1)
        members = functional.one_hot(self.labels, self.classes).to(units.dtype)
        return functional.normalize(units.T @ members, dim=0)


def logits_and_features(model: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor]:
    """What the model answers, and what entered its classifier."""
    with captured_features(model) as seen:
        logits = model(frames)
    return logits, seen[-1]


def gaussian_kernel(features: Tensor, neighbours: int) -> Tensor:
    """Likeness [n, n] of features [n, k]; 1 on the diagonal."""
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(min(neighbours, len(features)), largest=False).values
    width = nearest[:, -1].mean().clamp_min(1e-6)
    return (-distances.square() / (2 * width.square())).exp()


def corrected_answers(log_p: Tensor, kernel: Tensor, rounds: int) -> Tensor:
    """Log-probabilities [n, classes] after Y = softmax(log p + K Y), round by round.

    Until the energy changes by 1e-8 of itself or less, not before the third round.
    """
    answers = log_p.log_softmax(1)
    before = float("inf")
    for number in range(rounds):
        pull = kernel @ answers.exp()
        answers = (log_p + pull).log_softmax(1)
        energy = (answers.exp() * (answers - log_p - pull)).sum().item()
        if number > 1 and abs(energy - before) <= 1e-8 * abs(before):
            break
        before = energy
    return answers


def _lame(model: nn.Module, source: Source, learning_rate: float) -> Lame:
    return Lame(model)


def _t3a(model: nn.Module, source: Source, learning_rate: float) -> T3A:
    return T3A(model)


PEERS: dict[str, Peer] = {
    "LAME": Peer(_lame, 0.0, "Boudiaf et al., CVPR 2022"),
    "T3A": Peer(_t3a, 0.0, "Iwasawa and Matsuo, NeurIPS 2021"),
}
