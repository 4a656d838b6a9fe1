"""Replay against a loop written out, and verification against files that lie."""

import subprocess
import sys

import numpy as np
import pytest
from opening import opened_with

import edgemem
from edgemem.block import pack, unpack
from edgemem.bundle.reference_frames import MOST_TOLERANCE, TOLERANCE
from edgemem.demo import BUNDLE
from edgemem.runtime.engines.process_memory import peak_rss_mb
from edgemem.runtime.tools.replay import replay
from edgemem.runtime.tools.stream import Stream
from edgemem.runtime.tools.verification import verify

COUNT = 330


@pytest.fixture
def stream(tmp_path, digits_stream):
    """Function: a stream of COUNT frames with any further arrays."""
    x, _ = digits_stream

    def save(**arrays):
        np.savez(tmp_path / "s.npz", **{"x": x[:COUNT], **arrays})
        return Stream(tmp_path / "s.npz")

    return save


def opened(**options):
    return opened_with(BUNDLE, threads=1, **options)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_a_replay_measures_what_a_loop_over_the_frames_measures(stream, digits_stream, chunk):
    x, y = (array[:COUNT] for array in digits_stream)
    names = np.array(["fog", "dusk"])[np.arange(COUNT) // 50 % 2]
    runtime, seen = opened(), []
    report = replay(
        runtime,
        stream(y=y, context=names),
        chunk=chunk,
        progress=lambda done, error: seen.append((done, error)),
    )
    by_hand = opened()
    results = [by_hand.step(x[i : i + chunk]) for i in range(0, COUNT, chunk)]
    wrong = np.concatenate([result.labels for result in results]) != y
    frozen = by_hand.predict(x, frozen=True).labels != y
    np.testing.assert_array_equal(report.wrong, wrong)
    np.testing.assert_array_equal(report.frozen_wrong, frozen)
    assert report.frames == COUNT
    assert report.error == wrong.mean() and report.frozen_error == frozen.mean()
    assert list(report.per_context) == ["fog", "dusk"]
    for name, row in report.per_context.items():
        chosen = names == name
        assert row == {
            "frames": chosen.sum(),
            "error": wrong[chosen].mean(),
            "frozen_error": frozen[chosen].mean(),
        }
    kinds = [event.kind for result in results for event in result.events]
    assert report.events == {kind: kinds.count(kind) for kind in kinds}
    assert report.ms_per_frame > 0
    assert seen[-1] == (COUNT, report.error) and [done for done, _ in seen] == [
        min(i + chunk, COUNT) for i in range(0, COUNT, chunk)
    ]
    assert runtime.counters == by_hand.counters


def test_a_stream_without_labels_has_no_errors(stream):
    report = replay(opened(), stream(context=["a"] * COUNT), chunk=16)
    assert report.error is None and report.frozen_error is None and report.wrong is None
    assert report.per_context == {"a": {"frames": COUNT, "error": None, "frozen_error": None}}


def test_the_frozen_model_is_only_run_when_asked_for(stream, digits_stream):
    report = replay(opened(), stream(y=digits_stream[1][:COUNT]), chunk=16, frozen=False)
    assert report.error is not None and report.frozen_error is None
    assert report.frozen_wrong is None and report.per_context == {}


def test_the_report_for_json_holds_figures_only(stream, digits_stream):
    values = replay(opened(), stream(y=digits_stream[1][:COUNT]), chunk=16).as_dict()
    assert set(values) == {
        "frames", "error", "frozen_error", "per_context", "ms_per_frame", "peak_rss_mb", "events",
        "visits", "returns", "kilobytes_written", "rails", "skipped_frames", "notes",
    }  # fmt: skip


def test_used_and_drift_are_those_of_every_step(stream, digits_stream):
    report = replay(edgemem.open(BUNDLE, threads=1), stream(), chunk=16)
    with edgemem.open(BUNDLE, threads=1) as runtime:
        results = [
            runtime.step(digits_stream[0][i : min(i + 16, COUNT)]) for i in range(0, COUNT, 16)
        ]
    for number, result in enumerate(results):
        span = slice(16 * number, min(16 * number + 16, COUNT))
        assert set(report.used[span]) == {result.context}
        assert set(report.drift[span]) == {np.float32(result.drift)}


def test_a_runtime_that_tells_no_contexts_apart_reports_none(stream):
    report = replay(opened_with(BUNDLE, contexts=False, threads=1), stream(), chunk=16)
    assert report.used is None and report.drift is None


def test_bytes_written_are_those_of_the_state_file(stream, tmp_path):
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        report = replay(runtime, stream(), chunk=16)
        assert report.kilobytes_written == runtime.bytes_written / report.frames
    assert report.kilobytes_written * report.frames > (tmp_path / "s.db").stat().st_size / 2
    assert replay(opened(), stream(), chunk=16).kilobytes_written == 0


@pytest.mark.parametrize("chunk", [0, -1])
def test_an_impossible_chunk_is_refused_before_anything_runs(stream, chunk):
    runtime = opened()
    with pytest.raises(edgemem.InputError, match=f"{chunk} frames per call.*Use 1 or more"):
        replay(runtime, stream(), chunk=chunk)
    assert runtime.counters["frames"] == 0


@pytest.mark.parametrize(
    ("x", "reason"),
    [(np.zeros((4, 3, 8, 8), np.uint8), "shape"), (np.zeros((4, 1, 8, 8)), "dtype float64")],
)
def test_a_stream_of_other_frames_is_refused(stream, x, reason):
    runtime = opened()
    with pytest.raises(edgemem.InputError, match=reason):
        replay(runtime, stream(x=x), chunk=2)
    assert runtime.counters["frames"] == 0


def test_the_packaged_bundle_computes_what_torch_computed():
    found = verify(BUNDLE, threads=1)
    assert found.files == len(edgemem.open(BUNDLE, threads=1).bundle.manifest.files)
    assert all(0 <= value <= TOLERANCE for value in (found.frozen, found.adapt, found.adapted))
    assert set(found.as_dict()) == {"files", "engine", "limits", "frozen", "adapt", "adapted"}


def rewrite_reference(bundle, change):
    path = bundle / "reference.safetensors"
    arrays = unpack(path.read_bytes(), "reference", AssertionError, "")
    change(arrays)
    strange = [name for name, array in arrays.items() if array.dtype.kind == "c"]
    for name in strange:  # which the oldest safetensors allowed cannot write
        arrays[name] = arrays[name].view(np.float64)
    content = pack(arrays)
    path.write_bytes(content.replace(b'"F64"', b'"C64"') if strange else content)


@pytest.mark.parametrize("name", ["frozen", "adapt", "adapted"])
@pytest.mark.parametrize("value", [10 * TOLERANCE, 1e30])
def test_any_changed_reference_value_is_noticed(bundle, seal, name, value):
    def change(arrays):
        logits = arrays[f"{name}.logits"].copy()
        logits[-1, -1] += value * max(1.0, np.abs(logits).max())
        arrays[f"{name}.logits"] = logits

    rewrite_reference(bundle, change)
    seal(bundle)
    with pytest.raises(edgemem.BundleError, match=f"{name} logits differ.*another version"):
        verify(bundle, threads=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("adapted.logits"), "'adapted.logits' is missing"),
        (lambda a: a.update(seed=np.zeros(2, np.int64)), r"'seed' is int64\[2\]"),
        (lambda a: a.update(seed=np.array(1.0)), r"'seed' is float64"),
        (lambda a: a.update(seed=np.array(1, np.complex64)), "complex64|not readable"),
        (lambda a: a.update(seed=np.array(-1)), "has the seed -1"),
        (lambda a: a.update(seed=np.array(1 << 60)), "has the seed"),
        (lambda a: a.update(tolerance=np.full(3, 0.1, np.float32)), "tolerance .*0.1"),
        (lambda a: a.update(tolerance=np.full(2, 0.01, np.float32)), "tolerance"),
        (lambda a: a.update(tolerance=np.full(3, np.nan, np.float32)), "NaN"),
        (lambda a: a.update(room=np.array(1e30, np.float32)), "'room' is not in"),
        (lambda a: a.update({"hp.alpha": np.array(np.nan, np.float32)}), "NaN or infinite"),
        (lambda a: a.update({"hp.alpha": np.zeros(2, np.float32)}), "'hp.alpha' is float32"),
        (lambda a: a.update({"hp.other": np.array(1, np.float32)}), "'hp.other' is not in"),
        (lambda a: a.update({"frozen.logits": a["frozen.logits"] * np.nan}), "NaN or infinite"),
        (
            lambda a: a.update({"frozen.logits": a["frozen.logits"].astype(np.complex64)}),
            "complex64|not readable",
        ),
        (
            lambda a: a.update({"frozen.logits": np.zeros((1, 1), np.float32)}),
            r"'frozen.logits' is float32\[1, 1\]",
        ),
    ],
)
def test_a_reference_that_cannot_be_one_is_refused(bundle, seal, change, reason):
    rewrite_reference(bundle, change)
    seal(bundle)
    with pytest.raises(edgemem.BundleError, match=reason):
        verify(bundle, threads=1)


@pytest.mark.parametrize("asked", [None, 0.0, 0.01, MOST_TOLERANCE])
def test_a_bundle_widens_what_it_is_measured_by_within_a_bound(bundle, seal, asked):
    if asked is not None:
        tolerance = np.full(3, asked, np.float32)
        rewrite_reference(bundle, lambda a: a.update(tolerance=tolerance))
    weights = np.frombuffer((bundle / "weights.bin").read_bytes(), np.float32)
    (bundle / "weights.bin").write_bytes((weights * np.float32(1.5)).tobytes())
    seal(bundle)
    limit = max(TOLERANCE, asked or 0.0)
    with pytest.raises(edgemem.BundleError, match=f"logits differ .* limit {limit:.0e}"):
        verify(bundle, threads=1)


@pytest.mark.skipif(sys.platform == "win32", reason="no measure of memory there")
def test_peak_memory_is_that_of_this_process_and_grows_by_what_is_used():
    parent = np.ones(60_000_000, np.uint8)
    code = """
from edgemem.runtime.engines.process_memory import peak_rss_mb
before = peak_rss_mb()
used = b"1" * 50_000_000
print(before, peak_rss_mb())
"""
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    before, after = map(float, finished.stdout.split())
    assert 0 < before < peak_rss_mb() - parent.nbytes / 1e6 / 2
    assert before + 40 <= after <= before + 60
