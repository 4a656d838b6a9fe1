"""Operators on host values: arithmetic of sizes and indices, in numpy.

Elements may be symbols of torch, in arrays of objects.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from edgemem.models.onnx_files.operators.calls import (
    MOST_VALUES,
    Host,
    NodeCall,
    Operator,
    Refused,
    axis_of,
    bounded,
)

NUMPY_TYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64,
    9: np.bool_, 10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip
FLOATS = (np.float16, np.float32, np.float64)


def settled(value: Any) -> Host:
    """An array of objects as one of numbers, where none of it is a symbol."""
    array = np.asarray(value)
    if array.dtype == object and all(isinstance(v, (int, np.integer)) for v in array.ravel()):
        return array.astype(np.int64)
    return array


def numpy_type(code: int) -> Any:
    """The type of numpy for one of ONNX.

    Raises Refused for one that is not computed with.
    """
    if code not in NUMPY_TYPES:
        raise Refused(f"makes numbers of the ONNX type {code}")
    return NUMPY_TYPES[code]


def _both(call: NodeCall) -> tuple[Host, Host]:
    return call.host(0), call.host(1)


def _pairwise(function: Callable[[Any, Any], Any]) -> Operator:
    def run(call: NodeCall) -> Host:
        return settled(function(*_both(call)))

    return run


def _single(function: Callable[[Any], Any]) -> Operator:
    def run(call: NodeCall) -> Host:
        return settled(function(call.host(0)))

    return run


def _folded(function: Callable[[Any, Any], Any]) -> Operator:
    def run(call: NodeCall) -> Host:
        return settled(functools.reduce(function, map(call.host, range(len(call.inputs)))))

    return run


def _divide(a: Host, b: Host) -> Any:
    if object in (a.dtype, b.dtype):
        return a // b  # sizes, which are not negative
    if np.issubdtype(a.dtype, np.floating):
        return a / b
    return np.trunc(np.divide(a, b)).astype(a.dtype)


def _cast(call: NodeCall) -> Host:
    value, kind = call.host(0), numpy_type(call.attribute("to"))
    if value.dtype != object:
        return value.astype(kind)
    if kind in (np.int64, np.int32):
        return value
    raise Refused("makes another type of a size that is not fixed")


def _gather(call: NodeCall) -> Host:
    values, indices = _both(call)
    axis = axis_of(call.attribute("axis", 0), values.ndim)
    return settled(np.take(values, indices.astype(np.int64), axis))


def _concat(call: NodeCall) -> Host:
    parts = [call.host(position) for position in range(len(call.inputs))]
    return settled(np.concatenate(parts, call.attribute("axis", 0)))


def slices(call: NodeCall, rank: int) -> list[slice]:
    """What a Slice takes of each axis; its numbers are attributes in old files."""
    starts, ends = call.list("starts", 1) or [], call.list("ends", 2) or []
    axes = call.list("axes", 3) or list(range(len(starts)))
    steps = call.sizes(4) if call.given(4) else [1] * len(starts)
    found = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        to_the_start = (
            isinstance(step, int) and step < 0 and isinstance(end, int) and end < -(1 << 30)
        )
        found[axis_of(axis, rank)] = slice(start, None if to_the_start else end, step)
    return found


def _slice(call: NodeCall) -> Host:
    value = call.host(0)
    return settled(value[tuple(slices(call, value.ndim))])


def _unsqueeze(call: NodeCall) -> Host:
    value, axes = call.host(0), call.list("axes", 1) or []
    return settled(np.expand_dims(value, tuple(axes)))


def _squeeze(call: NodeCall) -> Host:
    axes = call.list("axes", 1)
    return settled(np.squeeze(call.host(0), None if axes is None else tuple(axes)))


def _reshape(call: NodeCall) -> Host:
    return settled(call.host(0).reshape([int(size) for size in call.sizes(1)]))


def _where(call: NodeCall) -> Host:
    condition, yes, no = call.host(0), call.host(1), call.host(2)
    return settled(np.where(condition.astype(bool), yes, no))


def _reduced(function: Callable[[Any, Any], Any]) -> Operator:
    def run(call: NodeCall) -> Host:
        value = call.host(0)
        axes = call.list("axes", 1)
        if value.ndim != 1 or axes not in (None, [0], [-1]):
            raise Refused("reduces sizes over several axes")
        total = functools.reduce(function, value.tolist())
        return settled(np.asarray([total] if call.attribute("keepdims", 1) else total))

    return run


def _range(call: NodeCall) -> Host:
    first, stop, step = (call.host(position).item() for position in range(3))
    if not all(isinstance(v, (int, float)) for v in (first, stop, step)):
        raise Refused("counts to a size that is not fixed")
    if step == 0 or abs((stop - first) / step) > MOST_VALUES:
        raise Refused(f"counts from {first} to {stop} by {step}")
    return np.arange(first, stop, step, dtype=call.host(0).dtype)


def _filled(call: NodeCall) -> Host:
    value, sizes = call.attribute("value"), bounded(call.sizes(0))
    return np.full(
        sizes, 0.0 if value is None else value.item(), np.float32 if value is None else value.dtype
    )


def _expand(call: NodeCall) -> Host:
    value = call.host(0)
    sizes = np.broadcast_shapes(value.shape, tuple(bounded(call.sizes(1))))
    return np.broadcast_to(value, sizes).copy()


def _tile(call: NodeCall) -> Host:
    value, repeats = call.host(0), call.sizes(1)
    bounded([size * repeat for size, repeat in zip(value.shape, repeats, strict=True)])
    return np.tile(value, repeats)


def _transpose(call: NodeCall) -> Host:
    return call.host(0).transpose(call.attribute("perm"))


def _size(call: NodeCall) -> Host:
    return np.asarray(call.host(0).size)


def _shape(call: NodeCall) -> Host:
    return np.asarray(call.host(0).shape, np.int64)


def _same(call: NodeCall) -> Host:
    return call.host(0)


HOST_OPERATORS: dict[str, Operator] = {
    "Abs": _single(np.abs),
    "Add": _pairwise(operator.add),
    "And": _pairwise(np.logical_and),
    "Cast": _cast,
    "Ceil": _single(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _pairwise(_divide),
    "Equal": _pairwise(np.equal),
    "Expand": _expand,
    "Floor": _single(np.floor),
    "Gather": _gather,
    "Greater": _pairwise(np.greater),
    "GreaterOrEqual": _pairwise(np.greater_equal),
    "Identity": _same,
    "Less": _pairwise(np.less),
    "LessOrEqual": _pairwise(np.less_equal),
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mod": _pairwise(np.mod),
    "Mul": _pairwise(operator.mul),
    "Neg": _single(operator.neg),
    "Not": _single(np.logical_not),
    "Or": _pairwise(np.logical_or),
    "Pow": _pairwise(np.power),
    "Range": _range,
    "ReduceMax": _reduced(max),
    "ReduceMin": _reduced(min),
    "ReduceProd": _reduced(operator.mul),
    "ReduceSum": _reduced(operator.add),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Sqrt": _single(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _pairwise(operator.sub),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
