"""When what was learnt is committed although nobody asked, and what such a commit writes."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from context_runs import BATCH, assert_same_arrays, blocks_of, opened, step_all

import edgemem
from edgemem.demo import BUNDLE
from edgemem.runtime.persistence import commits
from edgemem.state.store import State
from edgemem.testing import session_of, wait_for_step

pytestmark = pytest.mark.usefixtures("never_familiar")

MOST_STEPS = commits.MOST_STEPS
BLOCK = edgemem.bundle.opening.open_bundle(BUNDLE).manifest.block.nbytes


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("edgemem.runtime.persistence.commits.time.monotonic", clock)
    return clock


@pytest.fixture
def batch(even_frames):
    return even_frames[:BATCH]


def kept(path):
    """Steps that are in the file at this moment, as after a power cut."""
    with closing(State(path, None, read_only=True)) as state:
        snapshot = state.read()
    return 0 if snapshot is None else snapshot.counters["steps"]


@pytest.fixture
def soon(monkeypatch):
    """A bound of 8 steps, which tests reach sooner; other rules stay out of the way."""
    monkeypatch.setattr(commits, "MOST_STEPS", 8)
    monkeypatch.setattr(commits, "STEPS", 1000)
    return 8


@pytest.mark.parametrize("contexts", [True, False], ids=["warm", "cold"])
def test_no_more_steps_are_ever_lost_than_the_bound_says(tmp_path, batch, clock, soon, contexts):
    path, lost = tmp_path / "s.db", []
    with opened(path, contexts=contexts) as runtime:
        for steps in range(1, 30):
            runtime.step(batch)
            assert runtime.counters["steps"] == steps
            lost.append(steps - kept(path))
    assert lost == [steps % soon for steps in range(1, 30)]
    assert kept(path) == 29


@pytest.mark.parametrize("contexts", [True, False], ids=["warm", "cold"])
def test_what_was_learnt_is_committed_after_60_seconds(tmp_path, batch, clock, contexts):
    path = tmp_path / "s.db"
    with opened(path, contexts=contexts) as runtime:
        runtime.step(batch)
        clock.now += 59.9
        runtime.step(batch)
        assert kept(path) == 0
        clock.now += 0.1
        runtime.step(batch[:1])  # any call to step will do
        assert kept(path) == 2
        clock.now += 60
        runtime.step(batch[1:])
        assert kept(path) == 3
        clock.now += 1000
        version = runtime.bytes_written
        runtime.step(batch[:1])
        assert runtime.bytes_written == version  # nothing was learnt since


def test_the_bounds_are_those_that_the_docs_promise():
    assert (commits.MOST_STEPS, commits.MOST_SECONDS) == (64, 60)


def test_a_long_call_commits_on_the_way(tmp_path, batch, clock, soon):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.step(np.concatenate([batch] * (2 * soon + 3)))
        assert kept(path) == 2 * soon


def test_nothing_is_committed_where_nothing_is_learnt(tmp_path, batch, clock):
    with opened(tmp_path / "s.db", adapt=False) as runtime:
        for _ in range(3):
            clock.now += 100
            runtime.step(batch)
        assert runtime.bytes_written == 0


def test_a_step_in_the_background_is_committed_too(tmp_path, batch, clock):
    path = tmp_path / "s.db"
    with opened(path, background=True) as runtime:
        runtime.step(batch)
        wait_for_step(runtime)
        clock.now += 60
        runtime.step(batch[:1])
        assert kept(path) == 1


def test_a_disk_that_refuses_is_told_and_tried_again_after_as_many_steps(
    tmp_path, batch, clock, monkeypatch, soon
):
    path, tries = tmp_path / "s.db", []

    def refused(self, snapshot):
        tries.append(snapshot.counters["steps"])
        raise edgemem.StateError("s.db", "is on a full disk", "Make room")

    with opened(path) as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(State, "write", refused)
            results = step_all(runtime, np.concatenate([batch] * (2 * soon + 2)))
        told = [event for result in results for event in result.events if event.kind == "unwritten"]
        assert tries == [soon, 2 * soon] and len(told) == 2 and "full disk" in told[0].message
        assert all(len(result.logits) == BATCH for result in results)
        step_all(runtime, np.concatenate([batch] * (soon - 2)))
        assert kept(path) == 3 * soon


@pytest.mark.parametrize("contexts", [True, False], ids=["warm", "cold"])
def test_after_a_power_cut_the_block_is_that_of_the_commit(tmp_path, batch, clock, contexts):
    path, copy = tmp_path / "s.db", tmp_path / "after.db"
    with opened(path, contexts=contexts) as runtime:
        step_all(runtime, np.concatenate([batch] * 18))
        clock.now += 60
        runtime.step(batch)
        block, known, keys = session_of(runtime).block, None, None
        if contexts:
            known = session_of(runtime).contexts.policy
            keys = {n: (c.key.copy(), c.count) for n, c in known.known.items()}
        with closing(sqlite3.connect(path)) as reader:
            image = reader.serialize()
    copy.write_bytes(image)
    with opened(copy, contexts=contexts) as again:
        assert again.counters["steps"] == 19
        assert_same_arrays(session_of(again).block, block)
        if known is not None:
            found = session_of(again).contexts.policy
            assert (found.present, found.opened) == (known.present, known.opened)
            assert found.known[found.present].count == 19
            for number, (key, count) in keys.items():
                np.testing.assert_array_equal(found.known[number].key, key)
                assert found.known[number].count == count
        again.step(batch)
        again.flush()
        assert again.counters["steps"] == 20


def test_such_a_commit_leaves_the_leaf_alone_until_somebody_asks(tmp_path, visits, clock, soon):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, np.concatenate([visits[0]] * 4))
        assert kept(path) == 2 * soon
    versions = blocks_of(path)["context-1"][0].version
    with opened(path) as runtime:
        step_all(runtime, np.concatenate([visits[0]] * 4))
        with closing(State(path, None, read_only=True)) as state:
            rows = state.rows("SELECT max(version) FROM block WHERE id = 'context-1'")
        assert rows == [(versions,)] and kept(path) == 4 * soon
        block = session_of(runtime).block
    _, leaf = blocks_of(path)["context-1"]
    _, root = blocks_of(path).get(
        "root", (None, edgemem.bundle.opening.open_bundle(BUNDLE).generic)
    )
    for name, array in block.items():
        np.testing.assert_allclose(root[name] + leaf[name], array, atol=1e-6)


def test_such_a_commit_writes_the_block_and_little_else(tmp_path, even_frames, clock, monkeypatch):
    frames = MOST_STEPS * BATCH
    monkeypatch.setattr(commits, "MOST_STEPS", 5)
    sizes, before = [], 0
    with opened(tmp_path / "s.db") as runtime:
        for number in range(60):
            runtime.step(even_frames[number % 10 * BATCH :][:BATCH])
            if runtime.bytes_written > before:
                sizes.append(runtime.bytes_written - before)
                before = runtime.bytes_written
    assert len(sizes) == 12
    # To the log and to the file: the block, and the last sound one if that is another.
    assert all(2 * BLOCK <= size <= 4.2 * BLOCK for size in sizes[1:])
    # The figures of docs/decisions/state/only-changes-are-written.md, for this block of 172 kB.
    assert 0.33e6 < 1000 * min(sizes[1:]) / frames < 0.36e6
    assert 0.66e6 < 1000 * max(sizes[1:]) / frames < 0.72e6 < commits.BYTES
