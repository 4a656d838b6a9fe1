"""What a method is to the benchmark, and the training that peers with a linear head share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from benchmarks.class_incremental.network import Encoder
from benchmarks.class_incremental.views import crop_and_flip
from edgemem.models.data import Frames, to_float
from edgemem.models.prototypes import TaskRecipe
from edgemem.models.prototypes.model import evaluating

EVALUATION_BATCH = 256


class Learner(Protocol):
    """Learns one task after another."""

    def learn(self, classes: Sequence[int], frames: Frames, labels: NDArray[np.int64]) -> None:
        """Take up a task's classes from its frames [n, ...] and labels [n]."""

    def scores(self, frames: Frames) -> NDArray[np.float32]:
        """[n, classes of the data set]: the larger, the likelier; NaN: no score."""


@dataclass(frozen=True)
class Start:
    """What every method of a run starts from.

    encoder: may be changed. classes: of the data set. recipe: epochs, batch size, optimiser and
    seed, for all methods the same. device: where to train.
    """

    encoder: Encoder
    classes: int
    recipe: TaskRecipe
    device: torch.device


class Batch(NamedTuple):
    """Augmented frames [n, ...] float32, the frames themselves [n, ...], and labels [n]."""

    x: Tensor
    frames: Frames
    labels: Tensor


class Diverged(ArithmeticError):
    """A loss became infinite or no number."""


class Classifier:
    """An encoder with a linear head over all classes, trained with SGD: also the peers' base.

    Only the logits of a task's own classes compete while it is learnt, where tasks have several
    classes: one head a task, as in the papers of LwF and EWC. With one class a task nothing would
    compete, so all classes seen so far do.
    """

    def __init__(self, start: Start) -> None:
        self.recipe, self.device = start.recipe, start.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.recipe.seed + 1)
            head = nn.Linear(start.encoder.size, start.classes)
        self.encoder = start.encoder
        self.network = nn.Sequential(start.encoder, head).to(start.device)
        self.tasks: list[list[int]] = []
        self.generator = Generator()

    @property
    def seen(self) -> list[int]:
        """Classes of all tasks so far, that of now included."""
        return [label for task in self.tasks for label in task]

    @property
    def heads(self) -> list[list[int]]:
        """Classes that compete with each other: those of a task, or all old ones, and the new."""
        if len(self.tasks[0]) > 1:
            return self.tasks
        old = self.seen[:-1]
        return [old, self.seen] if old else [self.seen]

    def learn(self, classes: Sequence[int], frames: Frames, labels: NDArray[np.int64]) -> None:
        """See `Learner`."""
        self.tasks.append(list(classes))
        self.before(frames, labels)
        recipe = self.recipe
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            recipe.learning_rate,
            recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.network.train()
        steps = recipe.epochs * -(-len(frames) // recipe.batch_size)
        for epoch in range(recipe.epochs):
            for number, batch in enumerate(self.batches(frames, labels, epoch)):
                step = epoch * (steps // recipe.epochs) + number
                rate = recipe.learning_rate * recipe.rate_factor(step, steps)
                optimizer.param_groups[0]["lr"] = rate
                loss = self.loss(batch)
                if not torch.isfinite(loss):
                    raise Diverged(f"{type(self).__name__} diverged in task {len(self.tasks)}")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.after(frames, labels)

    def batches(self, frames: Frames, labels: NDArray[np.int64], epoch: int) -> Iterator[Batch]:
        """The same batches in the same order as `learn_task` makes of them."""
        rng = np.random.default_rng([self.recipe.seed, len(self.tasks), epoch])
        self.generator.manual_seed(self.recipe.seed * 1_000_003 + epoch + 1)
        count = -(-len(frames) // self.recipe.batch_size)
        for index in np.array_split(rng.permutation(len(frames)), count):
            x = self.augmented(frames[index])
            yield Batch(x, frames[index], torch.from_numpy(labels[index]).to(self.device))

    def augmented(self, frames: Frames) -> Tensor:
        """One view [n, ...] float32 of each frame."""
        return crop_and_flip(to_float(frames), self.generator).to(self.device)

    def before(self, frames: Frames, labels: NDArray[np.int64]) -> None:
        """Called before a task is learnt."""

    def after(self, frames: Frames, labels: NDArray[np.int64]) -> None:
        """Called when it is."""

    def loss(self, batch: Batch) -> Tensor:
        """Of one batch, a scalar."""
        return self.own_loss(self.network(batch.x), batch)

    def own_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the task's own head."""
        return head_loss(logits, batch.labels, self.heads[-1])

    def scores(self, frames: Frames) -> NDArray[np.float32]:
        """Logits."""
        return in_batches(self.network, frames, self.device)


def head_loss(logits: Tensor, labels: Tensor, head: Sequence[int]) -> Tensor:
    """Cross-entropy among the classes of a head, which the labels belong to.

    logits: [n, classes]. labels: [n].
    """
    columns = torch.tensor(head, device=labels.device)
    targets = (labels[:, None] == columns).float().argmax(1)
    return F.cross_entropy(logits[:, columns], targets)


def in_batches(network: nn.Module, frames: Frames, device: torch.device) -> NDArray[np.float32]:
    """What a network makes of frames [n, ...], in eval mode."""
    with evaluating(network), torch.no_grad():
        starts = range(0, len(frames), EVALUATION_BATCH)
        found = [
            network(to_float(frames[start : start + EVALUATION_BATCH]).to(device)).cpu()
            for start in starts
        ]
    held: NDArray[np.float32] = torch.cat(found).numpy()
    return held
