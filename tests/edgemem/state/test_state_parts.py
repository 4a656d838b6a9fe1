"""What a commit writes: only what has changed, and what is damaged counts as changed."""

from contextlib import closing

import numpy as np
import pytest

from edgemem.block import pack
from edgemem.state.store import Snapshot, State

LARGE, SMALL = np.arange(50_000, dtype=np.float32), np.ones(10, np.float32)


@pytest.fixture
def state(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as opened:
        yield opened


def written(state, **arrays):
    before = state.bytes_written
    state.write(Snapshot({n.replace("_", "."): a for n, a in arrays.items()}, {}))
    return state.bytes_written - before


def contents(state):
    return [len(content) for (content,) in state.rows("SELECT content FROM part")]


def test_an_unchanged_part_is_not_written_again(state):
    first = written(state, block_w=LARGE, ring=SMALL)
    assert first >= 2 * LARGE.nbytes
    second = written(state, block_w=LARGE, ring=2 * SMALL)
    assert 0 < second < first / 50
    assert written(state, block_w=LARGE, ring=2 * SMALL) == 0
    found = state.read().arrays
    assert set(found) == {"block.w", "ring"}
    np.testing.assert_array_equal(found["block.w"], LARGE)
    np.testing.assert_array_equal(found["ring"], 2 * SMALL)


def test_equal_parts_are_written_once_and_come_back_under_both_names(state):
    assert written(state, good_w=LARGE, block_w=LARGE) == 2 * len(pack({".w": LARGE}))
    assert len(contents(state)) == 1
    found = state.read().arrays
    np.testing.assert_array_equal(found["good.w"], found["block.w"])


def test_parts_go_with_the_last_snapshot_that_has_them(state):
    for number in range(1, 6):
        written(state, block_w=LARGE + number, always=SMALL)
        assert len(contents(state)) == 1 + min(number, 2)
    state.drop_earlier()
    assert len(contents(state)) == 2
    np.testing.assert_array_equal(state.read().arrays["block.w"], LARGE + 5)


def test_a_part_that_is_damaged_is_written_again(state):
    written(state, block_w=LARGE)
    state.rows("UPDATE part SET content = zeroblob(length(content))")
    assert written(state, block_w=LARGE) > LARGE.nbytes
    np.testing.assert_array_equal(state.read().arrays["block.w"], LARGE)
    assert len(contents(state)) == 1


def test_a_commit_that_fails_leaves_parts_and_snapshots_as_they_were(state):
    written(state, block_w=LARGE)
    written(state, block_w=LARGE + 1)
    before = state.rows("SELECT * FROM part"), state.rows("SELECT * FROM snapshot")
    with pytest.raises(RuntimeError, match="here"), state.transaction():
        written(state, block_w=LARGE + 2)
        raise RuntimeError("here")
    assert (state.rows("SELECT * FROM part"), state.rows("SELECT * FROM snapshot")) == before
