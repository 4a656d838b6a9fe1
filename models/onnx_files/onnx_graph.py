"""Reading an ONNX file of others: what it holds, and what of it is refused before anything runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgemem.errors import EdgeMemError
from edgemem.models.onnx_files.file_inputs import (
    FileInput,
    frames_among,
    input_beside,
    sizes_of,
    tables_of,
)
from edgemem.models.onnx_files.onnx_proto import (
    STANDARD,
    array_of,
    damaged,
    inlined,
    load_proto,
    opset_of,
    refused,
)
from edgemem.models.onnx_files.operators.calls import Host

MOST_NODES = 1 << 17
MOST_LABELS = 1 << 16
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
QUANTISED = ("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear")


@dataclass(frozen=True)
class Node:
    """One operator of a graph. name: for messages and for the name of its layer."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OnnxGraph:
    """What an ONNX file holds.

    Attributes:
        ids: least and largest of frames that are token ids; None = they are float32.
        beside: inputs beside the frames; a size that is open is None, or that of a frame's axis of
            the same name.
        nodes: in an order in which they can run; those that no output needs are left out.
        constants: weights and other constants by name.
        sizes: of the input; None where it is not fixed.
        labels: class names, where the file has them.
    """

    path: Path
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Host]
    input_name: str
    sizes: tuple[int | None, ...]
    ids: tuple[int, int] | None
    beside: tuple[FileInput, ...]
    output_names: tuple[str, ...]
    labels: tuple[str, ...] | None


def read_graph(path: Path, frames_input: str | None = None) -> OnnxGraph:
    """Read a file, with what lies beside it.

    frames_input: of several inputs the one that the frames are; None = the only one that may be.

    Raises:
        CheckpointError: damaged, larger than it may be, or with something that is not supported:
            inputs of other types, control flow, quantised weights, operators of others.
        InputError: there is no such input, or several may be the frames.
    """
    model = load_proto(path)
    try:
        return _read(path, model, frames_input)
    except EdgeMemError:
        raise
    except Exception as error:  # names that are no text, and other damage
        raise damaged(path, error) from error


def _read(path: Path, model: onnx.ModelProto, frames_input: str | None) -> OnnxGraph:
    opset = opset_of(path, model)
    model = inlined(path, model)
    nodes = _nodes(path, model.graph)
    held = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in held]
    frames = frames_among(path, given, frames_input)
    sizes, tables = sizes_of(path, frames), tables_of(path, model.graph, nodes)
    outputs = tuple(value.name for value in model.graph.output)
    needed = _needed(nodes, outputs)
    for node in needed:
        _check_node(path, node)
    constants = {tensor.name: array_of(path, tensor) for tensor in model.graph.initializer}
    constants |= {n.outputs[0]: _constant(path, n) for n in needed if n.operator == "Constant"}
    working = _without_copies([n for n in needed if n.operator != "Constant"], outputs)
    beside = tuple(input_beside(path, value, tables) for value in given if value is not frames)
    ids = None
    if frames.type.tensor_type.elem_type == onnx.TensorProto.INT64:
        ids = 0, tables.get(frames.name, 2) - 1
    return OnnxGraph(
        path, opset, working, constants, frames.name, sizes, ids, beside, outputs, _labels(model)
    )


def _nodes(path: Path, graph: onnx.GraphProto) -> list[Node]:
    if len(graph.node) > MOST_NODES:
        raise refused(path, f"has more than {MOST_NODES:,} nodes")
    if graph.sparse_initializer:
        raise refused(path, "has sparse weights")
    nodes = []
    for number, node in enumerate(graph.node):
        domain = "" if node.domain in STANDARD else f"{node.domain}."
        nodes.append(
            Node(
                domain + node.op_type,
                node.name or f"{node.op_type}_{number}",
                tuple(node.input),
                tuple(node.output),
                {a.name: _attribute(path, a) for a in node.attribute},
            )
        )
    return nodes


def _attribute(path: Path, attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return array_of(path, value)
    if isinstance(value, onnx.GraphProto):
        return None  # of control flow, which is refused
    if isinstance(value, (int, float)):
        return value
    return [v.decode(errors="replace") if isinstance(v, bytes) else v for v in value]


def _constant(path: Path, node: Node) -> Host:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            found = node.attributes[name]
            if isinstance(found, np.ndarray):
                return found
            return np.asarray(found, np.float32 if "float" in name else np.int64)
    raise refused(path, f"has a constant of text, or a sparse one: node {node.name!r}")


def _without_copies(nodes: list[Node], outputs: tuple[str, ...]) -> tuple[Node, ...]:
    """The nodes without Identity: what takes a copy takes the original, or the constant."""
    originals: dict[str, str] = {}
    kept = []
    for node in nodes:
        inputs = tuple(originals.get(name, name) for name in node.inputs)
        if node.operator == "Identity" and node.outputs[0] not in outputs:
            originals[node.outputs[0]] = inputs[0]
        else:
            kept.append(replace(node, inputs=inputs))
    return tuple(kept)


def _needed(nodes: list[Node], outputs: tuple[str, ...]) -> list[Node]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(name for name in node.inputs if name)
    return kept[::-1]


def _check_node(path: Path, node: Node) -> None:
    kind = node.operator.rpartition(".")[2]
    if kind in CONTROL_FLOW:
        raise refused(
            path,
            f"has control flow, which a step cannot follow: node {node.name!r} is {kind}",
        )
    if (
        kind in QUANTISED
        or kind.startswith(("QLinear", "QAttention", "QGemm"))
        or kind.endswith("Integer")
    ):
        raise refused(
            path,
            f"is quantised: node {node.name!r} is {kind}",
            "Pass the float model that it was made from; --int8 quantises its bundle",
        )


def _labels(model: onnx.ModelProto) -> tuple[str, ...] | None:
    """Class names as the exporter of Ultralytics writes them: {0: 'person', 1: ...}."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "names"), "")
    try:
        names = ast.literal_eval(text) if 0 < len(text) < 1 << 20 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(names, dict) or not 0 < len(names) <= MOST_LABELS:
        return None
    found = tuple(names.get(number) for number in range(len(names)))
    return found if all(isinstance(name, str) and name for name in found) else None  # type: ignore[return-value]
