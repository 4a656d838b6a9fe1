"""Functions as simpler ones, where torch's own operator or its gradient has no place in a graph.

The backward pass of SiLU and Mish works in place; distances, grid sampling and bilinear layers are
one operator each whose gradient is another; RReLU at rest is a leaky ReLU; circular padding writes
into what it has just made, and so does the mean of an image whose channels lie last in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import decomposition_table
from torch.overrides import TorchFunctionMode


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.sigmoid(x)


def _mish(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def _rrelu(
    x: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    if training:  # refused later: it draws random numbers
        return F.rrelu(x, lower, upper, training)
    return F.leaky_relu(x, (lower + upper) / 2)


def _distances(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)
    return found


def _affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    lines = []
    for length in size[2:]:
        end = 1.0 if align_corners else (length - 1) / length
        line = torch.linspace(-end, end, length, dtype=theta.dtype, device=theta.device)
        lines.append(line if length > 1 else torch.zeros_like(line))
    places = torch.meshgrid(*lines, indexing="ij")
    base = torch.stack([*reversed(places), torch.ones_like(places[0])], -1)
    found = base.flatten(0, -2) @ theta.transpose(1, 2)
    return found.reshape(-1, *size[2:], len(lines))


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found = torch.einsum("...i,oij,...j->...o", x, weight, y)
    return found if bias is None else found + bias


def _grid_sample(
    x: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    if x.dim() != 4:
        return F.grid_sample(x, grid, mode, padding_mode, align_corners)
    modes = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
    spelled = decomposition_table[torch.ops.aten.grid_sampler_2d.default]
    chosen = modes[0].index(mode), modes[1].index(padding_mode), bool(align_corners)
    found: Tensor = spelled(x, grid, *chosen)
    return found


def _pad(
    x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    if mode != "circular":
        return F.pad(x, pad, mode, value)
    for place in range(len(pad) // 2):
        axis = x.dim() - 1 - place
        x = _around(x, axis, pad[2 * place], pad[2 * place + 1])
    return x


def _mean_of_line(x: Tensor, output_size: Any) -> Tensor:
    if output_size in (1, [1], (1,)):
        return x.mean(-1, keepdim=True)
    return F.adaptive_avg_pool1d(x, output_size)


def _mean_of_image(x: Tensor, output_size: Any) -> Tensor:
    if output_size in (1, [1, 1], (1, 1)):
        return x.mean((-2, -1), keepdim=True)
    return F.adaptive_avg_pool2d(x, output_size)


def _around(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """One axis with so much of its end before it, and of its start behind it.

    Less than none cuts.
    """
    size = x.shape[axis] + min(before, 0) + min(after, 0)
    kept = x.narrow(axis, max(-before, 0), size)
    ends = [kept.narrow(axis, size - before, before)] if before > 0 else []
    starts = [kept.narrow(axis, 0, after)] if after > 0 else []
    return torch.cat([*ends, kept, *starts], axis)


SPELLED_OUT: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.silu: _silu,
    F.mish: _mish,
    F.rrelu: _rrelu,
    torch.cdist: _distances,
    F.grid_sample: _grid_sample,
    F.affine_grid: _affine_grid,
    F.bilinear: _bilinear,
    F.pad: _pad,
    F.adaptive_avg_pool1d: _mean_of_line,
    F.adaptive_avg_pool2d: _mean_of_image,
}


class SpelledOut(TorchFunctionMode):
    """While active, these functions are made of simpler ones, each with a plain gradient."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of `func`."""
        chosen: Callable[..., Any] = SPELLED_OUT.get(func, func)
        return chosen(*args, **(kwargs or {}))
