"""Tasks whose outputs are no logits of classes: which outputs fit them, and what is taken of those.

Two things are: rows of logits, of which an objective takes the entropy, for every position of a
dense output, every step of a sequence, or every label; and a summary of every frame, by which a
device tells how far outputs have moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from edgemem.bundle.manifest import MOST_SUMMARY, POSITIONS, OutputSpec
from edgemem.errors import AttachError
from edgemem.models.adaptive.outputs import (
    LOG_FLOOR,
    RECOGNISE,
    SIGMOID_FLOOR,
    SUM_TOLERANCE,
    Outputs,
)
from edgemem.models.tasks.named_outputs import flattened, frames_first

Task = Literal[
    "classes", "multilabel", "dense", "sequence", "detection", "regression", "embedding",
    "reconstruction",
]  # fmt: skip
AUTO: Literal["auto"] = "auto"
Scale = Literal["logits", "probabilities"]  # of an output with classes at every position


def check_task(task: object, outputs: Outputs | None) -> None:
    """Raise AttachError for a task that there is not, or that has no outputs of that kind."""
    if task not in (AUTO, *get_args(Task)):
        known = ", ".join((AUTO, *get_args(Task)))
        raise AttachError(f"task {task!r}", "is not a known choice", f"Use {known}")
    if outputs is not None and task not in (AUTO, "classes"):
        raise AttachError(f"outputs {outputs!r}", f"are of classes, not of {task}", RECOGNISE)


def fitting(specs: tuple[OutputSpec, ...], frame: tuple[int, ...]) -> list[Task]:
    """The tasks that these outputs may be of, by their rank. frame: shape of a frame."""
    return [task for task in get_args(Task) if _misfit(task, specs, frame) is None]


def check_outputs(task: Task, specs: tuple[OutputSpec, ...], frame: tuple[int, ...]) -> None:
    """Raise AttachError where the outputs cannot be of that task.

    frame: shape of a frame.
    """
    if (reason := _misfit(task, specs, frame)) is not None:
        raise AttachError(
            f"task {task!r}", reason, f"Use {' or '.join(fitting(specs, frame))}, which would fit"
        )


def shown(specs: tuple[OutputSpec, ...]) -> str:
    """Outputs with their shapes, for people."""
    return ", ".join(f"{spec.name} {spec.sizes}" for spec in specs)


def scale_of(task: Task, found: Mapping[str, Tensor], specs: tuple[OutputSpec, ...]) -> Scale:
    """Whether the classes of a task have logits or probabilities, by outputs for many frames."""
    if task not in POSITIONS:
        return "logits"
    rows = _classes_last(task, found, specs).flatten(0, -2)
    rows = rows[rows.isfinite().all(1)]
    bounded = len(rows) > 0 and bool(((rows >= 0) & (rows <= 1)).all())
    if not bounded or task == "multilabel" or rows.shape[1] == 1:
        return "probabilities" if bounded else "logits"
    return "probabilities" if bool(((rows.sum(1) - 1).abs() < SUM_TOLERANCE).all()) else "logits"


def logit_rows(
    task: Task, scale: Scale, found: Mapping[str, Tensor], specs: tuple[OutputSpec, ...]
) -> Tensor:
    """Logits [rows, classes] of the first output: a row for every position, step or label.

    A single channel, or a label, is one of two classes. Tasks without classes have no rows.
    """
    if task not in POSITIONS:
        return next(iter(found.values())).new_zeros(0, 0)
    y = _classes_last(task, found, specs)
    if task == "multilabel":
        y = y.unsqueeze(-1)
    y = y.flatten(0, -2)
    if y.shape[1] > 1:
        return y if scale == "logits" else y.clamp(min=LOG_FLOOR).log()
    if scale == "probabilities":
        p = y.clamp(SIGMOID_FLOOR, 1 - SIGMOID_FLOOR)
        y = p.log() - (1 - p).log()
    return torch.cat([torch.zeros_like(y), y], 1)


def summary(
    task: Task, scale: Scale, found: Mapping[str, Tensor], specs: tuple[OutputSpec, ...]
) -> Tensor:
    """Numbers [n, k] that stand for what is said of each frame, k up to `MOST_SUMMARY`.

    Where there are classes, their mean probabilities and, as the last number, the mean entropy of
    all positions in nats; four numbers of each output of a detector (mean, deviation, least,
    largest); else the numbers themselves, or means of neighbours among them.
    """
    first = frames_first(found, specs)
    if task == "detection":
        return torch.cat([_statistics(flattened(value)) for value in first.values()], 1)
    if task in POSITIONS:
        y = _classes_last(task, found, specs)
        exclusive = y.shape[-1] > 1 and task != "multilabel"
        if scale == "logits":
            y = torch.softmax(y, -1) if exclusive else torch.sigmoid(y)
        mean = _pooled(y.flatten(1, -2).mean(1) if y.dim() > 2 else y, MOST_SUMMARY - 1)
        return torch.cat([mean, _entropy(y, exclusive).unsqueeze(1)], 1)
    room = MOST_SUMMARY // len(first)
    return torch.cat([_pooled(flattened(value), room) for value in first.values()], 1)


def _misfit(task: Task, specs: tuple[OutputSpec, ...], frame: tuple[int, ...]) -> str | None:
    """Why the outputs cannot be of that task, or None."""
    first, rank, told = specs[0], len(specs[0].shape) + 1, shown(specs)
    if task == "classes":
        alone = len(specs) == 1 and first.axis == 0 and rank <= 2
        return None if alone else f"has one output [n, classes], and the model returns {told}"
    if task in ("multilabel", "embedding"):
        fits, needs = rank == 2 and first.axis == 0, "[n, numbers]"
    elif task == "dense":
        fits, needs = rank >= 4 and first.axis == 0, "[n, classes, h, w]"
    elif task == "sequence":
        fits, needs = rank == 3 and first.axis < 2, "[n, t, classes] or [t, n, classes]"
    elif task == "reconstruction":
        fits = first.axis == 0 and first.shape == frame
        needs = f"[n, {', '.join(map(str, frame))}], as the frames have"
    else:
        return None
    return None if fits else f"needs {needs} as the first output, and the model returns {told}"


def _classes_last(task: Task, found: Mapping[str, Tensor], specs: tuple[OutputSpec, ...]) -> Tensor:
    """The first output, frames first and classes last."""
    y = found[specs[0].name].movedim(specs[0].axis, 0)
    return y.movedim(1, -1) if task == "dense" else y


def _entropy(p: Tensor, exclusive: bool) -> Tensor:
    """Mean over the positions of probabilities [n, ..., classes], in nats, [n]."""
    entropy = -p * p.clamp(min=LOG_FLOOR).log()
    if exclusive:
        return entropy.sum(-1).flatten(1).mean(1)
    other = 1 - p
    return (entropy - other * other.clamp(min=LOG_FLOOR).log()).flatten(1).mean(1)


def _pooled(flat: Tensor, most: int) -> Tensor:
    """[n, numbers] -> [n, k], k up to `most`: means of neighbours; the last few may be left out."""
    numbers = flat.shape[1]
    size = -(-numbers // most)
    if size == 1:
        return flat
    count = numbers // size
    return flat[:, : count * size].reshape(-1, count, size).mean(2)


def _statistics(flat: Tensor) -> Tensor:
    """Mean, mean distance from it, least and largest of each row, [n, 4]."""
    mean = flat.mean(1, keepdim=True)
    away = (flat - mean).abs().mean(1, keepdim=True)
    return torch.cat([mean, away, flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)], 1)
