"""Prediction and step on an NPU, compiled for it and emulated. `make test-npu` runs it.

The emulator proves that graphs compile without falling back to the CPU and what they give in half
precision; it says nothing about speed.
"""

import os
from pathlib import Path

import numpy as np
import pytest

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import STREAM
from edgemem.runtime.engines.choice import EngineSettings, open_backend
from edgemem.runtime.engines.providers import QNN_PACKAGE, qnn_devices
from edgemem.runtime.tools.verification import verify
from edgemem.testing import WatchedBackend, open_with

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip(QNN_PACKAGE, reason="onnxruntime-qnn is not installed: make test-npu")
if "EDGEMEM_NPU_BUNDLE" not in os.environ:
    pytest.skip("no bundle with graphs for NPUs: make test-npu", allow_module_level=True)
BUNDLE = Path(os.environ["EDGEMEM_NPU_BUNDLE"])
INT8 = Path(os.environ["EDGEMEM_INT8_BUNDLE"])
GRAPHS = ("predict", "adapt", "key")
BATCH = 16
HALF = 2e-2  # of the largest value of an output, or of one
GRADIENT = 0.15  # of the length of the whole gradient, whose parts sum what each layer has rounded


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:  # what the model was trained on would teach nothing
        return stream["x"][stream["context"] != "clear"]


def opened():
    return edgemem.open(BUNDLE, provider="qnn", threads=1)


def feeds(inputs, frames):
    """Inputs of a graph: frames, the exported block, defaults."""
    bundle = open_bundle(BUNDLE)
    values = {f"block.{name}": array for name, array in bundle.generic.items()}
    values |= {f"opt.{n}": array for n, array in bundle.manifest.slots.zero().items()}
    values |= {
        f"hp.{n}": np.float32(v.default) for n, v in bundle.manifest.hyper_parameters.items()
    }
    values |= {"x": frames[:BATCH].astype(np.float32) / 255, "filled": np.float32(BATCH)}
    return {name: np.asarray(values[name], np.float32) for name in inputs}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_compiles_for_the_npu_with_no_way_back_to_the_cpu(name, frames):
    devices, chosen = qnn_devices()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_provider_for_devices(devices, chosen)
    path = str(BUNDLE / f"{name}_npu.onnx")
    npu = onnxruntime.InferenceSession(path, options)
    parts = npu.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {"QNNExecutionProvider"}
    assert len(parts) == 1 and len(parts[0].get_nodes()) > 10
    cpu = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = feeds([value.name for value in npu.get_inputs()], frames)
    names = [value.name for value in npu.get_outputs()]
    expected, found = cpu.run(names, given), npu.run(names, given)
    slots: tuple[list, list] = [], []
    # The loss is the logarithm of a ratio with 1 - p in it: half precision has none left near one.
    for output, one, other in zip(names, expected, found, strict=True):
        if "opt." in output:
            slots[0].append(one.ravel())
            slots[1].append(other.ravel())
        elif one.size and output != "stat.loss":
            limit = HALF * max(1.0, float(np.abs(one).max()))
            assert float(np.abs(other - one).max()) <= limit, output
    if slots[0]:
        one, other = map(np.concatenate, slots)
        assert np.linalg.norm(other - one) <= GRADIENT * np.linalg.norm(one)


def test_it_computes_what_torch_computed_but_for_half_precision():
    found = verify(BUNDLE, threads=1, provider="qnn")
    assert "QNN" in found.engine and set(found.limits.values()) == {0.1}
    assert max(found.frozen, found.adapt, found.adapted) <= 0.1


def test_the_runtime_adapts_on_the_npu_when_asked_and_on_no_emulator_by_itself(frames):
    with opened() as npu, edgemem.open(BUNDLE) as cpu:
        assert npu.engine.provider == "qnn" and cpu.engine.provider == "cpu"
        assert cpu.engine.passed_over["qnn"] == "it would only be emulated here"
        for start in range(0, 3 * BATCH, BATCH):
            part = frames[start : start + BATCH]
            found, expected = npu.step(part), cpu.step(part)
            assert found.adapted and (found.labels == expected.labels).mean() >= 0.9
        short = frames[:5]
        assert npu.predict(short).logits.shape == (5, 10)


def test_what_was_compiled_is_kept_loaded_again_and_checked(frames, tmp_path):
    def outcome():
        settings = EngineSettings(1, cache=tmp_path / "compiled")
        backend = WatchedBackend(open_backend(open_bundle(BUNDLE), "qnn", settings))
        with open_with(BUNDLE, backend) as runtime:
            return runtime.step(frames[:BATCH]).logits, backend.opened

    first, _ = outcome()
    again, graphs = outcome()
    np.testing.assert_array_equal(again, first)
    assert all(graph.nodes == {"QNNExecutionProvider": 1} for graph in graphs.values())
    for kept in (tmp_path / "compiled").glob("adapt*/graph.onnx"):
        content = bytearray(kept.read_bytes())
        content[len(content) // 2] ^= 1
        kept.write_bytes(content)
    np.testing.assert_array_equal(outcome()[0], first)


def test_rounded_kernels_run_there_but_for_what_makes_them_of_frames(frames):
    """The very first rounding, of the frames themselves, stays on the CPU."""
    found = verify(INT8, threads=1, provider="qnn")
    assert set(found.limits.values()) == {0.1}
    assert max(found.frozen, found.adapt, found.adapted) <= 0.1
    backend = WatchedBackend(open_backend(open_bundle(INT8), "qnn", EngineSettings(1)))
    with open_with(INT8, backend) as runtime:
        assert runtime.step(frames[:BATCH]).adapted
    nodes = {name: graph.nodes for name, graph in backend.opened.items()}
    (step,) = (name for name in nodes if name.startswith("adapt"))
    for name, taken in nodes.items():
        if name == step or name.startswith("predict"):
            assert taken.get("CPUExecutionProvider", 0) <= 1, (name, taken)
    assert nodes[step]["QNNExecutionProvider"] > 100
