"""The backward pass of a convolution as forward operators that every runtime has.

With y = conv(x, w) and g = dL/dy: dL/dx is a stride-1 convolution of g with the kernels flipped and
their channels swapped, or a transposed convolution where y was strided (onnxruntime interleaves
the phases of a strided gradient on one thread, which costs more than its transposed convolution);
dL/dw is in `weight_gradient`. One-dimensional convolutions run as two-dimensional ones of height 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgemem.errors import ExportError
from edgemem.export.lowering.weight_gradient import weight_gradient

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

    Raises:
        ExportError: a transposed or three-dimensional convolution.
    """
    if transposed or x.dim() not in (3, 4):
        kind = "transposed" if transposed else f"{x.dim() - 2}-dimensional"
        raise ExportError(
            f"{kind} convolution",
            "has no backward rule here",
            "Keep it out of the gradient: choose parts after it, or --gradient meta",
        )
    stride, padding, dilation = list(stride), list(padding), list(dilation)
    if x.dim() == 3:
        flat = grad.unsqueeze(2), x.unsqueeze(2), weight.unsqueeze(2)
        geometry = [1, *stride], [0, *padding], [1, *dilation]
        dx = input_gradient(*flat, *geometry, groups).squeeze(2) if output_mask[0] else None
        dw = weight_gradient(*flat, *geometry, groups).squeeze(2) if output_mask[1] else None
    else:
        dx = dw = None
        if output_mask[0]:
            dx = input_gradient(grad, x, weight, stride, padding, dilation, groups)
        if output_mask[1]:
            dw = weight_gradient(grad, x, weight, stride, padding, dilation, groups)
    db = grad.sum([0, *range(2, grad.dim())]) if output_mask[2] else None
    return dx, dw, db


def input_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """dL/dx [n, i, h, w] from dL/dy [n, o, h', w'] and the kernels [o, i/groups, kh, kw]."""
    reach = [dilation[a] * (weight.shape[2 + a] - 1) for a in (0, 1)]
    if stride == [1, 1] and all(reach[a] >= padding[a] for a in (0, 1)):
        pads = [reach[a] - padding[a] for a in (0, 1)]
        kernels = swapped(weight, groups)
        return aten.convolution(grad, kernels, None, [1, 1], pads, dilation, False, [0, 0], groups)  # type: ignore[no-any-return]
    natural = [(grad.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + reach[a] + 1 for a in (0, 1)]
    extra = [x.shape[2 + a] - natural[a] for a in (0, 1)]
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, extra, groups)  # type: ignore[no-any-return]


def swapped(weight: Tensor, groups: int) -> Tensor:
    """[o, i/groups, kh, kw] -> [i, o/groups, kh, kw] with the taps reversed.

    It ends on a reshape: converters that change layouts would otherwise turn it once too often.
    """
    o, i, kh, kw = weight.shape
    flipped = weight.flip(2, 3).reshape(groups, o // groups, i, kh, kw).transpose(1, 2)
    return flipped.reshape(groups * i, o // groups, kh, kw)
