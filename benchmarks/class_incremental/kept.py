"""Runs that were made before, in the user's cache: a run is made again only when something that
decides its outcome has changed. Comments and docstrings do not decide it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.class_incremental.methods import METHODS
from benchmarks.class_incremental.running import READINGS, Outcome
from benchmarks.class_incremental.split import Setting, Task
from benchmarks.shared.cache import cache_home, code_meaning, digest
from edgemem.accuracy import read_accuracy, write_accuracy

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS = ("network.py", "views.py", "split.py", "running.py", "peers/base.py")
LIBRARY = (
    "edgemem/accuracy.py", "models/warmup/augment.py", "models/data.py",
    "models/prototypes/losses.py", "models/prototypes/model.py", "models/prototypes/recipe.py",
    "models/prototypes/training.py",
)  # fmt: skip


def run_path(
    method: str,
    numbers: Mapping[str, float],
    setting: Setting,
    tasks: Sequence[Task],
    seed: int,
    where: str,
) -> Path:
    """The stem of the run's files. where: device and threads, which change the last bits."""
    decides = [method, dict(sorted(numbers.items())), asdict(setting), seed, where]
    parts = [json.dumps(decides).encode(), _code(METHODS[method].module).encode()]
    for task in tasks:
        parts += [np.ascontiguousarray(array).tobytes() for array in task]
    return cache_home() / "class-incremental" / digest(parts)[:24]


def keep(path: Path, outcome: Outcome) -> None:
    """Write a run's outcome; last comes the file that says that it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for reading in READINGS:
        write_accuracy(getattr(outcome, reading), matrix_path(path, reading))
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"seconds": outcome.seconds}))
    draft.replace(path.with_suffix(".json"))


def kept(path: Path) -> Outcome | None:
    """What `keep` wrote, or None."""
    if not path.with_suffix(".json").exists():
        return None
    seconds = json.loads(path.with_suffix(".json").read_text())["seconds"]
    return Outcome(*(read_accuracy(matrix_path(path, r)) for r in READINGS), seconds)


def matrix_path(path: Path, reading: str) -> Path:
    """Where a matrix of the run lies."""
    return path.with_name(f"{path.name}.{reading.replace('_', '-')}.json")


@functools.cache
def _code(module: str) -> str:
    here = Path(__file__).resolve().parent
    paths = [*(here / name for name in (*HARNESS, f"peers/{module}.py"))]
    paths += [REPOSITORY / name for name in LIBRARY]
    return digest(code_meaning(path) for path in paths)
