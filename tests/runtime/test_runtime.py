from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opening import opened_with

import edgemem
from edgemem.block import unpack
from edgemem.bundle.opening import open_bundle
from edgemem.bundle.reference_frames import reference_frames
from edgemem.demo import BUNDLE
from edgemem.runtime.loop import Runtime
from edgemem.runtime.step.ring import Ring
from edgemem.runtime.tools.verification import verify
from edgemem.testing import ScriptedBackend, ring_of, session_of


def open_demo(**options):
    return opened_with(BUNDLE, threads=1, **options)


def test_frozen_answers_as_torch_did_in_any_state(digits_stream):
    x, _ = digits_stream
    runtime = open_demo(hyper_parameters={"learning_rate": 0.02})
    content = (BUNDLE / "reference.safetensors").read_bytes()
    reference = unpack(content, "x", edgemem.BundleError, "y")
    frames = reference_frames(runtime.bundle.manifest.frames, int(reference["seed"]))
    expected = reference["frozen.logits"]
    before = runtime.predict(frames).logits
    for _ in range(2):
        found = runtime.predict(frames, frozen=True).logits
        limit = 1e-5 * max(1.0, np.abs(expected).max())
        assert np.abs(found - expected).max() <= limit
        runtime.step(x[:320])
    assert runtime.counters["updates"] > 0
    assert np.abs(runtime.predict(frames).logits - before).max() > 1e-3
    runtime.rollback("source")
    fresh = open_demo()
    fresh.step(x[304:320])
    fresh.rollback("source")
    np.testing.assert_array_equal(runtime.predict(x[:16]).logits, fresh.predict(x[:16]).logits)


@pytest.mark.usefixtures("block_alone")
def test_a_step_returns_the_prediction_from_before_its_update(digits_stream):
    x, _ = digits_stream
    runtime = open_demo()
    before = runtime.predict(x[:16]).logits
    result = runtime.step(x[:16])
    assert result.adapted
    np.testing.assert_array_equal(result.logits, before)
    assert np.abs(runtime.predict(x[:16]).logits - before).max() > 0
    assert result.labels.dtype == np.int64 and result.entropy.shape == (16,)


def test_predict_changes_nothing(digits_stream):
    x, _ = digits_stream
    one, other = open_demo(), open_demo()
    one.predict(x[:40])
    np.testing.assert_array_equal(one.step(x[:16]).logits, other.step(x[:16]).logits)
    assert one.counters == other.counters


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_how_frames_are_split_into_calls_does_not_change_what_is_learnt(digits_stream, sizes):
    x, _ = digits_stream
    split, whole = open_demo(), open_demo()
    start = 0
    for size in sizes:
        assert len(split.step(x[start : start + size]).labels) == size
        start += size
    whole.step(x[:start])
    assert split.counters == whole.counters
    for name, array in session_of(whole).block.items():
        np.testing.assert_array_equal(session_of(split).block[name], array)


@given(st.lists(st.integers(1, 5), max_size=20))
def test_the_ring_is_the_tail_of_what_was_pushed(sizes):
    ring, pushed, value = Ring(5, (1,)), [], 0
    for wanted in sizes:
        frames = np.arange(value, value + min(wanted, ring.size), dtype=np.float32)[:, None]
        value += len(frames)
        pushed.extend(frames[:, 0])
        ring.push(frames)
        assert ring.last(ring.count)[:, 0].tolist() == pushed[-5:]


def test_without_adaptation_the_block_stays(digits_stream):
    x, _ = digits_stream
    runtime = open_demo(adapt=False)
    assert not runtime.step(x[:64]).adapted
    assert session_of(runtime).block is runtime.bundle.generic


def test_no_reliable_frame_means_that_nothing_is_learnt_only_remembered(digits_stream):
    x, _ = digits_stream
    runtime = open_demo(hyper_parameters={"entropy_margin": 0.0})
    runtime.step(x[:16])
    for spec in runtime.bundle.manifest.block.arrays:
        same = (session_of(runtime).block[spec.name] == runtime.bundle.generic[spec.name]).all()
        assert same == spec.learns, spec.name
    for array in session_of(runtime).slots.values():
        assert (array == 0).all()


def test_rollback_takes_the_commit_the_source_or_zero(tmp_path, digits_stream):
    x, _ = digits_stream
    with open_demo(state=tmp_path / "s.db") as runtime:
        runtime.step(x[:64])
        runtime.flush()
        committed = runtime.predict(x[:16]).logits
        runtime.step(x[64:128])
        runtime.rollback()
        for name, array in session_of(runtime).block.items():
            assert np.isfinite(array).all(), name
        assert committed.shape == runtime.predict(x[:16]).logits.shape
        np.testing.assert_array_equal(committed, runtime.predict(x[:16]).logits)
        runtime.rollback("zero")
        assert all(not array.any() for array in session_of(runtime).block.values())
        with pytest.raises(edgemem.InputError, match="commit, source or zero"):
            runtime.rollback("yesterday")


def test_a_huge_learning_rate_never_leaves_a_broken_block(digits_stream):
    x, _ = digits_stream
    runtime = open_demo(hyper_parameters={"learning_rate": 1e30})
    kinds = set()
    for start in range(0, 320, 16):
        result = runtime.step(x[start : start + 16])
        assert np.isfinite(result.logits).all()
        kinds |= {event.kind for event in result.events}
    assert kinds & {"restored", "skipped"}
    assert all(np.isfinite(array).all() for array in session_of(runtime).block.values())


def test_bad_blocks_are_skipped_and_good_ones_restored(digits_stream):
    x, _ = digits_stream
    bundle = open_bundle(BUNDLE)
    bundle = replace(bundle, manifest=replace(bundle.manifest, source=None))  # no graph of keys
    script = [{}, {}, {"add": np.nan}, {"loss": np.nan}, {"loss": np.nan}]
    script = [{"add": 1.0, **answer} for answer in script]
    runtime = Runtime(bundle, ScriptedBackend(bundle.manifest, *script), contexts=False)
    name = bundle.manifest.block.arrays[0].name
    source, moves, kinds = bundle.generic[name], [], []
    for start in range(0, 80, 16):
        result = runtime.step(x[start : start + 16])
        kinds += [event.kind for event in result.events]
        moves.append(float((session_of(runtime).block[name] - source).mean().round(3)))
    assert kinds == ["adapted", "adapted", "skipped", "restored", "restored"]
    assert moves == [1.0, 2.0, 2.0, 0.0, 0.0]
    assert runtime.counters["skipped"] == 1 and runtime.counters["restored"] == 2


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([[0.0]], "not a numpy array"),
        (np.zeros((2, 3, 8, 8), np.float32), "shape"),
        (np.zeros((0, 1, 8, 8), np.float32), "empty"),
        (np.zeros((2, 1, 8, 8), np.float64), "float64"),
        (np.full((2, 1, 8, 8), np.nan, np.float32), "NaN"),
        (np.full((2, 1, 8, 8), np.inf, np.float32), "infinite"),
    ],
)
def test_frames_that_do_not_fit_are_refused_and_change_nothing(frames, reason):
    runtime = open_demo()
    for call in (runtime.step, runtime.predict):
        with pytest.raises(edgemem.InputError, match=reason):
            call(frames)
    assert ring_of(runtime).count == 0 and runtime.counters["frames"] == 0


def test_uint8_frames_and_a_bare_frame_are_taken(digits_stream):
    x, _ = digits_stream
    runtime = open_demo()
    expected = runtime.predict((x[:3] / np.float32(255)).astype(np.float32)).logits
    np.testing.assert_array_equal(runtime.predict(x[:3]).logits, expected)
    assert runtime.step(x[0]).logits.shape == (1, 10)


def test_a_closed_runtime_and_unknown_settings_are_refused():
    with open_demo() as runtime:
        pass
    with pytest.raises(edgemem.InputError, match="closed"):
        runtime.predict(np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(edgemem.InputError, match="It has alpha"):
        open_demo(hyper_parameters={"alhpa": 1.0})


def test_verify_repeats_the_reference_and_notices_another_result(bundle, seal):
    from edgemem.block import pack

    found = verify(bundle)
    assert all(getattr(found, name) <= limit for name, limit in found.limits.items())
    path = bundle / "reference.safetensors"
    reference = unpack(path.read_bytes(), "x", edgemem.BundleError, "y")
    reference["adapted.logits"] = reference["adapted.logits"] + np.float32(0.1)
    path.write_bytes(pack(reference))
    seal(bundle)
    with pytest.raises(edgemem.BundleError, match="adapted logits differ"):
        verify(bundle)
