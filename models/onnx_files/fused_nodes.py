"""Nodes that stand for one layer together, as one node: MatMul and Add as a linear layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from edgemem.models.onnx_files.reading import Graph, Node


def fused(graph: Graph) -> list[Node]:
    """The nodes of a graph, with those joined that are one layer.

    A MatMul by a weight whose only use is an Add of a constant row is a Gemm.
    """
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses.update(graph.output_names)
    made = {name: node for node in graph.nodes for name in node.outputs}
    joined: dict[str, Node] = {}  # by the output of the Add
    gone: set[str] = set()
    for node in graph.nodes:
        pair = _product_and_row(graph, node, made)
        if pair is not None and uses[pair[0].outputs[0]] == 1:
            product, row = pair
            joined[node.outputs[0]] = replace(
                product,
                operator="Gemm",
                inputs=(*product.inputs, row),
                outputs=node.outputs,
                attributes={},
            )
            gone.add(product.outputs[0])
    return [
        joined.get(node.outputs[0], node) for node in graph.nodes if node.outputs[0] not in gone
    ]


def _product_and_row(graph: Graph, node: Node, made: dict[str, Node]) -> tuple[Node, str] | None:
    if node.operator != "Add":
        return None
    for name, other in (node.inputs, node.inputs[::-1]):
        product, row = made.get(name), graph.constants.get(other)
        if product is None or product.operator != "MatMul" or row is None or row.ndim != 1:
            continue
        weight = graph.constants.get(product.inputs[1])
        if weight is not None and weight.ndim == 2 and weight.shape[1] == row.size:
            return product, other
    return None
