"""The weight gradient of a convolution: one matrix product per tap of the kernel.

With y = conv(x, w) and g = dL/dy, the gradient of a tap is the product of g with what that tap
saw of x, summed over frames and positions. Taking views by Slice and Pad costs more than the
products, for both run on one thread; a depthwise convolution with a kernel of one 1 and zeros takes
the same view on all threads, in the layout in which the engine keeps images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten


def weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """dL/dw [o, i/groups, ...] from dL/dy [n, o, ...] and x [n, i, ...], in 2 or 3 dimensions."""
    kernel, size = list(weight.shape[2:]), grad.shape[2:]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    ends_alike = list(size) == [
        x.shape[2 + a] + 2 * p - r for a, (p, r) in enumerate(zip(padding, reach, strict=True))
    ]
    if max(stride) == 1 and ends_alike and reach[0] >= padding[0]:
        # The first axis is shifted in g, the others in x: kh + kw views instead of kh * kw.
        still = [0] * (len(kernel) - 1)
        ones = [1] * len(still)
        back = (
            [kernel[0], *ones],
            stride,
            [reach[0] - padding[0], *still],
            [dilation[0], *ones],
        )
        rows = [tap_view(grad, [kernel[0] - 1 - a, *still], *back) for a in range(kernel[0])]
        across = ([1, *kernel[1:]], stride, [0, *padding[1:]], [1, *dilation[1:]])
        others = product(*(range(k) for k in kernel[1:]))
        columns = [tap_view(x, [0, *tap], *across) for tap in others]
        taps = [_products(row, column, groups) for row in rows for column in columns]
    else:
        places = product(*(range(k) for k in kernel))
        views = (tap_view(x, tap, kernel, stride, padding, dilation) for tap in places)
        taps = [_products(grad, cut(view, size), groups) for view in views]
    return torch.stack(taps, 2).reshape(weight.shape)


def tap_view(
    x: Tensor,
    tap: Sequence[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """What one tap of a convolution sees of x [n, c, ...], at each output position."""
    axes = range(len(kernel))
    offset = [tap[a] * dilation[a] - padding[a] for a in axes]
    sizes = [
        (x.shape[2 + a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1
        for a in axes
    ]
    if not any(offset) and max(stride) == 1 and sizes == list(x.shape[2:]):
        return x
    ones = np.zeros(kernel)
    ones[tuple(tap)] = 1.0
    one = torch.tensor(ones.tolist(), dtype=x.dtype, device=x.device)
    one = one.expand(x.shape[1], 1, *kernel)
    still = [0] * len(kernel)
    return aten.convolution(x, one, None, stride, padding, dilation, False, still, x.shape[1])  # type: ignore[no-any-return]


def cut(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The first so many positions of every axis behind the channels."""
    for axis, size in enumerate(sizes, 2):
        if x.shape[axis] != size:
            x = x.narrow(axis, 0, size)
    return x


def _products(grad: Tensor, seen: Tensor, groups: int) -> Tensor:
    """[n, o, ...] and [n, i, ...] -> [o, i/groups], summed over frames and positions."""
    n, o = grad.shape[:2]
    i = seen.shape[1] // groups
    if groups == o and i == 1:  # depthwise: a product of one row and one column each
        return (grad * seen).sum([0, *range(2, grad.dim())]).reshape(o, 1)
    left = grad.reshape(n * groups, o // groups, -1)
    right = seen.reshape(n * groups, i, -1).transpose(1, 2)
    return torch.bmm(left, right).reshape(n, o, i).sum(0)
