"""Layers as people use them: exported, against the untouched layer in torch."""

import pytest
import torch
from everyday_layers import LAYERS, Network

from edgemem.export import Choices
from edgemem.export.checks.onnx_graphs import run_graph
from edgemem.export.choices import frame_spec, functions_of
from edgemem.export.functions.forward import Function
from edgemem.export.tracing.trace import to_onnx, traced
from edgemem.models import attach

PORTABLE = [
    "transposed convolution",
    "transposed convolution of signals",
    "transposed convolution of volumes",
    "convolution of volumes",
    "pools with ends",
    "bent activations",
]


def made(name):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    return make().eval().requires_grad_(False), torch.randn(3, *shape)


@pytest.mark.parametrize(
    ("name", "portable"), [*((n, False) for n in LAYERS), *((n, True) for n in PORTABLE)]
)
def test_a_traced_layer_and_its_gradient_are_torchs(name, portable):
    layer, x = made(name)
    gain = torch.ones(())
    grad = torch.randn(layer(x).shape)

    def call(x, gain):
        y, pullback = torch.func.vjp(layer, x * gain)
        return y, *pullback(grad * gain)

    function = Function({"x": x, "hp.gain": gain}, ("y", "gradient"), call, dynamic_batch=False)
    found = traced(function, portable)(x, gain)
    x.requires_grad_()
    y = layer(x)
    (expected,) = torch.autograd.grad(y, x, grad)
    assert expected.abs().max() > 0
    for mine, theirs in zip(found, (y.detach(), expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A written graph as onnxruntime runs it."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def session(proto):
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    return session


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_network_with_it_becomes_graphs_that_compute_the_same(name, lively, opened):
    """`predict` for every number of frames against the untouched network, and one full step."""
    network = lively(Network(name))
    model = attach(network, [], torch.zeros(2, *network.input_shape), norm_affine=True)
    choices = Choices(batch=5, gradient="full")
    functions, objective = functions_of(model, choices, frame_spec(model, choices))
    x = torch.randn(5, *network.input_shape)

    predict = functions["predict"]
    zero = {n: torch.zeros_like(v) for n, v in predict.inputs.items()}
    graph = opened(to_onnx(predict))
    for count in range(1, 6):
        found = run_graph(graph, zero | {"x": x[:count]})["logits"]
        with torch.no_grad():
            expected = network(x[:count])
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)

    adapt = functions["adapt"]
    exercise = {f"hp.{n}": torch.tensor(v) for n, v in objective.exercise.items()}
    inputs = adapt.inputs | exercise | {"x": x}
    values = adapt.call(*(inputs[n] for n in adapt.inputs))
    expected = dict(zip(adapt.outputs, (v.detach() for v in values), strict=True))
    found = run_graph(opened(to_onnx(adapt)), inputs)
    assert found["stat.updated"] == 1
    slots = [n for n in adapt.outputs if n.startswith("next.opt.")]
    assert len(slots) > 1
    for output in adapt.outputs:
        theirs = expected[output]
        scale = float(theirs.abs().max()) if output in slots else 1.0
        assert scale > 0, output
        mine = torch.from_numpy(found[output])
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3 * scale, msg=output)
