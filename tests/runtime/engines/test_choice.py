"""Which engine runs a bundle, and what is said when it is not the preferred one."""

import builtins
import json
import logging
import sys

import numpy as np
import onnxruntime
import pytest

import edgemem
from edgemem.bundle.checked_files import OwnFiles
from edgemem.bundle.opening import open_bundle
from edgemem.cli import main
from edgemem.demo import BUNDLE
from edgemem.errors import BundleError, InputError
from edgemem.runtime.engines import choice, providers
from edgemem.runtime.engines.choice import choose
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeGraph

FRAME = np.zeros((1, 1, 8, 8), np.float32)


@pytest.fixture
def for_npus(bundle, seal):
    """A bundle that says it has graphs for NPUs: those for CPUs."""

    def add(manifest):
        names = {"signature": "", "inputs": [], "outputs": []}
        graphs = {name: {"file": file, **names} for name, file in manifest["graphs"].items()}
        manifest["targets"] = {"npu": graphs}

    seal(bundle, add)
    return bundle


@pytest.fixture
def failing_npu(monkeypatch):
    """An NPU that is there, and refuses every graph."""

    class Failing:
        name, target = "npu", "npu"

        def open(self, path, binding=None):
            raise BundleError(path.name, "does not compile", "Use another one")

    real = choice.open_backend
    monkeypatch.setattr(
        choice,
        "open_backend",
        lambda b, name, settings: Failing() if name == "qnn" else real(b, name, settings),
    )
    monkeypatch.setattr(choice, "is_emulated", lambda p: False)
    monkeypatch.setattr(
        choice, "missing", lambda p: None if p.name == "qnn" else providers.missing(p)
    )


def test_without_anything_better_the_cpu_runs_it_and_it_says_why():
    engine = choose(open_bundle(BUNDLE))
    assert engine.provider == "cpu" and "CPUExecutionProvider" in engine.backend.name
    assert "qnn: onnxruntime-qnn is not installed" in engine.why and not engine.failed


def test_what_was_chosen_is_there_for_the_caller():
    with edgemem.open(BUNDLE, provider="cpu") as runtime:
        assert (runtime.engine.provider, runtime.engine.why) == ("cpu", "asked for")


def test_a_provider_that_fails_to_compile_is_replaced_and_reported(for_npus, failing_npu, caplog):
    with caplog.at_level(logging.WARNING), edgemem.open(for_npus) as runtime:
        result = runtime.step(FRAME)
        assert runtime.engine.provider == "cpu"
        assert [event.kind for event in result.events] == ["fallback"]
        assert "qnn fails (does not compile)" in result.events[0].message
        assert not runtime.step(FRAME).events  # told once
    assert "qnn fails (does not compile)" in caplog.text


def test_a_provider_that_was_asked_for_runs_or_fails(for_npus, failing_npu):
    with pytest.raises(BundleError, match="does not compile"):
        edgemem.open(for_npus, provider="qnn")


def test_graphs_that_a_bundle_lacks_are_named_with_the_option_that_adds_them(failing_npu):
    with pytest.raises(InputError, match="--target qnn"):
        choose(open_bundle(BUNDLE), "qnn")
    engine = choose(open_bundle(BUNDLE))
    assert "--target qnn" in engine.passed_over["qnn"] and not engine.failed


def test_unknown_providers_and_those_that_are_not_here_are_refused():
    with pytest.raises(InputError, match=r"'tpu'.*Use one of auto, qnn"):
        choose(open_bundle(BUNDLE), "tpu")
    with pytest.raises(InputError, match=r"no CoreMLExecutionProvider.*macOS"):
        choose(open_bundle(BUNDLE), "coreml")


def test_a_bundle_for_no_engine_that_is_here(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "onnxruntime":
            raise ImportError("no wheel for this machine")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"no engine runs it .*no wheel for this machine"):
        choose(open_bundle(BUNDLE))


def test_an_engine_too_old_for_the_graphs_is_replaced_by_one_that_takes_them(
    for_npus, failing_npu, monkeypatch
):
    class Old:
        name, target = "old", "onnx"

        def open(self, path, binding=None):
            raise BundleError(path.name, "is refused by onnxruntime 1.8 (opset 20)", "Update it")

    real = choice.open_backend
    monkeypatch.setattr(
        choice,
        "open_backend",
        lambda b, name, settings: Old() if name == "cpu" else real(b, name, settings),
    )
    with pytest.raises(BundleError, match=r"opset 20.*Update it"):
        choose(open_bundle(for_npus))
    monkeypatch.setattr(choice, "AUTOMATIC", ("cpu", "qnn", "xnnpack"))
    monkeypatch.setattr(choice, "missing", lambda p: None)
    monkeypatch.setattr(
        choice, "open_backend", lambda b, name, s: Old() if name == "cpu" else real(b, "cpu", s)
    )
    engine = choose(open_bundle(for_npus))
    assert engine.failed == ("cpu",) and "opset 20" in engine.events()[0].message


def test_a_provider_that_takes_no_node_is_no_provider(monkeypatch):
    """onnxruntime itself would go on with the CPU."""
    monkeypatch.setattr(OnnxRuntimeGraph, "nodes", {"CPUExecutionProvider": 5})
    path, options = BUNDLE / "key.onnx", onnxruntime.SessionOptions()
    with pytest.raises(BundleError, match="no node that CUDAExecutionProvider takes"):
        OnnxRuntimeGraph(path, options, OwnFiles(), must="CUDAExecutionProvider")


def test_a_graph_that_only_predicts_does_not_stand_for_one_that_adapts(bundle, seal, failing_npu):
    def add(manifest):
        names = {"signature": "", "inputs": [], "outputs": []}
        manifest["targets"] = {"npu": {"predict": {"file": "predict.onnx", **names}}}

    seal(bundle, add)
    engine = choose(open_bundle(bundle))
    assert "no 'adapt' graph" in engine.passed_over["qnn"] and engine.provider == "cpu"


def test_a_memory_budget_is_known_of_the_cpu_only():
    with pytest.raises(InputError, match=r"is not known of 'litert'.*provider=\"cpu\""):
        edgemem.open(BUNDLE, provider="litert", options=edgemem.Options(memory_budget="1GB"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update(tpu=t.pop("npu")), "target 'tpu'"),
        (lambda t: t["npu"].pop("predict"), "graphs of target 'npu'"),
        (lambda t: t["npu"].update(other=t["npu"]["key"]), "graphs of target 'npu'"),
        (lambda t: t["npu"]["key"].update(file="../key.onnx"), "not listed under files"),
        (lambda t: t["npu"]["key"].update(signature=3), "is not text"),
    ],
)
def test_targets_that_are_not_as_they_should_be_are_refused(for_npus, seal, change, reason):
    seal(for_npus, lambda manifest: change(manifest["targets"]))
    with pytest.raises(BundleError, match=reason):
        open_bundle(for_npus)


def test_commands_take_a_provider_and_say_what_is_here(for_npus, tmp_path, capsys, monkeypatch):
    def command(*words):
        monkeypatch.setattr(sys, "argv", ["edgemem", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    stream = tmp_path / "stream.npz"
    np.savez(stream, x=np.zeros((2, 1, 8, 8), np.uint8))
    code, said = command("run", for_npus, "--input", stream, "--provider", "coreml")
    assert code == 2 and "macOS" in said.err
    code, said = command("verify", for_npus, "--provider", "cpu", "--json")
    assert code == 0 and "CPUExecutionProvider" in json.loads(said.out)["engine"]
    code, said = command("doctor", for_npus, "--json")
    found = json.loads(said.out)
    assert code == 0 and found["bundle"]["auto"].startswith("cpu")
    assert found["engines"]["cpu"] == "here" and "onnxruntime" in found["engines"]["qnn"]
