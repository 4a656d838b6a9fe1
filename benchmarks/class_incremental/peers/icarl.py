"""iCaRL (Rebuffi et al., CVPR 2017): stored exemplars, distillation, nearest mean of exemplars."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.class_incremental.peers.base import Batch, Classifier, Start, in_batches
from edgemem.models.data import Frames


class ICaRL(Classifier):
    """capacity: exemplars of all classes together."""

    def __init__(self, start: Start, capacity: int) -> None:
        super().__init__(start)
        self.capacity, self.classes = capacity, start.classes
        self.teacher: nn.Module | None = None
        self.exemplars: dict[int, Frames] = {}

    def learn(self, classes: Sequence[int], frames: Frames, labels: NDArray[np.int64]) -> None:
        """From the task's frames and the exemplars together (algorithm 3)."""
        stored = [(held, np.full(len(held), k)) for k, held in self.exemplars.items()]
        parts = zip((frames, labels), *stored, strict=True)
        super().learn(classes, *(np.concatenate(part) for part in parts))

    def before(self, frames: Frames, labels: NDArray[np.int64]) -> None:
        """The network so far is the teacher; the first task has none."""
        if len(self.tasks) > 1:
            self.teacher = copy.deepcopy(self.network).eval().requires_grad_(False)

    def loss(self, batch: Batch) -> Tensor:
        """Sigmoid cross-entropy: labels of new classes, the teacher's answers for old ones."""
        logits = self.network(batch.x)
        columns = torch.arange(self.classes, device=self.device)
        targets = (batch.labels[:, None] == columns).float()
        if self.teacher is not None:
            old = self.seen[: -len(self.tasks[-1])]
            with torch.no_grad():
                targets[:, old] = torch.sigmoid(self.teacher(batch.x)[:, old])
        seen = self.seen
        terms = F.binary_cross_entropy_with_logits(
            logits[:, seen], targets[:, seen], reduction="none"
        )
        return terms.sum(1).mean()

    def after(self, frames: Frames, labels: NDArray[np.int64]) -> None:
        """Shorten the lists of old classes, and herd new ones (algorithms 4 and 5)."""
        each = self.capacity // len(self.seen)
        self.exemplars = {k: held[:each] for k, held in self.exemplars.items()}
        for label in self.tasks[-1]:
            own = frames[labels == label]
            self.exemplars[label] = own[herd(self._features(own), each)]

    def scores(self, frames: Frames) -> NDArray[np.float32]:
        """Cosines of features and means of exemplars; without exemplars NaN."""
        found = np.full((len(frames), self.classes), np.nan, np.float32)
        if self.exemplars:
            features = self._features(frames)
            for label, held in self.exemplars.items():
                mean = self._features(held).mean(0)
                found[:, label] = features @ (mean / np.linalg.norm(mean))
        return found

    def _features(self, frames: Frames) -> NDArray[np.float32]:
        return unit(in_batches(self.encoder, frames, self.device))


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [n, size] of length 1; zeros stay zeros."""
    lengths: NDArray[np.float32] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def herd(features: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of exemplars in order: each draws the chosen ones' mean next to that of all."""
    mean, chosen, total = features.mean(0), [], np.zeros_like(features[0])
    left = np.ones(len(features), np.bool_)
    for number in range(1, min(count, len(features)) + 1):
        distances = np.linalg.norm(mean - (total + features) / number, axis=1)
        best = int(np.where(left, distances, np.inf).argmin())
        left[best] = False
        total = total + features[best]
        chosen.append(best)
    return np.asarray(chosen, np.int64)
