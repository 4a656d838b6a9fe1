"""Warm-up: train the meta networks on source data before export (EcoTTA, section 3.1)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemem.errors import CheckpointError, InputError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.class_prototypes import observe_classes
from edgemem.models.adaptive.meta_network import MetaNetwork
from edgemem.models.checkpoints.checkpoint import read_tensors, write_tensors
from edgemem.models.data import Frames, refuse_several_labels, to_float
from edgemem.models.inspection.untouched import check_untouched
from edgemem.models.norms.moments import batch_moments
from edgemem.models.warmup.augment import augmentation
from edgemem.models.warmup.source_checks import check_source
from edgemem.models.warmup.source_keys import observe_source
from edgemem.models.warmup.warm_up_recipe import Progress, Recipe

COMPARED = 64  # source frames, on which the model at rest has to be the one that was given
CALIBRATION_BATCHES = 16
BRANCH_START = 0.1  # BN' starts small, so that training starts near the frozen model


def warm_up(
    model: AdaptiveModel,
    frames: Frames,
    labels: NDArray[np.int64],
    recipe: Recipe | None = None,
    *,
    resume: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train the meta networks of `model` in place; nothing else of it changes.

    It also keeps some source frames, and moments of more, from which export learns what source data
    look like and which learning rate does no harm (`observe_source`), and where the features of
    each class lie (`observe_classes`).

    Args:
        model: from `attach`.
        frames: [n, c, ...]; uint8 is divided by 255.
        labels: [n] class indices.
        recipe: default Recipe().
        resume: a file to keep progress in after every epoch. When it exists, training goes on
            from there and ends bit for bit as if it had not been interrupted.
        report: called after every step.

    Raises:
        AttachError, InputError: what source frames say against the model, see `check_source`.
        InputError: a task without classes, fewer frames than a batch, labels out of range, or a
            non-finite loss.
        CheckpointError: `resume` is damaged or of other settings.
        AttachError: at rest, the model is not the one that was given.
    """
    recipe = recipe or Recipe()
    if model.attachment.task != "classes":
        raise InputError(
            f"task {model.attachment.task!r}",
            "has no classes, by which a warm-up trains",
            "Export the model without one",
        )
    if not model.attachment.plain:
        what = "token ids" if model.attachment.ids is not None else "inputs beside the frames"
        raise InputError(
            f"model with {what}",
            "has no warm-up: augmentation would change its frames alone",
            "Export it without one, with source frames: edgemem export --source",
        )
    if len(frames) < recipe.batch_size:
        raise InputError(
            "source data",
            f"has {len(frames)} frames, fewer than one batch of {recipe.batch_size}",
            "Pass more data or a smaller batch size",
        )
    _check_labels(model, frames, labels)
    check_source(model, frames, labels)
    check_untouched(model, to_float(frames[:COMPARED]))
    if next(model.meta_networks(), None) is None:
        raise InputError("model", "has no meta network to train", "Attach at least one part")
    training = _Training(model, frames, labels, recipe, report)
    training.run(resume)
    model.mark_warm()
    observe_source(model, frames, labels, recipe.seed)
    observe_classes(model, frames, labels, recipe.seed)


class _Training:
    """One warm-up run; every epoch draws from its own seed, so an epoch can be repeated."""

    def __init__(
        self,
        model: AdaptiveModel,
        frames: Frames,
        labels: NDArray[np.int64],
        recipe: Recipe,
        report: Callable[[Progress], None],
    ) -> None:
        self.model, self.frames, self.recipe, self.report = model, frames, recipe, report
        self.labels = torch.from_numpy(labels.astype(np.int64))
        alpha = model.alpha(recipe.batch_size)
        self.alpha = None if alpha is None else torch.tensor(alpha)
        self.parameters = dict(model.meta.named_parameters())
        self.optimizer = torch.optim.SGD(
            self.parameters.values(), recipe.learning_rate, recipe.momentum
        )
        self.epoch_steps = len(frames) // recipe.batch_size
        self.steps = self.epoch_steps * recipe.epochs
        self.recent: list[tuple[float, float]] = []
        self.augment = augmentation(frames)

    def run(self, resume: Path | None) -> None:
        """All epochs, from the last one that `resume` holds."""
        first = 0
        if resume is not None and resume.exists():
            first = self._restore(resume)
        else:
            self._start()
        for meta in self.model.meta_networks():
            meta.output_norm.known = True
        for epoch in range(first, self.recipe.epochs):
            self._epoch(epoch)
            if resume is not None:
                self._save(resume, epoch + 1)
        self._calibrate_branches()

    def _start(self) -> None:
        generator = torch.Generator().manual_seed(self.recipe.seed)
        for meta in self.model.meta_networks():
            _initialise(meta, generator)
        norms = [meta.output_norm for meta in self.model.meta_networks()]
        moments = self._observe(norms, alpha=None)
        for norm, (mean, var) in zip(norms, moments, strict=True):
            norm.mean.copy_(mean)
            norm.var.copy_(var)

    def _calibrate_branches(self) -> None:
        norms = [m.branch_norm for m in self.model.meta_networks() if m.branch_norm is not None]
        moments = self._observe(norms, self.alpha)
        for norm, (mean, var) in zip(norms, moments, strict=True):
            norm.mean.copy_(mean)
            norm.var.copy_(var)

    def _observe(
        self, modules: Sequence[nn.Module], alpha: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Moments of what the modules receive, over some clean batches."""
        sums: list[list[tuple[Tensor, Tensor]]] = [[] for _ in modules]
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, seen=seen: seen.append(batch_moments(args[0]))
            )
            for module, seen in zip(modules, sums, strict=True)
        ]
        with torch.no_grad():
            for index in list(self._batches(epoch=-1))[:CALIBRATION_BATCHES]:
                self.model(self._frames(index), alpha)
        for handle in handles:
            handle.remove()
        return [_pool(seen) for seen in sums]

    def _batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        order = np.random.default_rng([self.recipe.seed, epoch + 1]).permutation(len(self.frames))
        size = self.recipe.batch_size
        for step in range(self.epoch_steps):
            yield order[step * size : (step + 1) * size]

    def _frames(self, index: NDArray[np.int64]) -> Tensor:
        frames: Tensor = to_float(self.frames[np.sort(index)])
        return frames

    def _epoch(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch + 1)
        for number, index in enumerate(self._batches(epoch)):
            step = epoch * self.epoch_steps + number
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(step)
            x = self.augment(self._frames(index), generator)
            self._step(x, self.labels[np.sort(index)])
            loss, accuracy = (sum(v) / len(self.recent) for v in zip(*self.recent, strict=True))
            self.report(Progress(step + 1, self.steps, loss, accuracy))

    def _rate(self, step: int) -> float:
        ramp = min((step + 1) / self.epoch_steps, 1.0)
        return self.recipe.learning_rate * ramp * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def _step(self, x: Tensor, y: Tensor) -> None:
        logits = self.model(x, self.alpha).logits
        loss = F.cross_entropy(logits, y)
        if not torch.isfinite(loss):
            raise InputError(
                "warm-up", "the loss is not finite", "Lower the learning rate or check the frames"
            )
        self.optimizer.zero_grad()
        grads = torch.autograd.grad(loss, list(self.parameters.values()))
        for parameter, grad in zip(self.parameters.values(), grads, strict=True):
            parameter.grad = grad
        self.optimizer.step()
        accuracy = (logits.argmax(1) == y).float().mean().item()
        self.recent = [*self.recent[-49:], (loss.item(), accuracy)]

    def _settings(self) -> dict[str, str]:
        sample = hashlib.sha256(np.ascontiguousarray(self.frames[:8]).tobytes())
        sample.update(self.labels.numpy().tobytes())
        for tensor in self.model.frozen.state_dict().values():
            sample.update(tensor.contiguous().numpy().tobytes())
        return {
            "recipe": json.dumps(asdict(self.recipe)),
            "attachment": json.dumps(asdict(self.model.attachment)),
            "source": sample.hexdigest(),
        }

    def _save(self, path: Path, epoch: int) -> None:
        tensors = {f"meta.{name}": t for name, t in self.model.meta.state_dict().items()}
        for name, parameter in self.parameters.items():
            tensors[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        write_tensors(path, tensors, {"epoch": str(epoch), **self._settings()})

    def _restore(self, path: Path) -> int:
        tensors, metadata = read_tensors(path)
        if any(metadata.get(key) != value for key, value in self._settings().items()):
            raise CheckpointError(
                str(path),
                "holds the progress of a warm-up with other data, model or recipe",
                "Delete it to start again, or use the same settings",
            )
        meta = {n.removeprefix("meta."): t for n, t in tensors.items() if n.startswith("meta.")}
        try:
            epoch = int(metadata["epoch"])
            momenta = {p: tensors[f"momentum.{name}"] for name, p in self.parameters.items()}
            if any(p.shape != momentum.shape for p, momentum in momenta.items()) or epoch < 1:
                raise ValueError("other shapes")
            self.model.meta.load_state_dict(meta)
        except (KeyError, ValueError, RuntimeError) as error:
            reason = f"holds no progress of a warm-up ({error})"
            raise CheckpointError(str(path), reason, "Delete it to start again") from error
        for parameter, momentum in momenta.items():
            self.optimizer.state[parameter]["momentum_buffer"] = momentum
        return epoch


def _initialise(meta: MetaNetwork, generator: torch.Generator) -> None:
    meta.reset()
    for module in meta.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    if meta.branch_norm is not None:
        nn.init.constant_(meta.branch_norm.weight, BRANCH_START)


def _pool(moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Moments of equal batches -> moments of them all."""
    means, variances = torch.stack([m for m, _ in moments]), torch.stack([v for _, v in moments])
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).pow(2).mean(0)


def _check_labels(model: AdaptiveModel, frames: Frames, labels: NDArray[np.int64]) -> None:
    refuse_several_labels("source labels", labels)
    if labels.shape != (len(frames),) or labels.dtype.kind not in "iu":
        raise InputError(
            "source labels",
            f"are {labels.dtype}{list(labels.shape)} for {len(frames)} frames",
            "Pass one class index per frame",
        )
    classes = model.classes
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            "source labels",
            f"run from {labels.min()} to {labels.max()}, the model has {classes} classes",
            "Number the classes from 0 in the model's order",
        )
