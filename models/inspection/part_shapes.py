"""What goes into the parts of a model and comes out of them, by a run on an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgemem.errors import AttachError
from edgemem.models.tensor_rows import Frames, frames_of

if TYPE_CHECKING:
    from edgemem.models.adaptive.adaptive_model import AdaptiveModel
    from edgemem.models.adaptive.parts import Part


def part_shapes(
    adaptive: AdaptiveModel, parts: list[Part], example: Frames
) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Run the example once and note input and output shape of every part."""
    inputs: dict[str, torch.Size] = {}
    outputs: dict[str, torch.Size] = {}
    active: list[str] = []
    handles = []
    for part in parts:

        def enter(
            _: nn.Module,
            args: tuple[object, ...],
            keywords: dict[str, object],
            name: str = part.name,
        ) -> None:
            if active:
                raise part_error(name, f"lies inside part {active[-1]!r}")
            if name in inputs:
                raise part_error(name, "runs more than once in a forward pass")
            active.append(name)
            inputs[name] = _single_tensor(name, args, "takes", keywords)

        def leave(_: nn.Module, __: object, output: object, name: str = part.name) -> None:
            outputs[name] = _single_tensor(name, (output,), "returns")
            active.remove(name)

        handles.append(part.first.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(part.last.register_forward_hook(leave))
    try:
        with torch.no_grad():
            adaptive(example)
    except AttachError:
        raise
    except Exception as error:
        raise refused_example(example, error) from error
    finally:
        for handle in handles:
            handle.remove()
    for part in parts:
        if part.name not in outputs:
            raise part_error(part.name, "does not run in a forward pass")
    return {name: (inputs[name], outputs[name]) for name in inputs}


def _single_tensor(
    name: str,
    values: tuple[object, ...],
    verb: str,
    keywords: Mapping[str, object] | None = None,
) -> torch.Size:
    named = {key: value for key, value in (keywords or {}).items() if value is not None}
    if named or len(values) != 1 or not isinstance(values[0], Tensor):
        kinds = ", ".join(
            [type(value).__name__ for value in values]
            + [f"{key}={type(value).__name__}" for key, value in named.items()]
        )
        how = "one tensor, by position" if named else "exactly one tensor"
        raise part_error(name, f"{verb} ({kinds}), not {how}")
    return values[0].shape


def part_error(name: str, reason: str) -> AttachError:
    """For a part that cannot have a meta network."""
    return AttachError(
        f"part {name!r}", reason, "Choose parts that run one after another, one tensor in and out"
    )


def refused_example(example: Frames, error: Exception) -> AttachError:
    """For frames of which the model raises an error."""
    remedy, text = "Pass frames of the shape the model was trained on", str(error)
    if isinstance(error, TypeError) and "missing" in text and "argument" in text:
        remedy = (
            "Pass what it takes beside the frames by name: attach(..., inputs={...}), or arrays of "
            "those names beside x in the .npz of --source"
        )
    elif frames_of(example).dtype == torch.int64:
        remedy = "Whole numbers are token ids; save frames as uint8 or float32"
    return AttachError(
        f"example input {list(example.shape)}", f"the model refuses it ({error})", remedy
    )
