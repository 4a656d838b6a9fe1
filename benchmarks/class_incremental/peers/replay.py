"""Peers that store samples in a reservoir: ER and DER."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.class_incremental.peers.base import Batch, Classifier, Start, head_loss
from edgemem.models.data import Frames


class Reservoir:
    """A random sample of all that was offered, every item as likely as another (Vitter 1985).

    An item is a frame, its label, and what else came with it: rows of arrays of any kind.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.offered = 0
        self._rng = np.random.default_rng(seed)
        self._rows: tuple[NDArray[np.generic], ...] = ()

    def __len__(self) -> int:
        return min(self.offered, self.capacity)

    def offer(self, *rows: NDArray[np.generic]) -> None:
        """Items one after another; rows: arrays [n, ...], each time the same ones."""
        if not self._rows:
            self._rows = tuple(np.zeros((self.capacity, *row.shape[1:]), row.dtype) for row in rows)
        for item in range(len(rows[0])):
            place = self.offered if self.offered < self.capacity else self._place()
            self.offered += 1
            if place < self.capacity:
                for held, row in zip(self._rows, rows, strict=True):
                    held[place] = row[item]

    def _place(self) -> int:
        return int(self._rng.integers(self.offered + 1))

    def draw(self, count: int) -> tuple[NDArray[np.generic], ...]:
        """So many different items, or all there are, as rows."""
        index = self._rng.choice(len(self), min(count, len(self)), replace=False)
        return tuple(row[index] for row in self._rows)

    def rows(self) -> tuple[NDArray[np.generic], ...]:
        """All that is held."""
        return tuple(row[: len(self)] for row in self._rows)


class ER(Classifier):
    """Experience replay (Riemer et al., ICLR 2019; as in Buzzega et al., NeurIPS 2020).

    Each batch is joined by as many stored samples, and all classes seen so far compete. Every batch
    is offered to the reservoir, in every epoch.
    """

    def __init__(self, start: Start, capacity: int) -> None:
        super().__init__(start)
        self.memory = Reservoir(capacity, start.recipe.seed)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of new and stored samples."""
        x, labels = batch.x, batch.labels
        if len(self.memory):
            frames, stored = self.memory.draw(len(x))
            x = torch.cat([x, self.augmented(_frames(frames))])
            labels = torch.cat([labels, torch.from_numpy(stored).to(self.device)])
        loss = head_loss(self.network(x), labels, self.seen)
        self.memory.offer(batch.frames, batch.labels.cpu().numpy())
        return loss


class DER(Classifier):
    """Dark experience replay (Buzzega et al., NeurIPS 2020): stored are logits, which are kept.

    weight: alpha, of the squared distance of logits; 0.3 in the paper for this data. All classes
    seen so far compete.
    """

    def __init__(self, start: Start, capacity: int, weight: float) -> None:
        super().__init__(start)
        self.weight = weight
        self.memory = Reservoir(capacity, start.recipe.seed)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of new samples; mean squared error of stored ones' logits."""
        logits = self.network(batch.x)
        loss = head_loss(logits, batch.labels, self.seen)
        if len(self.memory):
            frames, _, stored = self.memory.draw(len(batch.x))
            now = self.network(self.augmented(_frames(frames)))
            loss = loss + self.weight * F.mse_loss(now, torch.from_numpy(stored).to(self.device))
        held = logits.detach().cpu().numpy()
        self.memory.offer(batch.frames, batch.labels.cpu().numpy(), held)
        return loss


def _frames(rows: NDArray[np.generic]) -> Frames:
    return rows.astype(rows.dtype, copy=False)  # type: ignore[return-value]
