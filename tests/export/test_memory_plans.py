"""Plans of a step: which give what the step gives, and which are worth having."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgemem.bundle.manifest import Plan
from edgemem.errors import ExportError
from edgemem.export.memory_plans import _worth_having, check_plans

GIVEN = {
    "logits": [3.0, -1.0],
    "next.block.norms.a.bias_delta": [2e-7, 4e-7],
    "next.block.norms.b.bias_delta": [1e-4, -1e-4],
    "next.block.norms.c.bias_delta": [1e-13, 0.0],
    "next.block.norms.a.remembered_mean": [1.0, 0.5],
    "next.opt.momentum.a": [5e-4, 0.0],
}


def write(path, values):
    """A graph that gives these values."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(v)))
        for name, v in values.items()
    ]
    outputs = [helper.make_tensor_value_info(name, 1, [2]) for name in values]
    graph = helper.make_graph(nodes, "step", [], outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("next.block.norms.a.bias_delta", [2e-7, 4.001e-7]),
        ("next.block.norms.c.bias_delta", [-1e-13, 5e-13]),
        ("next.opt.momentum.a", [5.001e-4, 0.0]),
    ],
)
def test_a_plan_may_differ_by_rounding(tmp_path, name, value):
    write(tmp_path / "adapt.onnx", GIVEN)
    write(tmp_path / "adapt_lean.onnx", GIVEN | {name: value})
    check_plans(tmp_path, ["adapt", "adapt_lean"], {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logits", [3.0, -1.001]),
        ("next.block.norms.a.bias_delta", [2e-7, 4.1e-7]),
        ("next.block.norms.b.bias_delta", [np.nan, -1e-4]),
        ("next.block.norms.a.remembered_mean", [1.0005, 0.5]),
        ("next.opt.momentum.a", [5e-4, 1e-5]),
    ],
)
def test_a_plan_that_gives_something_else_is_refused(tmp_path, name, value):
    write(tmp_path / "adapt.onnx", GIVEN)
    write(tmp_path / "adapt_lean.onnx", GIVEN | {name: value})
    with pytest.raises(ExportError, match="gives another") as caught:
        check_plans(tmp_path, ["adapt", "adapt_lean"], {})
    assert name in str(caught.value)


def plans(*rows):
    return [
        Plan(f"{graph} {profile}", graph, profile, size, ms) for graph, profile, size, ms in rows
    ]


def test_each_plan_needs_clearly_less_memory_than_the_faster_ones():
    fast, lean, mapped = measured = plans(
        ("adapt", "latency", 100, 5.0), ("adapt_lean", "latency", 50, 9.0),
        ("adapt", "memory", 80, 6.0),
    )  # fmt: skip
    assert _worth_having(measured) == [fast, mapped, lean]


def test_computing_more_for_the_same_memory_is_faster_by_chance_only():
    fast, _, mapped, _ = measured = plans(
        ("adapt", "latency", 100, 5.0), ("adapt_lean", "latency", 98, 4.0),
        ("adapt", "memory", 90, 7.0), ("adapt_lean", "memory", 89, 6.0),
    )  # fmt: skip
    assert _worth_having(measured) == [fast, mapped]
