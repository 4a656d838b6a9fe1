"""Which operators may stay in a traced step, and what the others become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx import GraphModule

from edgemem.errors import ExportError
from edgemem.export.lowering import convolution, gate, padding, pooling, resampling

aten = torch.ops.aten
# In the core set, but without an ONNX form.
WITHOUT_FORM = (aten.var.correction, aten.var_mean.correction)


def copy_onnx(over: Any, value: Any, non_blocking: bool = False) -> Any:
    """ONNX form of aten.copy; the exporter's own does not spread the value out, nor cast it."""
    return opset20.Expand(opset20.CastLike(value, over), opset20.Shape(over))


RULES: dict[Any, Callable[..., Any]] = {
    **convolution.RULES,
    **pooling.RULES,
    **resampling.RULES,
    **padding.RULES,
    **gate.RULES,
}
# Portable too: without them a graph is wrong.
NEEDED_FORMS: dict[Any, Callable[..., Any]] = {aten.copy.default: copy_onnx}
# Operators that have a better ONNX form than the exporter's own.
ONNX_FORMS: dict[Any, Callable[..., Any]] = {
    torch.ops.edgemem.beyond.default: gate.beyond_onnx,
    aten.sign.default: gate.sign_onnx,
    **NEEDED_FORMS,
}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operator -> function that computes it with simpler ones."""
    table = dict(core_aten_decompositions())
    table |= get_decompositions([aten.max_pool2d_with_indices_backward, *WITHOUT_FORM])
    return table | RULES


class Untraceable(ExportError):
    """A function that cannot become a graph; by other choices the step may be one that can."""


def check_operators(graph: GraphModule) -> None:
    """Refuse what would not run, or not run the same way twice.

    Raises:
        Untraceable: a backward operator without a rule.
        ExportError: a random operator.
    """
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
        if name.endswith("_backward"):
            raise Untraceable(
                f"operator {node.target}",
                "has no backward rule here",
                "Choose parts so that no gradient crosses it",
            )
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ExportError(
                f"operator {node.target}",
                "draws random numbers",
                "Let the model draw none in eval mode, as F.dropout(x, p, self.training) does",
            )
