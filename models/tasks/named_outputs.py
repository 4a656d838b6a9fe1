"""What a model returns, as tensors by name, and which axis of each holds the frames."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from edgemem.bundle.manifest import OutputSpec
from edgemem.errors import AttachError
from edgemem.models.tensor_rows import Frames, repeated

Named = dict[str, Tensor]
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
MOST_OUTPUTS = 64
# A few lines around the model name outputs, drop some, or put the frames first.
WRAP = (
    "Wrap it in a module whose forward returns what you need, such as "
    '`return {"boxes": boxes, "scores": scores}`, each with the frames first'
)


def named(output: object) -> Named:
    """The tensors of an output, float32: a tensor is `out0`, and so on; keys and attributes name.

    Outputs within others have both names, with a dot between them. What is None is left out.

    Raises:
        AttachError: something that is no tensor of real numbers, a name that no graph has, or more
            outputs than are handled.
    """
    found: Named = {}
    for name, value in _leaves("", output):
        if not isinstance(value, Tensor):
            raise _refused(name, f"a {type(value).__name__}, and no graph returns one")
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise _refused(
                name, f"{kind}{list(value.shape)}: a decision, which hides what led to it",
                "Return the numbers it is made from (before argmax, threshold or suppression)",
            )  # fmt: skip
        if not NAME.fullmatch(name):
            raise _refused(name, "a tensor, under a name that no graph has")
        found[name] = value.float()
    if not 0 < len(found) <= MOST_OUTPUTS:
        reason = f"returns {len(found)} tensors, and 1 to {MOST_OUTPUTS} are handled"
        raise AttachError("model", reason, WRAP)
    return found


def output_specs(model: Callable[[Frames], object], frames: Frames) -> tuple[OutputSpec, ...]:
    """The named outputs of a model, by what it gives for two and for three frames [n, ...].

    Raises:
        AttachError: as `named`; or there is no axis of an output that holds the frames, alone.
    """
    few = repeated(frames, 5)
    with torch.no_grad():
        two, three = named(model(few[:2])), named(model(few[2:]))
    if two.keys() != three.keys():
        other = min(two.keys() ^ three.keys())
        raise _refused(other, "a tensor for some numbers of frames only")
    return tuple(_spec(name, two[name], three[name]) for name in two)


def frames_first(found: Mapping[str, Tensor], specs: tuple[OutputSpec, ...]) -> Named:
    """Outputs with the frames as their first axis."""
    return {spec.name: found[spec.name].movedim(spec.axis, 0) for spec in specs}


def flat(found: Mapping[str, Tensor], specs: tuple[OutputSpec, ...]) -> Tensor:
    """All that is said of each frame, [n, numbers]."""
    return torch.cat([flattened(value) for value in frames_first(found, specs).values()], 1)


def flattened(value: Tensor) -> Tensor:
    """[n, ...] -> [n, numbers]."""
    return value.flatten(1) if value.dim() > 1 else value.unsqueeze(1)


def _spec(name: str, two: Tensor, three: Tensor) -> OutputSpec:
    sizes = [*zip(two.shape, three.shape, strict=False)]
    axes = [axis for axis, (first, second) in enumerate(sizes) if first != second]
    if two.dim() != three.dim() or len(axes) != 1 or sizes[axes[0]] != (2, 3):
        shapes = f"{list(two.shape)} for two frames and {list(three.shape)} for three"
        raise _refused(name, f"{shapes}: no axis holds the frames, one after another")
    shape = tuple(size for axis, size in enumerate(two.shape) if axis != axes[0])
    if 0 in shape:
        raise _refused(name, f"{list(two.shape)} for two frames, which holds nothing")
    return OutputSpec(name, shape, axes[0])


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what is no container, None left out."""
    parts: Iterator[tuple[str, Any]] | None = None
    if isinstance(value, Mapping):
        parts = iter([(str(key), part) for key, part in value.items()])
    elif hasattr(value, "_fields"):
        parts = iter([(key, getattr(value, key)) for key in value._fields])
    elif isinstance(value, (tuple, list)):
        names = (f"out{k}" if not name else str(k) for k in range(len(value)))
        parts = iter(list(zip(names, value, strict=True)))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = iter([(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)])
    if parts is None:
        if value is not None:
            yield name or "out0", value
        return
    for key, part in parts:
        yield from _leaves(f"{name}.{key}" if name else key, part)


def _refused(name: str, what: str, remedy: str = WRAP) -> AttachError:
    return AttachError(f"output {name!r}", f"is {what}", remedy)
