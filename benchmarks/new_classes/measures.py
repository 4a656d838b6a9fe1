"""How well a device knows its classes after each that it was taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.new_classes.courses import Course

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Accuracies:
    """Fractions after 0, 1, … new classes, each frame answered among all classes known by then.

    old: frames of the model's own classes. new: of those taught so far, from the first on. all: of
    both. old_apart: frames of own classes answered among these alone, in the end.
    """

    old: tuple[float, ...]
    new: tuple[float, ...]
    all: tuple[float, ...]
    old_apart: float


def accuracies(made: Course, scores: Sequence[Scores]) -> Accuracies:
    """scores: of the test frames [m, known or more] after 0, 1, … new classes."""
    truth, old, new, both = made.columns[made.test], [], [], []
    for taught, held in enumerate(scores):
        known = made.own + taught
        right = held[:, :known].argmax(1) == truth
        old.append(float(right[truth < made.own].mean()))
        both.append(float(right[truth < known].mean()))
        if taught:
            new.append(float(right[(truth >= made.own) & (truth < known)].mean()))
    apart = scores[-1][:, : made.own].argmax(1) == truth
    return Accuracies(tuple(old), tuple(new), tuple(both), float(apart[truth < made.own].mean()))
