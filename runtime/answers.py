"""What a bundle says of frames, in one row for each: logits, or all outputs of another task.

A row of another task is the summary, by which guard rails compare, and after it every output,
flattened. So whatever takes frames apart or puts them together again handles all tasks alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays
from edgemem.bundle.manifest import REMEDY, SUMMARY, Manifest, TaskSpec
from edgemem.errors import BundleError
from edgemem.runtime.logits import entropies

Answers = NDArray[np.float32]


def rows_of(outputs: Arrays, manifest: Manifest, frames: int, thing: str) -> Answers:
    """The rows [n, numbers] of so many frames, from what a graph returns.

    Raises:
        BundleError: an output has another shape than the manifest says.
    """
    task = manifest.task
    if task is None:
        return outputs["logits"][:frames]
    parts = [_part(outputs[SUMMARY], (frames, task.summary), SUMMARY, thing)]
    for spec in task.outputs:
        shape = (*spec.shape[: spec.axis], frames, *spec.shape[spec.axis :])
        found = _part(outputs[spec.tensor], shape, spec.tensor, thing)
        parts.append(np.moveaxis(found, spec.axis, 0).reshape(frames, -1))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def summaries(rows: Answers, manifest: Manifest) -> Answers:
    """The first numbers of each row, by which guard rails compare."""
    return rows if manifest.task is None else rows[:, : manifest.task.summary]


def entropies_of(rows: Answers, task: TaskSpec | None) -> Answers:
    """Of each frame [n], in nats; for classes, and tasks that know their certainty."""
    return entropies(rows) if task is None else mean_entropies(rows, task)


def mean_entropies(rows: Answers, task: TaskSpec) -> Answers:
    """Of all positions of each frame, [n], in nats; for tasks that know their certainty."""
    return rows[:, task.summary - 1]


def answers_of(rows: Answers, manifest: Manifest) -> Arrays:
    """Rows by the names that they have in graphs, each [n, ...]: the frames come first."""
    task = manifest.task
    if task is None:
        return {"logits": rows}
    shapes = [(task.summary,), *(output.shape for output in task.outputs)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = np.split(rows, ends, axis=1)
    return {
        name: part.reshape(len(rows), *shape)
        for name, part, shape in zip(manifest.answers, parts, shapes, strict=True)
    }


def outputs_of(rows: Answers, manifest: Manifest) -> Arrays:
    """The outputs by their own names, as the model lays them out."""
    if manifest.task is None:
        return {"logits": rows}
    found = answers_of(rows, manifest)
    return {o.name: np.moveaxis(found[o.tensor], 0, o.axis) for o in manifest.task.outputs}


def _part(array: Array, shape: tuple[int, ...], name: str, thing: str) -> Array:
    if array.shape != shape:
        reason = f"gives {list(array.shape)} as {name!r} instead of {list(shape)}"
        raise BundleError(thing, reason, REMEDY)
    return array
