"""The functions of a step, called in torch: what graphs are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgemem.bundle.further_input import FRAMES
from edgemem.export.checks.onnx_graphs import Arrays
from edgemem.export.functions.forward import Function


def called(function: Function, inputs: Mapping[str, Tensor]) -> Arrays:
    """Its outputs by name, of inputs by name."""
    values = function.call(*(inputs[name] for name in function.inputs))
    return {
        name: value.detach().numpy() for name, value in zip(function.outputs, values, strict=True)
    }


def following(outputs: Arrays) -> dict[str, Tensor]:
    """The next block and slots, as inputs of what comes after."""
    return {
        name.removeprefix("next."): torch.from_numpy(value)
        for name, value in outputs.items()
        if name.startswith("next.")
    }


def off_by_a_bit(inputs: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The same with frames that are off by a last bit here and there; None for token ids."""
    x = inputs[FRAMES]
    if not x.is_floating_point():
        return None
    bits = torch.randint(-1, 2, x.shape, generator=torch.Generator().manual_seed(0))
    return {**inputs, FRAMES: x * (1 + torch.finfo(x.dtype).eps * bits)}
