"""The inputs of an ONNX file: which one the frames are, and what comes beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from edgemem.bundle.further_input import InputSpec
from edgemem.errors import InputError
from edgemem.models.onnx_files.onnx_proto import refused

if TYPE_CHECKING:
    from edgemem.models.onnx_files.onnx_graph import Node

MOST_AXES = 8
IDS = "input_ids"  # as transformers call token ids
FRAME_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
BESIDE_TYPES: dict[int, str] = {**FRAME_TYPES, onnx.TensorProto.BOOL: "bool"}


@dataclass(frozen=True)
class FileInput:
    """An input beside the frames.

    Attributes:
        sizes: of one frame's part; a name where the file has one in the place of a number.
        low, high: of whole numbers, by the table that they choose from.
    """

    name: str
    dtype: str
    sizes: tuple[int | str | None, ...]
    low: int
    high: int

    def spec(self, path: Path, named: Mapping[str, int]) -> InputSpec:
        """What it is for frames whose axes have these sizes, by name.

        Raises:
            CheckpointError: a size is open.
        """
        shape = [named.get(size) if isinstance(size, str) else size for size in self.sizes]
        if None in shape:
            raise refused(
                path,
                f"leaves sizes of its input {self.name!r} open",
                "Export it again with fixed sizes but for the batch",
            )
        return InputSpec(
            self.name, self.dtype, tuple(s for s in shape if s is not None), self.low, self.high
        )


def frames_among(
    path: Path, inputs: list[onnx.ValueInfoProto], wanted: str | None
) -> onnx.ValueInfoProto:
    """The input that the frames are: as wanted, or the only one that may be."""
    names = ", ".join(value.name for value in inputs)
    if not inputs:
        raise refused(path, "has no inputs")
    if wanted is not None:
        found = [value for value in inputs if value.name == wanted]
        if not found:
            raise InputError(
                f"--frames-input {wanted}", f"is no input of {path.name}", f"It has {names}"
            )
        return found[0]
    if len(inputs) == 1:
        return inputs[0]
    # Pictures and sequences before vectors, and numbers before token ids.
    for kind, axes in ((onnx.TensorProto.FLOAT, 3), (onnx.TensorProto.FLOAT, 2)):
        found = [
            value
            for value in inputs
            if value.type.tensor_type.elem_type == kind
            and len(value.type.tensor_type.shape.dim) >= axes
        ]
        if len(found) == 1:
            return found[0]
    found = [value for value in inputs if value.name == IDS]
    if found:
        return found[0]
    raise InputError(
        "--frames-input", f"is missing, and {path.name} has the inputs {names}", "Name one of them"
    )


def _type_of(path: Path, value: onnx.ValueInfoProto, known: Mapping[int, str]) -> str:
    kind = value.type.tensor_type.elem_type
    if kind not in known:
        name = onnx.TensorProto.DataType.Name(kind) if kind else "no type"
        raise refused(
            path,
            f"takes {value.name!r} as {name}, not {', '.join(known.values())}",
            "Export it with such an input; what comes before is for your program",
        )
    return known[kind]


def sizes_of(path: Path, frames: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Of the frames; None where they are open."""
    _type_of(path, frames, FRAME_TYPES)
    shape = frames.type.tensor_type.shape
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in shape.dim]
    if not 2 <= len(dims) <= MOST_AXES:
        raise refused(path, f"takes {frames.name!r} with {len(dims)} axes, not frames [n, ...]")
    return tuple(size if size and size > 0 else None for size in dims)


def axis_names(path: Path, name: str) -> tuple[str | None, ...]:
    """What a file calls the open axes of an input, the batch left out."""
    model = onnx.load(path, load_external_data=False)
    value = next(value for value in model.graph.input if value.name == name)
    return tuple(dim.dim_param or None for dim in value.type.tensor_type.shape.dim)[1:]


def input_beside(path: Path, value: onnx.ValueInfoProto, tables: Mapping[str, int]) -> FileInput:
    """An input beside the frames; raises CheckpointError for one of another kind."""
    dtype = _type_of(path, value, BESIDE_TYPES)
    dims = value.type.tensor_type.shape.dim
    if not 1 <= len(dims) <= MOST_AXES:
        reason = f"takes {value.name!r} with {len(dims)} axes, not one row for each frame"
        raise refused(path, reason, "Make it a constant of the file, or give it a batch axis")
    sizes = [dim.dim_value if dim.dim_value > 0 else (dim.dim_param or None) for dim in dims[1:]]
    return FileInput(value.name, dtype, tuple(sizes), 0, tables.get(value.name, 2) - 1)


def tables_of(path: Path, graph: onnx.GraphProto, nodes: Iterable[Node]) -> dict[str, int]:
    """Rows of the table that an input chooses from, by the name of the input."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    found: dict[str, int] = {}
    for node in nodes:
        if node.operator == "Gather" and node.inputs[0] in rows and not node.attributes.get("axis"):
            name = node.inputs[1]
            found[name] = min(found.get(name, rows[node.inputs[0]]), rows[node.inputs[0]])
    return found
