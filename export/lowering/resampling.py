"""Operators that are one matrix along each axis: resizing and adaptive average pooling.

Along every axis such an operator is y = x A with a constant matrix A of the sizes alone, so the
gradient is g A^T, axis by axis. The matrix is what torch's own operator makes of the unit vectors;
so it is right for every mode, size and scale that torch has. Where an axis grows by a whole number
in "nearest" mode, or shrinks by one in pooling, windows are plain ones, which are cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from edgemem.export.lowering.pooling import average, average_backward

aten = torch.ops.aten
Scale = float | None
AxisMap = Callable[[Tensor, int, Scale], Tensor]  # [1, m, size] -> [1, m, size after]


def resize_backward(along: AxisMap) -> Callable[..., Tensor]:
    """The gradient of an operator that resizes each axis by `along`."""

    def backward(
        grad: Tensor, output_size: Sequence[int], input_size: Sequence[int], *scales: Scale
    ) -> Tensor:
        for axis, (before, after, scale) in enumerate(_axes(output_size, input_size, scales)):
            matrix = _matrix(along, before, after, scale, grad.dtype)
            grad = _applied(grad, axis - len(output_size), matrix.T)
        return grad

    return backward


def aligned(along: Callable[[bool], AxisMap]) -> Callable[..., Tensor]:
    """The same, for operators that have `align_corners` before their scales."""

    def backward(
        grad: Tensor,
        output_size: Sequence[int],
        input_size: Sequence[int],
        align_corners: bool,
        *scales: Scale,
    ) -> Tensor:
        return resize_backward(along(align_corners))(grad, output_size, input_size, *scales)

    return backward


def nearest_backward(
    grad: Tensor, output_size: Sequence[int], input_size: Sequence[int], *scales: Scale
) -> Tensor:
    """Gradient of nearest-neighbour resizing [n, c, ...]: a sum over what came from one value."""
    axes = _axes(output_size, input_size, scales)
    if all(a % b == 0 and scale in (None, a // b) for b, a, scale in axes):
        factors = [after // before for before, after, _ in axes]
        return average(grad, factors) * float(math.prod(factors))
    return resize_backward(_nearest)(grad, output_size, input_size, *scales)


def adaptive_average_3d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Adaptive average pooling of [n, c, d, h, w] as one of two axes after another."""
    pool, (depth, *image), outer = aten._adaptive_avg_pool2d, output_size, x.shape[:-3]
    found = pool(x.flatten(-4, -3), image).reshape(*outer, x.shape[-3], math.prod(image))
    pooled: Tensor = pool(found, [depth, math.prod(image)])
    return pooled.reshape(*outer, *output_size)


def adaptive_average_backward(axes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Its gradient dL/dx [n, c, ...] from dL/dy, where so many axes were pooled."""

    def backward(grad: Tensor, x: Tensor) -> Tensor:
        output_size = grad.shape[-axes:]
        if kernel := _window(x, output_size):
            still = [0] * axes
            return average_backward(grad, x, kernel, kernel, still, False, True, None)
        return resize_backward(_adaptive)(grad, output_size, x.shape)

    return backward


def _axes(
    output_size: Sequence[int], input_size: Sequence[int], scales: Sequence[Scale] = ()
) -> list[tuple[int, int, Scale]]:
    """Of each axis that changes: size before, size after, and the scale, where one was given."""
    before = input_size[-len(output_size) :]
    given = scales or [None] * len(output_size)
    return [(int(b), int(a), s) for b, a, s in zip(before, output_size, given, strict=True)]


def _window(x: Tensor, output_size: Sequence[int]) -> list[int] | None:
    """The kernel of plain pooling that does the same, if one does."""
    axes = _axes(output_size, x.shape)
    return None if any(b % a for b, a, _ in axes) else [b // a for b, a, _ in axes]


def _matrix(
    along: AxisMap, before: int, after: int, scale: Scale, dtype: torch.dtype
) -> NDArray[np.float64]:
    """[before, after], computed at once and not traced."""
    with _disable_current_modes(), torch.no_grad():
        units = torch.eye(before, dtype=dtype).unsqueeze(0)
        return np.array(along(units, after, scale)[0].tolist())


def _applied(x: Tensor, axis: int, matrix: NDArray[np.float64]) -> Tensor:
    """Apply `matrix` [size, size after] to x along one axis, counted from the end."""
    if axis == -2:
        return torch.tensor(matrix.T.tolist(), dtype=x.dtype, device=x.device) @ x
    right = torch.tensor(matrix.tolist(), dtype=x.dtype, device=x.device)
    return x @ right if axis == -1 else (x.transpose(axis, -1) @ right).transpose(axis, -1)


def _adaptive(x: Tensor, size: int, _: Scale) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool1d(x, size)


def _nearest(x: Tensor, size: int, scale: Scale) -> Tensor:
    found: Tensor = aten.upsample_nearest1d(x, [size], scale)
    return found


def _nearest_exact(x: Tensor, size: int, scale: Scale) -> Tensor:
    found: Tensor = aten._upsample_nearest_exact1d(x, [size], scale)
    return found


def _linear(align_corners: bool) -> AxisMap:
    return lambda x, size, scale: aten.upsample_linear1d(x, [size], align_corners, scale)


def _as_images(operator: Callable[..., Any]) -> Callable[[bool], AxisMap]:
    """Along one axis, by an operator that has images only.

    The other axis stays of size two: where it is one, torch 2.13 mistakes channels for columns.
    """

    def of(align_corners: bool) -> AxisMap:
        def along(x: Tensor, size: int, scale: Scale) -> Tensor:
            images = torch.stack([x, x], 3)
            found: Tensor = operator(images, [size, 2], align_corners, scale, None)
            return found[..., 0]

        return along

    return of


RULES: dict[Any, Callable[..., Any]] = {
    aten._adaptive_avg_pool3d.default: adaptive_average_3d,
    aten._adaptive_avg_pool2d_backward.default: adaptive_average_backward(2),
    aten._adaptive_avg_pool3d_backward.default: adaptive_average_backward(3),
    aten.upsample_nearest1d_backward.default: nearest_backward,
    aten.upsample_nearest2d_backward.default: nearest_backward,
    aten.upsample_nearest3d_backward.default: nearest_backward,
    aten._upsample_nearest_exact1d_backward.default: resize_backward(_nearest_exact),
    aten._upsample_nearest_exact2d_backward.default: resize_backward(_nearest_exact),
    aten._upsample_nearest_exact3d_backward.default: resize_backward(_nearest_exact),
    aten.upsample_linear1d_backward.default: aligned(_linear),
    aten.upsample_bilinear2d_backward.default: aligned(_linear),
    aten.upsample_trilinear3d_backward.default: aligned(_linear),
    aten.upsample_bicubic2d_backward.default: aligned(_as_images(aten.upsample_bicubic2d)),
    aten._upsample_bilinear2d_aa_backward.default: aligned(
        _as_images(aten._upsample_bilinear2d_aa.default)
    ),
    aten._upsample_bicubic2d_aa_backward.default: aligned(
        _as_images(aten._upsample_bicubic2d_aa.default)
    ),
}
