"""The backward pass of replication padding: what left the frame adds up at its edge."""

from __future__ import annotations

from collections.abc import Sequence

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
