"""Further sizes of frames that a bundle has graphs for: which fit, and the model at one of them.

A step is lowered for one size. So every size has graphs of its own; weights, block and slots are
those of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from edgemem.bundle.manifest import OutputSpec
from edgemem.errors import AttachError, ExportError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.tasks.named_outputs import output_specs
from edgemem.models.tensor_rows import call

LEAVE_OUT = "Leave it out, or let the model take frames of it"


def size_name(shape: tuple[int, ...]) -> str:
    """A size as people write it: all but the channels."""
    return "x".join(map(str, shape[1:]))


def check_sizes(
    first: tuple[int, ...], sizes: tuple[tuple[int, ...], ...], batch: int, most: int
) -> None:
    """Refuse sizes that cannot be those of one bundle.

    Args:
        first: shape of one frame, of the model's own.
        sizes: the further ones.
        batch: frames of a step.
        most: values of such a batch.

    Raises:
        ExportError: it names the size.
    """
    for number, shape in enumerate(sizes):
        thing = f"size {size_name(shape)}"
        if len(shape) != len(first) or len(first) < 2 or shape[0] != first[0] or min(shape) < 1:
            raise ExportError(
                thing,
                f"is of frames of {list(shape)}, and the model's are {list(first)}",
                "Choose sizes with the same channels and axes",
            )
        if shape in (first, *sizes[:number]):
            raise ExportError(thing, "is there twice", "Name every size once")
        if batch * math.prod(shape) > most:
            raise ExportError(thing, f"makes steps of more than {most:,} values", "Leave it out")


@contextmanager
def at_size(model: AdaptiveModel, shape: tuple[int, ...]) -> Iterator[None]:
    """While active, a model is for frames of another shape.

    Raises:
        ExportError: it takes none, or answers otherwise.
    """
    before = model.attachment
    if shape == before.input_shape:
        yield
        return
    model.attachment = replace(before, input_shape=shape)
    try:
        model.attachment = replace(model.attachment, named=_outputs(model))
        yield
    finally:
        model.attachment = before


def _outputs(model: AdaptiveModel) -> tuple[OutputSpec, ...]:
    """The named outputs at the model's present size."""
    attachment, thing = model.attachment, f"size {size_name(model.attachment.input_shape)}"
    given = attachment.normalized(attachment.example(5))
    try:
        with torch.no_grad():
            answers = model.untouched_outputs(attachment.example(2))
        found = output_specs(lambda rows: call(model.untouched, rows), given)
    except AttachError as error:
        raise ExportError(thing, f"{error.thing} {error.reason}", LEAVE_OUT) from error
    except Exception as error:  # of the user's own model
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(thing, f"is none that the model runs on ({reason})", LEAVE_OUT) from error
    if attachment.task == "classes":
        if answers["logits"].shape[1] != model.classes:
            reason = f"gives {answers['logits'].shape[1]} classes instead of {model.classes}"
            raise ExportError(thing, reason, LEAVE_OUT)
        return ()
    known = [(spec.name, spec.axis, len(spec.shape)) for spec in attachment.named]
    if [(spec.name, spec.axis, len(spec.shape)) for spec in found] != known:
        raise ExportError(thing, "gives other outputs than the model's own size", LEAVE_OUT)
    return found
