"""Frames arrive one by one, in batches, or in heaps; the answers must not depend on it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opening import opened_with
from scipy.special import entr, softmax

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.logits import entropies
from edgemem.testing import WatchedBackend, batch_of, open_with, session_of

BATCH = open_bundle(BUNDLE).manifest.frames.batch
sizes = st.lists(st.integers(1, 2 * BATCH + 3), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def foggy_frames():
    """[n, 1, 8, 8]; every batch is learnt from, for none is like the source."""
    with np.load(STREAM) as held:
        return held["x"][held["context"] == "fog"]


def opened(**options):
    return opened_with(BUNDLE, threads=1, **options)


def by_hand(runtime, x):
    """Logits of each run of frames up to BATCH, with the frames just before as companions."""
    parts = []
    for start in range(0, len(x), BATCH):
        stop = min(start + BATCH, len(x))
        window = x[max(0, stop - BATCH) : stop]
        logits = batch_of(runtime, window).answers(session_of(runtime).block)
        parts.append(logits[start - stop :])
    return np.concatenate(parts)


def as_float(x):
    return x.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 5])
def test_predict_fills_short_calls_with_the_frames_before_them(digits_stream, count):
    x = as_float(digits_stream[0][:count])
    runtime = opened()
    np.testing.assert_array_equal(runtime.predict(x).logits, by_hand(runtime, x))


@pytest.mark.slow
@settings(max_examples=20)
@given(sizes, st.data())
def test_predict_is_what_step_returns_next_and_changes_nothing(digits_stream, calls, data):
    x, _ = digits_stream
    # A step may take the block of another context; without contexts there is one.
    asked, silent = opened(contexts=False), opened(contexts=False)
    start = 0
    for size in calls:
        # Beyond the next step the block changes within the call; up to there both must agree.
        missing = BATCH - session_of(asked).pending
        frames = x[start : start + min(size, missing)]
        start += len(frames)
        asked.predict(x[data.draw(st.integers(0, 4000)) :][: data.draw(st.integers(1, 40))])
        full = len(frames) == missing  # the batch itself then says how to answer it
        before = asked.predict(frames).logits
        found = asked.step(frames).logits
        np.testing.assert_array_equal(silent.step(frames).logits, found)
        if not full:
            np.testing.assert_array_equal(found, before)
    assert asked.counters == silent.counters


@pytest.mark.slow
@settings(max_examples=20)
@given(sizes)
def test_the_counters_and_events_are_those_of_whole_batches(foggy_frames, calls):
    x = foggy_frames
    runtime, events, start = opened(), [], 0
    for size in calls:
        result = runtime.step(x[start : start + size])
        events += [event.kind for event in result.events]
        assert result.adapted == ("adapted" in [event.kind for event in result.events])
        start += size
    assert runtime.counters["frames"] == start
    assert runtime.counters["steps"] == start // BATCH
    assert runtime.counters["updates"] == events.count("adapted")
    assert runtime.counters["unreliable"] == events.count("unreliable")
    steps = [kind for kind in events if kind in ("adapted", "unreliable")]
    assert len(steps) == start // BATCH
    others = {"context", "frozen", "recovered"}
    assert set(events) <= {"adapted", "unreliable", *others}


def test_frames_one_by_one_teach_what_one_heap_teaches(foggy_frames):
    x = foggy_frames
    single, heap = opened(), opened()
    for frame in x[: 5 * BATCH]:
        assert single.step(frame).logits.shape == (1, 10)
    heap.step(x[: 5 * BATCH])
    assert single.counters == heap.counters and single.counters["steps"] == 5
    found, expected = session_of(single), session_of(heap)
    assert found.block.has_values_of(expected.block)
    assert found.slots.has_values_of(expected.slots)


def test_a_heap_is_predicted_with_the_block_of_its_time(digits_stream):
    x, _ = digits_stream
    heap, steps = opened(), opened()
    found = heap.step(x[: 4 * BATCH + 3]).logits
    expected = [steps.step(x[i : i + BATCH]).logits for i in range(0, 4 * BATCH, BATCH)]
    expected.append(steps.step(x[4 * BATCH :][:3]).logits)
    np.testing.assert_array_equal(found, np.concatenate(expected))


def test_the_first_frames_ever_are_predicted_at_once(digits_stream):
    x, _ = digits_stream
    runtime = opened()
    for count in range(1, BATCH):
        result = runtime.step(x[count])
        assert len(result.labels) == 1 and result.events == () and not result.adapted
    first, second, *_ = runtime.step(x[BATCH]).events
    assert first.kind == "context" and second.kind in ("adapted", "unreliable")


def test_without_adaptation_step_is_predict_and_the_block_never_changes(digits_stream):
    x, _ = digits_stream
    backend = WatchedBackend(OnnxRuntimeBackend(1))
    runtime, other = open_with(BUNDLE, backend, adapt=False), opened()
    np.testing.assert_array_equal(
        runtime.step(x[: 3 * BATCH + 4]).logits, other.predict(x[: 3 * BATCH + 4]).logits
    )
    assert runtime.counters["frames"] == 3 * BATCH + 4 and runtime.counters["steps"] == 0
    assert "predict" in backend.opened and "adapt" not in backend.opened


def test_the_result_describes_its_own_answers(digits_stream):
    result = opened().step(digits_stream[0][:20])
    assert result.logits.dtype == np.float32 and result.logits.shape == (20, 10)
    assert result.labels.dtype == np.int64 and result.entropy.dtype == np.float32
    np.testing.assert_array_equal(result.labels, result.logits.argmax(1))
    expected = entr(softmax(result.logits.astype(np.float64), axis=1)).sum(1)
    np.testing.assert_allclose(result.entropy, expected, rtol=1e-4, atol=1e-6)
    assert result.context == "context-1"
    assert opened(contexts=False).step(digits_stream[0][:20]).context == "generic"


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_the_entropy_of_a_sure_prediction_is_zero_and_not_nan(scale):
    logits = np.array([[scale, 0, -scale], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(entropies(logits), [0, np.log(3)], rtol=1e-6)
