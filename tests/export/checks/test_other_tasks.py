"""Outputs that are not classes, from torch to the device: beside torch, an oracle of the step."""

import copy
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run_command
from sealing import reseal
from task_networks import BATCH, NETWORKS, Regression, UNet, lively
from torch import nn

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.errors import BundleError, ExportError, InputError
from edgemem.export import Choices, export_bundle
from edgemem.models import attach
from edgemem.models.warmup.source_keys import observe_source
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.tools import verification
from edgemem.runtime.tools.stream import Stream
from edgemem.runtime.tools.tuning import SourceFrames
from edgemem.runtime.tools.verification import verify
from edgemem.testing import WatchedBackend, open_with, session_of

ALPHA, LEAST_WEIGHT, RATE, SOURCE_FRAMES = 0.8, 0.1, 0.05, 16


class Sensors(nn.Module):
    """[n, 6] -> [n, 2]; the smallest network that adapts."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


class OracleNorm(nn.Module):
    """A BatchNorm as docs/decisions has it: 0.8 of the way to what is remembered and the batch."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.frames, self.past = norm, 0, (0.0, 0.0)

    def forward(self, x):
        n, dims = len(x), [axis for axis in range(x.dim()) if axis != 1]
        source = self.norm.running_mean, self.norm.running_var
        now = [
            a - b for a, b in zip((x.mean(dims), x.var(dims, correction=0)), source, strict=True)
        ]
        weight = max(LEAST_WEIGHT, n / (n + self.frames))
        mean, var = (
            s + ALPHA * (past + weight * (new - past))
            for s, past, new in zip(source, self.past, now, strict=True)
        )
        y = nn.functional.batch_norm(
            x, mean, var, self.norm.weight, self.norm.bias, eps=self.norm.eps
        )
        self.frames += n
        rate = max(RATE, n / (self.frames + SOURCE_FRAMES))
        self.past = [past + rate * (new - past) for past, new in zip(self.past, now, strict=True)]
        return y


def oracle(network):
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(module, name, OracleNorm(child))
    return network


@dataclass(frozen=True)
class Made:
    task: str
    network: nn.Module
    shape: tuple[int, ...]
    path: Path
    said: tuple[str, ...]
    choices: Any

    def frames(self, count, seed=0):
        return np.random.default_rng(seed).random((count, *self.shape), np.float32)

    def answers(self, network, x):
        with torch.no_grad():
            found = network(torch.from_numpy(x))
        found = found if isinstance(found, dict) else {"out0": found}
        return {name: value.numpy() for name, value in found.items()}


def made(task, network, shape, path, choices=None, source=None, **options):
    choices = choices or Choices(batch=BATCH)
    options = {"statistics": "remembered"} | options
    model = attach(network, [], torch.rand(4, *shape), task=task, **options)
    if source is not None:
        observe_source(model, source)
    said = []
    export_bundle(model, path, choices, report=said.append)
    return Made(task, network, shape, path, tuple(said), choices)


@pytest.fixture(scope="module")
def sensors(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "net.edgemem"
    return made("regression", lively(Sensors()), (6,), path)


@pytest.fixture(scope="module", params=NETWORKS)
def bundle(request, tmp_path_factory):
    make, shape = NETWORKS[request.param]
    path = tmp_path_factory.mktemp("bundles") / "net.edgemem"
    return made(request.param, lively(make()), shape, path)


def check_frozen(given):
    """Whatever the size of calls."""
    x = given.frames(21)
    own = given.answers(given.network, x)
    with edgemem.open(given.path, threads=1) as runtime:
        result = runtime.predict(x, frozen=True)
        specs = {output.name: output for output in runtime.bundle.manifest.task.outputs}
    assert list(result.outputs) == list(own) == list(specs)
    for name, value in own.items():
        found = result.outputs[name]
        assert (found.shape, found.dtype) == (value.shape, np.float32)
        assert np.abs(found - value).max() <= 1e-4 * max(0.1, np.abs(value).max())
        assert value.shape[specs[name].axis] == len(x)
    assert result.logits.shape == (21, 0)
    assert not (len(result.labels) or len(result.entropy) or result.names)


def check_steps(given):
    """Every answer is that of torch from before the update, batch after batch of a drift."""
    torch_side = oracle(given.network)
    with edgemem.open(given.path, threads=1) as runtime:
        for step in range(6):
            x = given.frames(BATCH, step) * (1 + 0.3 * step) + 0.1 * step
            expected, result = given.answers(torch_side, x), runtime.step(x)
            for name, value in expected.items():
                found = result.outputs[name]
                assert np.isfinite(found).all()
                assert np.abs(found - value).max() <= 1e-4 * max(0.1, np.abs(value).max())
            assert result.adapted
        drifted = runtime.predict(x)
        frozen = runtime.predict(x, frozen=True)
    for name, value in frozen.outputs.items():
        assert not np.allclose(drifted.outputs[name], value, atol=1e-2)


def test_the_frozen_model_answers_as_the_network_that_was_given(sensors):
    check_frozen(sensors)


def test_steps_are_those_of_torch(sensors):
    check_steps(sensors)


@pytest.mark.slow
def test_the_frozen_model_of_every_task(bundle):
    check_frozen(bundle)


@pytest.mark.slow
def test_steps_of_every_task(bundle):
    check_steps(bundle)


@pytest.mark.slow
def test_bundles_of_every_task_are_verified(bundle):
    found = verify(bundle.path, threads=1)
    assert max(found.frozen, found.adapt, found.adapted) < 1e-5


@pytest.mark.slow
def test_a_block_that_is_never_sure_enough_leaves_every_position_to_the_frozen_model(
    bundle, tmp_path
):
    path = shutil.copytree(bundle.path, tmp_path / "net.edgemem")
    reseal(path, lambda manifest: manifest.update(surer_below=1e-9))
    if not open_bundle(bundle.path).manifest.task.knows_certainty:
        with pytest.raises(BundleError, match="a limit of certainty"):
            open_bundle(path)
        return
    x = bundle.frames(BATCH, 1)
    with edgemem.open(path, threads=1) as runtime:
        found, expected = runtime.step(x), runtime.predict(x, frozen=True)
    assert "frozen" in [event.kind for event in found.events]
    for name, value in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name], value)


def test_the_manifest_says_what_the_outputs_are(sensors):
    manifest = open_bundle(sensors.path).manifest
    assert manifest.task.kind == manifest.exported_from["task"] == "regression"
    assert (manifest.labels, manifest.classes, manifest.familiar) == ((), 0, False)
    assert manifest.exported_from["objective"] == "statistics"
    assert not {"prior_weight", "label_order", "even_batch_weight"} & set(manifest.hyper_parameters)
    assert manifest.task.deviation == ()
    assert any("no source frames" in line for line in sensors.said)


@pytest.mark.parametrize("name", ["summary", "out.out0"])
def test_a_device_that_computes_something_else_is_told(sensors, monkeypatch, name):
    read = verification.read_reference

    def other(*arguments):
        reference = read(*arguments)
        adapted = reference.answers["adapted"]
        return replace(
            reference,
            answers=reference.answers | {"adapted": adapted | {name: adapted[name] + 1e-3}},
        )

    assert verify(sensors.path, threads=1).adapted < 1e-5
    monkeypatch.setattr(verification, "read_reference", other)
    with pytest.raises(BundleError, match=f"adapted {name} differ by 1.0e-03"):
        verify(sensors.path, threads=1)


def test_an_output_of_another_shape_is_refused(sensors):
    def halved(call):
        return call.outputs | {"out.out0": call.outputs["out.out0"][:, :1]}

    wrong = r"gives \[3, 1\] as 'out.out0' instead of \[3, 2\]"
    with (
        open_with(sensors.path, WatchedBackend(OnnxRuntimeBackend(1), halved)) as runtime,
        pytest.raises(BundleError, match=wrong),
    ):
        runtime.predict(sensors.frames(3))


def test_a_step_that_changes_nothing_is_not_told_as_adapted(sensors):
    def unmoved(call):
        same = {f"next.{n}": v for n, v in call.feeds.items() if n.startswith("block.")}
        return call.outputs | (same if call.graph == "adapt" else {})

    with open_with(sensors.path, WatchedBackend(OnnxRuntimeBackend(1), unmoved)) as runtime:
        result = runtime.step(sensors.frames(2 * BATCH))
        assert not result.adapted
        assert [event.message for event in result.events] == ["the step changed nothing"] * 2
        assert runtime.counters["updates"] == 0
    with edgemem.open(sensors.path, threads=1) as runtime:
        assert runtime.step(sensors.frames(2 * BATCH)).adapted


def test_values_that_are_no_numbers_bring_the_frozen_model(sensors):
    """Of a block: the graph fails wherever something is remembered."""

    def failing(call):
        learnt = call.feeds["block.remembered_frames"] > 0
        return call.outputs | ({"out.out0": call.outputs["out.out0"] * np.nan} if learnt else {})

    x = sensors.frames(BATCH)
    with open_with(sensors.path, WatchedBackend(OnnxRuntimeBackend(1), failing)) as runtime:
        runtime.step(x)
        result = runtime.step(x[::-1].copy())
        assert "restored" in [event.kind for event in result.events]
        assert np.isfinite(result.outputs["out0"]).all()


def test_a_state_file_goes_on_with_what_was_remembered(sensors, tmp_path):
    x = sensors.frames(4 * BATCH)
    with edgemem.open(sensors.path, tmp_path / "net.db", threads=1) as runtime:
        runtime.step(x[: 2 * BATCH])
        expected = runtime.predict(x[2 * BATCH :]).outputs["out0"]
    with edgemem.open(sensors.path, tmp_path / "net.db", threads=1) as runtime:
        np.testing.assert_array_equal(runtime.predict(x[2 * BATCH :]).outputs["out0"], expected)
        assert runtime.counters["frames"] == 2 * BATCH


def test_what_needs_classes_is_refused(sensors, tmp_path):
    x = sensors.frames(4 * BATCH)
    np.savez(tmp_path / "labelled.npz", x=x, y=np.zeros(len(x), np.int64))
    bundle = open_bundle(sensors.path)
    with pytest.raises(InputError, match="tells no classes apart"):
        SourceFrames.read(tmp_path / "labelled.npz", bundle)
    with edgemem.open(sensors.path, threads=1) as runtime:
        assert runtime.classes() == []
        with pytest.raises(InputError, match="learns no classes"):
            runtime.learn(x[:1], "cat")
        from edgemem.runtime.tools.replay import replay

        with pytest.raises(InputError, match="task is regression.*Leave y out"):
            replay(runtime, Stream(tmp_path / "labelled.npz"), chunk=BATCH)
        np.savez(tmp_path / "plain.npz", x=x)
        report = replay(runtime, Stream(tmp_path / "plain.npz"), chunk=BATCH)
        assert (report.error, report.frames, report.events) == (None, len(x), {"adapted": 4})


def test_commands_take_such_a_bundle(sensors, tmp_path):
    x = sensors.frames(2 * BATCH)
    np.savez(tmp_path / "plain.npz", x=x)
    np.savez(tmp_path / "labelled.npz", x=x, y=np.zeros(len(x), np.int64))
    shown = run_command("inspect", sensors.path).stdout
    assert re.search(r"task +regression", shown)
    assert re.search(r"output out0 +\[n, 2\]", shown)
    assert re.search("anywhere: no source frames", shown)
    assert run_command("verify", sensors.path, "--threads", 1).returncode == 0
    ran = run_command("run", sensors.path, "--input", tmp_path / "plain.npz", "--json")
    report = json.loads(ran.stdout)
    assert (report["error"], report["events"]) == (None, {"adapted": 2})
    refused = run_command("run", sensors.path, "--input", tmp_path / "labelled.npz")
    assert refused.returncode == 2 and "Leave y out" in refused.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--norm-affine"], "Name its task .*'dense' or 'detection' or 'regression' would fit"),
        (["--task", "sequence"], "needs .n, t, classes.*Use dense or detection or regression"),
        (["--task", "poses"], "is not a known choice"),
        (["--task", "dense", "--max-classes", 5], "max_classes: is for classes"),
        (["--task", "dense", "--labels", "a,b,c"], "labels: is for classes"),
    ],
)
def test_the_export_command_refuses_what_does_not_fit(tmp_path, options, reason):
    torch.save(lively(UNet(3)).state_dict(), tmp_path / "net.pt")
    made_by = ["--model", "task_networks:UNet", "--input-shape", "1,8,8", "--out", "net.edgemem"]
    found = run_command("export", "net.pt", *made_by, *options, cwd=tmp_path)
    assert found.returncode == 2
    assert re.search(reason, " ".join(found.stderr.split()))
    assert "Traceback" not in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"max_classes": 12}, "max_classes: is for classes, and the task is regression"),
        ({"labels": ("a", "b")}, "labels: is for classes"),
        ({"targets": ("onnx", "litert")}, "target: is not there yet for the task regression"),
        ({"int8": np.zeros((BATCH, 6))}, "int8: is not there yet"),
        ({"objective": "tent"}, "'tent': needs classes.*Use statistics"),
        ({"objective": "prototype_relation"}, "needs classes"),
        ({"hyper_parameters": {"prior_weight": 1.0}}, "'prior_weight': is unknown"),
    ],
)
def test_choices_that_need_classes_are_refused(choices, reason, tmp_path):
    model = attach(
        lively(Sensors()), [], torch.rand(4, 6), statistics="remembered", task="regression"
    )
    with pytest.raises(ExportError, match=reason):
        export_bundle(model, tmp_path / "net.edgemem", Choices(batch=BATCH, **choices))
    assert not list(tmp_path.iterdir())


def test_statistics_alone_need_a_block_that_remembers(tmp_path):
    model = attach(lively(Sensors()), [], torch.rand(4, 6), norm_affine=True, task="regression")
    for objective in (None, "alignment"):
        with pytest.raises(
            ExportError, match="needs a block that remembers.*statistics remembered"
        ):
            export_bundle(model, tmp_path / "net.edgemem", Choices(BATCH, objective=objective))


def test_a_gradient_needs_something_to_follow_it(tmp_path):
    model = attach(
        lively(Sensors()), [], torch.rand(4, 6), statistics="remembered", task="regression"
    )
    with pytest.raises(ExportError, match="nothing in the block that learns.*--norm-affine"):
        export_bundle(model, tmp_path / "net.edgemem", Choices(BATCH, objective="alignment"))


# A spot on a dark ground: where it is does not depend on how bright the picture is.


def spots(count, seed, gain=1.0):
    rng = np.random.default_rng(seed)
    y = rng.uniform(1.5, 5.5, (count, 2)).astype(np.float32)
    grid = np.arange(8)
    squared = (grid[None, :, None] - y[:, :1, None]) ** 2 + (grid[None, None] - y[:, 1:, None]) ** 2
    x = np.exp(-squared / 4) + 0.05 * rng.random((count, 8, 8))
    return (gain * x[:, None]).astype(np.float32), y


class Position(Regression):
    """[n, 1, 8, 8] -> [n, 2]: where the spot is."""

    def __init__(self):
        super().__init__(2)
        self.head = nn.Linear(8 * 64, 2)

    def forward(self, x):
        return self.head(self.layers(x).flatten(1))


@pytest.fixture(scope="module")
def position(tmp_path_factory):
    torch.manual_seed(0)
    network, (x, y) = Position().train(), spots(1024, 0)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(400):
        chosen = torch.from_numpy(np.random.default_rng(step).integers(0, len(x), 64))
        loss = (network(torch.from_numpy(x)[chosen]) - torch.from_numpy(y)[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("bundles") / "net.edgemem"
    return made("regression", network.eval(), (1, 8, 8), path, source=x[:256])


def rmse(found, y):
    return float(np.sqrt(np.square(found - y).mean()))


@pytest.mark.slow
def test_a_gain_shift_is_undone_by_statistics(position):
    x, y = spots(512, 1, gain=2.5)
    home, where = spots(512, 2)
    one = edgemem.Options(contexts=False)  # as the oracle, which knows one place only
    with edgemem.open(position.path, threads=1, options=one) as runtime:
        at_home = rmse(runtime.predict(home, frozen=True).outputs["out0"], where)
        frozen = rmse(runtime.predict(x, frozen=True).outputs["out0"], y)
        adapted = rmse(runtime.step(x).outputs["out0"], y)
        rails = session_of(runtime).watch.escalation
    torch_side = oracle(position.network)
    batches = [position.answers(torch_side, x[i : i + BATCH])["out0"] for i in range(0, 512, BATCH)]
    expected = rmse(np.concatenate(batches), y)
    with edgemem.open(position.path, threads=1) as runtime:
        told_apart = rmse(runtime.step(x).outputs["out0"], y)
    assert at_home < adapted < 0.1 * frozen
    assert adapted == pytest.approx(expected, rel=1e-3)
    assert told_apart < 0.1 * frozen
    assert rails.rung == 0


@pytest.mark.slow
def test_the_limit_is_that_of_shifts_of_source_frames(position):
    bundle = open_bundle(position.path)
    task, told = bundle.manifest.task, bundle.manifest.exported_from["output_distance"]
    assert task.limit == max(3.0, 2 * told)
    x, _ = spots(1024, 0)
    with torch.no_grad():
        own = position.network(torch.from_numpy(x[:256]))
    # Kept frames are a sample of those that were given, here all of them.
    np.testing.assert_allclose(task.deviation, own.numpy().std(0), rtol=1e-3)
    np.testing.assert_allclose(task.mean, own.numpy().mean(0), rtol=1e-3)


@pytest.mark.slow
def test_outputs_that_stray_bring_the_frozen_model_back(position):
    """A block answers as no shift of source frames makes it; the frozen model is sound."""
    far = 2 * open_bundle(position.path).manifest.task.limit

    def strayed(call):
        if call.graph == "key" or not call.feeds["hp.alpha"]:
            return call.outputs
        deviation = np.asarray(open_bundle(position.path).manifest.task.deviation, np.float32)
        moved = {n: call.outputs[n] + far * deviation for n in ("summary", "out.out0")}
        return call.outputs | moved

    x, y = spots(64 * BATCH, 3)
    kinds = []
    with open_with(position.path, WatchedBackend(OnnxRuntimeBackend(1), strayed)) as runtime:
        for start in range(0, len(x), BATCH):
            result = runtime.step(x[start : start + BATCH])
            kinds += [event.kind for event in result.events]
        last = rmse(result.outputs["out0"], y[start:])
        frozen = rmse(runtime.predict(x[start:], frozen=True).outputs["out0"], y[start:])
    assert kinds.index("skipped") < kinds.index("reset") < kinds.index("frozen")
    assert last == frozen


@pytest.mark.slow
def test_contexts_are_told_apart_without_classes(position):
    bright, dark = spots(16 * BATCH, 4, 2.0)[0], spots(16 * BATCH, 5, 0.5)[0]
    used = []
    with edgemem.open(position.path, threads=1) as runtime:
        for x in (bright, dark, bright):
            used.append(runtime.step(x).context)
    assert used[0] == used[2] != used[1]


@pytest.mark.slow
def test_on_frames_like_the_source_the_frozen_model_answers_positions(tmp_path):
    rng = np.random.default_rng(0)
    source, home = (rng.random((16 * BATCH, 1, 8, 8), np.float32) for _ in range(2))
    network = lively(UNet(3))
    given = made("dense", network, (1, 8, 8), tmp_path / "b.edgemem", source=source)
    # Random weights gain nothing: so the frozen model would answer elsewhere, too.
    reseal(given.path, lambda manifest: manifest.pop("surer_below", None))
    dark = 0.3 * home
    with edgemem.open(given.path, threads=1) as runtime:
        at_home = runtime.step(home)
        steps = runtime.counters["steps"]
        elsewhere = runtime.step(dark)
    frozen = [given.answers(network, x)["out0"] for x in (home, dark)]
    np.testing.assert_allclose(at_home.outputs["out0"], frozen[0], atol=1e-4)
    assert steps == 0 and "familiar" in [event.kind for event in at_home.events]
    assert "unfamiliar" in [event.kind for event in elsewhere.events]
    assert np.abs(elsewhere.outputs["out0"] - frozen[1]).mean() > 0.01


# Entropies over positions, and alignment: steps with a gradient.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "objective"),
    [
        ("dense", "likelihood_ratio"), ("sequence", "tent"), ("multilabel", "likelihood_ratio"),
        ("regression", "alignment"), ("reconstruction", "alignment"),
    ],
)  # fmt: skip
def test_steps_with_a_gradient_lower_their_loss(task, objective, tmp_path):
    make, shape = NETWORKS[task]
    choices = Choices(batch=BATCH, objective=objective, learning_rate=1e-2)
    given = made(
        task, lively(make()), shape, tmp_path / "net.edgemem", choices, norm_affine=True,
    )  # fmt: skip
    calls = []

    def note(call):
        calls.append(call)
        return call.outputs

    x = 1.5 * given.frames(BATCH)
    with open_with(given.path, WatchedBackend(OnnxRuntimeBackend(1), note)) as runtime:
        results = [runtime.step(x + 1e-3 * k) for k in range(12)]
    assert all(result.adapted for result in results)
    losses = [float(c.outputs["stat.loss"]) for c in calls if c.graph.startswith("adapt")]
    assert losses[-1] < losses[1]
    learnt = [name for name in calls[-1].feeds if name.endswith("weight_delta")]
    assert any(calls[-1].feeds[name].any() for name in learnt)


@pytest.mark.slow
def test_alignment_is_the_distance_of_moments(tmp_path):
    choices = Choices(batch=BATCH, objective="alignment")
    network = lively(Sensors())
    given = made(
        "regression", network, (6,), tmp_path / "net.edgemem", choices, norm_affine=True,
    )  # fmt: skip
    x, norm = given.frames(BATCH), network.layers[1]
    with torch.no_grad():
        before = network.layers[0](torch.from_numpy(x)).numpy()
    mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
    expected = np.abs(before.mean(0) - mean) / np.sqrt(var) + np.abs(before.var(0) - var) / var
    calls = []

    def note(call):
        calls.append(call)
        return call.outputs

    with open_with(given.path, WatchedBackend(OnnxRuntimeBackend(1), note)) as runtime:
        runtime.step(x)
    found = next(c.outputs["stat.loss"] for c in calls if c.graph.startswith("adapt"))
    assert float(found) == pytest.approx(float(expected.mean()), rel=1e-4)


@pytest.mark.slow
def test_an_entropy_of_a_dense_output_is_that_of_its_pixels(tmp_path):
    choices = Choices(batch=BATCH, objective="tent")
    network = lively(UNet(3))
    given = made(
        "dense", network, (1, 8, 8), tmp_path / "net.edgemem", choices, norm_affine=True,
        statistics="source",
    )  # fmt: skip
    x = given.frames(BATCH)
    with torch.no_grad():
        own = network(torch.from_numpy(x))
        expected = torch.distributions.Categorical(logits=own.movedim(1, -1)).entropy().mean()
    calls = []

    def note(call):
        calls.append(call)
        return call.outputs

    with open_with(given.path, WatchedBackend(OnnxRuntimeBackend(1), note)) as runtime:
        runtime.step(x)
    found = next(c.outputs["stat.loss"] for c in calls if c.graph.startswith("adapt"))
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
