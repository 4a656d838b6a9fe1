"""Frozen kernels in eight bits: what is rounded, what is not, and that graphs still agree."""

import json

import numpy as np
import onnx
import pytest
import torch

import edgemem
from edgemem.export import Choices, export_bundle
from edgemem.export.targets.integer import _both, quantized
from edgemem.models import attach
from edgemem.models.networks import digits
from edgemem.runtime.tools.verification import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).random((24, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def model(lively, warmed):
    return warmed(attach(lively(digits()), ["layer1", "layer2"], torch.zeros(2, 1, 8, 8)))


@pytest.fixture(scope="module")
def bundles(model, frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    for name, int8 in (("exact", None), ("rounded", frames)):
        export_bundle(model, folder / f"{name}.edgemem", Choices(8, "meta", int8=int8))
    return folder


def rounded_kernels(path):
    graph = onnx.load(path, load_external_data=False).graph
    producers = {node.output[0]: node.op_type for node in graph.node}
    kernels = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    return sum(producers.get(kernel) == "DequantizeLinear" for kernel in kernels)


def test_frozen_kernels_are_rounded_and_meta_networks_are_not(bundles, model):
    rounded = bundles / "rounded.edgemem"
    report = json.loads((rounded / "manifest.json").read_text())["exported_from"]["targets"]["int8"]
    frozen = [m for m in model.frozen.modules() if isinstance(m, torch.nn.Conv2d)]
    counts = {name: rounded_kernels(rounded / f"{name}.onnx") for name in ("predict", "adapt")}
    assert counts == {"predict": report["convolutions"], "adapt": report["convolutions"]}
    assert len(frozen) - 1 <= report["convolutions"] <= len(frozen)
    assert rounded_kernels(bundles / "exact.edgemem" / "predict.onnx") == 0


def test_predictions_are_near_those_of_exact_kernels_but_not_the_same(bundles, frames):
    found = {}
    for name in ("exact", "rounded"):
        with edgemem.open(bundles / f"{name}.edgemem", threads=1) as runtime:
            found[name] = runtime.predict(frames, frozen=True).logits
    scale = np.abs(found["exact"]).max()
    assert 0 < np.abs(found["rounded"] - found["exact"]).max() < 0.1 * scale


def test_both_graphs_round_alike(bundles, frames):
    with edgemem.open(bundles / "rounded.edgemem", threads=1) as runtime:
        predicted = runtime.predict(frames[:8]).logits
        stepped = runtime.step(frames[:8])
    assert stepped.adapted
    np.testing.assert_array_equal(stepped.logits, predicted)


def test_a_device_verifies_what_the_rounded_graphs_gave(bundles):
    found = verify(bundles / "rounded.edgemem", threads=1)
    assert max(found.frozen, found.adapt, found.adapted) <= 1e-4 < min(found.limits.values())


@pytest.mark.parametrize("shape", [(24, 3, 8, 8), (7, 1, 8, 8)])
def test_calibration_frames_that_do_not_fit_are_refused(model, tmp_path, shape):
    frames = np.zeros(shape, np.float32)
    with pytest.raises(edgemem.ExportError, match="frames for int8"):
        export_bundle(model, tmp_path / "x.edgemem", Choices(8, "meta", int8=frames))
    assert not (tmp_path / "x.edgemem").exists()


def test_a_kernel_that_is_used_twice_has_room_for_both():
    assert _both((0, 2, -3, 4), (-1, 1, -2, 5)) == (-1, 2, -3, 5)


def test_graphs_of_litert_would_stay_exact(model, frames, tmp_path, monkeypatch):
    monkeypatch.setattr("edgemem.export.targets.target_graphs.require_converter", lambda: None)
    choices = Choices(8, "meta", int8=frames, targets=("onnx", "litert"))
    with pytest.raises(edgemem.ExportError, match="do not go together"):
        export_bundle(model, tmp_path / "x.edgemem", choices)


def test_a_graph_without_frozen_convolutions_is_refused():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["logits"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [2])],
        [onnx.helper.make_tensor_value_info("logits", 1, [2])],
    )
    plain = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    with pytest.raises(edgemem.ExportError, match="no frozen convolution"):
        quantized({"predict": plain}, [], [{"x": np.zeros(2, np.float32)}])
