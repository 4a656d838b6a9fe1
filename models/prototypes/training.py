"""Learning the classes of one task, with the previous model as teacher and no old sample kept."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from edgemem.errors import CheckpointError, InputError
from edgemem.models.checkpoints.checkpoint import read_tensors, write_tensors
from edgemem.models.data import Frames, to_float
from edgemem.models.prototypes.losses import (
    cosines,
    prototype_loss,
    relation_distillation_of_tasks,
    supervised_contrastive_loss,
)
from edgemem.models.prototypes.model import PrototypeModel
from edgemem.models.prototypes.recipe import TaskProgress, TaskRecipe
from edgemem.models.warmup.augment import augmentation

RECENT = 50
Views = Callable[[Tensor, Generator], Tensor]


def learn_task(
    model: PrototypeModel,
    frames: Frames,
    labels: NDArray[np.int64],
    recipe: TaskRecipe | None = None,
    progress: Callable[[TaskProgress], None] = lambda progress: None,
    *,
    views: Views | None = None,
    resume: Path | None = None,
) -> PrototypeModel:
    """Learn new classes; returns a new model in eval mode, and changes nothing of the given one.

    Each batch goes through the encoder in two views. The given model, in eval mode, is the teacher:
    the relations of its prototypes to the new samples are kept. No old sample is needed.

    Args:
        model: what is known so far.
        frames: [n, ...]; uint8 is divided by 255.
        labels: [n] integers, at least 0; their values are the classes of the task, all of them new.
        recipe: default Recipe().
        progress: called after every step.
        views: a batch and a generator -> the same batch, changed at random. The default
            (`augmentation`) changes appearance only; the authors' also crops and flips.
        resume: a file to keep progress in after every epoch. When it exists, learning goes on from
            there and ends bit for bit as if it had not been interrupted; with the same `views`.

    Raises:
        InputError: no frames, labels that do not fit, classes known already, or a non-finite loss.
        CheckpointError: `resume` is damaged or of other settings.
    """
    recipe = recipe or TaskRecipe()
    _check(frames, labels)
    classes = np.unique(labels)
    student = model.with_task(classes.tolist(), recipe.seed + len(model.tasks))
    targets = torch.from_numpy(np.searchsorted(classes, labels))
    learning = _TrainingRun(model, student, frames, targets, recipe, views or augmentation(frames))
    learning.run(progress, resume)
    return student.eval()


class _TrainingRun:
    """One run; every epoch draws from its own seed, so an epoch can be repeated."""

    def __init__(
        self,
        model: PrototypeModel,
        student: PrototypeModel,
        frames: Frames,
        targets: Tensor,
        recipe: TaskRecipe,
        views: Views,
    ) -> None:
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.student, self.frames, self.targets = student, frames, targets
        self.recipe, self.views = recipe, views
        self.optimizer = optimizer_of(student, recipe)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.epoch_steps = -(-len(frames) // recipe.batch_size)
        self.steps = self.epoch_steps * recipe.epochs
        self.recent: list[tuple[float, ...]] = []

    def run(self, progress: Callable[[TaskProgress], None], resume: Path | None) -> None:
        """All epochs, from the last one that `resume` holds."""
        first = self._restore(resume) if resume is not None and resume.exists() else 0
        self.student.train()
        for epoch in range(first, self.recipe.epochs):
            with torch.random.fork_rng(devices=[]):  # of dropout in the encoder, if there is any
                torch.manual_seed(self._seed(epoch))
                self._epoch(epoch, progress)
            if resume is not None:
                self._save(resume, epoch + 1)
        self.optimizer.zero_grad()  # gradients would be copied with the model

    def _seed(self, epoch: int) -> int:
        return self.recipe.seed * 1_000_003 + epoch + 1

    def _batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        rng = np.random.default_rng([self.recipe.seed, len(self.student.tasks), epoch])
        yield from np.array_split(rng.permutation(len(self.frames)), self.epoch_steps)

    def _epoch(self, epoch: int, progress: Callable[[TaskProgress], None]) -> None:
        generator = torch.Generator().manual_seed(self._seed(epoch))
        for number, index in enumerate(self._batches(epoch)):
            x = to_float(self.frames[index])
            x = torch.cat([self.views(x, generator) for _ in range(2)]).to(self.student.device)
            self._set_rates(epoch * self.epoch_steps + number)
            self._step(x, self.targets[index].repeat(2).to(x.device))
            means = (sum(v) / len(self.recent) for v in zip(*self.recent, strict=True))
            progress(TaskProgress(epoch * self.epoch_steps + number + 1, self.steps, *means))

    def _set_rates(self, step: int) -> None:
        factor = self.recipe.rate_factor(step, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _step(self, x: Tensor, targets: Tensor) -> None:
        recipe, own = self.recipe, self.student.prototypes[-1]
        features = self.student.features(x)
        projections = self.student.projection(features)
        contrastive = supervised_contrastive_loss(projections, targets, recipe.contrast_temperature)
        prototype = prototype_loss(features, own, targets)
        relation = self._relation(features, x)
        loss = contrastive + recipe.prototype_weight * prototype + recipe.relation_weight * relation
        if not torch.isfinite(loss):
            raise InputError(
                "learning a task",
                "the loss is not finite",
                "Lower the learning rate or check the frames",
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            accuracy = (cosines(features, own).argmax(1) == targets).float().mean()
        terms = (loss, contrastive, prototype, relation, accuracy)
        self.recent = [*self.recent[1 - RECENT :], tuple(term.item() for term in terms)]

    def _relation(self, features: Tensor, x: Tensor) -> Tensor:
        if not self.teacher.tasks or self.recipe.relation_weight == 0:
            return features.new_zeros(())
        with torch.no_grad():
            old_features = self.teacher.features(x)
        return relation_distillation_of_tasks(
            features,
            list(self.student.prototypes),
            old_features,
            list(self.teacher.prototypes),
            temperature=self.recipe.relation_temperature,
            relation_axis=self.recipe.relation_axis,
        )

    def _settings(self) -> dict[str, str]:
        digest = hashlib.sha256(np.ascontiguousarray(self.frames[:8]).tobytes())
        digest.update(self.targets.numpy().tobytes())
        for tensor in self.teacher.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return {
            "recipe": json.dumps(asdict(self.recipe)),
            "tasks": json.dumps(self.student.tasks),
            "source": digest.hexdigest(),
        }

    def _momenta(self) -> dict[str, Tensor]:
        state = self.optimizer.state
        return {
            f"momentum.{name}": state[parameter]["momentum_buffer"]
            for name, parameter in self.student.named_parameters()
            if state.get(parameter, {}).get("momentum_buffer") is not None
        }

    def _save(self, path: Path, epoch: int) -> None:
        tensors = {f"model.{name}": t for name, t in self.student.state_dict().items()}
        write_tensors(path, tensors | self._momenta(), {"epoch": str(epoch), **self._settings()})

    def _restore(self, path: Path) -> int:
        tensors, metadata = read_tensors(path)
        if any(metadata.get(key) != value for key, value in self._settings().items()):
            raise CheckpointError(
                str(path),
                "holds the progress of learning with other data, model or recipe",
                "Delete it to start again, or use the same settings",
            )
        own = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        try:
            epoch = int(metadata["epoch"])
            self.student.load_state_dict(own)
            for name, parameter in self.student.named_parameters():
                if (momentum := tensors.get(f"momentum.{name}")) is not None:
                    held = momentum.to(parameter.device).expand_as(parameter)
                    self.optimizer.state[parameter]["momentum_buffer"] = held.clone()
        except (KeyError, ValueError, RuntimeError) as error:
            reason = f"holds no progress of learning ({error})"
            raise CheckpointError(str(path), reason, "Delete it to start again") from error
        return epoch


def optimizer_of(model: PrototypeModel, recipe: TaskRecipe) -> torch.optim.SGD:
    """SGD with two groups: encoder and projection head; prototypes, at a rate of their own."""
    body = [*model.encoder.parameters(), *model.projection.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in body if parameter.requires_grad]},
        {
            "params": list(model.prototypes),
            "lr": recipe.prototype_rate,
            "momentum": 0.0,
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.SGD(
        groups, recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
    )


def _check(frames: Frames, labels: NDArray[np.int64]) -> None:
    if labels.shape != (len(frames),) or labels.dtype.kind not in "iu":
        raise InputError(
            "labels",
            f"are {labels.dtype}{list(labels.shape)} for {len(frames)} frames",
            "Pass one class index per frame",
        )
    if len(frames) == 0:
        raise InputError("task", "has no frames", "Pass frames of each new class")
    if labels.min() < 0:
        raise InputError("labels", f"start at {labels.min()}", "Number the classes from 0")
