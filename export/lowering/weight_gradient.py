"""The weight gradient of a convolution: one matrix product per tap of the kernel.

With y = conv(x, w) and g = dL/dy, the gradient of tap (a, b) is the product of g with what that tap
saw of x, summed over frames and positions. Taking views by Slice and Pad costs more than the
products, for both run on one thread; a depthwise convolution with a kernel of one 1 and zeros takes
the same view on all threads, in the layout in which the engine keeps images.
"""

from __future__ import annotations

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
    """dL/dw [o, i/groups, kh, kw] from dL/dy [n, o, h', w'] and x [n, i, h, w]."""
    kh, kw = weight.shape[2:]
    reach = dilation[0] * (kh - 1)
    if stride == [1, 1] and reach >= padding[0]:
        # Rows are shifted in g, columns in x: kh + kw views instead of kh * kw.
        back = ((kh, 1), [1, 1], [reach - padding[0], 0], [dilation[0], 1])
        rows = [tap_view(grad, (kh - 1 - a, 0), *back) for a in range(kh)]
        across = ((1, kw), [1, 1], [0, padding[1]], [1, dilation[1]])
        columns = [tap_view(x, (0, b), *across) for b in range(kw)]
        taps = [_products(row, column, groups) for row in rows for column in columns]
    else:
        seen = ((kh, kw), stride, padding, dilation)
        views = [tap_view(x, (a, b), *seen) for a in range(kh) for b in range(kw)]
        taps = [_products(grad, view, groups) for view in views]
    return torch.stack(taps, 2).reshape(weight.shape)


def tap_view(
    x: Tensor,
    tap: tuple[int, int],
    kernel: tuple[int, int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """What one tap of a convolution sees of x [n, c, h, w], at each output position."""
    offset = [tap[a] * dilation[a] - padding[a] for a in (0, 1)]
    sizes = [
        (x.shape[2 + a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1
        for a in (0, 1)
    ]
    if offset == [0, 0] and stride == [1, 1] and sizes == list(x.shape[2:]):
        return x
    ones = [[float((a, b) == tap) for b in range(kernel[1])] for a in range(kernel[0])]
    one = torch.tensor(ones, dtype=x.dtype, device=x.device).expand(x.shape[1], 1, *kernel)
    return aten.convolution(x, one, None, stride, padding, dilation, False, [0, 0], x.shape[1])  # type: ignore[no-any-return]


def _products(grad: Tensor, seen: Tensor, groups: int) -> Tensor:
    """[n, o, h, w] and [n, i, h, w] -> [o, i/groups], summed over frames and positions."""
    n, o = grad.shape[:2]
    i = seen.shape[1] // groups
    if groups == o and i == 1:  # depthwise: a product of one row and one column each
        return (grad * seen).sum([0, 2, 3]).reshape(o, 1)
    left = grad.reshape(n * groups, o // groups, -1)
    right = seen.reshape(n * groups, i, -1).transpose(1, 2)
    return torch.bmm(left, right).reshape(n, o, i).sum(0)
