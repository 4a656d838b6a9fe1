"""The backward passes of pooling, in 2 or 3 dimensions (torch runs 1-D pooling as 2-D).

Average pooling: a transposed convolution with ones, of gradients that are divided by what each
window counts. Max pooling: gradients go to the places of the largest values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemem.export.lowering.weight_gradient import cut

aten = torch.ops.aten


def average(x: Tensor, kernel: Sequence[int]) -> Tensor:
    """Average pooling of [n, c, ...] by whole windows side by side."""
    return _plain_pooling(len(kernel))(x, list(kernel))  # type: ignore[no-any-return]


def _plain_pooling(axes: int) -> Any:
    return (aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)[axes - 1]


def average_pooling(
    x: Tensor,
    kernel_size: list[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Average pooling with a divisor of its own, which ONNX does not have; others stay."""
    if divisor_override is None:
        return NotImplemented
    axes = len(kernel_size)
    kernel, stride, padding = _per_axis(kernel_size, stride or kernel_size, padding)
    around: list[int] = []
    for a in range(axes):
        size, over = x.shape[a - axes], 0
        if ceil_mode:
            covered = size + 2 * padding[a]
            starts = -(-(covered - kernel[a]) // stride[a])
            if starts * stride[a] >= size + padding[a]:  # no window starts behind the frame
                starts -= 1
            over = max(starts * stride[a] + kernel[a] - covered, 0)
        around = [padding[a], padding[a] + over, *around]
    found = _plain_pooling(axes)(F.pad(x, around), kernel, stride)
    return found * (math.prod(kernel) / divisor_override)


def average_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """dL/dx [n, c, ...] from dL/dy."""
    if x.dim() == len(kernel_size) + 1:
        given = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        return average_backward(grad.unsqueeze(0), x.unsqueeze(0), *given).squeeze(0)
    kernel, stride, padding = _per_axis(kernel_size, stride or kernel_size, padding)
    geometry = kernel, stride, padding, count_include_pad, divisor_override
    counts = _counted(x.shape[2:], grad.shape[2:], *geometry)
    alike = all(len(set(along)) == 1 for along in counts)
    share = 1.0 / math.prod(along[0] for along in counts) if alike else 1.0
    if not alike:
        grad = _scaled(grad, 1.0 / _outer(counts))
    channels, axes = x.shape[1], range(len(kernel))
    weight = torch.full((channels, 1, *kernel), share, dtype=x.dtype, device=x.device)
    # Windows may end beyond the frame (ceil mode), or leave some of it out.
    short = [
        x.shape[2 + a] - ((grad.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + kernel[a])
        for a in axes
    ]
    extra = [min(max(short[a], 0), stride[a] - 1) for a in axes]
    ones = [1 for _ in axes]
    found = aten.convolution(grad, weight, None, stride, padding, ones, True, extra, channels)
    if any(short[a] > extra[a] for a in axes):
        rest = [size for a in reversed(axes) for size in (0, max(short[a] - extra[a], 0))]
        found = F.pad(found, rest)
    return cut(found, x.shape[2:])


def max_backward(axes: int) -> Callable[..., Tensor]:
    """The gradient of max pooling over so many axes."""

    def backward(grad: Tensor, x: Tensor, *geometry_and_places: Any) -> Tensor:
        """dL/dx [n, c, ...] from dL/dy; last come the places of the largest values."""
        places: Tensor = geometry_and_places[-1]
        flat = torch.zeros_like(x).flatten(-axes)
        summed = flat.scatter_add(-1, places.flatten(-axes), grad.flatten(-axes))
        return summed.reshape(x.shape)

    return backward


def adaptive_max(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling of [n, c, ...] in 2 or 3 dimensions, and the places of the largest."""
    axes = len(output_size)
    sizes = [(int(b), int(a)) for b, a in zip(x.shape[-axes:], output_size, strict=True)]
    if not any(before % after for before, after in sizes):
        kernel = [before // after for before, after in sizes]
        pool = aten.max_pool2d_with_indices if axes == 2 else aten.max_pool3d_with_indices
        return pool(x, kernel)  # type: ignore[no-any-return]
    places = _adaptive_places(sizes, x.device)
    outer = x.shape[:-axes]
    seen = x.flatten(-axes)[..., places.flatten()].reshape(*outer, *places.shape)
    values, which = seen.max(-1)
    found = places.expand(seen.shape).gather(-1, which.unsqueeze(-1))
    return values.reshape(*outer, *output_size), found.reshape(*outer, *output_size)


def _adaptive_places(sizes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """[windows, k]: places in a channel that each window sees; short ones name their last again.

    sizes: of each axis, before and after. By operators, since torch.export takes no constants here.
    """
    windows = torch.zeros((1, 1), dtype=torch.long, device=device)
    for before, after in sizes:
        spans = [(i * before // after, -(-(i + 1) * before // after)) for i in range(after)]
        longest = max(end - start for start, end in spans)
        ahead = torch.arange(longest, device=device)
        along = torch.stack([(start + ahead).clamp(max=end - 1) for start, end in spans])
        both = windows[:, None, :, None] * before + along[None, :, None, :]
        windows = both.reshape(windows.shape[0] * after, -1)
    return windows


def _per_axis(*geometry: Sequence[int]) -> tuple[list[int], ...]:
    """Kernel, stride and padding, each with a number for every axis of the kernel."""
    axes = len(geometry[0])
    return tuple(list(g) if len(g) == axes else list(g) * axes for g in geometry)


def _counted(
    sizes: Sequence[int],
    windows: Sequence[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    count_padding: bool,
    divisor: int | None,
) -> list[list[float]]:
    """Per axis, what each window counts; their products are the divisors."""
    counts = []
    for a, k in enumerate(kernel):
        first, last = (-padding[a], sizes[a] + padding[a]) if count_padding else (0, sizes[a])
        starts = [i * stride[a] - padding[a] for i in range(windows[a])]
        counts.append([float(min(s + k, last) - max(s, first)) for s in starts])
    if divisor is not None:
        counts = [[float(divisor) if a == 0 else 1.0] * n for a, n in enumerate(windows)]
    return counts


def _outer(counts: list[list[float]]) -> NDArray[np.float64]:
    """The products of what each axis counts."""
    return functools.reduce(np.multiply.outer, [np.array(along) for along in counts])


def _scaled(x: Tensor, factors: NDArray[np.float64]) -> Tensor:
    return x * torch.tensor(factors.tolist(), dtype=x.dtype, device=x.device)


RULES: dict[Any, Callable[..., Any]] = {
    aten.avg_pool2d.default: average_pooling,
    aten.avg_pool3d.default: average_pooling,
    aten.avg_pool2d_backward.default: average_backward,
    aten.avg_pool3d_backward.default: average_backward,
    aten.adaptive_max_pool2d.default: adaptive_max,
    aten.adaptive_max_pool3d.default: adaptive_max,
    aten.adaptive_max_pool2d_backward.default: max_backward(2),
    aten.adaptive_max_pool3d_backward.default: max_backward(3),
    aten.max_pool3d_with_indices_backward.default: max_backward(3),
}
