"""Forms for engines that lack some of what onnxruntime's CPU kernels have.

A transposed convolution with a stride is refused by LiteRT's converter and by some NPUs. It is the
same as convolutions of stride one, one for every phase of its output (s * s of them for images):
with y = i * s + a - p, rows of phase (y + p) % s see only the taps a of that phase. Gates are a
comparison and a cast.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from onnxscript.rewriter import RewriteRule, RewriteRuleSet
from torch import Tensor

from edgemem.export.lowering import gate  # noqa: F401 - its operator is named below
from edgemem.export.lowering.convolution import convolution as of_any_engine
from edgemem.export.lowering.convolution import fitted, swapped

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
    """A strided transposed convolution by phases; all others as they are.

    x: [n, o, ...]; weight: [o, i/groups, ...] -> [n, i, ...].
    """
    if not transposed or max(stride) == 1:
        geometry = stride, padding, dilation, transposed, output_padding, groups
        return of_any_engine(x, weight, bias, *geometry)
    axes = range(len(stride))
    for a in axes:
        weight = _spread(weight, 2 + a, dilation[a])
    kernel = weight.shape[2:]
    sizes = [
        (x.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + kernel[a] + output_padding[a]
        for a in axes
    ]
    short = [-(-kernel[a] // stride[a]) * stride[a] - kernel[a] for a in axes]
    if any(short):
        weight = F.pad(weight, [n for a in reversed(axes) for n in (0, short[a])])
    phases = []
    for first in itertools.product(*(range(s) for s in stride)):
        taps = weight
        for a in axes:
            taps = taps[(slice(None),) * (2 + a) + (slice(first[a], None, stride[a]),)]
        phases.append(_full(x, taps, groups))
    for a in reversed(axes):
        s = stride[a]
        phases = [_interleaved(phases[i : i + s], 2 + a) for i in range(0, len(phases), s)]
    (found,) = phases
    for a in axes:
        found = fitted(found, 2 + a, padding[a], sizes[a])
    return found if bias is None else found + bias.view(1, -1, *[1 for _ in axes])


def _spread(weight: Tensor, axis: int, dilation: int) -> Tensor:
    """A dilated kernel as one without dilation: zeros between its taps."""
    if dilation == 1 or weight.shape[axis] == 1:
        return weight
    shape = list(weight.shape)
    shape[axis] *= dilation
    zeros = [torch.zeros_like(weight)] * (dilation - 1)
    spread = torch.stack([weight, *zeros], axis + 1).reshape(shape)
    return spread.narrow(axis, 0, shape[axis] - dilation + 1)


def _full(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Every position where a kernel of stride one reaches x."""
    kernel = weight.shape[2:]
    pads, ones, still = [k - 1 for k in kernel], [1] * len(kernel), [0] * len(kernel)
    kernels = swapped(weight, groups)
    found: Tensor = aten.convolution(x, kernels, None, ones, pads, ones, False, still, groups)
    return found


def _interleaved(phases: list[Tensor], axis: int) -> Tensor:
    """Rows of every phase in turn; one axis at a time, for NPUs take no more than five."""
    if len(phases) == 1:
        return phases[0]
    shape = list(phases[0].shape)
    shape[axis] *= len(phases)
    return torch.stack(phases, axis + 1).reshape(shape)


def _beyond(x: Tensor, limit: float, above: bool) -> Tensor:
    return ((x > limit) if above else (x < limit)).to(x.dtype)


PORTABLE: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: convolution,
    torch.ops.edgemem.beyond.default: _beyond,
}


def negative_as_product() -> RewriteRule:
    """-x: x times -1, for CoreML has no Neg."""
    return RewriteRule(lambda op, x: op.Neg(x), lambda op, x: op.Mul(x, _number(op, -1.0)))


def absolute_as_largest() -> RewriteRule:
    """|x|: the larger of x and -x, for CoreML has no Abs."""
    return RewriteRule(
        lambda op, x: op.Abs(x), lambda op, x: op.Max(x, op.Mul(x, _number(op, -1.0)))
    )


def least_as_largest() -> RewriteRule:
    """The smaller of two: minus the larger of their negatives, for CoreML has no Min."""

    def replacement(op: Any, x: ir.Value, y: ir.Value) -> Any:
        minus = _number(op, -1.0)
        return op.Mul(op.Max(op.Mul(x, minus), op.Mul(y, minus)), minus)

    return RewriteRule(lambda op, x, y: op.Min(x, y), replacement)


def _number(op: Any, value: float) -> Any:
    return op.Constant(value_float=value)


PORTABLE_RULES = (
    RewriteRuleSet([negative_as_product(), absolute_as_largest(), least_as_largest()]),
)
