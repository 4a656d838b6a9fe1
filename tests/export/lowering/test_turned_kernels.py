"""Kernels that are others turned round: stored once, and the same to the bit."""

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper, numpy_helper

from edgemem.export.turned_kernels import turn_on_load


def graph_of(kernels, inputs):
    """x -> one convolution with each kernel."""
    nodes, outputs = [], []
    for name, (kernel, groups) in kernels.items():
        spread = kernel.shape[2] // 2
        pads = [spread] * 2 * (kernel.ndim - 2)
        nodes.append(
            helper.make_node(
                "Conv",
                [f"x{kernel.shape[1] * groups}", name],
                [f"y.{name}"],
                name,
                pads=pads,
                group=groups,
            )
        )
        outputs.append(helper.make_tensor_value_info(f"y.{name}", TensorProto.FLOAT, None))
    given = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()
    ]
    held = [numpy_helper.from_array(kernel, name) for name, (kernel, _) in kernels.items()]
    graph = helper.make_graph(nodes, "g", given, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model, inputs, *, optimised=True):
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, inputs)


def swapped(kernel):
    """As the gradient of a convolution's input has it, spelled out by loops."""
    found = np.empty((kernel.shape[1], kernel.shape[0], *kernel.shape[2:]), kernel.dtype)
    for place in np.ndindex(kernel.shape):
        taps = tuple(n - 1 - k for n, k in zip(kernel.shape[2:], place[2:], strict=True))
        found[(place[1], place[0], *taps)] = kernel[place]
    return found


@pytest.mark.parametrize("taps", [(3,), (3, 5), (3, 3, 3)])
@pytest.mark.parametrize("optimised", [True, False])
def test_a_turned_kernel_is_stored_once_and_gives_the_same(taps, optimised):
    rng = np.random.default_rng(0)
    kernel = rng.random((24, 12, *taps), np.float32)
    sides = (7,) * len(taps)
    inputs = {f"x{n}": rng.random((2, n, *sides), np.float32) for n in (12, 24)}
    model = graph_of({"w": (kernel, 1), "turned": (swapped(kernel), 1)}, inputs)
    before = run(model, inputs, optimised=optimised)
    turn_on_load(model)
    assert [t.name for t in model.graph.initializer if len(t.dims) > 1] == ["w"]
    for found, expected in zip(run(model, inputs, optimised=optimised), before, strict=True):
        assert_array_equal(found, expected)


@pytest.mark.parametrize("optimised", [True, False])
def test_a_matrix_is_stored_once(optimised):
    rng = np.random.default_rng(2)
    matrix = rng.random((48, 32), np.float32)
    inputs = {"x": rng.random((2, 48), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["y", "back"], ["z"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 48])]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "yz"]
    pair = {"back": np.ascontiguousarray(matrix.T), "w": matrix}
    held = [numpy_helper.from_array(array, name) for name, array in pair.items()]
    graph = helper.make_graph(nodes, "g", given, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    before = run(model, inputs, optimised=optimised)
    turn_on_load(model)
    assert [t.name for t in model.graph.initializer] == ["w"]
    for found, expected in zip(run(model, inputs, optimised=optimised), before, strict=True):
        assert_array_equal(found, expected)


def test_of_depthwise_kernels_only_the_taps_are_reversed():
    rng = np.random.default_rng(1)
    kernel = rng.random((64, 1, 3, 3), np.float32)
    inputs = {"x64": rng.random((2, 64, 5, 5), np.float32)}
    flipped = np.ascontiguousarray(kernel[:, :, ::-1, ::-1])
    model = graph_of({"w": (kernel, 64), "turned": (flipped, 64)}, inputs)
    before = run(model, inputs)
    turn_on_load(model)
    assert [t.name for t in model.graph.initializer if len(t.dims) > 1] == ["w"]
    assert [node.op_type for node in model.graph.node] == ["Slice", "Conv", "Conv"]
    for found, expected in zip(run(model, inputs), before, strict=True):
        assert_array_equal(found, expected)


def test_others_stay_and_a_symmetric_one_is_not_made_of_itself():
    rng = np.random.default_rng(2)
    symmetric = np.ones((16, 16, 3, 3), np.float32)
    other, small = rng.random((16, 16, 3, 3), np.float32), rng.random((2, 2, 3, 3), np.float32)
    inputs = {
        "x16": rng.random((1, 16, 5, 5), np.float32),
        "x2": rng.random((1, 2, 5, 5), np.float32),
    }
    kernels = {"s": (symmetric, 1), "o": (other, 1), "a": (small, 1), "b": (swapped(small), 1)}
    model = graph_of(kernels, inputs)
    before = model.SerializeToString()
    turn_on_load(model)
    assert model.SerializeToString() == before


def test_a_chain_of_turned_kernels_leaves_one_that_is_stored():
    """Each is the other turned round: one of them has to stay."""
    kernel = np.random.default_rng(3).random((16, 16, 3, 3), np.float32)
    inputs = {"x16": np.ones((1, 16, 5, 5), np.float32)}
    kernels = {"a": (kernel, 1), "b": (swapped(kernel), 1), "c": (kernel.copy(), 1)}
    model = graph_of(kernels, inputs)
    before = run(model, inputs)
    turn_on_load(model)
    for found, expected in zip(run(model, inputs), before, strict=True):
        assert_array_equal(found, expected)
