"""Methods on `edgemem.models.prototypes`: ours, and supervised contrast with nearest means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.class_incremental.peers.base import Start, in_batches
from benchmarks.class_incremental.views import crop_and_flip
from edgemem.models.data import Frames
from edgemem.models.prototypes import PrototypeModel, TaskRecipe, learn_task


class Prototypes:
    """PRD as the library has it."""

    def __init__(self, start: Start, recipe: TaskRecipe) -> None:
        """recipe: of losses; its epochs, batches, optimiser and seed are `start`'s."""
        shared = (
            "epochs",
            "batch_size",
            "learning_rate",
            "momentum",
            "weight_decay",
            "rate_at_end",
            "seed",
        )
        self.recipe = replace(recipe, **{name: getattr(start.recipe, name) for name in shared})
        self.classes, self.device = start.classes, start.device
        seed = start.recipe.seed
        self.model = PrototypeModel(start.encoder, start.encoder.size, seed=seed).to(start.device)

    def learn(self, classes: Sequence[int], frames: Frames, labels: NDArray[np.int64]) -> None:
        """`learn_task`."""
        self.model = learn_task(self.model, frames, labels, self.recipe, views=crop_and_flip)

    def scores(self, frames: Frames) -> NDArray[np.float32]:
        """Cosines."""
        found = np.full((len(frames), self.classes), np.nan, np.float32)
        if self.model.tasks:
            found[:, self.model.classes] = in_batches(self.model, frames, self.device)
        return found


class ContrastiveMeans(Prototypes):
    """Supervised contrast alone (Khosla et al., NeurIPS 2020), and the nearest mean of features.

    A class keeps the mean that it had when it was learnt: no sample is stored to compute it again.
    """

    def __init__(self, start: Start) -> None:
        super().__init__(start, TaskRecipe(prototype_weight=0.0, relation_weight=0.0))

    def learn(self, classes: Sequence[int], frames: Frames, labels: NDArray[np.int64]) -> None:
        """Contrast; then the mean of unit features of each class."""
        super().learn(classes, frames, labels)
        features = torch.from_numpy(in_batches(self.model.encoder, frames, self.device))
        features = F.normalize(features, dim=1)
        with torch.no_grad():
            for row, label in enumerate(self.model.tasks[-1]):
                mean = features[torch.from_numpy(labels == label)].mean(0)
                self.model.prototypes[-1][row] = mean.to(self.device)
