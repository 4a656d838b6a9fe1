"""Written blocks: versions, history, rollback, worth, and several writes in one commit."""

import hashlib
import json
import sqlite3
import time

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import edgemem
from edgemem.bank.written.block_table import HISTORY
from edgemem.bank.written.eviction import worth
from edgemem.bank.written.record import LARGEST, PATH, Provenance
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import Snapshot, State

ORIGIN = Provenance("bundle", 12, 0.75, "context change")


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "s.db", "bundle")
    yield state
    state.close()


@pytest.fixture
def blocks(state):
    return WrittenBlocks(state)


def put(blocks, name="night", value=1.0, path="3/51", count=1, size=300, **changes):
    values = {"path": path, "key": np.arange(4), "count": count, "provenance": ORIGIN, **changes}
    return blocks.put(name, {"w": np.full(size, value, np.float32)}, **values)


def value_of(blocks, name="night"):
    return float(blocks.read(name)[1]["w"][0])


def history(blocks, name="night"):
    """Version and parent of every version that is kept, newest first."""
    order = "WHERE id = ? ORDER BY version DESC"
    return blocks._state.rows(f"SELECT version, parent FROM block {order}", name)


def test_a_block_comes_back_with_all_that_is_known_of_it(tmp_path, state, blocks):
    before = int(time.time())
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int64)}
    key = np.array([0.5, -1.25], np.float32)
    blocks.put("night", arrays, path="3/51/+", key=key, count=np.int64(9), provenance=ORIGIN)
    state.close()
    reopened = State(tmp_path / "s.db", "bundle")
    record, found = WrittenBlocks(reopened).read("night")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(record.key, key)
    assert record.key.dtype == np.float32
    known = (record.id, record.path, record.version, record.parent, record.count)
    assert known == ("night", "3/51/+", 1, 0, 9)
    assert record.provenance == ORIGIN and before <= record.created <= time.time()
    listing = WrittenBlocks(reopened).listing()
    assert [r.as_dict() for r in listing.records] == [record.as_dict()] and not listing.damage
    json.dumps(record.as_dict())
    reopened.close()


def test_the_highest_version_is_the_block_and_history_is_bounded(blocks):
    for value in range(10):
        put(blocks, value=value)
        put(blocks, "day", value=-value)
    assert (value_of(blocks), value_of(blocks, "day")) == (9, -9)
    assert history(blocks) == [(19, 17), (17, 15), (15, 13), (13, 11)]
    assert len(history(blocks)) == HISTORY
    assert [r.id for r in blocks.listing().records] == ["day", "night"]
    assert blocks.verify() == []


def test_rollback_writes_the_version_before_again_and_goes_further_back_each_time(blocks):
    for value in (1, 2, 3):
        put(blocks, value=value)
    assert (blocks.rollback("night").version, value_of(blocks)) == (4, 2)
    assert (blocks.rollback("night").version, value_of(blocks)) == (5, 1)
    assert blocks.read("night")[0].provenance.why == "rolled back to version 1"
    with pytest.raises(edgemem.InputError, match=r"block 'night': has no intact earlier version"):
        blocks.rollback("night")
    put(blocks, value=8)
    assert (blocks.rollback("night").parent, value_of(blocks)) == (0, 1)
    assert blocks.verify() == []


def test_numbers_are_never_given_twice_not_even_after_forget(blocks):
    put(blocks)
    put(blocks)
    blocks.forget("night")
    assert put(blocks).version == 3


@pytest.mark.parametrize("name", ["nobody", "", "a\nb", "\udc80", "x" * 129])
def test_unknown_blocks_are_named(blocks, name):
    for call in (blocks.read, blocks.rollback, blocks.forget, blocks.payload):
        with pytest.raises(edgemem.InputError, match="is not there. List them"):
            call(name)


@pytest.mark.parametrize(
    ("wrong", "changes"),
    [
        ("id", {"name": ""}),
        ("id", {"name": "x" * 129}),
        ("id", {"name": "a\nb"}),
        ("id", {"name": "\udc80"}),
        ("path", {"path": "../3"}),
        ("path", {"path": "3/"}),
        ("path", {"path": "+/3"}),
        ("path", {"path": "03"}),
        ("key", {"key": np.array([np.nan])}),
        ("key", {"key": np.ones((2, 2))}),
        ("count", {"count": -1}),
        ("count", {"count": 1 << 60}),
        ("steps", {"provenance": Provenance("b", -1, 0.0, "")}),
        ("mean_entropy", {"provenance": Provenance("b", 1, float("nan"), "")}),
        ("why", {"provenance": Provenance("b", 1, 0.0, "a\nb")}),
    ],
)
def test_what_cannot_be_stored_is_refused_and_changes_nothing(blocks, wrong, changes):
    put(blocks)
    with pytest.raises(edgemem.InputError, match=f"has a {wrong} that cannot be stored"):
        put(blocks, **changes)
    assert (history(blocks), blocks.verify()) == ([(1, 0)], [])


@pytest.mark.parametrize("path", ["", "0", "3/51", "3/51/+", "+", "0/0/65535"])
def test_places_in_the_tree_are_text(path):
    assert PATH.fullmatch(path)


def test_one_transaction_holds_blocks_and_snapshot_or_none_of_them(state, blocks):
    with state.transaction():
        put(blocks, value=1)
        state.write(Snapshot({}, {"steps": 1}))
    with pytest.raises(RuntimeError), state.transaction():
        put(blocks, value=2)
        state.write(Snapshot({}, {"steps": 2}))
        raise RuntimeError
    assert (value_of(blocks), state.read().counters) == (1, {"steps": 1})
    with state.transaction():
        state.write(Snapshot({}, {"steps": 3}))
        with pytest.raises(edgemem.InputError):  # only this part is taken back
            put(blocks, value=4, count=-1)
    assert (value_of(blocks), state.read().counters) == (1, {"steps": 3})
    assert blocks.verify() == []


def test_worth_rises_with_count_and_falls_with_age_and_size():
    assert worth(9, 5, 100) > worth(1, 5, 100) > worth(1, 6, 100) > worth(1, 6, 101) > 0
    assert worth(0, -3, 0) == worth(0, 0, 1)


def test_eviction_takes_history_first_then_what_is_worth_least(blocks):
    for name, count in (("often", 90), ("rare", 1), ("kept", 0), ("late", 1)):
        put(blocks, name, count=count)
    put(blocks, "often", count=91)
    size = blocks.read("often")[0].nbytes
    assert blocks.evict(5 * size) == []
    assert blocks.evict(4 * size) == [] and len(history(blocks, "often")) == 1
    assert blocks.evict(3 * size, keep=["kept"]) == ["rare"]
    assert blocks.evict(2 * size, keep=["kept"]) == ["late"]
    assert blocks.evict(0, keep=["kept"]) == ["often"]
    assert [r.id for r in blocks.listing().records] == ["kept"] and blocks.verify() == []


def test_a_clock_going_backwards_changes_no_order(blocks, monkeypatch):
    for seconds in (2e9, 1e9, 5.0, -7.0):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        put(blocks, value=seconds)
        put(blocks, "other")
    assert value_of(blocks) == -7 and blocks.read("night")[0].created == 0
    blocks.rollback("night")
    assert value_of(blocks) == 5
    put(blocks, "other")
    assert blocks.evict(blocks.read("other")[0].nbytes) == ["night"]


class Model:
    """What written blocks should do, on plain lists."""

    def __init__(self):
        self.clock, self.rows = 0, {}

    def put(self, name, value):
        self.clock += 1
        rows = self.rows.setdefault(name, [])
        rows.append((self.clock, rows[-1][0] if rows else 0, value))
        del rows[:-HISTORY]

    def rollback(self, name):
        rows = self.rows.get(name, [])
        found = [row for row in rows if row[0] == rows[-1][1]]
        if not found:
            return False
        self.clock += 1
        rows.append((self.clock, *found[0][1:]))
        del rows[:-HISTORY]
        return True


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["put", "rollback", "forget"]),
                          st.sampled_from("abc"), st.booleans()), max_size=25))  # fmt: skip
def test_any_course_agrees_with_the_model(tmp_path_factory, course):
    path = tmp_path_factory.mktemp("course") / "s.db"
    model, state = Model(), State(path, "bundle")
    for number, (what, name, reopen) in enumerate(course):
        blocks = WrittenBlocks(state)
        if what == "put":
            put(blocks, name, value=number)
            model.put(name, number)
        elif what == "rollback" and not model.rollback(name):
            with pytest.raises(edgemem.InputError):
                blocks.rollback(name)
        elif what == "rollback":
            blocks.rollback(name)
        elif model.rows.pop(name, None):
            blocks.forget(name)
        if reopen:
            state.close()
            state = State(path, "bundle")
    blocks = WrittenBlocks(state)
    assert [r.id for r in blocks.listing().records] == sorted(model.rows)
    for name, rows in model.rows.items():
        assert history(blocks, name) == [row[:2] for row in reversed(rows)]
        assert value_of(blocks, name) == rows[-1][2]
    assert blocks.verify() == []
    state.close()


def test_plain_sqlite_and_safetensors_read_it_as_documented(tmp_path, state, blocks):
    put(blocks, value=5, path="", count=3)
    state.close()
    with sqlite3.connect(tmp_path / "s.db") as database:
        columns = (
            "id, path, version, parent, hex(key), count, created, provenance, nbytes, "
            "payload_sha256, sha256, content"
        )
        row = database.execute(
            f"SELECT {columns} FROM block JOIN payload USING (row) ORDER BY version DESC LIMIT 1"
        ).fetchone()
    database.close()
    lines = [str(value).lower() if n == 4 else str(value) for n, value in enumerate(row[:10])]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == row[10]
    assert hashlib.sha256(row[11]).hexdigest() == row[9] and len(row[11]) == row[8]
    assert (safetensors.numpy.load(row[11])["w"] == 5).all()
    np.testing.assert_array_equal(np.frombuffer(bytes.fromhex(row[4]), "<f4"), np.arange(4))
    assert json.loads(row[7])["why"] == "context change" and row[2] < LARGEST
