"""Nodes that stand for one layer together, as one node: a linear layer, or a LayerNorm.

Files of old opsets spell a LayerNorm out in nine nodes. As one layer it can be adapted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from edgemem.models.onnx_files.onnx_graph import Node, OnnxGraph


def fused(graph: OnnxGraph) -> list[Node]:
    """The nodes of a graph, with those joined that are one layer.

    A MatMul by a weight whose only use is an Add of a constant row is a Gemm; what divides the
    distance from a mean by the root of its mean square, and is scaled and shifted, a LayerNorm.
    Only nodes are joined whose results nothing else uses.
    """
    found = _Graph(graph)
    joined: dict[str, Node] = {}  # by the output of the last node of each
    gone: set[str] = set()
    for node in graph.nodes:
        if node.operator != "Add":
            continue
        whole = _linear(found, node) or _layer_norm(found, node)
        if whole is not None and found.within(whole.parts, node):
            joined[node.outputs[0]] = whole.node
            gone.update(part.outputs[0] for part in whole.parts)
    return [
        joined.get(node.outputs[0], node) for node in graph.nodes if node.outputs[0] not in gone
    ]


@dataclass(frozen=True)
class _Whole:
    """One node for several. parts: those before the last one."""

    node: Node
    parts: tuple[Node, ...]


class _Graph:
    def __init__(self, graph: OnnxGraph) -> None:
        self.constants = graph.constants
        self.uses = Counter(name for node in graph.nodes for name in node.inputs)
        self.uses.update(graph.output_names)
        self._made = {name: node for node in graph.nodes for name in node.outputs}

    def made(self, name: str, operator: str) -> Node | None:
        """The node that gives a value, if it is of that operator."""
        node = self._made.get(name)
        return node if node is not None and node.operator == operator else None

    def halves(self, node: Node) -> tuple[str, str] | None:
        """Of two inputs, the computed one and the constant one."""
        for name, other in (node.inputs, node.inputs[::-1]):
            if other in self.constants and name not in self.constants:
                return name, other
        return None

    def within(self, parts: tuple[Node, ...], last: Node) -> bool:
        """Whether nothing but these nodes uses what the parts give."""
        inner = Counter(name for node in (*parts, last) for name in node.inputs)
        return all(self.uses[n] == inner[n] for node in parts for n in node.outputs)


def _linear(graph: _Graph, node: Node) -> _Whole | None:
    halves = graph.halves(node)
    product = None if halves is None else graph.made(halves[0], "MatMul")
    if halves is None or product is None:
        return None
    row, weight = graph.constants[halves[1]], graph.constants.get(product.inputs[1])
    if weight is None or weight.ndim != 2 or row.shape != weight.shape[1:]:
        return None
    inputs = (*product.inputs, halves[1])
    linear = replace(product, operator="Gemm", inputs=inputs, outputs=node.outputs, attributes={})
    return _Whole(linear, (product,))


def _layer_norm(graph: _Graph, node: Node) -> _Whole | None:
    """Add(Mul(Div(Sub(x, m), Sqrt(Add(ReduceMean(Pow(Sub(x, m), 2)), e))), w), b)."""
    shift = graph.halves(node)
    scaled = None if shift is None else graph.made(shift[0], "Mul")
    scale = None if scaled is None else graph.halves(scaled)
    divided = None if scale is None else graph.made(scale[0], "Div")
    if shift is None or scaled is None or scale is None or divided is None:
        return None
    weight, bias = graph.constants[scale[1]], graph.constants[shift[1]]
    centred, root = graph.made(divided.inputs[0], "Sub"), graph.made(divided.inputs[1], "Sqrt")
    mean = None if centred is None else graph.made(centred.inputs[1], "ReduceMean")
    spread = None if root is None or centred is None else _spread(graph, root, centred)
    if centred is None or root is None or mean is None or spread is None:
        return None
    epsilon, parts = spread
    if mean.inputs[0] != centred.inputs[0] or weight.ndim != 1 or weight.shape != bias.shape:
        return None
    if any(_axes(graph, n) != [-1] for n in (mean, parts[1])):
        return None
    norm = Node(
        "LayerNormalization",
        divided.name.rpartition("/")[0] + "/LayerNormalization",
        (centred.inputs[0], scale[1], shift[1]),
        node.outputs,
        {"axis": -1, "epsilon": epsilon},
    )
    return _Whole(norm, (mean, centred, root, *parts, divided, scaled))


def _spread(graph: _Graph, root: Node, centred: Node) -> tuple[float, tuple[Node, ...]] | None:
    """What is added to the mean square of the distances, and the nodes that compute that."""
    total = graph.made(root.inputs[0], "Add")
    halves = None if total is None else graph.halves(total)
    average = None if halves is None else graph.made(halves[0], "ReduceMean")
    square = None if average is None else graph.made(average.inputs[0], "Pow")
    if total is None or halves is None or average is None or square is None:
        return None
    power, epsilon = graph.constants.get(square.inputs[1]), graph.constants[halves[1]]
    twice = power is not None and power.size == 1 and float(power.item()) == 2.0
    if not twice or square.inputs[0] != centred.outputs[0] or epsilon.size != 1:
        return None
    return float(epsilon.item()), (total, average, square)


def _axes(graph: _Graph, node: Node) -> list[int] | None:
    """Axes of a mean that keeps them."""
    if not node.attributes.get("keepdims", 1):
        return None
    if len(node.inputs) > 1:
        return [int(a) for a in np.ravel(graph.constants.get(node.inputs[1], []))]
    return [int(axis) for axis in node.attributes.get("axes", [])]
