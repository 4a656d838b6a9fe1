"""The backward pass of a convolution as forward operators that every runtime has.

With y = conv(x, w) and g = dL/dy: dL/dx is a stride-1 convolution of g with the kernels flipped and
their channels swapped, or a transposed convolution where y was strided (onnxruntime interleaves
the phases of a strided gradient on one thread, which costs more than its transposed convolution);
dL/dw is in `weight_gradient`. A transposed convolution is the gradient of a plain one, so its own
gradient is that plain one, and its weight gradient has x and g exchanged. One-dimensional
convolutions run as two-dimensional ones of height 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemem.export.lowering.weight_gradient import cut, weight_gradient

aten = torch.ops.aten


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias, each where `output_mask` asks for it.

    In 1 to 3 dimensions.
    """
    stride, padding, dilation = list(stride), list(padding), list(dilation)
    db = grad.sum([0, *range(2, grad.dim())]) if output_mask[2] else None
    flat = x.dim() == 3
    if flat:
        grad, x, weight = grad.unsqueeze(2), x.unsqueeze(2), weight.unsqueeze(2)
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    geometry = stride, padding, dilation, groups
    dx = dw = None
    if output_mask[0]:
        of_input = transposed_input_gradient if transposed else input_gradient
        dx = of_input(grad, x, weight, *geometry)
    if output_mask[1]:
        seen, seeing = (grad, x) if transposed else (x, grad)
        dw = weight_gradient(seeing, seen, weight, *geometry)
    if flat:
        dx, dw = (None if found is None else found.squeeze(2) for found in (dx, dw))
    return dx, dw, db


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
    """A transposed convolution whose output padding reaches its stride; all others as they are.

    onnxruntime refuses it, so it is made whole here, and cut.
    """
    axes = range(len(stride))
    if not transposed or all(output_padding[a] < stride[a] for a in axes):
        return NotImplemented
    still = [0 for _ in axes]
    found = aten.convolution(x, weight, None, stride, still, dilation, True, still, groups)
    for a in axes:
        size = found.shape[2 + a] - 2 * padding[a] + output_padding[a]
        found = fitted(found, 2 + a, padding[a], size)
    return found if bias is None else found + bias.view(1, -1, *[1 for _ in axes])


def fitted(x: Tensor, axis: int, start: int, size: int) -> Tensor:
    """So many rows from the start; zeros behind the last one."""
    short = start + size - x.shape[axis]
    if short > 0:
        x = F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [0, short])
    return x.narrow(axis, start, size) if start or x.shape[axis] > size else x


def input_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """dL/dx [n, i, ...] from dL/dy [n, o, ...] and the kernels [o, i/groups, ...]."""
    axes = range(len(stride))
    reach = [dilation[a] * (weight.shape[2 + a] - 1) for a in axes]
    still = [0 for _ in axes]
    if max(stride) == 1 and all(reach[a] >= padding[a] for a in axes):
        pads = [reach[a] - padding[a] for a in axes]
        kernels = swapped(weight, groups)
        return aten.convolution(grad, kernels, None, stride, pads, dilation, False, still, groups)  # type: ignore[no-any-return]
    natural = [(grad.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + reach[a] + 1 for a in axes]
    extra = [x.shape[2 + a] - natural[a] for a in axes]
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, extra, groups)  # type: ignore[no-any-return]


def transposed_input_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """dL/dx [n, i, ...] of a transposed convolution.

    From dL/dy [n, o, ...] and the kernels [i, o/groups, ...]. Output padding of a stride or more
    makes it longer than x.
    """
    still = [0 for _ in stride]
    found = aten.convolution(grad, weight, None, stride, padding, dilation, False, still, groups)
    return cut(found, x.shape[2:])


def swapped(weight: Tensor, groups: int) -> Tensor:
    """[o, i/groups, ...] -> [i, o/groups, ...] with the taps reversed.

    It ends on a reshape: converters that change layouts would otherwise turn it once too often.
    """
    o, i, *kernel = weight.shape
    flipped = weight.flip(list(range(2, weight.dim())))
    exchanged = flipped.reshape(groups, o // groups, i, *kernel).transpose(1, 2)
    return exchanged.reshape(groups * i, o // groups, *kernel)


RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
}
