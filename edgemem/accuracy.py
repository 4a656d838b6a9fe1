"""How well a sequence of tasks was learnt and kept: one matrix, and the published figures of it.

`values[i, j]` is the accuracy on task j after learning task i, from 0 to 1, with tasks counted from
0. Figures differ between papers under one name, so each is here under a name of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgemem.errors import InputError
from edgemem.files.atomic import write_file
from edgemem.files.untrusted import read_bounded

FORMAT = "edgemem-accuracy-1"
LARGEST_FILE = 64 << 20
MOST_TASKS = 1 << 12
REMEDY = "Measure again, and save it with write_accuracy"
Figure = float | None


@dataclass(frozen=True, eq=False)
class AccuracyMatrix:
    """Accuracies of a sequence of tasks.

    Attributes:
        values: float64 [tasks, tasks], from 0 to 1, NaN where nothing was measured; that is allowed
            above the diagonal only, for tasks not learnt yet.
        untrained: float64 [tasks], of a model that has learnt nothing, or None.

    Raises:
        InputError: other shapes, values out of range, or missing ones up to the diagonal.
    """

    values: NDArray[np.float64]
    untrained: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _frozen(self.values))
        shape = self.values.shape
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
            _refuse("accuracy matrix", f"has shape {list(shape)}", "Give one row and column a task")
        _check_range("accuracy matrix", self.values)
        if np.isnan(self.values[np.tril_indices(shape[0])]).any():
            _refuse(
                "accuracy matrix",
                "lacks the accuracy on a task after it was learnt",
                "Test on every task so far after each task",
            )
        if self.untrained is not None:
            object.__setattr__(self, "untrained", _frozen(self.untrained))
            thing = "untrained accuracies"
            if self.untrained.shape != shape[:1] or np.isnan(self.untrained).any():
                _refuse(thing, f"are not {shape[0]} numbers", "Give one number a task, or none")
            _check_range(thing, self.untrained)

    @property
    def tasks(self) -> int:
        """How many tasks were learnt."""
        return len(self.values)


def from_rows(
    rows: Sequence[Sequence[float]], untrained: Sequence[float] | None = None
) -> AccuracyMatrix:
    """A matrix from one row per task learnt; row i has at least i + 1 numbers, for tasks 0 to i.

    Raises:
        InputError: rows of another length, or see `AccuracyMatrix`.
    """
    if len(rows) > MOST_TASKS:
        _refuse("accuracies", f"are of {len(rows)} tasks", f"Give at most {MOST_TASKS}")
    values = np.full((len(rows), len(rows)), np.nan)
    for number, row in enumerate(rows):
        if not number < len(row) <= len(rows):
            _refuse(
                f"accuracies after task {number}",
                f"are {len(row)} numbers",
                f"Give {number + 1} to {len(rows)}",
            )
        values[number, : len(row)] = row
    return AccuracyMatrix(values, None if untrained is None else np.asarray(untrained, np.float64))


def average_accuracy(matrix: AccuracyMatrix) -> float:
    """Mean accuracy on all tasks after the last one: 1/T sum_j a[T, j]."""
    return float(matrix.values[-1].mean())


def average_incremental_accuracy(matrix: AccuracyMatrix) -> float:
    """Mean over tasks i of the mean accuracy on tasks up to i.

    1/T sum_i 1/i sum_{j<=i} a[i, j].
    """
    return float(np.mean([row[: i + 1].mean() for i, row in enumerate(matrix.values)]))


def forgetting_from_earlier_best(matrix: AccuracyMatrix) -> Figure:
    """1/(T-1) sum_{j<T} (max_{l<T} a[l, j] - a[T, j]): Chaudhry et al., ECCV 2018, equation 3.

    The last row is not among the best, so it is negative where the last task helped all others.
    Rows from before task j was learnt count where they were measured. None with one task.
    """
    if matrix.tasks < 2:
        return None
    earlier = np.nanmax(matrix.values[:-1, :-1], axis=0)
    return float((earlier - matrix.values[-1, :-1]).mean())


def forgetting_from_best(matrix: AccuracyMatrix) -> Figure:
    """1/(T-1) sum_{j<T} (max_l a[l, j] - a[T, j]) with the last row among the best: never negative.

    As in the code of Mammoth, PyCIL and PRD (PRD's also looks at evaluations within tasks). None
    with one task.
    """
    if matrix.tasks < 2:
        return None
    best = np.nanmax(matrix.values[:, :-1], axis=0)
    return float((best - matrix.values[-1, :-1]).mean())


def forgetting_since_learnt(matrix: AccuracyMatrix) -> Figure:
    """1/(T-1) sum_{j<T} (a[j, j] - a[T, j]): since right after learning, as in Avalanche.

    It is backward transfer with the other sign. None with one task.
    """
    transfer = backward_transfer(matrix)
    return None if transfer is None else -transfer


def backward_transfer(matrix: AccuracyMatrix) -> Figure:
    """1/(T-1) sum_{j<T} (a[T, j] - a[j, j]): Lopez-Paz & Ranzato, NeurIPS 2017.

    None with one task.
    """
    if matrix.tasks < 2:
        return None
    learnt = np.diagonal(matrix.values)[:-1]
    return float((matrix.values[-1, :-1] - learnt).mean())


def forward_transfer(matrix: AccuracyMatrix) -> Figure:
    """1/(T-1) sum_{j>=2} (a[j-1, j] - b[j]): Lopez-Paz & Ranzato, NeurIPS 2017.

    b is the accuracy of a model that has learnt nothing. None with one task, without b, or where a
    task was not tested right before it was learnt.
    """
    if matrix.tasks < 2 or matrix.untrained is None:
        return None
    before = np.diagonal(matrix.values, offset=1)
    if np.isnan(before).any():
        return None
    return float((before - matrix.untrained[1:]).mean())


def figures(matrix: AccuracyMatrix) -> dict[str, Figure]:
    """Every figure of this module by its name; None where it is undefined."""
    each = (
        average_accuracy,
        average_incremental_accuracy,
        forgetting_from_earlier_best,
        forgetting_from_best,
        forgetting_since_learnt,
        backward_transfer,
        forward_transfer,
    )
    return {function.__name__: function(matrix) for function in each}


def write_accuracy(matrix: AccuracyMatrix, path: Path) -> None:
    """Write a matrix as JSON, all or nothing; what was not measured is null.

    Raises:
        InputError: the path cannot be written.
    """
    rows = [[None if np.isnan(v) else v for v in row] for row in matrix.values.tolist()]
    untrained = None if matrix.untrained is None else matrix.untrained.tolist()
    document = {"format": FORMAT, "accuracy": rows, "untrained": untrained}
    write_file(path, (json.dumps(document) + "\n").encode())


def read_accuracy(path: Path) -> AccuracyMatrix:
    """Read what `write_accuracy` wrote; the numbers are the same to the last bit.

    Raises:
        InputError: missing, damaged, of another format, or not a matrix of accuracies.
    """
    document = _load(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        _refuse(str(path), f"is not of format {FORMAT}", REMEDY)
    if unknown := sorted(set(document) - {"format", "accuracy", "untrained"}):
        _refuse(str(path), f"has unknown fields {unknown}", REMEDY)
    rows, untrained = document.get("accuracy"), document.get("untrained")
    if not isinstance(rows, list) or not rows:
        _refuse(str(path), "holds no rows of accuracies", REMEDY)
    values = np.array([_numbers(path, row, len(rows)) for row in rows])
    bare = None if untrained is None else _numbers(path, untrained, len(rows))
    try:
        return AccuracyMatrix(values, None if bare is None else np.array(bare))
    except InputError as error:
        raise InputError(f"{path}: {error.thing}", error.reason, error.remedy) from error


def _load(path: Path) -> Any:
    content = read_bounded(path, LARGEST_FILE)
    try:
        return json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"is not readable JSON ({error})", REMEDY) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _numbers(path: Path, row: Any, count: int) -> list[float]:
    if not isinstance(row, list) or len(row) != count:
        _refuse(str(path), f"has a row that is not {count} numbers", REMEDY)
    for value in row:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= 1):
            _refuse(str(path), f"holds {str(value)[:40]!r}, no accuracy from 0 to 1", REMEDY)
    return [np.nan if value is None else float(value) for value in row]


def _frozen(values: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        copied = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"are no numbers ({error})"
        raise InputError("accuracies", reason, "Give one row and column a task") from error
    copied.flags.writeable = False
    return copied


def _check_range(thing: str, values: NDArray[np.float64]) -> None:
    measured = values[~np.isnan(values)]
    if measured.size and not (measured.min() >= 0 and measured.max() <= 1):
        found = f"run from {measured.min():g} to {measured.max():g}"
        _refuse(thing, found, "Give fractions from 0 to 1")


def _refuse(thing: str, reason: str, remedy: str) -> NoReturn:
    raise InputError(thing, reason, remedy)
