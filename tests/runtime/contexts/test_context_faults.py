"""What the context memory keeps when commits fail, blocks explode, or others change the file."""

import sqlite3
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
from context_runs import (
    BATCH,
    assert_same_arrays,
    assert_same_blocks,
    assert_same_logits,
    blocks_of,
    events,
    known,
    move_root,
    opened,
    step_all,
)

from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.errors import StateError
from edgemem.runtime.persistence import commits
from edgemem.state.store import State
from edgemem.testing import session_of, state_of

pytestmark = pytest.mark.usefixtures("never_familiar")

PAGES_MORE = 40


@pytest.fixture(scope="module")
def restless(digits_stream):
    """24 batches of few classes in six lights, which open and drop contexts all the time."""
    x = digits_stream[0][: 24 * BATCH].astype(np.float32) / 255
    lights = [x, 0.2 * x + 0.6, 1 - x, 0.5 * x, 0.3 * x, 0.1 * x + 0.9]
    chosen = np.random.default_rng(3).integers(0, len(lights), 24)
    parts = [lights[k][i * BATCH : (i + 1) * BATCH] for i, k in enumerate(chosen)]
    return np.concatenate(parts).astype(np.float32)


def learnt(path, visits):
    """A state file with the blocks of these visits, each committed twice; the blocks."""
    with opened(path) as runtime:
        for frames in visits:
            for half in np.split(frames, 2):
                step_all(runtime, half)
                move_root(runtime)
                runtime.flush()
    return blocks_of(path)


def refuse(self, *arguments):
    raise StateError("disk", "cannot be used", "Wait")


@pytest.fixture(scope="module")
def undisturbed(never_familiar, visits, tmp_path_factory):
    """Blocks after two visits, and the results of the third, when nothing goes wrong."""
    path = tmp_path_factory.mktemp("undisturbed") / "s.db"
    with opened(path) as runtime:
        step_all(runtime, np.concatenate(visits[:2]))
    blocks = blocks_of(path)
    with opened(path) as runtime:
        return blocks, step_all(runtime, visits[2])


def test_a_disk_full_at_any_page_of_a_commit_loses_nothing(visits, undisturbed, tmp_path):
    blocks, results = undisturbed
    with opened(tmp_path / "s.db") as runtime:
        step_all(runtime, np.concatenate(visits[:2]))
        (pages,) = state_of(runtime).rows("PRAGMA page_count")[0]
        for failures in range(40):
            state_of(runtime).rows(f"PRAGMA max_page_count = {pages + failures * PAGES_MORE}")
            try:
                runtime.flush()
                break
            except StateError as error:
                assert "full" in str(error)
    assert failures > 4
    assert_same_blocks(blocks_of(tmp_path / "s.db"), blocks)
    with opened(tmp_path / "s.db") as runtime:
        assert known(runtime) == set(blocks) - {"root"}
        assert_same_logits(step_all(runtime, visits[2]), results)


def test_a_commit_that_fails_at_its_end_loses_nothing(visits, undisturbed, tmp_path, monkeypatch):
    blocks, results = undisturbed
    with opened(tmp_path / "s.db") as runtime:
        step_all(runtime, np.concatenate(visits[:2]))
        with monkeypatch.context() as patch:
            patch.setattr(State, "write", refuse)
            with pytest.raises(StateError):
                runtime.flush()
        runtime.flush()
        assert_same_logits(step_all(runtime, visits[2]), results)
        runtime.rollback("commit")
    assert_same_blocks(blocks_of(tmp_path / "s.db"), blocks)


@pytest.mark.parametrize("target", [(State, "snapshots"), (WrittenBlocks, "listing")])
def test_a_rollback_that_fails_changes_nothing(target, visits, undisturbed, tmp_path, monkeypatch):
    blocks, results = undisturbed
    with opened(tmp_path / "s.db") as runtime:
        step_all(runtime, visits[0])
        runtime.flush()
        step_all(runtime, visits[1])
        with monkeypatch.context() as patch:
            patch.setattr(*target, refuse)
            with pytest.raises(StateError):
                runtime.rollback("commit")
    assert_same_blocks(blocks_of(tmp_path / "s.db"), blocks)
    with opened(tmp_path / "s.db") as runtime:
        assert_same_logits(step_all(runtime, visits[2]), results)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_block_that_explodes_costs_its_own_context_alone(reopened, visits, tmp_path):
    state = tmp_path / "s.db"
    before = learnt(state, visits)
    runtime = opened(state)
    exploding = step_all(runtime, visits[0][:BATCH])[0].context
    runtime.hyper_parameters.set(learning_rate=1e18)
    assert step_all(runtime, visits[0][BATCH : 2 * BATCH])[0].adapted
    runtime.hyper_parameters.set(learning_rate=0.01)
    step_all(runtime, visits[1])
    root = session_of(runtime).contexts.root
    assert all(np.abs(array).max() < 1e3 for array in root.values())
    if reopened:
        runtime.close()
        runtime = opened(state)
    names = known(runtime)
    back = runtime.step(visits[2][:BATCH])
    assert back.context == exploding and events([back], "reset")
    assert np.isfinite(back.logits).all()
    assert known(runtime) == names
    spec, block = runtime.bundle.manifest.block, session_of(runtime).block
    learnt_arrays = [array.name for array in spec.arrays if array.learns]
    assert_same_arrays({n: block[n] for n in learnt_arrays},
                       {n: runtime.bundle.generic[n] for n in learnt_arrays})  # fmt: skip
    assert all(result.adapted for result in step_all(runtime, visits[2][BATCH:])[1:])
    runtime.close()
    after = blocks_of(state)
    assert set(after) == names | {"root"} and set(before) <= set(after)
    for _, arrays in after.values():
        assert all(np.abs(array).max() < 1e3 for array in arrays.values())


def test_steps_whose_entropy_is_not_a_number_can_be_committed(visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        step_all(runtime, visits[0])
        runtime.hyper_parameters.set(learning_rate=1e18)
        exploded = step_all(runtime, visits[0][: 2 * BATCH])
        runtime.flush()
    assert exploded[0].adapted and events(exploded, "restored")
    with opened(state) as runtime:
        results = step_all(runtime, np.concatenate(visits[:2]))
    assert all(np.isfinite(result.logits).all() for result in results)
    assert set(blocks_of(state)) >= {result.context for result in results}


def test_a_refused_commit_on_a_change_of_context_is_an_event(visits, tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "STEPS", 6)
    monkeypatch.setattr(commits, "BYTES", 1 << 40)
    frames, tries = np.concatenate(visits), []

    def failing(self, snapshot):
        tries.append(runtime.counters["steps"])
        refuse(self)

    with opened() as runtime:
        expected = step_all(runtime, frames)
    with opened(tmp_path / "s.db") as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(State, "write", failing)
            results = step_all(runtime, frames)
        move_root(runtime)
        assert_same_logits(results, expected)
        assert len(events(results, "unwritten")) == len(tries) >= 2
        assert all(later - earlier >= 6 for earlier, later in pairwise(tries))
        names = known(runtime)
    assert set(blocks_of(tmp_path / "s.db")) == names | {"root"}


def test_a_reader_does_not_hold_up_contexts_on_trial(restless, tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "STEPS", 1)
    monkeypatch.setattr(commits, "BYTES", 1 << 60)
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        runtime.step(restless[:BATCH])
        runtime.flush()
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM block").fetchall()
            results = step_all(runtime, restless[BATCH:])
            runtime.flush()
        names = known(runtime)
    assert not events(results, "unwritten")
    assert {result.context for result in results} - names
    assert set(blocks_of(state)) - {"root"} == names
