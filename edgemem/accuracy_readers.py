"""Accuracy matrices as other libraries hold them: Avalanche, Mammoth, and plain tables of numbers.

All give an `AccuracyMatrix`, whose values run from 0 to 1. Nothing here imports those libraries.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgemem.accuracy import LARGEST_FILE, MOST_TASKS, AccuracyMatrix, from_rows
from edgemem.errors import InputError
from edgemem.printable import shown
from edgemem.reading import read_bounded

AVALANCHE_KEY = r"Top1_Acc_Exp/eval_phase/{stream}/(?:Task\d+/)?Exp(\d+)"
MAMMOTH_KEY = re.compile(r"accuracy_(\d+)_task(\d+)")
LONGEST_LINE = 4 << 20  # characters, as reading literals takes a hundred times as much memory
NOT_MEASURED = ("", "nan", "none", "-")


def from_avalanche(
    evaluations: Sequence[Mapping[str, Any]], stream: str = "test_stream"
) -> AccuracyMatrix:
    """From what `strategy.eval(stream)` of Avalanche returned after each experience, in order.

    Of each dictionary, the values at `Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000` and so on
    count (`accuracy_metrics(experience=True)`); the number of the experience is the column.

    Raises:
        InputError: an evaluation without them, or see `from_rows`.
    """
    key, rows = re.compile(AVALANCHE_KEY.format(stream=re.escape(stream))), []
    for number, evaluation in enumerate(evaluations):
        found = {
            int(m[1]): value for name, value in evaluation.items() if (m := key.fullmatch(name))
        }
        thing = f"evaluation after experience {number}"
        if not found:
            _refuse(
                thing, f"holds no accuracy of {stream}", "Use accuracy_metrics(experience=True)"
            )
        _require_tasks(thing, max(found) + 1)
        row = [found.get(column, float("nan")) for column in range(max(found) + 1)]
        rows.append([_number(thing, value) for value in row])
    return _matrix(rows)


def from_mammoth(rows: Sequence[Sequence[float]]) -> AccuracyMatrix:
    """From `fullaccs` or `fullaccs_mask_classes` of Mammoth: per cent, one row after each task.

    Row i holds tasks 0 to i. What is beyond is left out: computing forgetting there pads these very
    lists with zeros.

    Raises:
        InputError: a row that is too short, or see `AccuracyMatrix`.
    """
    cut = [[_number(f"row {i}", v) / 100 for v in row[: i + 1]] for i, row in enumerate(rows)]
    return _matrix(cut)


def read_mammoth(path: Path, run: int = -1) -> AccuracyMatrix:
    """From a file `logs.pyd` of Mammoth, which holds one dictionary a line; run: of which line.

    Values are at `accuracy_1_task1`, `accuracy_1_task2` … : task, after task, both counted from 1.

    Raises:
        InputError: missing, no such line, no dictionary of literals, or accuracies are missing.
    """
    lines = [line for line in _text(path).splitlines() if line.strip()]
    if not -len(lines) <= run < len(lines):
        _refuse(str(path), f"has {len(lines)} runs, not run {run}", "Choose one that is there")
    if len(lines[run]) > LONGEST_LINE:
        _refuse(str(path), f"run {run} is too long", "Pass its fullaccs to from_mammoth")
    try:
        # Other entries may be text of objects; only literals are read, and nothing is run.
        held = ast.literal_eval(lines[run].strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        reason = f"run {run} is no dictionary of literals"
        raise InputError(str(path), reason, "Pass its fullaccs to from_mammoth") from error
    entries = held.items() if isinstance(held, dict) else ()
    found = {
        (int(m[2]), int(m[1])): value
        for name, value in entries
        if isinstance(name, str) and (m := MAMMOTH_KEY.fullmatch(name))
    }
    count = max((after for after, _ in found), default=0)
    _require_tasks(str(path), count)
    wanted = [[(after, task) for task in range(1, after + 1)] for after in range(1, count + 1)]
    if not wanted or any(pair not in found for row in wanted for pair in row):
        _refuse(str(path), f"run {run} lacks accuracies", "Check that every task was tested")
    return from_mammoth([[found[pair] for pair in row] for row in wanted])


def read_table(path: Path, *, percent: bool = False) -> AccuracyMatrix:
    """From lines of numbers with commas between them, as spreadsheets and `numpy.savetxt` write.

    Line i holds the accuracies after task i. Cells above the diagonal may be empty, `nan`, `none`
    or `-`, or be left out. percent: whether values run to 100.

    Raises:
        InputError: missing, a cell that is no number, or see `from_rows`.
    """
    rows = []
    try:
        for number, cells in enumerate(csv.reader(_text(path).splitlines())):
            if not cells:
                continue
            thing = f"{path}: line {number + 1}"
            values = [_cell(thing, cell.strip().lower()) for cell in cells]
            rows.append([value / 100 if percent else value for value in values])
    except csv.Error as error:
        raise InputError(str(path), f"is no table ({error})", "Check the path") from error
    return _matrix(rows)


def _require_tasks(thing: str, count: int) -> None:
    if count > MOST_TASKS:
        _refuse(thing, f"is of {count} tasks", f"Give at most {MOST_TASKS}")


def _matrix(rows: Sequence[Sequence[float]]) -> AccuracyMatrix:
    if not rows:
        _refuse("accuracies", "are of no task", "Give one row a task")
    return from_rows(rows)


def _cell(thing: str, text: str) -> float:
    if text in NOT_MEASURED:
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        reason = f"holds {text[:40]!r}, no number"
        raise InputError(thing, reason, "Remove what is not an accuracy") from error


def _number(thing: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"holds {shown(value)}, no number"
        raise InputError(thing, reason, "Give accuracies only") from error


def _text(path: Path) -> str:
    content = read_bounded(path, LARGEST_FILE)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(str(path), "is no text", "Check the path") from error


def _refuse(thing: str, reason: str, remedy: str) -> NoReturn:
    raise InputError(thing, reason, remedy)
