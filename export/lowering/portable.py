"""Forms for engines that lack some of what onnxruntime's CPU kernels have.

A transposed convolution with a stride is refused by LiteRT's converter and by some NPUs. It is the
same as s * s convolutions of stride one, one for every phase of its output: with y = i * s + a - p,
rows of phase (y + p) % s see only the taps a of that phase. Gates are a comparison and a cast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemem.errors import ExportError
from edgemem.export.lowering import gate  # noqa: F401 - its operator is named below
from edgemem.export.lowering.convolution import swapped

aten = torch.ops.aten


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Any:
    """A strided transposed convolution in two dimensions by phases; all others as they are.

    x: [n, o, h, w]; weight: [o, i/groups, kh, kw] -> [n, i, h', w'].

    Raises:
        ExportError: stride and dilation in one.
    """
    if not transposed or max(stride) == 1 or x.dim() != 4:
        return NotImplemented
    if max(dilation) > 1:
        raise ExportError(
            "transposed convolution with stride and dilation",
            "has no form for this target",
            "Leave the target out, or choose --gradient meta and parts after it",
        )
    kernel = weight.shape[2:]
    sizes = [
        (x.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + kernel[a] + output_padding[a]
        for a in (0, 1)
    ]
    taps = [-(-kernel[a] // stride[a]) for a in (0, 1)]
    even = [taps[a] * stride[a] - kernel[a] for a in (0, 1)]
    weight = F.pad(weight, (0, even[1], 0, even[0])) if any(even) else weight
    rows = []
    for r in range(stride[0]):
        phases = [
            _full(x, weight[:, :, r :: stride[0], c :: stride[1]], groups) for c in range(stride[1])
        ]
        rows.append(_interleaved(phases, 3))
    found = _interleaved(rows, 2)
    for a in (0, 1):
        found = _cut(found, 2 + a, padding[a], sizes[a])
    return found if bias is None else found + bias.view(1, -1, 1, 1)


def _full(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Every position where a kernel of stride one reaches x."""
    pads = [weight.shape[2] - 1, weight.shape[3] - 1]
    kernels = swapped(weight, groups)
    found: Tensor = aten.convolution(x, kernels, None, [1, 1], pads, [1, 1], False, [0, 0], groups)
    return found


def _interleaved(phases: list[Tensor], axis: int) -> Tensor:
    """Rows of every phase in turn; one axis at a time, for NPUs take no more than five."""
    if len(phases) == 1:
        return phases[0]
    shape = list(phases[0].shape)
    shape[axis] *= len(phases)
    return torch.stack(phases, axis + 1).reshape(shape)


def _cut(x: Tensor, axis: int, start: int, size: int) -> Tensor:
    """So many rows from the start; rows that no tap reaches are zero."""
    short = start + size - x.shape[axis]
    if short > 0:
        x = F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [0, short])
    return x.narrow(axis, start, size) if start or x.shape[axis] > size else x


def _beyond(x: Tensor, limit: float, above: bool) -> Tensor:
    return ((x > limit) if above else (x < limit)).to(x.dtype)


PORTABLE: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: convolution,
    torch.ops.edgemem.beyond.default: _beyond,
}
