"""From the graph of a file to a network of torch, node by node.

Each node is tried as soon as it stands, on frames of which torch knows sizes only. So every size is
known, what is refused is refused by its node, and nothing large is made to find out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.errors import CheckpointError
from edgemem.models.onnx_files.fused_nodes import fused
from edgemem.models.onnx_files.layer_names import Names
from edgemem.models.onnx_files.network import BATCH, OnnxNetwork, Step
from edgemem.models.onnx_files.onnx_graph import Node, OnnxGraph
from edgemem.models.onnx_files.onnx_proto import FROM_TORCH, refused
from edgemem.models.onnx_files.operators.calls import (
    MOST_VALUES,
    Host,
    NodeCall,
    Operator,
    Refused,
    Value,
    as_tensor,
)
from edgemem.models.onnx_files.operators.elementwise import ELEMENTWISE
from edgemem.models.onnx_files.operators.host_operators import FLOATS, HOST_OPERATORS
from edgemem.models.onnx_files.operators.images import IMAGES
from edgemem.models.onnx_files.operators.layers import LAYERS, Layer
from edgemem.models.onnx_files.operators.shapes import SHAPES

FUNCTIONS: dict[str, Operator] = {**ELEMENTWISE, **SHAPES, **IMAGES}
# Operators whose later inputs are settings, not tensors.
SETTINGS = {
    "Clip", "ConstantOfShape", "CumSum", "Expand", "Pad", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Tile", "TopK", "Trilu", "Unsqueeze", "Upsample",
}  # fmt: skip
TRIED_WITH = 7  # frames: few, and a number by which few sizes can be divided


def build_network(graph: OnnxGraph, frame: FrameSpec, fixed_batch: int | None) -> OnnxNetwork:
    """A network for frames of one shape, in eval mode.

    fixed_batch: frames that the file takes at once, where that is written into it; the network
    takes any number.

    Raises:
        CheckpointError: names the first node that is not converted.
    """
    builder = _Builder(graph, frame, fixed_batch)
    for node in fused(graph):
        try:
            builder.add(node)
        except Refused as error:
            raise _not_converted(graph, node, error.reason) from error
        except CheckpointError:
            raise
        except Exception as error:  # of torch or numpy, about shapes that do not fit
            raise _not_converted(graph, node, f"fails ({_line(error)})") from error
    return builder.finished()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _not_converted(graph: OnnxGraph, node: Node, reason: str) -> CheckpointError:
    what = f"node {node.name!r} ({node.operator}, opset {graph.opset}) {reason}"
    return refused(graph.path, f"cannot be converted: {what}", FROM_TORCH)


class _Builder:
    def __init__(self, graph: OnnxGraph, frame: FrameSpec, fixed_batch: int | None) -> None:
        self.graph, self.fixed_batch = graph, fixed_batch
        self.network = OnnxNetwork(graph.input_name, frame)
        self.constants: dict[str, Host] = dict(graph.constants)
        self.names = Names({"constants", *dir(self.network)})
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        given = {graph.input_name: (frame.dtype, frame.shape)}
        given |= {item.name: (item.dtype, item.shape) for item in frame.inputs}
        with self.mode:
            examples = {
                name: torch.empty(TRIED_WITH, *shape, dtype=getattr(torch, dtype))
                for name, (dtype, shape) in given.items()
            }
        self.values: dict[str, Value] = {**examples, BATCH: np.asarray(TRIED_WITH)}
        self.of_frames = set(given)  # values with numbers of frames, not sizes alone
        self.buffers: dict[str, str] = {}

    def add(self, node: Node) -> None:
        """Compute a node of constants at once; give any other a step."""
        known = {
            position: self.constants[name]
            for position, name in enumerate(node.inputs)
            if name in self.constants
        }
        call = NodeCall(node.operator, self.graph.opset, node.attributes, len(node.outputs), known)
        present = [name for name in node.inputs if name]
        if len(known) == len(present):
            self._fold(node, call)
        else:
            self._step(node, call)

    def finished(self) -> OnnxNetwork:
        """The network; values are let go where no later step takes them."""
        last: dict[str, int] = {}
        for number, step in enumerate(self.network.steps):
            last |= dict.fromkeys((*step.inputs, *step.outputs), number)
        kept = {*self.graph.output_names, BATCH, ""}
        for number, step in enumerate(self.network.steps):
            over = tuple(
                name
                for name in dict.fromkeys((*step.inputs, *step.outputs))
                if last[name] == number and name not in kept and name not in self.constants
            )
            self.network.steps[number] = replace(step, finished=over)
        for name in self.graph.output_names:
            if not isinstance(self.values.get(name), Tensor):
                raise refused(self.graph.path, f"has an output {name!r} that no frame changes")
        self.network.output_names = self.graph.output_names
        return self.network.eval()

    def _fold(self, node: Node, call: NodeCall) -> None:
        inputs = [call.constants.get(position) for position in range(len(node.inputs))]
        on_host = HOST_OPERATORS.get(node.operator)
        try:
            if on_host is not None:
                results: Any = on_host(call.on(inputs))
            else:
                results = self._folded_by_torch(node, call, inputs)
        except Refused:
            if on_host is None or node.operator not in FUNCTIONS:
                raise
            results = self._folded_by_torch(node, call, inputs)
        results = results if isinstance(results, tuple) else (results,)
        for name, value in zip(node.outputs, results, strict=False):
            self.constants[name] = value

    def _folded_by_torch(
        self, node: Node, call: NodeCall, inputs: list[Host | None]
    ) -> tuple[Host, ...]:
        function = FUNCTIONS.get(node.operator)
        if function is None:
            raise Refused("has no converter")
        settings = node.operator in SETTINGS
        tensors: list[Value] = [
            value if value is None or (settings and position) else as_tensor(value)
            for position, value in enumerate(inputs)
        ]
        with self.mode:
            fake: list[Value] = [
                self.mode.from_tensor(v) if isinstance(v, Tensor) else v for v in tensors
            ]
            _check_sizes(function(call.on(fake)))
        results = function(call.on(tensors))
        results = results if isinstance(results, tuple) else (results,)
        return tuple(r.numpy() if isinstance(r, Tensor) else r for r in results)

    def _step(self, node: Node, call: NodeCall) -> None:
        inputs, function = node.inputs, FUNCTIONS.get(node.operator)
        if self._holds_batch(node):
            call = replace(call, attributes={"batch": self.fixed_batch})
            inputs, function = (*inputs, BATCH), _any_reshape
        on_host = HOST_OPERATORS.get(node.operator)
        hosts = [isinstance(self.values.get(name), np.ndarray) for name in inputs if name]
        known = [name in self.constants for name in inputs if name]
        small = all(self.constants[name].ndim <= 1 for name in inputs if name in self.constants)
        of_sizes = all(a or b for a, b in zip(hosts, known, strict=True))
        if on_host and small and of_sizes and not self._is_filled(node):
            self._take(Step(node.name, call, on_host, None, inputs, node.outputs))
            return
        layer = self._layer(node, call)
        if layer is not None:
            self._add_layer(node, call, layer)
            return
        if function is None:
            raise Refused("has no converter")
        buffers = self._tensors(node)
        self._take(Step(node.name, call, function, None, inputs, node.outputs, (), buffers))

    def _is_filled(self, node: Node) -> bool:
        """Whether a node makes a tensor of sizes: one of floats, or of several axes."""
        if node.operator == "Expand":
            spread = self.constants.get(node.inputs[0])
            return spread is not None and spread.dtype in FLOATS
        if node.operator != "ConstantOfShape":
            return False
        value, sizes = node.attributes.get("value"), self.values[node.inputs[0]]
        assert isinstance(sizes, np.ndarray)
        return value is None or value.dtype in FLOATS or sizes.size != 1

    def _holds_batch(self, node: Node) -> bool:
        """Whether a Reshape names a number of frames that is written into the file."""
        if node.operator != "Reshape" or self.fixed_batch is None or len(node.inputs) < 2:
            return False
        if node.inputs[0] not in self.of_frames:
            return False
        name = node.inputs[1]
        sizes = self.constants.get(name, self.values.get(name))
        if not isinstance(sizes, np.ndarray) or sizes.size == 0:
            return False
        first = int(sizes.ravel()[0])
        counted = name not in self.constants and first % TRIED_WITH == 0  # of frames that came
        return first > 0 and first % self.fixed_batch == 0 and not counted

    def _layer(self, node: Node, call: NodeCall) -> Layer | None:
        maker = LAYERS.get(node.operator)
        if maker is None or not isinstance(self.values.get(node.inputs[0]), Tensor):
            return None
        inputs = [
            call.constants[position]
            if position in call.constants
            else self.values[name]
            if name
            else None
            for position, name in enumerate(node.inputs)
        ]
        return maker(call.on(inputs))

    def _add_layer(self, node: Node, call: NodeCall, layer: Layer) -> None:
        name = self.names.new(node)
        parent_name, _, child = name.rpartition(".")
        parent: torch.nn.Module = self.network
        for part in parent_name.split(".") if parent_name else ():
            if part not in parent._modules:
                parent.add_module(part, torch.nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(child, layer.module.eval())
        inputs = tuple(node.inputs[p] if p < len(node.inputs) else "" for p in layer.inputs)
        known = {n: self.constants[i] for n, i in enumerate(inputs) if i in self.constants}
        buffers = {n: self._buffer(i) for n, i in enumerate(inputs) if i in self.constants}
        call = replace(call, constants=known)
        self._take(Step(node.name, call, None, name, inputs, node.outputs, layer.pads, buffers))

    def _tensors(self, node: Node) -> dict[int, str]:
        return {
            position: self._buffer(name)
            for position, name in enumerate(node.inputs)
            if name in self.constants and not (node.operator in SETTINGS and position)
        }

    def _buffer(self, name: str) -> str:
        if name not in self.buffers:
            value = self.constants[name]
            if value.dtype in FLOATS and value.dtype != np.float32:
                raise Refused(f"computes with {value.dtype}, not float32")
            self.buffers[name] = self.network.add_constant(value)
        return self.buffers[name]

    def _take(self, step: Step) -> None:
        with self.mode:
            self.network.take(step, self.values)
        _check_sizes(tuple(self.values[name] for name in step.outputs if name in self.values))
        if step.call.operator not in ("Shape", "Size") and self.of_frames.intersection(step.inputs):
            self.of_frames.update(step.outputs)
        self.network.steps.append(step)


def _any_reshape(call: NodeCall) -> Tensor:
    """A Reshape of a file for some frames at once, for any number of them."""
    first, *others = call.sizes(1)
    first = first // call.attribute("batch") * call.sizes(2)[0]
    x = call.tensor()
    sizes = [x.shape[a] if s == 0 else s for a, s in enumerate(others, 1)]
    return x.reshape([first, *sizes])


def _check_sizes(results: Any) -> None:
    for value in results if isinstance(results, tuple) else (results,):
        if isinstance(value, Tensor) and value.numel() > MOST_VALUES:
            raise Refused(f"makes {list(value.shape)} values, more than {MOST_VALUES:,}")
