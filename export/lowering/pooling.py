"""The backward pass of average pooling as a transposed convolution with equal weights."""

from __future__ import annotations

import torch
from torch import Tensor

from edgemem.errors import ExportError

aten = torch.ops.aten


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """dL/dx [n, c, h, w] from dL/dy.

    Raises:
        ExportError: windows of unequal weight (ceil mode, or padding that is not counted).
    """
    kernel, stride, padding = list(kernel_size), list(stride or kernel_size), list(padding)
    if ceil_mode or (any(padding) and not count_include_pad):
        raise ExportError(
            "average pooling with ceil_mode or uncounted padding",
            "has no backward rule here",
            "Use plain average pooling, or --gradient meta",
        )
    channels = x.shape[1]
    share = 1.0 / (divisor_override or kernel[0] * kernel[1])
    weight = torch.full((channels, 1, *kernel), share, dtype=x.dtype, device=x.device)
    extra = [
        x.shape[2 + a] - ((grad.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + kernel[a])
        for a in (0, 1)
    ]
    if any(extra[a] >= stride[a] for a in (0, 1)):
        raise ExportError(
            "average pooling", "leaves more than a stride uncovered", "Use --gradient meta"
        )
    return aten.convolution(grad, weight, None, stride, padding, [1, 1], True, extra, channels)  # type: ignore[no-any-return]
