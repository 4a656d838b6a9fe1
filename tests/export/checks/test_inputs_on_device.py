"""Networks that take more than frames, from torch to the device; the oracle is the network."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_command
from input_networks import NETWORKS, examples

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.errors import CheckpointError, ExportError, InputError
from edgemem.export import Choices, export_bundle
from edgemem.export.functions.objective import Loss, Objective, entropies
from edgemem.models import align, attach, save_adaptive, warm_up
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.tools.verification import verify
from edgemem.testing import WatchedBackend, open_with

pytestmark = pytest.mark.slow
BATCH, RATE = 4, 0.05


def mean_entropy(output, hp):
    value = entropies(output.logits).mean()
    return Loss(value, torch.tensor(True), {"entropy": value})


CHOICES = Choices(BATCH, objective=Objective("mean_entropy", {}, mean_entropy), learning_rate=RATE)
PLAIN = {"source_share": 0.0, "momentum": 0.0}


def given(network, x, inputs):
    """Logits of the user's network."""
    output = network(torch.from_numpy(x), **{k: torch.from_numpy(v) for k, v in inputs.items()})
    return getattr(output, "logits", output)


@pytest.fixture(scope="module", params=NETWORKS)
def made(request, tmp_path_factory):
    """Name, network, path of its bundle."""
    if request.param == "bert":
        pytest.importorskip("transformers", reason="a text classifier needs transformers")
    torch.manual_seed(0)
    network = NETWORKS[request.param]().eval()
    with torch.no_grad():
        for parameter in network.parameters():  # answers that differ plainly
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, inputs = examples(request.param, 6)
    beside = {name: torch.from_numpy(array) for name, array in inputs.items()}
    model = attach(network, [], torch.from_numpy(x), norm_affine=True, inputs=beside)
    path = tmp_path_factory.mktemp("bundles") / "net.edgemem"
    export_bundle(model, path, CHOICES)
    return request.param, network, path


def part(inputs, places):
    return {name: array[places] for name, array in inputs.items()}


def test_the_frozen_model_answers_as_the_network(made):
    name, network, path = made
    x, inputs = examples(name, 7, seed=1)
    other = {k: v[::-1].copy() for k, v in inputs.items()}
    with edgemem.open(path, threads=1) as runtime:
        for beside in (inputs, other):
            found = runtime.predict(x, inputs=beside, frozen=True).logits
            expected = given(network, x, beside).detach().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert abs(given(network, x, inputs) - given(network, x, other)).max() > 1e-3  # they matter


def test_a_step_is_one_of_plain_torch(made):
    name, network, path = made
    x, inputs = examples(name, BATCH, seed=2)
    twin = copy.deepcopy(network)
    norms = [m for m in twin.modules() if isinstance(m, (torch.nn.LayerNorm, torch.nn.GroupNorm))]
    learnt = [p for norm in norms for p in (norm.weight, norm.bias)]
    before = given(twin, x, inputs)
    for parameter, slope in zip(
        learnt, torch.autograd.grad(entropies(before).mean(), learnt), strict=True
    ):
        parameter.data -= RATE * slope
    after = given(twin, x, inputs).detach().numpy()
    with edgemem.open(path, threads=1, hyper_parameters=PLAIN) as runtime:
        told = runtime.step(x, inputs=inputs)
        assert runtime.counters["updates"] == 1
        np.testing.assert_allclose(told.logits, before.detach().numpy(), rtol=1e-5, atol=1e-5)
        found = runtime.predict(x, inputs=inputs).logits
    np.testing.assert_allclose(found, after, rtol=1e-4, atol=1e-5)
    assert abs(found - told.logits).max() > 1e-3


def test_calls_of_any_size_and_a_restart_make_the_same_steps(made, tmp_path):
    name, _, path = made
    x, inputs = examples(name, 3 * BATCH, seed=3)
    with edgemem.open(path, threads=1, hyper_parameters=PLAIN) as runtime:
        for start in range(0, len(x), BATCH):
            whole = slice(start, start + BATCH)
            runtime.step(x[whole], inputs=part(inputs, whole))
        expected = runtime.predict(x, inputs=inputs).logits
    for places in ([0, 1, 2], [3], [4, 5, 6, 7, 8, 9], [10, 11]):
        with edgemem.open(path, tmp_path / "s.db", threads=1, hyper_parameters=PLAIN) as runtime:
            runtime.step(x[places], inputs=part(inputs, places))
    with edgemem.open(path, tmp_path / "s.db", threads=1, hyper_parameters=PLAIN) as runtime:
        assert runtime.counters["updates"] == 3
        np.testing.assert_allclose(
            runtime.predict(x, inputs=inputs).logits, expected, rtol=1e-5, atol=1e-6
        )


def test_a_step_in_the_background_sees_the_inputs(made):
    name, _, path = made
    x, inputs = examples(name, BATCH, seed=4)
    options = edgemem.Options(background=True)
    with (
        edgemem.open(path, threads=1, hyper_parameters=PLAIN) as here,
        edgemem.open(path, threads=1, hyper_parameters=PLAIN, options=options) as behind,
    ):
        here.step(x, inputs=inputs)
        behind.step(x, inputs=inputs)
        behind.flush()  # waits for the step
        expected = here.predict(x, inputs=inputs).logits
        found = behind.predict(x, inputs=inputs).logits
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_device_reproduces_what_torch_computed(made):
    found = verify(made[2], threads=1)
    assert all(getattr(found, name) <= limit for name, limit in found.limits.items())


def test_a_stream_brings_the_inputs_beside_x(made, tmp_path):
    name, network, path = made
    x, inputs = examples(name, 10, seed=5)
    y = given(network, x, inputs).argmax(1).numpy()
    np.savez(tmp_path / "s.npz", x=x, y=y, **inputs)
    told = run_command("run", path, "--input", tmp_path / "s.npz", "--no-adapt", "--json")
    out = json.loads(told.stdout)
    assert out["frames"] == 10 and out["error"] == 0.0
    np.savez(tmp_path / "less.npz", x=x, y=y)
    missing = next(iter(inputs))
    told = run_command("run", path, "--input", tmp_path / "less.npz")
    assert told.returncode == 2
    assert missing in told.stderr and "is missing" in told.stderr
    assert f"input {missing}" in run_command("inspect", path).stdout


def test_the_manifest_names_the_inputs(made):
    name, _, path = made
    frames = open_bundle(path).manifest.frames
    _, inputs = examples(name, 1)
    assert [(i.name, i.dtype, i.shape) for i in frames.inputs] == [
        (key, str(array.dtype), array.shape[1:]) for key, array in inputs.items()
    ]
    assert frames.ids == ((0, 49) if name == "bert" else None)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A masked network, aligned on source frames, that can be taught; and the path of its bundle.

    Its key comes from before the mask.
    """
    torch.manual_seed(0)
    network, (x, inputs) = NETWORKS["mask"]().eval(), examples("mask", 96, seed=6)
    model, _ = align(network, x, sites=["norm"], inputs=inputs, batch=BATCH)
    path = tmp_path_factory.mktemp("bundles") / "aligned.edgemem"
    export_bundle(model, path, Choices(BATCH, max_classes=6))
    return network, path


def test_a_key_takes_the_inputs_that_it_needs(aligned):
    network, path = aligned
    x, inputs = examples("mask", 5 * BATCH, seed=7)
    backend = WatchedBackend(OnnxRuntimeBackend(1))
    with open_with(path, backend) as runtime:
        for start in range(0, len(x), BATCH):
            whole = slice(start, start + BATCH)
            found = runtime.step(0.3 * x[whole], inputs=part(inputs, whole))
        assert found.drift is not None  # contexts are told apart
        frozen = runtime.predict(x, inputs=inputs, frozen=True).logits[:, :5]
    assert set(backend.opened["key"].inputs) == {"x"}
    assert "in.hidden_places" in backend.opened["predict"].inputs
    expected = given(network, x, inputs).detach().numpy()
    np.testing.assert_allclose(frozen, expected, rtol=1e-5, atol=1e-5)


def test_shifts_of_a_calibration_are_of_frames_alone(aligned):
    origin = open_bundle(aligned[1]).manifest.exported_from
    assert origin["calibration"]["trials"] and origin["measured"]


def test_a_class_is_taught_with_what_comes_beside_its_frames(aligned):
    x, inputs = examples("mask", 4, seed=8)
    x[:] = x[:1] + 2.0
    with edgemem.open(aligned[1], threads=1) as runtime:
        with pytest.raises(InputError, match="input 'hidden_places': is missing"):
            runtime.learn(x, ["new"] * 4)
        runtime.learn(x, ["new"] * 4, inputs=inputs)
        assert "new" in [known.name for known in runtime.classes()]
        assert set(runtime.predict(x, inputs=inputs).names) == {"new"}


def test_what_has_no_warm_up_says_so():
    x, inputs = examples("mask", 64)
    beside = {name: torch.from_numpy(array) for name, array in part(inputs, slice(6)).items()}
    model = attach(
        NETWORKS["mask"]().eval(), [], torch.from_numpy(x[:6]), norm_affine=True, inputs=beside
    )
    with pytest.raises(InputError, match="inputs beside the frames: has no warm-up.*--source"):
        warm_up(model, x, np.zeros(64, np.int64))
    with pytest.raises(CheckpointError, match="has no place for inputs beside the frames"):
        save_adaptive(model, Path("model.safetensors"), {})


def test_an_input_without_effect_is_refused_by_name(tmp_path):
    class Deaf(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = NETWORKS["vector"]()

        def forward(self, x, vector, noise):
            return self.inner(x, vector)

    x, inputs = examples("vector", 6)
    beside = {name: torch.from_numpy(array) for name, array in inputs.items()}
    beside["noise"] = torch.rand(6, 2)
    model = attach(Deaf().eval(), [], torch.from_numpy(x), norm_affine=True, inputs=beside)
    with pytest.raises(ExportError, match="input 'noise': has no effect on what the model answers"):
        export_bundle(model, tmp_path / "net.edgemem", CHOICES)


def test_targets_of_frames_alone_are_refused_by_name(tmp_path):
    x, inputs = examples("mask", 6)
    beside = {name: torch.from_numpy(array) for name, array in inputs.items()}
    model = attach(
        NETWORKS["mask"]().eval(), [], torch.from_numpy(x), norm_affine=True, inputs=beside
    )
    choices = Choices(BATCH, targets=("onnx", "qnn"))
    with pytest.raises(ExportError, match="target.*not there yet for models with inputs beside"):
        export_bundle(model, tmp_path / "net.edgemem", choices)
