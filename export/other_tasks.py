"""What an export of outputs without classes needs besides: what fits them, and their guard rail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgemem.block import Block
from edgemem.bundle.manifest import POSITIONS, Manifest, TaskSpec
from edgemem.bundle.rows import frames_of, with_frames
from edgemem.errors import ExportError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.outputs import Output
from edgemem.models.data import to_float
from edgemem.models.tasks.task_outputs import summary
from edgemem.models.tensor_rows import source_rows, to_array

if TYPE_CHECKING:
    from edgemem.export.choices import Choices
    from edgemem.runtime.step.graphs import Frames, Graphs

OF_CLASSES = ("prototype_relation",)  # objectives that need frames of classes
# Times the largest distance that a synthetic shift of source frames gives; and at least so many
# deviations, as much as frames differ among themselves anyway.
ROOM, LEAST_LIMIT = 2.0, 3.0
MOST_FRAMES = 64  # of every shift, or one batch, where that is more
NO_RAIL = "no source frames: outputs have no limit"
ROWS = ("ecotta", "likelihood_ratio", "tent")  # those that need entropies


def check_task(model: AdaptiveModel, choices: Choices) -> None:
    """Refuse choices that need classes.

    Raises:
        ExportError: naming the choice.
    """
    task = model.attachment.task
    given = {
        "labels": choices.labels is not None,
        "max_classes": choices.max_classes is not None,
        "int8": choices.int8 is not None,
        "target": tuple(choices.targets) != ("onnx",),
    }
    for name, chosen in given.items():
        if chosen:
            reason = f"is for classes, and the task is {task}"
            if name in ("int8", "target"):
                reason = f"is not there yet for the task {task}"
            raise ExportError(name, reason, "Leave it out")
    objective = choices.objective
    if objective in OF_CLASSES or (objective in ROWS and task not in POSITIONS):
        raise ExportError(
            f"objective {objective!r}",
            f"needs classes to be certain of, and the task is {task}",
            "Use statistics",
        )


def task_spec(model: AdaptiveModel, output: Output) -> TaskSpec | None:
    """What the manifest says of the outputs; None for classes. output: for any frames."""
    attachment = model.attachment
    if attachment.task == "classes":
        return None
    told = summary(attachment.task, model.attachment.scale, output.named, attachment.named)
    return TaskSpec(attachment.task, attachment.named, told.shape[1])


def railed(
    folder: Path, manifest: Manifest, model: AdaptiveModel, report: Callable[[str], None]
) -> Manifest:
    """The manifest of a written bundle, with how far its outputs may go from the frozen model's.

    Measured on source frames as they are and under synthetic shifts: what the statistics of such
    batches make of the outputs is sound. It stays as it is for classes, or with less than a batch
    of source frames.
    """
    task, frames = manifest.task, source_rows(model)
    if task is None:
        return manifest
    if frames is None or len(frames) < manifest.frames.batch:
        report(NO_RAIL)
        return manifest
    from edgemem.bundle.opening import open_bundle
    from edgemem.runtime.answers import summaries
    from edgemem.runtime.engines.choice import EngineSettings, choose
    from edgemem.runtime.guard.output_distance import deviations, distance
    from edgemem.runtime.step.graphs import Graphs

    report("measuring outputs")
    bundle = open_bundle(folder)
    graphs = Graphs(bundle, choose(bundle, settings=EngineSettings(0)).backend)
    x, few = to_array(to_float(frames)), max(MOST_FRAMES, manifest.frames.batch)
    known = np.concatenate(
        [summaries(graphs.frozen(part), manifest) for part in _batches(x, manifest)]
    )
    task = replace(task, mean=tuple(known.mean(0).tolist()), deviation=deviations(known))
    largest = max(
        distance(summaries(own, manifest), summaries(frozen, manifest), task)
        for own, frozen in _under_shifts(graphs, bundle.generic, x[:few], manifest)
    )
    told = manifest.exported_from | {"output_distance": largest}
    task = replace(task, limit=max(LEAST_LIMIT, ROOM * largest))
    return replace(manifest, task=task, exported_from=told)


def _under_shifts(
    graphs: Graphs, generic: Block, x: Frames, manifest: Manifest
) -> Iterator[tuple[Frames, Frames]]:
    """Answers of the block as exported and of the frozen model, for batches of each shift."""
    from edgemem.runtime.step.hyper_parameters import HyperParameters
    from edgemem.shifts import SHIFTS

    rng, parameters = np.random.default_rng(0), HyperParameters(manifest, {}).now()
    shifted = [x]
    if manifest.frames.ids is None:  # token ids cannot be shifted
        shifted += [
            with_frames(x, shift(frames_of(x), rng).astype(np.float32)) for shift in SHIFTS.values()
        ]
    for rows in shifted:
        for part in _batches(rows, manifest):
            yield graphs.predict(part, generic, parameters), graphs.frozen(part)


def _batches(x: Frames, manifest: Manifest) -> list[Frames]:
    size = manifest.frames.batch
    return [x[start : start + size] for start in range(0, len(x) - size + 1, size)]
