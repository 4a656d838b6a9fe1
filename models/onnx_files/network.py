"""A network that was read from an ONNX file: its steps, run one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import FRAMES
from edgemem.models.onnx_files.operators.calls import Host, NodeCall, Operator, Value
from edgemem.models.onnx_files.operators.host_operators import settled
from edgemem.models.tensor_rows import Frames, frames_of, others_of, rows

BATCH = "\0batch"  # a value beside those of the file: how many frames there are
CONSTANTS = "constants"
Watch = Callable[["Step", Mapping[str, Value]], None]


@dataclass(frozen=True)
class Step:
    """One node of the file.

    Attributes:
        name: of the node, for messages.
        function: what computes it; None where `module` does.
        module: dotted name of its layer.
        inputs: names of values; "" = none.
        buffers: names of the constants among them that are tensors of the network.
        finished: values that no later step takes.
    """

    name: str
    call: NodeCall
    function: Operator | None
    module: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pads: tuple[int, ...] = ()
    buffers: Mapping[int, str] | None = None
    finished: tuple[str, ...] = ()


class OnnxNetwork(nn.Module):
    """A network of a file. Frames [n, ...] -> its output, or all of them by name.

    ids: limits of frames that are token ids. beside: inputs that come with the frames.

    Layers with weights are modules of torch, under the names that the file gives them. They are
    called by those names, so that one put in the place of another is called instead.
    """

    def __init__(self, input_name: str, spec: FrameSpec) -> None:
        super().__init__()
        self.input_name = input_name
        self.spec, self.input_shape = spec, spec.shape
        self.ids, self.beside = spec.ids, spec.inputs
        whole = {given.name: (given.low, given.high) for given in spec.inputs if given.high > 1}
        known = spec.ids is not None and spec.ids[1] > 1  # by a table of the file
        self.input_limits = whole | ({FRAMES: spec.ids} if known else {})
        self.output_names: tuple[str, ...] = ()
        self.steps: list[Step] = []
        self.add_module(CONSTANTS, nn.Module())

    def add_constant(self, value: Host) -> str:
        """Keep a constant tensor; returns its name."""
        holder = self.get_submodule(CONSTANTS)
        name = f"constant{len(holder._buffers)}"
        holder.register_buffer(name, torch.from_numpy(np.array(value)))
        return name

    def forward(self, x: Tensor, **beside: Tensor) -> Tensor | dict[str, Tensor]:
        """Frames [n, ...] -> [n, ...], or a dict of such by the outputs' names."""
        values = self.run(rows(x, beside))
        if len(self.output_names) == 1:
            return values[self.output_names[0]]
        return values

    def run(self, given: Frames, watch: Watch | None = None) -> dict[str, Tensor]:
        """All outputs by name. watch: is given each step, and the values after it."""
        x = frames_of(given)
        values: dict[str, Value] = {self.input_name: x, **others_of(given)}
        values[BATCH] = settled(np.asarray(x.shape[0], object))
        for step in self.steps:
            self.take(step, values)
            if watch is not None:
                watch(step, values)
            for name in step.finished:
                values.pop(name, None)
        found = {name: values[name] for name in self.output_names}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def take(self, step: Step, values: dict[str, Value]) -> None:
        """Compute one step from `values`, and put what it gives there."""
        inputs = self._inputs(step, values)
        result: Any
        if step.module is not None:
            first, *others = inputs
            if step.pads:
                assert isinstance(first, Tensor)
                first = F.pad(first, step.pads)
            result = self.get_submodule(step.module)(first, *others)
        else:
            assert step.function is not None
            result = step.function(step.call.on(inputs))
        results = result if isinstance(result, tuple) else (result,)
        values.update(
            (name, value) for name, value in zip(step.outputs, results, strict=False) if name
        )

    def _inputs(self, step: Step, values: Mapping[str, Value]) -> list[Value]:
        holder, buffers = self.get_submodule(CONSTANTS), step.buffers or {}
        return [
            getattr(holder, buffers[position])
            if position in buffers
            else step.call.constants[position]
            if position in step.call.constants
            else values[name]
            if name
            else None
            for position, name in enumerate(step.inputs)
        ]
