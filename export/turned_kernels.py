"""Kernels of the backward pass, turned round when a graph is loaded rather than stored once more.

The gradient of a convolution's input is a convolution with the same kernel, its channels exchanged
and its taps reversed; that of a linear layer's input is a product with the matrix, transposed. All
are constants; stored, they would make a bundle nearly twice as large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgemem.block import Array

LEAST_BYTES = 1024  # smaller ones lie in the graph itself
FIRST = np.iinfo(np.int64).min  # before the start of any axis


def turn_on_load(model: onnx.ModelProto) -> None:
    """Replace constants that are another one turned round by the operators that turn it.

    The model is changed and computes the same to the bit. Engines fold these operators.
    """
    graph, known = model.graph, dict[str, str]()
    first = dict(reversed([(n, k) for k, node in enumerate(graph.node) for n in node.input]))
    large = [t for t in graph.initializer if len(t.dims) > 1 and _bytes(t) >= LEAST_BYTES]
    made: dict[str, list[onnx.NodeProto]] = {}
    # In the order of their use: the forward pass has them as all graphs do.
    for tensor in sorted(large, key=lambda t: first.get(t.name, len(graph.node))):
        array = numpy_helper.to_array(tensor)
        for turned, exchanged in _turned(array):
            if (source := known.get(_digest(turned))) is not None:
                made[tensor.name] = list(
                    _turning(source, tensor.name, array.ndim, exchanged=exchanged)
                )
                break
        else:
            known.setdefault(_digest(array), tensor.name)
    kept = [tensor for tensor in graph.initializer if tensor.name not in made]
    nodes = [node for turning in made.values() for node in turning]
    if not nodes:
        return
    own = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([*kept, *_bounds({len(t.dims) for t in large if len(t.dims) > 2})])
    graph.node.extend([*nodes, *own])


def _turned(array: Array) -> Iterator[tuple[NDArray[np.generic], bool]]:
    """What it would have been before; depthwise kernels have no channels to exchange.

    Matrices have no taps.
    """
    if array.ndim == 2:
        yield array.T, True
        return
    flipped = np.flip(array, tuple(range(2, array.ndim)))
    yield flipped, False
    yield flipped.swapaxes(0, 1), True


def _turning(source: str, name: str, rank: int, *, exchanged: bool) -> Iterator[onnx.NodeProto]:
    if rank == 2:
        yield helper.make_node("Transpose", [source], [name], f"{name}.exchange", perm=[1, 0])
        return
    reversed_taps = f"{name}.reversed" if exchanged else name
    bounds = [f"turned.{part}.{rank}" for part in ("last", "first", "axes", "back")]
    yield helper.make_node("Slice", [source, *bounds], [reversed_taps], f"{name}.reverse")
    if exchanged:
        order = [1, 0, *range(2, rank)]
        yield helper.make_node("Transpose", [reversed_taps], [name], f"{name}.exchange", perm=order)


def _bounds(ranks: set[int]) -> Iterator[onnx.TensorProto]:
    """From the last tap to the first, along every axis of a kernel."""
    for rank in sorted(ranks):
        axes = range(2, rank)
        values = {"last": -1, "first": FIRST, "back": -1}
        for part, value in values.items():
            array = np.full(len(axes), value, np.int64)
            yield numpy_helper.from_array(array, f"turned.{part}.{rank}")
        yield numpy_helper.from_array(np.array(axes, np.int64), f"turned.axes.{rank}")


def _bytes(tensor: onnx.TensorProto) -> int:
    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(np.prod(tensor.dims)) * size


def _digest(array: NDArray[np.generic]) -> str:
    about = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(about + np.ascontiguousarray(array).tobytes()).hexdigest()
