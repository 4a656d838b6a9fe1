"""Settings, and the tasks that a seed makes of a data set: the same ones for every method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.cifar import load_cifar10
from edgemem.models.data import Frames, load_dataset

Dataset = tuple[Frames, NDArray[np.int64]]


@dataclass(frozen=True)
class Setting:
    """What is learnt in which steps, by which network, for how long.

    train_per_class, test_per_class: images; of both, the first ones of the data set. epochs: of
    every task. pool: whether the stem's stride is 4, not 2.
    """

    name: str
    dataset: str
    classes: int
    classes_per_task: int
    train_per_class: int
    test_per_class: int
    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.1
    channels: int = 16
    blocks: int = 1
    pool: bool = True

    @property
    def tasks(self) -> int:
        """How many there are."""
        return self.classes // self.classes_per_task

    @property
    def knows_tasks(self) -> bool:
        """Whether the task-incremental reading says anything: alone, a class is always right."""
        return self.classes_per_task > 1


class Task(NamedTuple):
    """Frames [n, 3, h, w] uint8 and labels [n], of `classes`, to learn from and to test on."""

    classes: tuple[int, ...]
    frames: Frames
    labels: NDArray[np.int64]
    test_frames: Frames
    test_labels: NDArray[np.int64]


def load(folder: Path, dataset: str) -> tuple[Dataset, Dataset] | None:
    """Training and test data [n, 3, h, w] from the folder of data; None where there is none.

    `cifar10` is as `cifar.py` reads it; another data set is `<dataset>/train.npz` and `test.npz`,
    with x [n, 3, h, w] and y [n].
    """
    if dataset == "cifar10":
        try:
            (x, y), (test_x, test_y) = (load_cifar10(folder, part) for part in ("train", "test"))
        except FileNotFoundError:
            return None
        return (x.transpose(0, 3, 1, 2), y), (test_x.transpose(0, 3, 1, 2), test_y)
    paths = [folder / dataset / f"{part}.npz" for part in ("train", "test")]
    if not all(path.is_file() for path in paths):
        return None
    train, test = map(load_dataset, paths)
    return train, test


def split(data: tuple[Dataset, Dataset], setting: Setting, seed: int) -> list[Task]:
    """The tasks in the order in which they are learnt; the seed decides which classes join."""
    order = np.random.default_rng(seed).permutation(setting.classes)
    counts = (setting.train_per_class, setting.test_per_class)
    groups = order.reshape(setting.tasks, setting.classes_per_task)
    tasks = []
    for classes in groups.tolist():
        (x, y), test = (_first(part, classes, n) for part, n in zip(data, counts, strict=True))
        tasks.append(Task(tuple(classes), x, y, *test))
    return tasks


def merged(tasks: list[Task]) -> Task:
    """All tasks as one."""
    classes = tuple(label for task in tasks for label in task.classes)
    return Task(classes, *(np.concatenate(parts) for parts in list(zip(*tasks, strict=True))[1:]))


def _first(data: Dataset, classes: list[int], count: int) -> Dataset:
    frames, labels = data
    index = np.sort(np.concatenate([np.flatnonzero(labels == k)[:count] for k in classes]))
    return np.ascontiguousarray(frames[index]), labels[index]
