"""Steps on a thread of their own: calls do not wait, and nothing that was left is learnt."""

import os
import threading

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime import background as behind_module
from edgemem.runtime.background import Background

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:
        return stream["x"]


@pytest.fixture
def runtime():
    opened = edgemem.open(BUNDLE, threads=1, background=True, contexts=False)
    yield opened
    opened.close()


@pytest.fixture
def gate(monkeypatch):
    """Steps wait until this event is set."""
    event, start = threading.Event(), Background.start

    def held(self, window, block, step):
        def wait():
            event.wait()
            return step()

        start(self, window, block, wait)

    monkeypatch.setattr(Background, "start", held)
    yield event
    event.set()


def finished(runtime):
    runtime._behind._running[2].exception()  # waits until it has an outcome


def blocks(runtime):
    return {name: value.copy() for name, value in runtime._learner.block.items()}


@pytest.mark.usefixtures("no_opinion")
def test_a_call_does_not_wait_for_the_step_and_predicts_as_without_it(runtime, gate, frames):
    expected = edgemem.open(BUNDLE, threads=1, adapt=False).predict(frames[:BATCH]).logits
    found = runtime.step(frames[:BATCH])
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    assert not found.adapted
    assert runtime.counters["steps"] == 0


def test_what_was_learnt_is_used_by_the_next_call_and_equals_a_step_in_front(runtime, frames):
    runtime.step(frames[:BATCH])
    finished(runtime)
    found = runtime.step(frames[BATCH : BATCH + 1])
    assert found.adapted
    with edgemem.open(BUNDLE, threads=1, contexts=False) as front:
        front.step(frames[:BATCH])
        for name, value in front._learner.block.items():
            np.testing.assert_array_equal(runtime._learner.block[name], value)


def test_frames_that_come_while_a_step_waits_are_not_mixed_into_it(runtime, gate, frames):
    runtime.step(frames[:BATCH])
    for start in range(BATCH, 2 * BATCH - 2, 3):
        runtime.step(frames[start : start + 3])
    gate.set()
    runtime.flush()
    with edgemem.open(BUNDLE, threads=1, contexts=False) as front:
        front.step(frames[:BATCH])
        for name, value in front._learner.block.items():
            np.testing.assert_array_equal(runtime._learner.block[name], value)


def broken(*_):
    raise edgemem.BundleError("adapt.onnx", "fails", "Export again")


def test_a_step_that_fails_takes_nothing_else_with_it(tmp_path, monkeypatch, frames):
    state = tmp_path / "s.db"
    runtime = edgemem.open(BUNDLE, state, threads=1, background=True, contexts=False)
    runtime.step(frames[:BATCH])
    finished(runtime)
    runtime.step(frames[BATCH : BATCH + 1])
    monkeypatch.setattr(runtime._graphs, "adapt", broken)
    runtime.step(frames[BATCH + 1 : 2 * BATCH])
    with pytest.raises(edgemem.BundleError):
        runtime.close()
    with edgemem.open(BUNDLE, state, threads=1, contexts=False) as again:
        assert again.counters["frames"] == 2 * BATCH
        assert again.counters["updates"] == 1


def test_a_rollback_works_after_a_step_that_failed(runtime, monkeypatch, frames):
    monkeypatch.setattr(runtime._graphs, "adapt", broken)
    runtime.step(frames[:BATCH])
    finished(runtime)
    runtime.rollback("zero")
    for name, value in runtime._graphs.zero.items():
        np.testing.assert_array_equal(runtime._learner.block[name], value)


def test_closing_right_after_a_commit_keeps_what_is_being_learnt(tmp_path, gate, frames):
    state = tmp_path / "s.db"
    runtime = edgemem.open(BUNDLE, state, threads=1, background=True, contexts=False)
    runtime.step(frames[:BATCH])
    runtime._keeper.commit("context change")
    gate.set()
    runtime.close()
    with edgemem.open(BUNDLE, state, threads=1, contexts=False) as again:
        assert again.counters["updates"] == 1


def test_batches_that_come_while_a_step_runs_are_only_predicted(runtime, gate, frames):
    for start in range(0, 5 * BATCH, BATCH):
        runtime.step(frames[start : start + BATCH])
    gate.set()
    runtime.flush()
    assert runtime.counters == {**runtime.counters, "frames": 5 * BATCH, "steps": 1, "updates": 1}


def test_a_rollback_also_drops_what_is_being_learnt(runtime, gate, frames):
    runtime.step(frames[:BATCH])
    gate.set()
    runtime.rollback("source")
    runtime.step(frames[BATCH : BATCH + 3])
    for name, value in runtime.bundle.generic.items():
        np.testing.assert_array_equal(runtime._learner.block[name], value)


def test_a_step_whose_block_was_left_is_dropped(runtime, gate, frames):
    runtime.step(frames[:BATCH])
    runtime._learner.take(blocks(runtime))  # as when another context is taken
    gate.set()
    finished(runtime)
    before = blocks(runtime)
    assert not runtime.step(frames[BATCH : BATCH + 1]).adapted
    for name, value in before.items():
        np.testing.assert_array_equal(runtime._learner.block[name], value)


def test_closing_commits_what_is_being_learnt(tmp_path, frames):
    state = tmp_path / "s.db"
    with edgemem.open(BUNDLE, state, threads=1, background=True, contexts=False) as runtime:
        runtime.step(frames[:BATCH])
    with edgemem.open(BUNDLE, state, threads=1, contexts=False) as again:
        assert again.counters["updates"] == 1
        assert not np.array_equal(
            np.concatenate([v.ravel() for v in again._learner.block.values()]),
            np.concatenate([v.ravel() for v in again.bundle.generic.values()]),
        )


@pytest.mark.slow
def test_contexts_are_followed_and_a_whole_stream_gets_better(frames):
    with np.load(STREAM) as stream:
        labels = stream["y"]
    with edgemem.open(BUNDLE, threads=1, background=True) as runtime:
        found = []
        for start in range(0, 1920, BATCH):
            found.append(runtime.step(frames[start : start + BATCH]).labels)
            if runtime._behind.busy:
                finished(runtime)  # this stream comes faster than any camera
        assert runtime.counters["updates"] > 50
        error = np.mean(np.concatenate(found) != labels[:1920])
        frozen = np.mean(runtime.predict(frames[:1920], frozen=True).labels != labels[:1920])
    assert error < frozen / 2


def test_an_error_of_the_step_reaches_the_caller(runtime, monkeypatch, frames):
    monkeypatch.setattr(runtime._graphs, "adapt", broken)
    runtime.step(frames[:BATCH])
    finished(runtime)
    with pytest.raises(edgemem.BundleError, match="adapt.onnx"):
        runtime.step(frames[BATCH : BATCH + 1])
    monkeypatch.undo()
    assert runtime.step(frames[BATCH : BATCH + 1]).logits.shape == (1, 10)


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="the system has no priorities")
def test_the_thread_of_steps_yields_to_others_and_the_rest_does_not():
    own, found = os.getpriority(os.PRIO_PROCESS, 0), []
    background = Background()
    background.start(
        np.zeros((1,), np.float32),
        {},
        lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) or {},
    )
    assert background.take(wait=True).outputs == {}
    background.close()
    assert found == [min(own + behind_module.NICENESS, 19)] or found == [behind_module.NICENESS]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
