"""A bundle's files, changed after they were checked: refused at first use, or no effect."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.engines.choice import EngineSettings, choose
from edgemem.runtime.step.graphs import Graphs
from edgemem.runtime.tools.verification import verify

BATCH = 16
CHANGED = "was changed after it was checked"


@pytest.fixture(scope="module", autouse=True)
def sessions():
    """Each its own: from which bytes they are made is what is tested."""


def other(path):
    """The weights of a file, tripled; graphs with a bit flipped."""
    content = path.read_bytes()
    if path.suffix == ".bin":
        return (np.frombuffer(content, "<f4") * np.float32(3)).tobytes()
    return content[:-1] + bytes([content[-1] ^ 1])


def replaced(path):
    content = other(path)
    path.unlink()
    path.write_bytes(content)


def renamed_over(path):
    path.with_name(".new").write_bytes(other(path))
    path.with_name(".new").replace(path)


def written_in_place(path):
    content = other(path)
    with path.open("r+b") as file:
        file.write(content)


def cut_short(path):
    os.truncate(path, 100)


WAYS = [replaced, renamed_over, written_in_place, cut_short]


@pytest.fixture
def frames(digits_stream):
    return digits_stream[0][: 4 * BATCH]


def steps(runtime, frames):
    return np.concatenate([runtime.step(frames[i : i + BATCH]).logits for i in range(0, 64, BATCH)])


@pytest.fixture(scope="module")
def expected(digits_stream):
    with edgemem.open(BUNDLE, threads=1, provider="cpu") as runtime:
        return steps(runtime, digits_stream[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["weights.bin", "adapt.onnx", "source.safetensors"])
def test_a_file_that_was_changed_before_its_first_use_is_refused(bundle, frames, name, way):
    with edgemem.open(bundle, threads=1, provider="cpu") as runtime:
        runtime.predict(frames[:2], frozen=True)  # which needs none of these files
        way(bundle / name)
        with pytest.raises(edgemem.BundleError, match=f"{name}: {CHANGED}"):
            steps(runtime, frames)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_done_to_files_that_are_in_use_has_no_effect(bundle, frames, expected, way):
    with edgemem.open(bundle, threads=1, provider="cpu") as runtime:
        first = runtime.step(frames[:BATCH]).logits
        for name in ("weights.bin", "adapt.onnx", "predict.onnx", "key.onnx"):
            way(bundle / name)
        rest = [runtime.step(frames[i : i + BATCH]).logits for i in range(BATCH, 64, BATCH)]
    np.testing.assert_array_equal(np.concatenate([first, *rest]), expected)


def test_a_bundle_that_was_removed_while_it_runs_has_no_effect(bundle, frames, expected):
    with edgemem.open(bundle, threads=1, provider="cpu") as runtime:
        first = runtime.step(frames[:BATCH]).logits
        shutil.rmtree(bundle)
        rest = [runtime.step(frames[i : i + BATCH]).logits for i in range(BATCH, 64, BATCH)]
    np.testing.assert_array_equal(np.concatenate([first, *rest]), expected)


def test_the_reference_is_the_one_that_was_checked(bundle, monkeypatch):
    from edgemem.runtime.tools import verification as module

    def changed(path):
        found = open_bundle(path)
        replaced(bundle / "reference.safetensors")
        return found

    monkeypatch.setattr(module, "open_bundle", changed)
    with pytest.raises(edgemem.BundleError, match=f"reference.safetensors: {CHANGED}"):
        verify(bundle)


def graphs(bundle, profile):
    opened = open_bundle(bundle)
    return Graphs(opened, choose(opened, "cpu", EngineSettings(1, profile)).backend)


@pytest.fixture
def swapping(monkeypatch):
    """A path to change just when the engine begins to open a graph."""

    def swap(way, path):
        class Session(onnxruntime.InferenceSession):
            def __init__(self, *values, **rest):
                monkeypatch.undo()
                way(path)
                super().__init__(*values, **rest)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)

    return swap


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_stay_in_the_file_are_those_that_were_checked(bundle, swapping, way):
    swapping(way, bundle / "weights.bin")
    with pytest.raises(edgemem.BundleError, match=r"weights\.bin: was changed|is refused by"):
        graphs(bundle, "memory")


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_are_copied_are_those_that_were_checked(bundle, swapping, frames, way):
    x = frames.astype(np.float32) / 255
    swapping(way, bundle / "weights.bin")
    found = graphs(bundle, "latency").frozen(x)
    np.testing.assert_array_equal(found, graphs(BUNDLE, "latency").frozen(x))


@pytest.mark.skipif(sys.platform != "linux", reason="no list of maps there")
def test_weights_stay_in_the_file_only_in_profile_memory(bundle):
    mapped = []
    for profile in ("latency", "memory"):
        kept = graphs(bundle, profile)
        maps = Path("/proc/self/maps").read_text()
        mapped.append(str(bundle / "weights.bin") in maps)
        del kept
    assert mapped == [False, True]


def relocated(bundle, location, graph="predict.onnx"):
    import onnx

    model = onnx.load(bundle / graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (bundle / graph).write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../weights.bin", "not beside itself"),
        ("bank/../weights.bin", "not beside itself"),
        ("{}/weights.bin", "not beside itself"),
        ("other.bin", "not a listed file"),
        ("bank/generic.safetensors", "not beside itself"),
        ("manifest.json", "not a listed file"),
        ("..", "not a listed file|not beside itself|cannot be read"),
        ("", "not beside itself"),
        ("reference.safetensors", "outside of 'reference.safetensors'"),
    ],
)
@pytest.mark.parametrize("profile", ["latency", "memory"])
def test_weights_come_only_from_listed_files_beside_the_graph(
    bundle, seal, tmp_path, monkeypatch, location, why, profile
):
    monkeypatch.chdir(tmp_path)  # where an engine with bytes of a graph would look
    for place in (tmp_path / "weights.bin", tmp_path / "other.bin"):
        shutil.copyfile(bundle / "weights.bin", place)
    relocated(bundle, location.format(tmp_path))
    seal(bundle)
    with pytest.raises(edgemem.BundleError) as caught:
        graphs(bundle, profile)
    if profile == "latency" or "reference" not in location:
        assert any(part in caught.value.reason for part in why.split("|"))
