"""Steps on a thread of their own: calls do not wait, and nothing that was left is learnt."""

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from opening import opened_with

import edgemem
from edgemem.block import Block
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.batch import Batch
from edgemem.runtime.persistence.commits import Commit
from edgemem.runtime.step import background as behind_module
from edgemem.runtime.step.background import Background
from edgemem.runtime.step.graphs import Graphs
from edgemem.testing import put_session, session_of, wait_for_step

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:
        return stream["x"]


@pytest.fixture
def runtime():
    opened = opened_with(BUNDLE, threads=1, background=True, contexts=False)
    yield opened
    opened.close()


@pytest.fixture
def gate(monkeypatch):
    """Steps wait until this event is set."""
    event, step = threading.Event(), Batch.step

    def held(self, block, slots):
        event.wait()
        return step(self, block, slots)

    monkeypatch.setattr(Batch, "step", held)
    yield event
    event.set()


@pytest.mark.usefixtures("block_alone")
def test_a_call_does_not_wait_for_the_step_and_predicts_as_without_it(runtime, gate, frames):
    expected = edgemem.open(BUNDLE, threads=1, adapt=False).predict(frames[:BATCH]).logits
    found = runtime.step(frames[:BATCH])
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    assert not found.adapted
    assert runtime.counters["steps"] == 0


def test_what_was_learnt_is_used_by_the_next_call_and_equals_a_step_in_front(runtime, frames):
    runtime.step(frames[:BATCH])
    wait_for_step(runtime)
    found = runtime.step(frames[BATCH : BATCH + 1])
    assert found.adapted
    with opened_with(BUNDLE, threads=1, contexts=False) as front:
        front.step(frames[:BATCH])
        assert session_of(runtime).block.has_values_of(session_of(front).block)


def test_frames_that_come_while_a_step_waits_are_not_mixed_into_it(runtime, gate, frames):
    runtime.step(frames[:BATCH])
    for start in range(BATCH, 2 * BATCH - 2, 3):
        runtime.step(frames[start : start + 3])
    gate.set()
    runtime.flush()
    with opened_with(BUNDLE, threads=1, contexts=False) as front:
        front.step(frames[:BATCH])
        assert session_of(runtime).block.has_values_of(session_of(front).block)


def broken(*_):
    raise edgemem.BundleError("adapt.onnx", "fails", "Export again")


def test_a_step_that_fails_takes_nothing_else_with_it(tmp_path, monkeypatch, frames):
    state = tmp_path / "s.db"
    runtime = opened_with(BUNDLE, state, threads=1, background=True, contexts=False)
    runtime.step(frames[:BATCH])
    wait_for_step(runtime)
    runtime.step(frames[BATCH : BATCH + 1])
    monkeypatch.setattr(Graphs, "adapt", broken)
    runtime.step(frames[BATCH + 1 : 2 * BATCH])
    with pytest.raises(edgemem.BundleError):
        runtime.close()
    with opened_with(BUNDLE, state, threads=1, contexts=False) as again:
        assert again.counters["frames"] == 2 * BATCH
        assert again.counters["updates"] == 1


def test_a_rollback_works_after_a_step_that_failed(runtime, monkeypatch, frames):
    monkeypatch.setattr(Graphs, "adapt", broken)
    runtime.step(frames[:BATCH])
    wait_for_step(runtime)
    runtime.rollback("zero")
    assert session_of(runtime).block.has_values_of(runtime.bundle.manifest.block.zero())


def test_closing_right_after_a_commit_keeps_what_is_being_learnt(tmp_path, gate, frames):
    state = tmp_path / "s.db"
    runtime = opened_with(BUNDLE, state, threads=1, background=True, contexts=False)
    runtime.step(frames[:BATCH])
    runtime._keeper.commit(Commit("context change"))
    gate.set()
    runtime.close()
    with opened_with(BUNDLE, state, threads=1, contexts=False) as again:
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
    assert session_of(runtime).block.has_values_of(runtime.bundle.generic)


def test_a_step_whose_block_was_left_is_dropped(runtime, gate, frames):
    runtime.step(frames[:BATCH])
    session = session_of(runtime)
    other = Block({name: array.copy() for name, array in session.block.items()})
    put_session(runtime, session.taking(other, runtime.bundle))  # as when another context is taken
    gate.set()
    wait_for_step(runtime)
    assert not runtime.step(frames[BATCH : BATCH + 1]).adapted
    assert session_of(runtime).block is other


def test_closing_commits_what_is_being_learnt(tmp_path, frames):
    state = tmp_path / "s.db"
    with opened_with(BUNDLE, state, threads=1, background=True, contexts=False) as runtime:
        runtime.step(frames[:BATCH])
    with opened_with(BUNDLE, state, threads=1, contexts=False) as again:
        assert again.counters["updates"] == 1
        assert not session_of(again).block.has_values_of(again.bundle.generic)


@pytest.mark.slow
def test_contexts_are_followed_and_a_whole_stream_gets_better(frames):
    with np.load(STREAM) as stream:
        labels = stream["y"]
    with opened_with(BUNDLE, threads=1, background=True) as runtime:
        found = []
        for start in range(0, 1920, BATCH):
            found.append(runtime.step(frames[start : start + BATCH]).labels)
            wait_for_step(runtime)  # this stream comes faster than any camera
        assert runtime.counters["updates"] > 50
        error = np.mean(np.concatenate(found) != labels[:1920])
        frozen = np.mean(runtime.predict(frames[:1920], frozen=True).labels != labels[:1920])
    assert error < frozen / 2


def test_an_error_of_the_step_reaches_the_caller(runtime, monkeypatch, frames):
    monkeypatch.setattr(Graphs, "adapt", broken)
    runtime.step(frames[:BATCH])
    wait_for_step(runtime)
    with pytest.raises(edgemem.BundleError, match="adapt.onnx"):
        runtime.step(frames[BATCH : BATCH + 1])
    monkeypatch.undo()
    assert runtime.step(frames[BATCH : BATCH + 1]).logits.shape == (1, 10)


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="the system has no priorities")
def test_the_thread_of_steps_yields_to_others_and_the_rest_does_not():
    own, found = os.getpriority(os.PRIO_PROCESS, 0), []
    background = Background()

    def step(block, slots):
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return {}

    background.start(SimpleNamespace(step=step), Block({}), Block({}))
    assert background.take(wait=True).outputs == {}
    background.close()
    assert found == [min(own + behind_module.NICENESS, 19)] or found == [behind_module.NICENESS]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
