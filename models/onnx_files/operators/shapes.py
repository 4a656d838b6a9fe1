"""Operators that move numbers: shapes, parts, joins, padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgemem.models.onnx_files.operators.calls import (
    Host,
    NodeCall,
    Operator,
    Refused,
    as_tensor,
    axis_of,
    bounded,
)
from edgemem.models.onnx_files.operators.host_operators import settled, slices

PADDINGS = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def _shape(call: NodeCall) -> Host:
    sizes = list(call.tensor().shape)
    found = sizes[call.attribute("start", 0) : call.attribute("end", len(sizes))]
    return settled(np.asarray(found, object))


def _size(call: NodeCall) -> Host:
    return settled(np.asarray(call.tensor().numel(), object))


def _reshape(call: NodeCall) -> Tensor:
    x, sizes = call.tensor(), call.list("shape", 1) or []
    if not call.attribute("allowzero", 0):
        sizes = [
            x.shape[axis] if isinstance(size, int) and size == 0 else size
            for axis, size in enumerate(sizes)
        ]
    return x.reshape(sizes)


def _flatten(call: NodeCall) -> Tensor:
    x, axis = call.tensor(), call.attribute("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    return x.flatten(0, axis - 1).flatten(1) if axis < x.dim() else x.reshape(-1, 1)


def _transpose(call: NodeCall) -> Tensor:
    x = call.tensor()
    return x.permute(call.attribute("perm", list(range(x.dim()))[::-1]))


def _squeeze(call: NodeCall) -> Tensor:
    x, axes = call.tensor(), call.list("axes", 1)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    return x.squeeze(tuple(axis_of(axis, x.dim()) for axis in axes))


def _unsqueeze(call: NodeCall) -> Tensor:
    x, axes = call.tensor(), call.list("axes", 1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis_of(axis, rank) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(call: NodeCall) -> Tensor:
    parts = [call.tensor(position) for position in range(len(call.inputs))]
    axis = axis_of(call.attribute("axis", 1), parts[0].dim())
    moving = [part for position, part in enumerate(parts) if position not in call.constants]
    if axis > 0 and moving and len(moving) < len(parts):
        # A constant of one frame, in a file with a batch of one, stands beside every frame.
        count = moving[0].shape[0]
        parts = [
            part.expand(count, *part.shape[1:])
            if position in call.constants and part.shape[0] == 1
            else part
            for position, part in enumerate(parts)
        ]
    return torch.cat(parts, axis)


def _split(call: NodeCall) -> tuple[Tensor, ...]:
    x = call.tensor()
    axis = axis_of(call.attribute("axis", 0), x.dim())
    sizes = call.list("split", 1)
    if sizes is None:
        each = -(-x.shape[axis] // call.outputs)
        return torch.split(x, each, axis)
    return torch.split(x, sizes, axis)


def _slice(call: NodeCall) -> Tensor:
    x = call.tensor()
    for axis, part in enumerate(slices(call, x.dim())):
        step = part.step or 1
        if step > 0 and (part.start, part.stop) != (None, None):
            index: list[Any] = [slice(None)] * x.dim()
            index[axis] = slice(part.start, part.stop, step)
            x = x[tuple(index)]
        elif step < 0:
            taken = list(range(*part.indices(x.shape[axis])))
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64))
    return x


def _gather(call: NodeCall) -> Tensor:
    x, known = call.tensor(0), call.constants.get(1)
    axis = axis_of(call.attribute("axis", 0), x.dim())
    if known is not None and known.ndim == 0:
        return x.select(axis, int(known.item()))
    index = call.tensor(1).to(torch.int64)
    if known is None or (known < 0).any():
        index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(call: NodeCall) -> Tensor:
    x, index = call.tensor(0), call.tensor(1).to(torch.int64)
    axis = axis_of(call.attribute("axis", 0), x.dim())
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


def _expand(call: NodeCall) -> Tensor:
    x, sizes = call.tensor(), bounded(call.sizes(1))
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    sizes = [1] * (len(own) - len(sizes)) + list(sizes)
    wanted = [
        mine if isinstance(size, int) and size == 1 else size
        for mine, size in zip(own, sizes, strict=True)
    ]
    return x.expand(wanted)


def _tile(call: NodeCall) -> Tensor:
    x, repeats = call.tensor(), call.sizes(1)
    bounded([a * b for a, b in zip(x.shape, repeats, strict=True)])
    return x.repeat(repeats)


def _pad(call: NodeCall) -> Tensor:
    x, mode = call.tensor(), call.attribute("mode", "constant")
    pads = call.list("pads", 1) or []
    value = call.number(2, 0.0) if call.version >= 11 else call.attribute("value", 0.0)
    axes = call.sizes(3) if call.given(3) else list(range(x.dim()))
    if mode not in PADDINGS:
        raise Refused(f"pads by {mode!r}")
    both = [(0, 0)] * x.dim()
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        both[axis_of(axis, x.dim())] = (low, high)
    bounded([size + sum(pair) for size, pair in zip(x.shape, both, strict=True)])
    while len(both) > 1 and both[0] == (0, 0):
        both.pop(0)
    order = [size for pair in reversed(both) for size in pair]
    if not any(order):
        return x
    return F.pad(x, order, PADDINGS[mode], value if mode == "constant" else None)


def _filled(call: NodeCall) -> Tensor:
    value = call.attribute("value")
    sizes = bounded(call.sizes(0))
    number = 0.0 if value is None else value.item()
    kind = torch.float32 if value is None else as_tensor(value).dtype
    return torch.full(sizes, number, dtype=kind)


def _range(call: NodeCall) -> Tensor:
    first, stop, step = (call.host(position).item() for position in range(3))
    return torch.arange(first, stop, step, dtype=torch.int64)


def _trilu(call: NodeCall) -> Tensor:
    function = torch.triu if call.attribute("upper", 1) else torch.tril
    return function(call.tensor(), int(call.number(1, 0.0)))


def _depth_to_space(call: NodeCall) -> Tensor:
    x, block = call.tensor(), call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, channels, height, width = x.shape
    x = x.reshape(n, block, block, channels // block**2, height, width)
    x = x.permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, channels // block**2, height * block, width * block)


def _space_to_depth(call: NodeCall) -> Tensor:
    x, block = call.tensor(), call.attribute("blocksize")
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // block, block, width // block, block)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, channels * block**2, height // block, width // block)


SHAPES: dict[str, Operator] = {
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
