"""ONNX files as networks of torch; the oracle is ONNX Runtime on the file."""

import warnings

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_models import answers, constant, save
from torch import nn
from torch.export import Dim

from edgemem.models.networks import digits
from edgemem.models.onnx_files.onnx_model import load_onnx

RANDOM = np.random.default_rng(0)


def weights(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def frames(count, *shape):
    return np.random.default_rng(count).standard_normal((count, *shape)).astype(np.float32)


def check(path, network, *shape):
    """On frames that the conversion itself did not compare."""
    for count in (1, 3, 4):
        x = 2 * frames(count, *shape)
        with torch.no_grad():
            found = network(torch.from_numpy(x)).numpy()
        expected = answers(path, x)[0]
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * abs(expected).max())


def exported(path, network, *shape, count=2, **options):
    """By torch's own exporter, with BatchNorm layers as they are."""
    options = {"dynamic_axes": {"x": {0: "n"}}, "opset_version": 17, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(count, *shape),),
            path,
            dynamo=False,
            input_names=["x"],
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            **options,
        )
    return path


def lively(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def test_layers_keep_their_kind_their_names_and_their_weights(tmp_path):
    given = lively(digits())
    path = exported(tmp_path / "digits.onnx", given, 1, 8, 8)
    network, labels = load_onnx(path, None)
    assert (network.input_shape, network.input_name, labels) == ((1, 8, 8), "x", None)
    found = dict(network.named_modules())
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    layers = {name: m for name, m in given.named_modules() if isinstance(m, kinds)}
    assert len(layers) > 5
    for name, layer in layers.items():
        assert type(found[name]) is type(layer)
        assert torch.equal(found[name].weight, layer.weight)
    check(path, network, 1, 8, 8)
    with torch.no_grad():
        x = torch.rand(3, 1, 8, 8)
        assert torch.allclose(network(x), given(x), atol=1e-5)


def test_an_old_file_of_constants_and_copies(tmp_path):
    """As Paddle's exporter writes them: constants are nodes, weights pass through Identity."""
    nodes = [
        constant("w", weights(4, 3, 3, 3)),
        helper.make_node("Identity", ["w"], ["w2"]),
        helper.make_node("Conv", ["x", "w2"], ["a"], pads=[1, 1, 1, 1]),
        *(constant(name, abs(weights(4))) for name in ("s", "b", "m", "v")),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"]),
        constant("three", np.float32(3)),
        constant("zero", np.float32(0)),
        constant("six", np.float32(6)),
        helper.make_node("Add", ["c", "three"], ["d"]),
        helper.make_node("Clip", ["d", "zero", "six"], ["e"]),
        helper.make_node("Mul", ["c", "e"], ["f"]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Identity", ["g"], ["h"]),
        helper.make_node("Shape", ["h"], ["s0"]),
        constant("starts", np.array([0])),
        constant("ends", np.array([1])),
        helper.make_node("Slice", ["s0", "starts", "ends"], ["count"]),
        constant("rest", np.array([-1])),
        helper.make_node("Concat", ["count", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["h", "sizes"], ["i"]),
        constant("k", weights(4, 5)),
        helper.make_node("MatMul", ["i", "k"], ["j"]),
        constant("bias", weights(5)),
        helper.make_node("Add", ["j", "bias"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"], axis=1),
    ]
    path = save(tmp_path / "old.onnx", nodes, opset=11)
    network, _ = load_onnx(path, None)
    kinds = [type(m).__name__ for m in network.modules()]
    assert [kinds.count(k) for k in ("Conv2d", "BatchNorm2d", "Linear")] == [1, 1, 1]
    assert next(m for m in network.modules() if isinstance(m, nn.Linear)).bias is not None
    check(path, network, 3, 8, 8)


def test_a_layer_norm_that_is_spelled_out_is_one_layer(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(6)
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)

        def forward(self, x):
            return self.norm(x)

    path = exported(tmp_path / "norm.onnx", Normed().eval(), 5, 6, opset_version=13)
    network, _ = load_onnx(path, None)
    assert [type(m) for m in network.modules()].count(nn.LayerNorm) == 1
    check(path, network, 5, 6)


def test_a_file_for_one_frame_takes_any_number(tmp_path):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(torch.randn(1, 1, 8))
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            x = torch.cat([self.first, x.reshape(1, 4, 8)], 1)
            heads = self.layer(x).reshape(1, 5, 2, 4).transpose(1, 2).reshape(2, 5, 4)
            return torch.bmm(heads, heads.transpose(1, 2)).reshape(1, 2, 25).mean(1)

    torch.manual_seed(0)
    path = exported(tmp_path / "one.onnx", Tokens().eval(), 32, count=1, dynamic_axes=None)
    network, _ = load_onnx(path, None)
    x = frames(5, 32)
    one_by_one = np.concatenate([answers(path, frame[None])[0] for frame in x])
    np.testing.assert_allclose(network(torch.from_numpy(x)).detach(), one_by_one, atol=1e-4)


def test_sizes_stay_symbols_while_the_network_is_traced(tmp_path):
    path = exported(tmp_path / "digits.onnx", lively(digits()), 1, 8, 8)
    network, _ = load_onnx(path, None)
    x = torch.rand(3, 1, 8, 8)
    program = torch.export.export(
        network, (x,), dynamic_shapes=({0: Dim("n", min=1)},), strict=False
    ).module()
    for count in (1, 6):
        x = torch.rand(count, 1, 8, 8)
        assert torch.allclose(program(x), network(x), atol=1e-6)


def test_class_names_and_several_outputs(tmp_path):
    import onnx

    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    path = save(tmp_path / "two.onnx", nodes, outputs=("y", "z"))
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"names": "{0: 'cat', 1: 'dog'}"})
    onnx.save(model, path)
    network, labels = load_onnx(path, None)
    assert labels == ("cat", "dog")
    x = frames(2, 3, 8, 8)
    found = network(torch.from_numpy(x))
    assert list(found) == ["y", "z"]
    for value, expected in zip(found.values(), answers(path, x), strict=True):
        np.testing.assert_array_equal(value.numpy(), expected)


# What a file holds -> operator, opset, further inputs, attributes.
SINGLE = {
    "hard swish": ("HardSwish", 14, [], {}),
    "hard sigmoid": ("HardSigmoid", 11, [], {"alpha": 0.1666667}),
    "gelu": ("Gelu", 20, [], {"approximate": "tanh"}),
    "mish": ("Mish", 18, [], {}),
    "celu": ("Celu", 12, [], {"alpha": 0.7}),
    "clip by attributes": ("Clip", 9, [], {"min": -0.5, "max": 0.5}),
    "prelu": ("PRelu", 16, [weights(3, 1, 1)], {}),
    "power": ("Pow", 13, [np.float32(2)], {}),
    "constant on the left": ("Mul", 14, ["left", weights(1, 3, 1, 1)], {}),
    "softmax of old": ("Softmax", 11, [], {"axis": 2}),
    "log softmax": ("LogSoftmax", 13, [], {"axis": 1}),
    "mean of old": ("ReduceMean", 11, [], {"axes": [2, 3], "keepdims": 0}),
    "mean": ("ReduceMean", 18, [np.array([1, -1])], {}),
    "norm": ("ReduceL2", 18, [np.array([1])], {"keepdims": 0}),
    "squeeze and back": ("Unsqueeze", 13, [np.array([1, -1])], {}),
    "split in two": ("Split", 18, [], {"axis": 2, "num_outputs": 2}),
    "split by sizes": ("Split", 13, [np.array([1, 2])], {"axis": 1}),
    "slice backwards": (
        "Slice",
        13,
        [np.array([7]), np.array([-9]), np.array([3]), np.array([-2])],
        {},
    ),
    "pad by edges": ("Pad", 18, [np.array([0, 0, 1, 2, 0, 0, 0, 1])], {"mode": "edge"}),
    "pad by value": ("Pad", 13, [np.array([0, 0, 1, 0, 0, 0, 0, 3]), np.float32(0.5)], {}),
    "gather": ("Gather", 13, [np.array([2, -3])], {"axis": 1}),
    "tile": ("Tile", 13, [np.array([1, 2, 1, 3])], {}),
    "expand": ("Expand", 13, [np.array([2, 1, 1, 1, 1])], {}),
    "depth to space": ("SpaceToDepth", 13, [], {"blocksize": 2}),
    "largest pool": (
        "MaxPool",
        12,
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    ),
    "pool of TensorFlow": (
        "AveragePool",
        11,
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "pool with padding": (
        "AveragePool",
        11,
        [],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "resize by half pixels": (
        "Resize",
        13,
        ["", np.array([1, 1, 2, 2], np.float32)],
        {"mode": "linear"},
    ),
    "resize to a size": (
        "Resize",
        18,
        ["", "", np.array([5, 13])],
        {"mode": "linear", "axes": [2, 3]},
    ),
    "resize of TensorFlow": (
        "Resize",
        13,
        ["", np.array([1, 1, 1.5, 2], np.float32)],
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    ),
    "resize aligned": (
        "Resize",
        13,
        ["", np.array([1, 1, 2, 3], np.float32)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "nearest": ("Resize", 13, ["", np.array([1, 1, 2, 3], np.float32)], {"mode": "nearest"}),
    "nearest, asymmetric": (
        "Resize",
        13,
        ["", np.array([1, 1, 1.5, 2.5], np.float32)],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "cubic": ("Resize", 13, ["", np.array([1, 1, 2, 2], np.float32)], {"mode": "cubic"}),
    "upsample of old": ("Upsample", 9, [np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    "resize of opset 10": ("Resize", 10, [np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
    "convolution": (
        "Conv",
        11,
        [weights(6, 1, 3, 2), weights(6)],
        {"group": 3, "strides": [2, 1], "dilations": [1, 2]},
    ),
    "convolution of TensorFlow": (
        "Conv",
        11,
        [weights(4, 3, 3, 3)],
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "transposed": (
        "ConvTranspose",
        11,
        [weights(3, 2, 3, 3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "instance norm": ("InstanceNormalization", 6 + 3, [weights(3), weights(3)], {"epsilon": 1e-3}),
    "group norm": ("GroupNormalization", 21, [weights(3), weights(3)], {"num_groups": 3}),
    "layer norm": ("LayerNormalization", 17, [weights(8, 8), weights(8, 8)], {"axis": 2}),
    "matrix": ("MatMul", 13, [weights(8, 5)], {}),
    "sums": ("Einsum", 12, [weights(8, 2)], {"equation": "nchw,wk->nckh"}),
    "local response": ("LRN", 13, [], {"size": 3}),
}


@pytest.mark.parametrize("case", SINGLE)
def test_every_form_of_an_operator_is_that_of_the_engine(tmp_path, case):
    operator, opset, further, attributes = SINGLE[case]
    names, held = ["x"], {}
    for number, value in enumerate(further):
        if isinstance(value, str):
            names.append("") if not value else None
        else:
            held[f"w{number}"] = value
            names.append(f"w{number}")
    names = names[::-1] if "left" in [v for v in further if isinstance(v, str)] else names
    outputs = ["y", "z"] if operator == "Split" else ["y"]
    nodes = [helper.make_node(operator, names, outputs, **attributes)]
    path = save(tmp_path / "one.onnx", nodes, held, opset=opset)
    network, _ = load_onnx(path, None)
    check(path, network, 3, 8, 8)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers(tmp_path, kind, both):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = getattr(nn, kind)(6, 5, 2, batch_first=True, bidirectional=both)

        def forward(self, x):
            return self.cells(x)[0][:, -1]

    torch.manual_seed(0)
    path = exported(tmp_path / "cells.onnx", Last().eval(), 7, 6)
    network, _ = load_onnx(path, None)
    assert sum(isinstance(m, getattr(nn, kind)) for m in network.modules()) == 2
    check(path, network, 7, 6)


class Listener(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(16, 5, batch_first=True)

    def forward(self, x):
        return self.cells(x)[0].mean(1)


def attention():
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)


@pytest.mark.parametrize(
    "make, layer, count", [(attention, nn.LayerNorm, 2), (Listener, nn.LSTM, 1)]
)
def test_a_file_of_the_present_exporter(tmp_path, make, layer, count):
    torch.manual_seed(0)
    network, path = make().eval(), tmp_path / "new.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(2, 6, 16),), path, dynamo=True, verbose=False,
            dynamic_shapes=({0: Dim("n")},),
        )  # fmt: skip
    found, _ = load_onnx(path, None)
    assert sum(isinstance(m, layer) for m in found.modules()) == count
    check(path, found, 6, 16)
