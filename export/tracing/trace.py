"""From a pure torch function to an ONNX model of standard operators."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.onnx import OnnxExporterError, ONNXProgram

from edgemem.bundle.further_input import BESIDE, FRAMES
from edgemem.errors import EdgeMemError, ExportError
from edgemem.export.functions.forward import Function
from edgemem.export.lowering.portable import PORTABLE
from edgemem.export.lowering.rewrite import lower
from edgemem.export.lowering.spelled_out import SpelledOut
from edgemem.export.lowering.table import (
    NEEDED_FORMS,
    ONNX_FORMS,
    Untraceable,
    check_operators,
    decompositions,
)
from edgemem.export.tracing.simplify import simplify
from edgemem.export.tracing.surroundings import plain, quiet, without_collecting

if TYPE_CHECKING:
    import onnx

STANDARD_DOMAINS = ("", "ai.onnx")


def to_onnx(function: Function, *, portable: bool = False) -> onnx.ModelProto:
    """Trace a function and write it as one ONNX model, constants inline.

    Inputs and outputs carry the function's names; every declared input is there and used.
    portable: in operators that NPUs have, and numbers that half precision holds, instead of those
    that are fast on a CPU; for functions of one batch size.

    Raises:
        Untraceable: the function cannot be traced.
        ExportError: it draws random numbers, or the graph breaks the contract.
    """
    with _explained(), quiet(), without_collecting():
        exported = _translated(_export(function, portable), function, portable)
        simplify(exported.model)
        for value, name in zip(exported.model.graph.outputs, function.outputs, strict=True):
            value.name = name  # where two outputs are one value, the optimiser names the second
    with quiet(), without_collecting():
        model = lower(exported.model_proto, portable=portable)
    _drop_unused(model, function)
    _check_contract(model, function)
    return model


def _translated(program: ExportedProgram, function: Function, portable: bool) -> ONNXProgram:
    """A program in operators of ONNX.

    The exporter lowers every program by tracing it once more. Ours has been lowered already, in
    nearly all cases far enough; so that is done only where an operator is left over.
    """

    def translate() -> ONNXProgram:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            custom_translation_table=NEEDED_FORMS if portable else ONNX_FORMS,
            input_names=list(function.inputs),
            output_names=list(function.outputs),
            verbose=False,
        )
        assert exported is not None
        return exported

    if _in_place(program):
        return translate()
    program.run_decompositions = lambda *_: program
    try:
        return translate()
    except OnnxExporterError:
        del program.run_decompositions
        return translate()


def _in_place(program: ExportedProgram) -> bool:
    """Whether operators are left that change what they are given."""
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    return any(isinstance(t, OpOverload) and t._schema.is_mutable for t in targets)


def check_traceable(function: Function) -> None:
    """The part of `to_onnx` that meets what a model does, in a fraction of the time.

    For a function of one batch size.

    Raises:
        ExportError: as `to_onnx`.
    """
    with _explained(), quiet():
        traced(function, portable=False)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except EdgeMemError:
        raise
    except Exception as error:
        raise Untraceable(
            "model",
            f"cannot be traced ({_reason(error)})",
            "Write it without branches on values and in operators that ONNX has",
        ) from error


def _reason(error: Exception) -> str:
    """The operator that no ONNX function stands for, where that is it; else the first line."""
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
    if missing:
        return f"operator {missing[1]} has no ONNX form"
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _export(function: Function, portable: bool) -> ExportedProgram:
    arguments = tuple(function.inputs.values())
    if function.dynamic_batch or function.axes:
        table = decompositions()
        shapes = _free_sizes(function)
        with plain(), SpelledOut():
            program = torch.export.export(
                _Module(function), arguments, dynamic_shapes=(shapes,), strict=False
            )
            program = program.run_decompositions(table)
        check_operators(program.graph_module)
        return program  # type: ignore[no-any-return]
    exported: ExportedProgram = torch.export.export(traced(function, portable), arguments)
    return exported


def _free_sizes(function: Function) -> tuple[dict[int, Any] | None, ...]:
    """For each input, the axes whose sizes every run chooses."""
    axes = dict(function.axes)
    if function.dynamic_batch:
        axes |= {name: {0: "batch"} for name in function.inputs if _is_of_frames(name)}
    sizes = {name: Dim(name, min=1) for free in axes.values() for name in free.values()}
    return tuple(
        {axis: sizes[size] for axis, size in axes[name].items()} if name in axes else None
        for name in function.inputs
    )


def _is_of_frames(name: str) -> bool:
    """Whether an input has a row for each frame."""
    return name == FRAMES or name.startswith(BESIDE)


def traced(function: Function, portable: bool) -> GraphModule:
    """A function of one batch size as simple operators; see `to_onnx`.

    Raises:
        ExportError: an operator that cannot be lowered.
    """
    tracer = make_fx(
        function.call,
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
        decomposition_table=decompositions() | (PORTABLE if portable else {}),
    )
    with plain(), SpelledOut():
        graph: GraphModule = tracer(*function.inputs.values()).eval()
    _use_what_is_copied(graph)
    check_operators(graph)
    return graph


def _use_what_is_copied(graph: GraphModule) -> None:
    """Where a value is written over another that is never read again, take the value itself."""
    places = {node: place for place, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        if node.target is not torch.ops.aten.copy_.default:
            continue
        over, value = node.args[:2]
        last = max(over.users, key=places.__getitem__)
        own = all(_fresh(n) for n in (over, *over.users) if n is not node)
        if own and last is node and _alike(over, value):
            node.replace_all_uses_with(value)
            graph.graph.erase_node(node)
    graph.recompile()


def _fresh(node: Node) -> bool:
    """Whether a node makes a value of its own, no view of another."""
    if not isinstance(node.target, OpOverload):
        return False
    return all(value.alias_info is None for value in node.target._schema.returns)


def _alike(a: Node, b: Node) -> bool:
    one, other = a.meta["val"], b.meta["val"]
    return bool(one.shape == other.shape and one.dtype == other.dtype)


class _Module(nn.Module):
    """A function as the module that torch.export asks for."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.call = function.call

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return self.call(*arguments)


def _drop_unused(model: onnx.ModelProto, function: Function) -> None:
    """Take optional inputs without effect out of a graph."""
    used = {name for node in model.graph.node for name in node.input}
    for value in list(model.graph.input):
        if value.name in function.optional and value.name not in used:
            model.graph.input.remove(value)


def _check_contract(model: onnx.ModelProto, function: Function) -> None:
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    needed = [name for name in function.inputs if name in inputs or name not in function.optional]
    if inputs != needed or outputs != list(function.outputs):
        wrong = set(inputs) ^ set(function.inputs) | set(outputs) ^ set(function.outputs)
        raise ExportError("graph", f"has other inputs or outputs ({sorted(wrong)})", "Report this")
    used = {name for node in model.graph.node for name in node.input} | set(outputs)
    if unused := [name for name in inputs if name not in used]:
        if unused[0].startswith(BESIDE):
            raise ExportError(
                f"input {unused[0].removeprefix(BESIDE)!r}",
                "has no effect on what the model answers",
                "Leave it out, where the model can do without",
            )
        raise ExportError(
            f"graph input {unused[0]!r}",
            "has no effect on any output",
            "Choose parts whose meta networks all run",
        )
    domains = {node.domain for node in model.graph.node}
    if foreign := domains - set(STANDARD_DOMAINS):
        raise ExportError("graph", f"uses operators of {sorted(foreign)}", "Report this")
