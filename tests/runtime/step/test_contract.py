"""Graphs that do not belong to their manifest, as test doubles and as real files."""

import re
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import pytest
from teachable import write_bundle

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.engines.protocol import TensorSpec
from edgemem.runtime.step.contract import check_adapt, check_learn, check_predict

MANIFEST = open_bundle(BUNDLE).manifest
BLOCK, SLOT = MANIFEST.block.arrays[0].name, MANIFEST.slots.arrays[0].name


@dataclass
class Fake:
    """A graph that is only looked at."""

    inputs: dict = field(default_factory=dict)
    outputs: tuple = ()


def right(name):
    """The inputs and outputs that the manifest asks for."""
    inputs = {f"block.{s.name}": TensorSpec(s.shape, s.dtype) for s in MANIFEST.block.arrays}
    outputs = ["logits", "key"]
    if name == "adapt":
        slots = {f"opt.{s.name}": TensorSpec(s.shape, s.dtype) for s in MANIFEST.slots.arrays}
        inputs |= slots
        outputs += [f"next.{array}" for array in inputs]
        outputs += [f"stat.{stat}" for stat in MANIFEST.stats]
    inputs["x"] = TensorSpec((None, *MANIFEST.frames.shape), "float32")
    return Fake(inputs, tuple(outputs))


CHECKS = {"predict": check_predict, "adapt": check_adapt}
both = pytest.mark.parametrize("name", CHECKS)


def refused(name, graph, reason):
    with pytest.raises(edgemem.BundleError, match=re.escape(reason)) as caught:
        CHECKS[name](graph, MANIFEST, f"b.edgemem/{name}.onnx")
    assert caught.value.thing == f"b.edgemem/{name}.onnx"
    assert "do not belong together" in caught.value.reason
    assert caught.value.remedy == "Export the bundle again"


@both
def test_a_graph_with_what_the_manifest_asks_for_passes(name):
    CHECKS[name](right(name), MANIFEST, name)


@both
def test_a_missing_hyper_parameter_passes_because_not_every_graph_uses_all(name):
    graph = right(name)
    graph.inputs["hp.alpha"] = TensorSpec((), "float32")
    CHECKS[name](graph, MANIFEST, name)


@both
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": None}, "has no float32 input 'x'"),
        ({"x": TensorSpec((None, 1, 8, 8), "uint8")}, "has no float32 input 'x'"),
        ({"x": TensorSpec((None, 8, 8, 1), "float32")}, "takes frames of [8, 8, 1], not [1, 8, 8]"),
        ({f"block.{BLOCK}": None}, f"lacks the input 'block.{BLOCK}'"),
        ({f"block.{BLOCK}": TensorSpec((3,), "float32")}, f"input 'block.{BLOCK}' is float32[3]"),
        ({f"block.{BLOCK}": TensorSpec((24,), "float16")}, f"'block.{BLOCK}' is float16[24]"),
        ({f"block.{BLOCK}": TensorSpec((None,), "float32")}, f"'block.{BLOCK}' is float32[None]"),
        ({"block.more": TensorSpec((), "float32")}, "has an unknown input 'block.more'"),
        ({"hp.more": TensorSpec((), "float32")}, "has an unknown input 'hp.more'"),
        ({"hp.alpha": TensorSpec((1,), "float32")}, "input 'hp.alpha' is float32[1]"),
        ({"y": TensorSpec((16,), "int64")}, "has an unknown input 'y'"),
    ],
)
def test_a_wrong_input_is_named(name, change, reason):
    graph = right(name)
    graph.inputs = {n: s for n, s in {**graph.inputs, **change}.items() if s is not None}
    refused(name, graph, reason)


@pytest.mark.parametrize("name", ["predict", "adapt"])
def test_every_missing_output_is_named(name):
    graph = right(name)
    for output in graph.outputs:
        rest = tuple(other for other in graph.outputs if other != output)
        refused(name, replace(graph, outputs=rest), f"lacks the output '{output}'")


def test_predict_takes_no_optimiser_slots_and_adapt_needs_them():
    graph = right("predict")
    graph.inputs[f"opt.{SLOT}"] = right("adapt").inputs[f"opt.{SLOT}"]
    refused("predict", graph, f"unknown input 'opt.{SLOT}'")
    graph = right("adapt")
    del graph.inputs[f"opt.{SLOT}"]
    refused("adapt", graph, f"lacks the input 'opt.{SLOT}'")


def test_a_step_for_another_number_of_frames_is_refused():
    graph = right("adapt")
    graph.inputs["x"] = TensorSpec((8, *MANIFEST.frames.shape), "float32")
    refused("adapt", graph, f"adapts on 8 frames, not {MANIFEST.frames.batch}")


def rewritten(path, change):
    model = onnx.load(path, load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString())


def renamed(graph):
    graph.output[0].name = "other"
    for node in graph.node:
        node.output[:] = ["other" if name == "logits" else name for name in node.output]
        node.input[:] = ["other" if name == "logits" else name for name in node.input]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("predict", renamed, "lacks the output 'logits'"),
        ("predict", lambda graph: graph.ClearField("node"), "refused by onnxruntime"),
        ("adapt", lambda graph: graph.ClearField("node"), "refused by onnxruntime"),
    ],
)
def test_a_file_that_breaks_the_contract_is_refused(
    bundle, seal, digits_stream, name, change, reason
):
    rewritten(bundle / f"{name}.onnx", change)
    seal(bundle)
    with pytest.raises(edgemem.BundleError, match=reason) as caught:
        edgemem.open(bundle, threads=1).step(digits_stream[0][:16])
    assert f"{name}.onnx" in str(caught.value)


def no_onnx(bundle):
    (bundle / "adapt.onnx").write_bytes(b"no onnx")
    return lambda manifest: None


def swapped(bundle):
    return lambda manifest: manifest["graphs"].update(adapt="predict.onnx")


def absent(bundle):
    def change(manifest):
        manifest["plans"] = []
        del manifest["graphs"]["adapt"]

    return change


@pytest.mark.parametrize("damage", [no_onnx, swapped, absent])
def test_a_bad_adapt_graph_is_noticed_before_a_step_changes_anything(
    bundle, seal, digits_stream, damage
):
    x, _ = digits_stream
    seal(bundle, damage(bundle))
    runtime = edgemem.open(bundle, threads=1)
    healthy = edgemem.open(BUNDLE, adapt=False, threads=1)
    for run in (runtime, healthy):
        run.step(x[:5])
    for _ in range(2):
        with pytest.raises((edgemem.BundleError, edgemem.InputError)):
            runtime.step(x[5:21])
    assert runtime.counters == healthy.counters
    expected = healthy.predict(x[5:9]).logits
    np.testing.assert_array_equal(runtime.predict(x[5:9]).logits, expected)


def test_a_bundle_that_only_predicts_runs_without_adaptation(bundle, seal, digits_stream):
    x, _ = digits_stream
    seal(bundle, absent(bundle))
    with edgemem.open(bundle, adapt=False, threads=1) as runtime:
        assert not runtime.step(x[:40]).adapted
    with (
        edgemem.open(bundle, threads=1) as runtime,
        pytest.raises(edgemem.InputError, match="has no 'adapt' graph.*adapt=False"),
    ):
        runtime.step(x[:16])


SCALAR = TensorSpec((), "float32")


def static(name, rows=MANIFEST.frames.batch, filled=SCALAR):
    """A graph for one batch size."""
    graph = right(name)
    graph.inputs["x"] = TensorSpec((rows, *MANIFEST.frames.shape), "float32")
    if filled is not None:
        graph.inputs["filled"] = filled
    return graph


def test_a_graph_for_one_batch_size_is_told_how_many_rows_are_frames():
    check_predict(static("predict"), MANIFEST, "predict")
    check_adapt(static("adapt", filled=None), MANIFEST, "adapt")
    refused("predict", static("predict", filled=None), "lacks the input 'filled'")
    refused("predict", static("predict", rows=3), "takes 3 frames, not 16")
    refused("adapt", static("adapt"), "has an unknown input 'filled'")
    vector = TensorSpec((1,), "float32")
    refused("predict", static("predict", filled=vector), "input 'filled' is float32[1]")


@pytest.fixture(scope="module")
def teachable(tmp_path_factory):
    """Manifest and graph of a bundle that can be taught."""
    path = write_bundle(tmp_path_factory.mktemp("teachable") / "t.edgemem")
    graph = OnnxRuntimeBackend(1).open(path / "learn.onnx")
    return open_bundle(path).manifest, Fake(dict(graph.inputs), graph.outputs)


def test_a_learn_graph_with_what_the_manifest_asks_for_passes(teachable):
    manifest, graph = teachable
    check_learn(graph, manifest, "learn")


@pytest.mark.parametrize(
    ("name", "spec", "reason"),
    [
        ("y", None, "lacks the input 'y'"),
        ("y", TensorSpec((16,), "float32"), "input 'y' is float32[16]"),
        ("y", TensorSpec((None,), "int64"), "input 'y' is int64[None]"),
        ("filled", None, "lacks the input 'filled'"),
        ("x", None, "has no float32 input 'x'"),
        ("x", TensorSpec((None, 6), "float32"), "learns from None frames, not 16"),
        ("x", TensorSpec((8, 6), "float32"), "learns from 8 frames, not 16"),
        ("opt.more", TensorSpec((), "float32"), "has an unknown input 'opt.more'"),
        ("block.shift", None, "lacks the input 'block.shift'"),
    ],
)
def test_other_inputs_of_a_learn_graph_are_refused(teachable, name, spec, reason):
    manifest, graph = teachable
    inputs = {**graph.inputs, name: spec}
    if spec is None:
        del inputs[name]
    with pytest.raises(edgemem.BundleError, match=re.escape(reason)):
        check_learn(Fake(inputs, graph.outputs), manifest, "learn")


@pytest.mark.parametrize("name", ["logits", "key", "next.block.shift", "stat.updated", "stat.loss"])
def test_a_learn_graph_without_an_output_is_refused(teachable, name):
    manifest, graph = teachable
    outputs = tuple(output for output in graph.outputs if output != name)
    with pytest.raises(edgemem.BundleError, match=f"lacks the output '{name}'"):
        check_learn(Fake(graph.inputs, outputs), manifest, "learn")
