"""`edgemem train-prototypes`: from text on the command line to a model that knows more classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgemem.accuracy import AccuracyMatrix, from_rows, write_accuracy
from edgemem.errors import InputError
from edgemem.files.atomic import sha256_file
from edgemem.models.checkpoints.checkpoint import check_writable
from edgemem.models.data import Frames, class_names, load_dataset
from edgemem.models.given_models.factory import Say, build_model, load_weights
from edgemem.models.model_options import (
    AttachSettings,
    input_shape_of,
    normalization_of,
)
from edgemem.models.prototypes.encoder import Encoder, EncoderSettings, feature_size, last_linear
from edgemem.models.prototypes.model import PrototypeModel
from edgemem.models.prototypes.prototype_checkpoint import (
    is_prototypes,
    load_prototypes,
    save_prototypes,
)
from edgemem.models.prototypes.recipe import TaskProgress, TaskRecipe
from edgemem.models.prototypes.training import learn_task
from edgemem.models.threads import set_threads

Dataset = tuple[Frames, NDArray[np.int64]]
Report = Callable[[int, int, TaskProgress], None]


@dataclass(frozen=True)
class TaskChoices:
    """Options as text; None = not given. classes_per_task: 0 = all new classes are one task."""

    input_shape: str | None = None
    mean: str | None = None
    std: str | None = None
    head: str | None = None
    classes_per_task: int = 0


class Outcome(NamedTuple):
    """What was learnt.

    Attributes:
        tasks: classes of each task of this run.
        by_class: accuracies on the test frames, among all classes and among those of the task; None
            without test frames. In both, the classes that were known before are task 0, if there
            are any.
        by_task: accuracies on the test frames, among all classes and among those of the task; None
            without test frames. In both, the classes that were known before are task 0, if there
            are any.
    """

    tasks: list[list[int]]
    by_class: AccuracyMatrix | None
    by_task: AccuracyMatrix | None


def train_prototypes(  # noqa: PLR0913, PLR0917 - one command line, option by option
    checkpoint: Path,
    target: str,
    arguments: Sequence[str],
    choices: TaskChoices,
    data: Path,
    test: Path | None,
    out: Path,
    recipe: TaskRecipe,
    report: Report,
    threads: int,
    say: Say = lambda line: None,
) -> Outcome:
    """Load, learn the tasks one after another, save; progress files beside `out` go at the end.

    report: is given the number of the task, from 0, how many there are, and where learning is.

    Raises:
        CheckpointError, InputError: see `load_into`, `load_prototypes`, `learn_task`.
    """
    check_writable(out)
    set_threads(threads)
    model, settings, source = _load(checkpoint, target, arguments, choices, recipe.seed, say)
    frames, labels = _dataset(data, settings)
    tasks = split_tasks(labels, model.classes, choices.classes_per_task)
    groups = [*([model.classes] if model.classes else []), *map(tuple, tasks)]
    tests = None if test is None else _tests(test, settings, groups, class_names(data))
    rows = _Rows(groups, tests)
    if model.classes:
        rows.add(model)
    kept = [out.with_suffix(f".task-{n}.progress.safetensors") for n in range(len(tasks))]
    for number, classes in enumerate(tasks):
        own = np.isin(labels, classes)

        def note(progress: TaskProgress, number: int = number) -> None:
            report(number, len(tasks), progress)

        # A finished progress file gives its task at once, so those of earlier tasks stay, too.
        model = learn_task(model, frames[own], labels[own], recipe, note, resume=kept[number])
        rows.add(model)
    save_prototypes(model, out, settings, source)
    outcome = Outcome(tasks, rows.matrix(0), rows.matrix(1))
    _write_accuracies(outcome, out)
    for path in kept:
        path.unlink(missing_ok=True)
    return outcome


def _write_accuracies(outcome: Outcome, out: Path) -> None:
    for kind, matrix in (("class", outcome.by_class), ("task", outcome.by_task)):
        if matrix is not None:
            write_accuracy(matrix, out.with_suffix(f".by-{kind}.json"))


def split_tasks(
    labels: NDArray[np.int64], known: Sequence[int], classes_per_task: int
) -> list[list[int]]:
    """Classes of each task: those not known, in order, so many at a time; 0 = all at once.

    Raises:
        InputError: a negative number, or no class is new.
    """
    new = np.setdiff1d(labels, known).tolist()
    if not new:
        raise InputError("--data", "holds no class that is new", "Pass frames of new classes")
    if classes_per_task < 0:
        raise InputError(f"--classes-per-task {classes_per_task}", "is negative", "Use 0 or more")
    size = classes_per_task or len(new)
    return [new[start : start + size] for start in range(0, len(new), size)]


class _Rows:
    """Accuracies after each task: among all classes that are known then, and among the task's."""

    def __init__(self, groups: Sequence[Sequence[int]], tests: list[Dataset] | None) -> None:
        self.groups, self.tests = groups, tests
        self.rows: tuple[list[list[float]], list[list[float]]] = ([], [])

    def add(self, model: PrototypeModel) -> None:
        """Measure a model on all tasks that it knows."""
        if self.tests is None:
            return
        known = len(self.rows[0]) + 1
        pairs = list(zip(self.groups, self.tests, strict=True))[:known]
        for rows, narrow in zip(self.rows, (False, True), strict=True):
            rows.append(
                [
                    float(np.mean(model.predict(x, group if narrow else None) == y))
                    for group, (x, y) in pairs
                ]
            )

    def matrix(self, kind: int) -> AccuracyMatrix | None:
        """All rows so far: 0 = among all classes, 1 = among the task's."""
        return from_rows(self.rows[kind]) if self.tests is not None else None


def _load(
    checkpoint: Path,
    target: str,
    arguments: Sequence[str],
    choices: TaskChoices,
    seed: int,
    say: Say,
) -> tuple[PrototypeModel, EncoderSettings, dict[str, str]]:
    network = build_model(target, arguments)
    if is_prototypes(checkpoint):
        for option in ("input_shape", "mean", "std", "head"):
            if getattr(choices, option) is not None:
                thing = f"--{option.replace('_', '-')}"
                raise InputError(thing, f"is in {checkpoint.name} already", "Leave it out")
        return load_prototypes(checkpoint, network)
    load_weights(network, checkpoint, say)
    given = AttachSettings(None, None, choices.input_shape, choices.mean, choices.std)
    shape = input_shape_of(network, given)
    head = last_linear(network) if choices.head is None else choices.head
    settings = EncoderSettings(head, normalization_of(given, shape[0]), shape)
    encoder = Encoder(network, settings)
    source = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256_file(checkpoint),
        "model": target,
        "model_arguments": ", ".join(arguments),
    }
    return PrototypeModel(encoder, feature_size(encoder, settings), seed=seed), settings, source


def _dataset(path: Path, settings: EncoderSettings, names: Sequence[str] | None = None) -> Dataset:
    frames, labels = load_dataset(path, names)
    if frames.shape[1:] != settings.input_shape:
        raise InputError(
            str(path),
            f"has frames of {list(frames.shape[1:])}, the model takes {list(settings.input_shape)}",
            "Pass frames of that shape, channels first",
        )
    return frames, labels


def _tests(
    path: Path,
    settings: EncoderSettings,
    groups: Sequence[Sequence[int]],
    names: Sequence[str] | None,
) -> list[Dataset]:
    """Test frames of each group of classes; their folders are numbered as those trained on."""
    frames, labels = _dataset(path, settings, names)
    each = [(frames[own], labels[own]) for own in (np.isin(labels, group) for group in groups)]
    for group, (_, found) in zip(groups, each, strict=True):
        if missing := sorted(set(group) - set(found.tolist())):
            raise InputError(str(path), f"has no frames of class {missing[0]}", "Add some")
    return each
