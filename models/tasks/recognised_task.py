"""What task a model's outputs are of, as it was told or as far as they are unmistakable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgemem.bundle.manifest import OutputSpec
from edgemem.errors import AttachError
from edgemem.models.adaptive.outputs import Model, Outputs, only, probes, recognised
from edgemem.models.tasks.named_outputs import named, output_specs
from edgemem.models.tasks.task_outputs import AUTO, Task, check_outputs, fitting, scale_of, shown
from edgemem.models.tensor_rows import Frames, cat


class Recognised(NamedTuple):
    """A task with what is known of its outputs. named: none for classes."""

    task: Task
    outputs: Outputs
    named: tuple[OutputSpec, ...]


def recognised_task(model: Model, frames: Frames, task: Task | Literal["auto"]) -> Recognised:
    """The task of a model, by what it gives for frames [n, ...] as it takes them.

    Left to itself ("auto") it is classes, where there is one row of numbers for each frame that
    can be logits or probabilities of classes that exclude each other.

    Raises:
        AttachError: outputs that do not fit the task, or, left to itself, may be of several.
    """
    if task == "classes" or (task == AUTO and _is_rows(model, frames)):
        return Recognised("classes", recognised(model, frames), ())
    specs = output_specs(model, frames)
    if task == AUTO:
        options = " or ".join(repr(name) for name in fitting(specs, tuple(frames.shape[1:])))
        raise AttachError(
            "model",
            f"returns {shown(specs)}, and what that is cannot be told by its shape",
            f"Name its task (edgemem export --task, or attach(..., task=...)): {options} would fit",
        )
    check_outputs(task, specs, tuple(frames.shape[1:]))
    with torch.no_grad():
        many = named(model(cat([frames, *probes(frames)])))
    return Recognised(task, scale_of(task, many, specs), specs)


def _is_rows(model: Model, frames: Frames) -> bool:
    """Whether there is one output [n, numbers] or [n], as classifiers have it.

    As many numbers as the frames have may be the frames again.
    """
    with torch.no_grad():
        output = only(model(frames))
    if not isinstance(output, Tensor) or output.dim() > 2 or not output.is_floating_point():
        return False
    return output.shape != frames.shape


@contextmanager
def slopes(network: nn.Module) -> Iterator[None]:
    """While active, weights bear gradients: whole numbers bear none."""
    before = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    for parameter in before:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in before:
            parameter.requires_grad_(False)
