"""One method on one sequence of tasks: its answers after each, as matrices of accuracies."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.class_incremental.methods import JOINT, METHODS
from benchmarks.class_incremental.network import encoder
from benchmarks.class_incremental.peers.base import Learner, Start
from benchmarks.class_incremental.split import Setting, Task, merged
from edgemem.accuracy import AccuracyMatrix, from_rows
from edgemem.models.prototypes import TaskRecipe

READINGS = {"by_task": "task-incremental", "by_class": "class-incremental"}
Rows = list[list[float]]


@dataclass(frozen=True)
class Outcome:
    """by_task: the best of the task's own classes answers; by_class: of all seen so far.

    Joint training is one step: a matrix [1, 1] with the mean over tasks. seconds: of the processor,
    for learning.
    """

    by_task: AccuracyMatrix
    by_class: AccuracyMatrix
    seconds: float


def run(
    method: str,
    numbers: Mapping[str, float],
    setting: Setting,
    tasks: Sequence[Task],
    seed: int,
    device: torch.device,
) -> Outcome:
    """Learn the tasks one after another; test on all of them after each."""
    learner = METHODS[method].make(start_of(setting, seed, device), numbers)
    untrained = accuracies(learner, tasks, ())[0]
    by_task: Rows = []
    by_class: Rows = []
    seconds = 0.0
    steps = [merged(list(tasks))] if method == JOINT else tasks
    seen: list[int] = []
    for step in steps:
        began = time.process_time()
        learner.learn(step.classes, step.frames, step.labels)
        seconds += time.process_time() - began
        seen += step.classes
        rows = accuracies(learner, tasks, seen)
        by_task.append(rows[0])
        by_class.append(rows[1])
    if method == JOINT:
        means = ([[float(np.mean(rows[0]))]] for rows in (by_task, by_class))
        return Outcome(*map(from_rows, means), seconds)
    before = None if np.isnan(untrained).any() else untrained
    return Outcome(from_rows(by_task, before), from_rows(by_class), seconds)


def start_of(setting: Setting, seed: int, device: torch.device) -> Start:
    """The same start for every method."""
    recipe = TaskRecipe(
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        rate_at_end=0.0,
        seed=seed,
    )
    made = encoder(setting.channels, setting.blocks, setting.pool, seed)
    return Start(made, setting.classes, recipe, device)


def accuracies(
    learner: Learner, tasks: Sequence[Task], seen: Sequence[int]
) -> tuple[list[float], list[float]]:
    """On each task, among its own classes and among the seen ones.

    NaN where a class of the task has no score yet; and, among the seen ones, where none of it is
    seen.
    """
    own: list[float] = []
    wide: list[float] = []
    for task in tasks:
        scores = learner.scores(task.test_frames)
        own.append(accuracy(scores, task.test_labels, task.classes))
        known = set(task.classes) <= set(seen)
        wide.append(accuracy(scores, task.test_labels, seen) if known else np.nan)
    return own, wide


def accuracy(scores: NDArray[np.float32], labels: NDArray[np.int64], among: Sequence[int]) -> float:
    """How often the best of some classes is right; NaN if one of them has no score.

    scores: [n, classes]. labels: [n].
    """
    columns = np.asarray(among)
    held = scores[:, columns]
    return float(np.nan if np.isnan(held).any() else (columns[held.argmax(1)] == labels).mean())
