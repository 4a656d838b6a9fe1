"""The graph of a step in fewer nodes: the same that onnxscript's own optimiser leaves."""

from collections import Counter

import onnx_ir as ir
import pytest
import torch
from onnx import helper
from onnxscript.optimizer import optimize_ir
from torch import nn

from edgemem.export.choices import Choices, frame_spec, functions_of
from edgemem.export.tracing import trace
from edgemem.export.tracing.simplify import simplify
from edgemem.models import attach


@pytest.fixture(scope="module")
def written():
    """A step as the exporter writes it, before anything is left out."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)).eval()
    model = attach(network, [], torch.zeros(2, 1, 8, 8), statistics="remembered", norm_affine=True)
    choices = Choices(batch=4)
    function = functions_of(model, choices, frame_spec(model, choices))[0]["adapt"]
    protos = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "simplify", lambda graph: protos.append(ir.to_proto(graph)))
        trace.to_onnx(function)
    return protos[0]


def test_a_step_is_left_as_by_onnxscript(written):
    mine, theirs = ir.from_proto(written), ir.from_proto(written)
    simplify(mine)
    optimize_ir(theirs, num_iterations=1)
    counts = [Counter(node.op_type for node in graph.graph) for graph in (mine, theirs)]
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) < len(written.graph.node)


def test_two_slices_stay():
    nodes = [
        helper.make_node("Slice", ["x", start, end, "axis"], [out])
        for start, end, out in (("zero", "two", "y"), ("two", "four", "z"))
    ]
    values = {"zero": [0], "two": [2], "four": [4], "axis": [0]}
    held = [helper.make_tensor(n, 7, [1], v) for n, v in values.items()]
    x = helper.make_tensor_value_info("x", 1, [4])
    outputs = [helper.make_tensor_value_info(n, 1, [2]) for n in "yz"]
    graph = helper.make_graph(nodes, "slices", [x], outputs, held)
    model = ir.from_proto(helper.make_model(graph))
    simplify(model)
    assert [node.op_type for node in model.graph] == ["Slice", "Slice"]


@pytest.mark.parametrize(
    ("operator", "value", "nodes"),
    [
        ("Add", 0.0, 0), ("Add", 6e-11, 1), ("Sub", 0.0, 0), ("Sub", 1e-9, 1),
        ("Mul", 1.0, 0), ("Mul", 1 + 2**-20, 1), ("Div", 1.0, 0), ("Div", 1 - 2**-20, 1),
    ],
)  # fmt: skip
def test_only_what_changes_no_bit_is_idle(operator, value, nodes):
    """The epsilon of a norm behind a layer of small numbers is small, too."""
    held = [helper.make_tensor("value", 1, [], [value])]
    inputs = [helper.make_tensor_value_info("x", 1, [4])]
    outputs = [helper.make_tensor_value_info("y", 1, [4])]
    node = helper.make_node(operator, ["x", "value"], ["y"])
    model = ir.from_proto(helper.make_model(helper.make_graph([node], "n", inputs, outputs, held)))
    simplify(model)
    assert sum(node.op_type == operator for node in model.graph) == nodes
