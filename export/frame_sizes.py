"""Further sizes of frames that a bundle has graphs for: which fit, and the model at one of them.

A step is lowered for one size. So every size has graphs of its own; weights, block and slots are
those of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgemem.errors import AttachError, ExportError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.input_sizes import size_name
from edgemem.models.inspection.untouched import known_source
from edgemem.models.norms.statistics import MixedStatistics
from edgemem.models.tasks.named_outputs import output_specs
from edgemem.models.tasks.task_outputs import summary
from edgemem.models.tensor_rows import call, split

LEAVE_OUT = "Leave it out, or let the model take frames of it"
EACH = "Leave it out, or export one bundle for each size"
KEY_FRAMES = 16  # of one key


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
        if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
            raise ExportError(
                f"size {shape!r}", "is no shape of a frame", "Pass such as (3, 48, 160)"
            )
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

    Its keys are moved by what the size alone makes of those of source frames, so that frames of
    one context have one key at all sizes.

    Raises:
        ExportError: it takes no such frames, answers otherwise, or its norms see other rows.
    """
    before, shift = model.attachment, model.settings.key_shift
    if shape == before.input_shape:
        yield
        return
    own = _seen(model)
    model.attachment = replace(before, input_shape=shape)
    try:
        found = _at_present(model)
        _compare(f"size {size_name(shape)}", own, found)
        if own.key is not None and found.key is not None:
            model.settings.key_shift = own.key - found.key
        yield
    finally:
        model.attachment, model.settings.key_shift = before, shift


@dataclass(frozen=True, eq=False)
class PassAtSize:
    """What a pass shows of a model at one size.

    Attributes:
        rows: that each norm sees of two frames.
        outputs: of a task other than classes: name, axis and number of axes.
        numbers: of an answer that may not depend on the size: classes, or a summary.
        key: mean of source frames; None where these or keys are not known.
    """

    rows: dict[str, int]
    outputs: tuple[tuple[str, int, int], ...]
    numbers: int
    key: Tensor | None


def _at_present(model: AdaptiveModel) -> PassAtSize:
    """The model at its present size, its named outputs found anew."""
    attachment = model.attachment
    thing = f"size {size_name(attachment.input_shape)}"
    try:
        if attachment.task != "classes":
            given = attachment.normalized(attachment.example(5))
            named = output_specs(lambda rows: call(model.untouched, rows), given)
            model.attachment = replace(attachment, named=named)
        return _seen(model)
    except AttachError as error:
        raise ExportError(thing, f"{error.thing} {error.reason}", LEAVE_OUT) from error
    except Exception as error:  # of the user's own model
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(thing, f"is none that the model runs on ({reason})", LEAVE_OUT) from error


def _seen(model: AdaptiveModel) -> PassAtSize:
    rows: dict[str, int] = {}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, MixedStatistics)}

    def looking(name: str) -> Callable[..., None]:
        def look(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows[name] = len(args[0])

        return look

    handles = [m.register_forward_pre_hook(looking(name)) for name, m in norms.items()]
    attachment = model.attachment
    try:
        with torch.no_grad():
            model(attachment.example(2))
            given = model.untouched_outputs(attachment.example(2))
    finally:
        for handle in handles:
            handle.remove()
    key, source = None, known_source(model)
    if source is not None and model.key_norm is not None:
        with torch.no_grad():
            key = torch.stack([model(x).key for x in split(source, KEY_FRAMES)]).mean(0)
    if attachment.task == "classes":
        return PassAtSize(rows, (), given["logits"].shape[1], key)
    named = attachment.named
    numbers = summary(attachment.task, attachment.scale, given, named).shape[1]
    return PassAtSize(rows, tuple((o.name, o.axis, len(o.shape)) for o in named), numbers, key)


def _compare(thing: str, own: PassAtSize, found: PassAtSize) -> None:
    if found.outputs != own.outputs:
        raise ExportError(thing, "gives other outputs than the model's own size", LEAVE_OUT)
    if found.numbers != own.numbers:
        reason = f"gives {found.numbers} numbers where the model's own size gives {own.numbers}"
        raise ExportError(thing, reason, EACH)
    for name, rows in own.rows.items():
        if found.rows.get(name) != rows:
            reason = f"lets norm {name!r} see {found.rows.get(name)} rows of two frames, not {rows}"
            raise ExportError(thing, reason, EACH)
