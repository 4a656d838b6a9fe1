"""What an export can still do where a step cannot be traced.

Each way is tried before it is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.errors import ExportError
from edgemem.export.choices import Choices, functions_of
from edgemem.export.functions.class_reading import Reading
from edgemem.export.lowering.table import Untraceable
from edgemem.export.tracing.trace import to_onnx, traced
from edgemem.models.adaptive.adaptive_model import AdaptiveModel

FORWARD = ("predict", "key")


def with_way_out(
    error: Untraceable,
    graph: str,
    model: AdaptiveModel,
    choices: Choices,
    frames: FrameSpec,
    reading: Reading | None,
) -> ExportError:
    """The same error with the module it comes from, where that is found, and a remedy that works.

    graph: the one that could not be traced; those before it could.
    """
    operator = re.search(r"(?:aten|prims)\.(\w+)", str(error))
    place = "" if operator is None else _place(model, frames, operator[1])
    if graph in FORWARD:  # every choice needs the forward pass
        return ExportError(error.thing + place, error.reason, error.remedy)
    found = _way_out(model, choices, frames, reading)
    return ExportError(error.thing + place, error.reason, found)


def _way_out(
    model: AdaptiveModel, choices: Choices, frames: FrameSpec, reading: Reading | None
) -> str:
    meta = replace(choices, gradient="meta")
    parts = list(model.attachment.parts)
    outside = [p for name, p in model.named_parameters() if not name.startswith("meta.")]
    for first in range(len(parts)):
        dropped = [p for network in list(model.meta.values())[:first] for p in network.parameters()]
        if choices.gradient == "meta" and first == 0:
            continue  # what has just failed
        with _constant([*outside, *dropped]):
            works = _works(model, meta, frames, reading)
        if works and first == 0:
            return "Use --gradient meta without --norm-affine: no gradient crosses it then"
        if works:
            kept = ",".join(parts[first:])
            again = "warm up again with" if model.warm else "export with"
            return f"Use --gradient meta, and {again} the parts behind it only: --parts {kept}"
    if model.key_norm is None:  # then nothing can be remembered either
        return "Write that layer in other operators: a step has to cross it"
    if not model.remembered():
        return (
            "Warm up with --statistics remembered and export with --objective statistics, "
            "which has no backward pass"
        )
    return "Use --objective statistics, which has no backward pass"


def _works(
    model: AdaptiveModel, choices: Choices, frames: FrameSpec, reading: Reading | None
) -> bool:
    """Whether all that learns by these choices can be traced and written."""
    if not model.learned():
        return False
    try:
        functions, _ = functions_of(model, choices, frames, reading)
        learning = [function for name, function in functions.items() if name not in FORWARD]
        for function in learning:
            traced(function, portable=False)  # fast, and most of what fails fails here
        for function in learning:
            to_onnx(function)
    except ExportError:
        return False
    return True


@contextmanager
def _constant(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """While active, these learn nothing."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _place(model: AdaptiveModel, frames: FrameSpec, operator: str) -> str:
    """' in 'layer3.pool'', or '' where no module runs such an operator."""
    seen = _Operators(model.frozen)
    with torch.no_grad(), seen:
        model.frozen_logits(model.attachment.example(2))
    seen.close()
    wanted = _bare(operator)
    for name, module in seen.found:
        if _bare(name).endswith(wanted) and module:
            return f" in {module!r}"
    return ""


def _bare(operator: str) -> str:
    return operator.strip("_").removesuffix("_backward").removesuffix("_forward")


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, notes the operators that run, and where.

    That is the innermost module of `root` they run in.
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[str, str]] = []
        self._within: list[str] = []
        self._handles: list[Any] = []
        for name, module in root.named_modules():
            self._handles += [
                module.register_forward_pre_hook(lambda *_, name=name: self._within.append(name)),
                module.register_forward_hook(lambda *_: self._leave()),
            ]

    def _leave(self) -> None:
        self._within.pop()

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by torch for every operator."""
        self.found.append((func.overloadpacket.__name__, self._within[-1] if self._within else ""))
        return func(*args, **(kwargs or {}))
