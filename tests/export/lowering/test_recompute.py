"""The lean plan: the same step to the bit, fewer activations alive, on any engine."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgemem.export import Choices
from edgemem.export.choices import frame_spec, functions_of
from edgemem.export.lowering.recompute import LARGE, recompute
from edgemem.export.tracing.trace import to_onnx
from edgemem.models import attach

pytestmark = pytest.mark.slow

BATCH, CHANNELS, SIZE = 8, 16, 16
DEPTH = 8


def deep():
    layers = [nn.Conv2d(1, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    for _ in range(DEPTH):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 5))


@pytest.fixture(scope="module", params=["source", "mix"])
def step(request, lively, warmed):
    network = lively(deep())
    parts = ["[0:9]", "[9:18]", "[18:27]"]
    named = nn.Sequential()
    named.add_module("body", network[:-3])
    named.add_module("head", network[-3:])
    example = torch.zeros(2, 1, SIZE, SIZE)
    parts = [f"body{part}" for part in parts]
    model = warmed(attach(named.eval(), parts, example, statistics=request.param))
    choices = Choices(BATCH, "full", "all", "ecotta")
    function = functions_of(model, choices, frame_spec(model, choices))[0]["adapt"]
    inputs = {name: value.detach().numpy() for name, value in function.inputs.items()}
    inputs["x"] = np.random.default_rng(0).random(inputs["x"].shape, np.float32)
    inputs["hp.entropy_margin"] = np.asarray(99, np.float32)
    return to_onnx(function), inputs


def run(model, inputs, optimized=None):
    options = onnxruntime.SessionOptions()
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()})


def most_alive(model):
    """Largest sum of the values alive at one time, in the order of the file, in bytes."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    sizes = {
        value.name: 4 * int(np.prod([d.dim_value for d in value.type.tensor_type.shape.dim]))
        for value in [*model.graph.value_info, *model.graph.input]
    }
    last = {name: n for n, node in enumerate(model.graph.node) for name in node.input}
    alive, most = 0, 0
    for number, node in enumerate(model.graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output if last.get(name, -1) > number)
        most = max(most, alive)
        used = {name for name in node.input if last[name] == number}
        constants = {tensor.name for tensor in model.graph.initializer}
        alive -= sum(sizes.get(name, 0) for name in used - constants)
    return most


def test_all_outputs_are_the_same_to_the_bit(step):
    model, inputs = step
    for mine, theirs in zip(run(recompute(model), inputs), run(model, inputs), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_fewer_bytes_are_alive(step):
    model, _ = step
    lean, middle = most_alive(recompute(model)), most_alive(recompute(model, 2))
    fast = most_alive(model)
    assert lean < 0.75 * fast
    assert middle < fast


def test_the_engine_cannot_see_that_both_runs_compute_the_same(step, tmp_path):
    """Its own optimisation merges equal nodes; no convolution may go that way.

    It makes convolutions of some norms, so these count, too.
    """
    model, inputs = step
    lean = recompute(model)
    run(lean, inputs, tmp_path / "optimized.onnx")
    kept = onnx.load(tmp_path / "optimized.onnx")

    def convolutions(found):
        operators = [node.op_type for node in found.graph.node]
        return sum("Conv" in name or name == "BatchNormalization" for name in operators)

    assert convolutions(lean) > convolutions(model)
    assert convolutions(kept) == convolutions(lean)


def test_every_copy_waits_for_the_backward_pass(step):
    """Each copied node has the gradient of the loss among its ancestors."""
    model, _ = step
    lean = recompute(model)
    producers = {name: node for node in lean.graph.node for name in node.output}
    copies = [
        node
        for node in lean.graph.node
        if node.output[0].startswith("again.") and node.op_type in ("Conv", "Relu")
    ]
    assert copies
    zeros = {
        node.output[0]
        for node in lean.graph.node
        if node.op_type == "Clip" and node.output[0].startswith("again.")
    }
    for node in copies:
        waiting, seen = [node], set()
        while waiting:
            current = waiting.pop()
            for name in current.input:
                if name in producers and name not in seen:
                    seen.add(name)
                    waiting.append(producers[name])
        assert seen & zeros, node.name


def test_operators_with_two_outputs_and_other_types_are_copied_too(lively, warmed):
    """The gradient of max pooling reads indices, the second output, which are integers."""
    named, body = nn.Sequential(), []
    for pooling in (nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2)):
        body += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), pooling]
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)]
    named.add_module("first", nn.Sequential(*first))
    named.add_module("body", nn.Sequential(*body))
    named.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model = warmed(attach(lively(named), ["first", "body[4:7]"], torch.zeros(2, 1, SIZE, SIZE)))
    choices = Choices(BATCH, "full", "all", "ecotta")
    function = functions_of(model, choices, frame_spec(model, choices))[0]["adapt"]
    inputs = {name: value.detach().numpy() for name, value in function.inputs.items()}
    inputs["x"] = np.random.default_rng(0).random(inputs["x"].shape, np.float32)
    graph = to_onnx(function)
    assert any(len(node.output) > 1 for node in graph.graph.node)
    for segments in (None, 2, 3, 5):
        lean = recompute(graph, segments)
        onnx.checker.check_model(lean, full_check=True)
        for mine, theirs in zip(run(lean, inputs), run(graph, inputs), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_step_without_large_activations_stays_as_it_is():
    text = "agraph (float[2,3] x) => (float[2,3] logits) { logits = Relu(x) }"
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text)
    assert LARGE > 4 * 6
    assert len(recompute(model).graph.node) == 1
