"""The memory of RoTTA and PeTTA: few frames of every predicted class, recent and certain ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Kept:
    """A frame in memory. entropy: of its prediction, in nats. born: number of frames before it."""

    frame: Tensor
    entropy: float
    born: int


class BalancedMemory:
    """Yuan et al., CVPR 2023: category-balanced sampling with timeliness and uncertainty.

    A frame counts as old as the number of frames offered since, itself included. A class may grow
    while it has fewer than capacity / classes frames.
    """

    def __init__(self, capacity: int, classes: int) -> None:
        self.capacity = capacity
        self.by_class: list[list[Kept]] = [[] for _ in range(classes)]
        self.offered = 0

    def __len__(self) -> int:
        return sum(len(members) for members in self.by_class)

    def add(self, frame: Tensor, label: int, entropy: float) -> bool:
        """Offers a frame with its predicted class; True if it was taken."""
        new = Kept(frame, entropy, self.offered)
        taken = self._make_room(label, self._badness(new))
        if taken:
            self.by_class[label].append(new)
        self.offered += 1
        return taken

    def frames(self) -> Tensor:
        """All frames [n, ...], class by class, oldest first."""
        return torch.stack([kept.frame for members in self.by_class for kept in members])

    def ages(self) -> Tensor:
        """Ages [n] of those frames in units of the capacity."""
        born = [kept.born for members in self.by_class for kept in members]
        return (self.offered - torch.tensor(born)) / self.capacity

    def _make_room(self, label: int, badness: float) -> bool:
        """False if the new frame is worse than all it could replace."""
        if len(self.by_class[label]) >= self.capacity / len(self.by_class):
            return self._evict([label], badness)
        if len(self) < self.capacity:
            return True
        most = max(len(members) for members in self.by_class)
        crowded = [k for k, members in enumerate(self.by_class) if len(members) == most]
        return self._evict(crowded, badness)

    def _evict(self, labels: list[int], badness: float) -> bool:
        """Drops the worst frame of these classes unless the new one is as bad; last among equals.

        A class holds no frame only if the capacity is below the number of classes: then it grows.
        """
        found = [
            (self._badness(kept), label, place)
            for label in labels
            for place, kept in enumerate(self.by_class[label])
        ]
        if not found:
            return True
        worst, label, place = max(found)
        if worst <= badness:
            return False
        del self.by_class[label][place]
        return True

    def _badness(self, kept: Kept) -> float:
        """The heuristic score of the paper: old frames and uncertain ones go first."""
        age = self.offered - kept.born
        certain = kept.entropy / math.log(len(self.by_class))
        return 1 / (1 + math.exp(-age / self.capacity)) + certain
