"""Steps without a gradient: at a learning rate of zero, and in bundles that learn nothing."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.export import Choices, export_bundle
from edgemem.models import attach
from edgemem.models.networks import digits
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.testing import WatchedBackend, open_with, session_of

BATCH = 4


@pytest.fixture(scope="module")
def bundle(lively, exported):
    network = lively(digits())
    example = torch.zeros(2, 1, 8, 8)
    model = attach(network, [], example, statistics="remembered", norm_affine=True)
    return exported(network, model, Choices(batch=BATCH, learning_rate=0.05)).path


def frames(seed):
    return np.random.default_rng(seed).random((BATCH, 1, 8, 8), np.float32)


def run(path, name, feeds):
    session = onnxruntime.InferenceSession(path / f"{name}.onnx")
    known = {given.name for given in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return dict(
        zip(names, session.run(None, {k: v for k, v in feeds.items() if k in known}), strict=True)
    )


def test_it_gives_what_a_step_without_a_rate_gives(bundle):
    manifest = open_bundle(bundle).manifest
    rng = np.random.default_rng(1)
    feeds = {"x": frames(0)}
    for spec in manifest.block.arrays:
        value = 0.05 * rng.random(spec.shape, np.float32)
        feeds[f"block.{spec.name}"] = np.asarray(value, np.float32)
    for spec in manifest.slots.arrays:
        feeds[f"opt.{spec.name}"] = np.zeros(spec.shape, np.float32)
    for name, parameter in manifest.hyper_parameters.items():
        feeds[f"hp.{name}"] = np.asarray(parameter.default, np.float32)
    feeds |= dict.fromkeys(("hp.learning_rate", "hp.source_share"), np.zeros((), np.float32))
    step, found = run(bundle, "adapt", feeds), run(bundle, "remember", feeds)
    remembered = {f"next.block.{spec.name}" for spec in manifest.block.arrays if not spec.learns}
    learned = {f"next.block.{spec.name}" for spec in manifest.block.arrays if spec.learns}
    assert remembered and learned
    assert set(step) - set(found) == learned | {n for n in step if n.startswith("next.opt.")}
    for name, value in found.items():
        assert_allclose(value, step[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert any((found[name] != feeds[name.removeprefix("next.")]).any() for name in remembered)


def test_the_runtime_takes_it_while_the_rate_is_zero(bundle):
    backend = WatchedBackend(OnnxRuntimeBackend())
    with open_with(bundle, backend, hyper_parameters={"learning_rate": 0.0}) as runtime:
        before = session_of(runtime).block
        runtime.step(frames(2))
        after = session_of(runtime).block
        graphs = {call.graph for call in backend.calls}
        assert "remember" in graphs and "adapt" not in graphs
        for spec in runtime.bundle.manifest.block.arrays:
            if spec.learns:
                assert_array_equal(after[spec.name], before[spec.name])
        assert not after.has_values_of(before)
        assert runtime.counters["updates"] == 1
        runtime.hyper_parameters.set(learning_rate=0.05)
        runtime.step(frames(3))
        assert "adapt" in {call.graph for call in backend.calls}
        moved = session_of(runtime).block
        learned = [spec.name for spec in runtime.bundle.manifest.block.arrays if spec.learns]
        assert any((moved[name] != after[name]).any() for name in learned)


def test_it_goes_on_as_the_step_would(bundle, monkeypatch):
    """Ten batches: the same answers as by the graph with a gradient, at a rate of zero."""
    zero = {"learning_rate": 0.0, "source_share": 0.0}
    with (
        open_with(bundle, OnnxRuntimeBackend(), hyper_parameters=zero) as runtime,
        open_with(bundle, OnnxRuntimeBackend(), hyper_parameters=zero) as other,
    ):
        graphs = other._graphs
        monkeypatch.setattr(graphs, "open_step", lambda hp, x: graphs.open("adapt", x))
        for seed in range(10):
            mine, theirs = runtime.step(frames(seed)), other.step(frames(seed))
            assert_allclose(mine.logits, theirs.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "choices", [{"statistics": "mix"}, {"statistics": "remembered", "objective": "statistics"}]
)
def test_without_memory_or_without_steps_there_is_none(choices, lively, exported):
    network, objective = lively(digits()), choices.get("objective")
    example = torch.zeros(2, 1, 8, 8)
    model = attach(network, [], example, statistics=choices["statistics"], norm_affine=True)
    made = exported(network, model, Choices(batch=BATCH, objective=objective))
    assert "remember" not in open_bundle(made.path).manifest.graphs


@pytest.fixture(scope="module")
def forward_only(lively, warmed, tmp_path_factory):
    path = tmp_path_factory.mktemp("forward") / "net.edgemem"
    network, x = lively(digits()), torch.zeros(2, 1, 8, 8)
    model = warmed(attach(network, ["layer1", "layer2"], x, statistics="remembered"))
    export_bundle(model, path, Choices(8, objective="statistics"))
    return path


@pytest.mark.slow
def test_the_graph_has_no_backward_pass(forward_only):
    nodes = {
        name: [node.op_type for node in onnx.load(forward_only / f"{name}.onnx").graph.node]
        for name in ("predict", "adapt")
    }
    assert nodes["adapt"].count("Conv") == nodes["predict"].count("Conv")
    assert "ConvTranspose" not in nodes["adapt"]


@pytest.mark.slow
def test_only_what_is_remembered_moves(forward_only):
    frames = np.random.default_rng(0).random((8, 1, 8, 8)).astype(np.float32)
    with edgemem.open(forward_only, threads=1) as runtime:
        before = session_of(runtime).block
        assert "learning_rate" not in runtime.hyper_parameters
        assert runtime.step(frames).adapted
        after = session_of(runtime).block
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and all("remembered" in name for name in moved)
    assert {name for name in before if "remembered" in name} - moved <= {"remembered_evenness"}


@pytest.mark.slow
def test_a_block_that_remembers_nothing_is_refused(lively, warmed, tmp_path):
    model = warmed(attach(lively(digits()), ["layer1"], torch.zeros(2, 1, 8, 8)))
    with pytest.raises(edgemem.ExportError, match="needs a block that remembers"):
        export_bundle(model, tmp_path / "x.edgemem", Choices(8, objective="statistics"))
