"""Optimised graphs from an earlier start: used when whole, made again when not."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.files.atomic import sha256_file
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.engines.session_cache import GRAPH, SUMS, SessionCache

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:
        return stream["x"][: 4 * BATCH]


def outcome(frames, cache):
    with edgemem.open(BUNDLE, threads=1, options=edgemem.Options(cache=cache)) as runtime:
        logits = [runtime.step(frames[i : i + BATCH]).logits for i in range(0, len(frames), BATCH)]
        return np.concatenate(logits)


@pytest.fixture(scope="module")
def first(frames, tmp_path_factory):
    """The outcome of a first start, and the cache that it made (do not write there)."""
    cache = tmp_path_factory.mktemp("first") / "cache"
    return outcome(frames, cache), cache


@pytest.fixture
def started(first, tmp_path):
    """The outcome of a first start, and a cache as it made it."""
    return first[0], Path(shutil.copytree(first[1], tmp_path / "cache"))


def kept(cache):
    return {folder.name.rpartition("-")[0]: folder for folder in cache.iterdir()}


def test_a_second_start_computes_the_same_to_the_bit(frames, tmp_path):
    expected = outcome(frames, None)
    for _ in range(2):
        np.testing.assert_array_equal(outcome(frames, tmp_path / "cache"), expected)
    assert set(kept(tmp_path / "cache")) == {"predict", "adapt", "key"}


def test_a_second_start_does_not_optimise_again(frames, tmp_path, monkeypatch):
    outcome(frames, tmp_path)
    opened = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, content, options, **rest):
            opened.append((content, options.graph_optimization_level))
            super().__init__(content, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    outcome(frames, tmp_path)
    assert len(opened) == 3
    optimised = [(folder / GRAPH).read_bytes() for folder in tmp_path.iterdir()]
    for content, level in opened:
        assert content in optimised
        assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def cut(folder):
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:-9])


def flipped(folder):
    content = bytearray((folder / GRAPH).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / GRAPH).write_bytes(content)


def without_sums(folder):
    (folder / SUMS).unlink()


def sums_of_nothing(folder):
    (folder / SUMS).write_text("{}")


def sums_of_something_else(folder):
    (folder / SUMS).write_text(json.dumps({"../../etc/passwd": "0" * 64, GRAPH: "0" * 64}))


def no_json(folder):
    (folder / SUMS).write_bytes(b"\xff\x00")


def a_list(folder):
    (folder / SUMS).write_text("[1, 2]")


def without_end(folder):
    (folder / SUMS).write_text("[" * 100_000)


def many_entries(folder):
    (folder / SUMS).write_text(json.dumps({str(k): "0" * 64 for k in range(10_000)}))


def numbers(folder):
    (folder / SUMS).write_text(json.dumps({file.name: 5 for file in folder.iterdir()}))


def a_folder(folder):
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flipped,
        without_sums,
        sums_of_nothing,
        sums_of_something_else,
        no_json,
        a_list,
        without_end,
        many_entries,
        numbers,
        a_folder,
    ],
)
def test_damage_is_found_and_the_graph_made_again(frames, started, damage):
    expected, folder = started
    damage(kept(folder)["adapt"])
    cache = SessionCache(folder, open_bundle(BUNDLE).identity)
    assert cache.find("adapt") is None
    np.testing.assert_array_equal(outcome(frames, folder), expected)
    assert cache.find("adapt") is not None


def test_weights_without_a_check_sum_are_not_taken(frames, tmp_path):
    outcome(frames, tmp_path)
    (kept(tmp_path)["adapt"] / "more.bin").write_bytes(b"not listed")
    assert SessionCache(tmp_path, open_bundle(BUNDLE).identity).find("adapt") is None


def test_a_kept_graph_that_the_engine_refuses_does_no_harm(frames, tmp_path):
    expected = outcome(frames, tmp_path)
    folder = kept(tmp_path)["adapt"]
    (folder / GRAPH).write_bytes(b"no graph")
    sums = {file.name: sha256_file(file) for file in folder.iterdir() if file.name != SUMS}
    (folder / SUMS).write_text(json.dumps(sums))
    np.testing.assert_array_equal(outcome(frames, tmp_path), expected)


def test_what_is_done_to_a_kept_graph_after_its_check_has_no_effect(frames, tmp_path, monkeypatch):
    expected = outcome(frames, tmp_path)
    find = SessionCache.find

    def replaced(self, name):
        found = find(self, name)
        for path in found.contents:  # while the engine has not opened it yet
            content = path.read_bytes()
            path.write_bytes(content[::-1])
        return found

    monkeypatch.setattr(SessionCache, "find", replaced)
    np.testing.assert_array_equal(outcome(frames, tmp_path), expected)


def test_a_kept_graph_gives_its_own_files_only(frames, tmp_path):
    outcome(frames, tmp_path)
    found = SessionCache(tmp_path, open_bundle(BUNDLE).identity).find("adapt")
    with pytest.raises(edgemem.BundleError, match="not a file of this kept graph"):
        found.read(tmp_path / "other.bin")


def test_an_engine_that_cannot_write_costs_a_warning_only(frames, tmp_path, monkeypatch, caplog):
    class Full(onnxruntime.InferenceSession):
        def __init__(self, path, options, **rest):
            if options.optimized_model_filepath:
                raise RuntimeError("no space left")
            super().__init__(path, options, **rest)

    expected = outcome(frames, None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Full)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(outcome(frames, tmp_path), expected)
    assert "no space left" in caplog.text


def test_graphs_of_another_bundle_engine_or_processor_are_not_met(tmp_path, monkeypatch):
    mine = SessionCache(tmp_path, "bundle")
    backend = OnnxRuntimeBackend(1, cache=mine)
    backend.open(BUNDLE / "key.onnx")
    assert mine.find("key") is not None
    assert SessionCache(tmp_path, "other").find("key") is None
    monkeypatch.setattr("platform.machine", lambda: "other")
    assert SessionCache(tmp_path, "bundle").find("key") is None


def test_a_folder_that_cannot_be_written_costs_a_warning_only(frames, tmp_path, caplog):
    place = tmp_path / "file"
    place.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(outcome(frames, place), outcome(frames, None))
    assert "is not kept" in caplog.text
    assert place.read_text() == "no folder"


def test_names_of_a_bundle_are_harmless_in_the_log(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    SessionCache(tmp_path / "file", "a bundle").keep("predict\x1b[31m", lambda draft: None)
    (message,) = (record.getMessage() for record in caplog.records)
    assert "predict\\x1b[31m" in message and message.isprintable()
