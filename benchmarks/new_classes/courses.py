"""What a device is taught in one run, in which order. All that a run draws, it draws here.

A course begins with the model's own classes. Before each new class the device meets unlabelled
frames of those it knows by then, as a user has the device at hand; then the class is taught from
its first labelled frames. Frames of the test part take part in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BATCH = 16
LABELLED = 20  # frames of a new class that may be taught; others of it are unlabelled
MET = 2 * BATCH  # unlabelled frames before each new class
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Course:
    """own: how many classes the model has. columns: of every frame, the class by the order in which
    they are known. test: frames of all classes, in the order they are answered. met: unlabelled
    frames before each new class. strangers: as many of all classes, known or not. lessons: labelled
    frames of each new class."""

    own: int
    columns: Index
    test: Index
    met: tuple[Index, ...]
    strangers: tuple[Index, ...]
    lessons: tuple[Index, ...]

    @property
    def classes(self) -> int:
        """In the end."""
        return self.own + len(self.lessons)


def course(labels: Index, own: Sequence[int], new: Sequence[int], test: Index, seed: int) -> Course:
    """labels: of every frame. test: the part that is kept apart, in the order it is answered.

    The seed decides the order of the new classes, which of their frames are labelled, and which
    frames are met when.
    """
    rng = np.random.default_rng(seed)
    order = [*own, *rng.permutation(list(new)).tolist()]
    columns = np.array([order.index(label) for label in labels])
    free = rng.permutation(np.setdiff1d(np.arange(len(labels)), test))
    lessons = []
    for column in range(len(own), len(order)):
        lesson = free[columns[free] == column][:LABELLED]
        lessons.append(lesson)
        free = np.setdiff1d(free, lesson, assume_unique=True)
    known = [columns < len(own) + taught for taught in range(len(lessons))]
    return Course(
        len(own),
        columns,
        test,
        _met(free, known, rng),
        _met(free, [np.ones(len(labels), bool)] * len(lessons), rng),
        tuple(lessons),
    )


def _met(
    free: Index, may_come: Sequence[NDArray[np.bool_]], rng: np.random.Generator
) -> tuple[Index, ...]:
    """Frames of each stage, no frame twice."""
    stages = []
    for allowed in may_come:
        stage = rng.choice(free[allowed[free]], MET, replace=False)
        free = np.setdiff1d(free, stage, assume_unique=True)
        stages.append(stage)
    return tuple(stages)


def batches(index: Index) -> list[Index]:
    """Of 16 frames, the last maybe of fewer."""
    return [index[start : start + BATCH] for start in range(0, len(index), BATCH)]
