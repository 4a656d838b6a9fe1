"""Gradients of padding and of picking one place, as padding.

Replication padding: what left the frame adds up at its edge. Picking: zeros around what comes back;
onnxruntime refuses what the exporter makes of writing it into zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def replication_pad_backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """dL/dx [n, c, ...] from dL/dy. padding: before and after, the last axis first; may cut."""
    for place in range(len(padding) // 2):
        axis = x.dim() - 1 - place
        grad = _along(grad, axis, x.shape[axis], padding[2 * place], padding[2 * place + 1])
    return grad


def _along(grad: Tensor, axis: int, size: int, before: int, after: int) -> Tensor:
    behind = [0, 0] * (grad.dim() - 1 - axis)
    first, last = max(before, 0), max(after, 0)
    found = grad.narrow(axis, first, grad.shape[axis] - first - last)
    if first:
        edge = grad.narrow(axis, 0, first).sum(axis, keepdim=True)
        found = found + F.pad(edge, [*behind, 0, found.shape[axis] - 1])
    if last:
        edge = grad.narrow(axis, grad.shape[axis] - last, last).sum(axis, keepdim=True)
        found = found + F.pad(edge, [*behind, found.shape[axis] - 1, 0])
    if before < 0 or after < 0:
        found = F.pad(found, [*behind, max(-before, 0), max(-after, 0)])
    assert found.shape[axis] == size
    return found


def select_backward(grad: Tensor, input_sizes: Sequence[int], dim: int, index: int) -> Tensor:
    """dL/dx of x.select(dim, index)."""
    axis, size = dim % len(input_sizes), input_sizes[dim]
    place, behind = index % size, [0, 0] * (len(input_sizes) - 1 - axis)
    return F.pad(grad.unsqueeze(axis), [*behind, place, size - 1 - place])


def select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    """Put `source` into x at one place of an axis."""
    axis, size = dim % x.dim(), x.shape[dim]
    place = index % size
    before, after = x.narrow(axis, 0, place), x.narrow(axis, place + 1, size - 1 - place)
    return torch.cat([before, source.unsqueeze(axis), after], axis)


aten = torch.ops.aten
RULES: dict[Any, Callable[..., Any]] = {
    aten.replication_pad1d_backward.default: replication_pad_backward,
    aten.replication_pad2d_backward.default: replication_pad_backward,
    aten.replication_pad3d_backward.default: replication_pad_backward,
    aten.select_backward.default: select_backward,
    aten.select_scatter.default: select_scatter,
}
