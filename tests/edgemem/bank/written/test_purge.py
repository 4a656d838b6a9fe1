"""Taking something out of all written blocks: what held it is gone, everything else stays."""

from contextlib import closing

import numpy as np
import pytest

from edgemem.bank.written.block_table import BlockTable
from edgemem.bank.written.purge import purge
from edgemem.bank.written.record import Provenance
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.errors import InputError, StateError
from edgemem.state.store import Snapshot, State


@pytest.fixture
def state(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as state:
        yield state


def put(state, name, *values):
    for value in values:
        WrittenBlocks(state).put(
            name, {"w": np.full(50, value, np.float32)},
            path="+", key=[1.0], count=3, provenance=Provenance("bundle", 1, 0.5, "test"),
        )  # fmt: skip


def cleared(arrays):
    return {"w": np.zeros_like(arrays["w"])} if (arrays["w"] == 7).any() else arrays


def held(state):
    """First number of every version, the current one first, by block."""
    blocks = WrittenBlocks(state)
    assert blocks.verify() == []
    table = BlockTable(state)
    found = {}
    for record in blocks.listing().records:
        versions = table.known(record.id)
        payloads = [table.read(record.id, version)[1] for version in versions]
        found[record.id] = [float(np.frombuffer(p[-4:], np.float32)[0]) for p in payloads]
    return found


def test_versions_that_hold_it_go_and_others_stay(state):
    put(state, "a", 1, 7, 2)
    put(state, "b", 3, 7)
    put(state, "c", 4, 5)
    purge(state, cleared, "for a test")
    assert held(state) == {"a": [2, 1], "b": [0, 3], "c": [5, 4]}
    record, _ = WrittenBlocks(state).read("b")
    assert (record.path, record.count, record.provenance.why) == ("+", 3, "for a test")
    before = [r.version for r in WrittenBlocks(state).listing().records]
    purge(state, cleared, "again")
    assert [r.version for r in WrittenBlocks(state).listing().records] == before


def test_rollback_passes_over_versions_that_went(state):
    put(state, "a", 1, 7, 2)
    purge(state, cleared, "for a test")
    WrittenBlocks(state).rollback("a")
    assert held(state)["a"] == [1, 2, 1]
    with pytest.raises(InputError, match="no intact earlier version"):
        WrittenBlocks(state).rollback("a")


def test_an_earlier_version_that_cannot_be_read_goes(state):
    put(state, "a", 1, 2)
    state.rows("UPDATE payload SET content = x'00' WHERE row = 1")
    purge(state, cleared, "for a test")
    assert held(state) == {"a": [2]}


def test_a_block_that_cannot_be_read_stops_it(state):
    put(state, "a", 1, 7)
    put(state, "b", 7)
    state.rows("UPDATE payload SET content = x'00' WHERE row = 3")
    with pytest.raises(StateError, match="block 'b': is damaged"):
        purge(state, cleared, "for a test")
    assert WrittenBlocks(state).read("a")[1]["w"][0] == 7


def test_only_the_newest_snapshot_stays_when_earlier_ones_are_dropped(state):
    for steps in (1, 2):
        state.write(Snapshot({}, {"steps": steps}))
    assert state.rows("SELECT count(*) FROM snapshot") == [(2,)]
    state.drop_earlier()
    assert state.rows("SELECT count(*) FROM snapshot") == [(1,)]
    assert state.read().counters == {"steps": 2}
