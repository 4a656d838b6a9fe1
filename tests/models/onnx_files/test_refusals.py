"""ONNX files that are refused: by the thing, the reason and the remedy, before anything large."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import constant, save

from edgemem.errors import CheckpointError, InputError
from edgemem.models.onnx_files.network_building import FUNCTIONS
from edgemem.models.onnx_files.onnx_model import load_onnx
from edgemem.models.onnx_files.operators import elementwise

RELU = [helper.make_node("Relu", ["x"], ["y"])]


def branching():
    output = helper.make_tensor_value_info("a", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["a"])], "branch", [], [output])
    return [
        constant("yes", np.array(True)),
        helper.make_node("If", ["yes"], ["y"], "gate", then_branch=branch, else_branch=branch),
    ]


def quantised():
    return [
        constant("s", np.float32(0.1)),
        constant("z", np.uint8(3)),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "round"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]


CASES = {
    "control flow": (branching(), {}, "has control flow.*'gate' is If"),
    "quantised": (quantised(), {}, "is quantised: node 'round' is QuantizeLinear.*--int8"),
    "an input without frames": (
        [helper.make_node("Mul", ["x", "rate"], ["y"])],
        {"more": {"rate": ()}},
        "takes 'rate' with 0 axes, not one row for each frame.*constant of the file",
    ),
    "open sizes beside frames": (
        [helper.make_node("Expand", ["x", "other"], ["y"])],
        {"more": {"other": ("n", "k")}},
        "leaves sizes of its input 'other' open",
    ),
    "integers": (
        [helper.make_node("Cast", ["x"], ["y"], to=1)],
        {"kind": TensorProto.INT32},
        "takes 'x' as INT32, not float32, int64",
    ),
    "an old opset": (RELU, {"opset": 8}, "has opset 8, older than 9.*opset 13 or later"),
    "an operator of others": (
        [helper.make_node("FusedGelu", ["x"], ["y"], "fast", domain="com.others")],
        {"domains": ["com.others"]},
        r"node 'fast' \(com.others.FusedGelu, opset 17\) has no converter",
    ),
    "an operator without a converter": (
        [helper.make_node("Det", ["x"], ["y"], "area")],
        {},
        r"node 'area' \(Det, opset 17\) has no converter",
    ),
    "what depends on values": (
        [
            helper.make_node("NonZero", ["x"], ["i"], "found"),
            helper.make_node("Cast", ["i"], ["y"], to=1),
        ],
        {},
        r"node 'found' \(NonZero, opset 17\) has no converter|does not run",
    ),
    "a huge constant": (
        [
            constant("sizes", np.array([1 << 20, 1 << 20])),
            helper.make_node("ConstantOfShape", ["sizes"], ["big"], "flood"),
            helper.make_node("ReduceMax", ["big"], ["one"]),
            helper.make_node("Add", ["x", "one"], ["y"]),
        ],
        {"opset": 13},
        "'flood'.*makes .* values, more than",
    ),
    "a huge product": (
        [
            constant("column", np.ones((1 << 16, 1), np.float32)),
            constant("row", np.ones((1, 1 << 16), np.float32)),
            helper.make_node("MatMul", ["column", "row"], ["big"], "flood"),
            helper.make_node("ReduceMax", ["big"], ["one"]),
            helper.make_node("Add", ["x", "one"], ["y"]),
        ],
        {"opset": 13},
        "'flood'.*makes .* values, more than",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_converted_is_refused_by_name(tmp_path, case):
    nodes, about, expected = CASES[case]
    path = save(tmp_path / "x.onnx", nodes, **about)
    with pytest.raises(CheckpointError, match=f"(?s){expected}"):
        load_onnx(path, None)


def test_open_sizes_need_a_shape_and_fixed_ones_allow_no_other(tmp_path):
    path = save(tmp_path / "x.onnx", RELU, shape=("n", 3, "h", "w"))
    with pytest.raises(InputError, match=r"leaves sizes of its frames open \(3,\?,\?\)"):
        load_onnx(path, None)
    network, _ = load_onnx(path, (3, 5, 7))
    assert network.input_shape == (3, 5, 7)
    with pytest.raises(InputError, match=r"--input-shape 1,5,7: contradicts x.onnx"):
        load_onnx(path, (1, 5, 7))


def test_a_batch_of_one_that_cannot_be_made_any(tmp_path):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]),
        helper.make_node("Sub", ["x", "m"], ["y"], "apart"),
    ]
    path = save(tmp_path / "x.onnx", nodes, shape=(1, 3, 8, 8), opset=13)
    with pytest.raises(CheckpointError, match="is for a batch of 1 alone.*dynamic batch axis"):
        load_onnx(path, None)


def test_a_network_that_differs_names_the_first_node_that_does(tmp_path, monkeypatch):
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], "first"),
        helper.make_node("Tanh", ["a"], ["b"], "wrong"),
        helper.make_node("Relu", ["b"], ["y"], "last"),
    ]
    path = save(tmp_path / "x.onnx", nodes)
    off = elementwise._single(lambda x: 1.01 * torch.tanh(x))
    monkeypatch.setitem(FUNCTIONS, "Tanh", off)
    with pytest.raises(CheckpointError, match=r"node 'wrong' \(Tanh\) is the first that differs"):
        load_onnx(path, None)


def test_weights_outside_of_the_folder(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    weight = numpy_helper.from_array(np.zeros(16, np.float32).reshape(4, 4), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(folder / "x.onnx", nodes, shape=("n", 4))
    model = onnx.load(path)
    model.graph.initializer.append(weight)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        CheckpointError, match=r"weights in '\.\./secret\.bin', outside of its folder"
    ):
        load_onnx(path, None)


def test_damaged_files(tmp_path):
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    whole = save(tmp_path / "x.onnx", nodes, {"w": weight}, shape=("n", 8)).read_bytes()
    generator = np.random.default_rng(1)
    refusals = 0
    for number in range(60):
        content = bytearray(whole)
        if number % 2:
            content = content[: generator.integers(1, len(whole))]
        else:
            for place in generator.integers(0, len(whole), 3):
                content[place] ^= int(generator.integers(1, 256))
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        try:
            load_onnx(path, None)
        except (CheckpointError, InputError):
            refusals += 1
    assert refusals > 30  # others changed a weight, which nobody can see
