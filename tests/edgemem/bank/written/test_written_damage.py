"""Damage to written blocks: named and left out, never taken for another version."""

import sqlite3
from contextlib import closing, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgemem
from edgemem.bank.written.record import COLUMNS, Provenance, seal
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import State

ORIGIN = Provenance("bundle", 1, 0.5, "flush")


def values(number, size=200):
    return np.full(size, number, np.float32)


def filled(path, course=("night", "day", "night", "rain")):
    """A state with blocks; the arrays of a version hold its number."""
    state = State(path, "bundle")
    blocks = WrittenBlocks(state)
    for number, name in enumerate(course, 1):
        blocks.put(name, {"w": values(number)}, path="1", key=[1, 2], count=1, provenance=ORIGIN)
    state.close()


def execute(path, statement, *parameters):
    database = sqlite3.connect(path)
    rows = database.execute(statement, parameters).fetchall()
    database.commit()
    database.close()
    return rows


@pytest.fixture
def path(tmp_path):
    filled(tmp_path / "s.db")
    return tmp_path / "s.db"


@pytest.fixture
def opened(path):
    """Open the blocks; the file is closed after the test."""
    states = []

    def open_blocks(**options):
        states.append(State(path, "bundle", **options))
        return WrittenBlocks(states[-1])

    yield open_blocks
    for state in states:
        state.close()


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", [b"\xff\x00\xff", "text", 5, 0.5, "\ud7ff", 1 << 62])
def test_a_changed_column_is_reported_and_the_rest_works(path, opened, column, value):
    execute(path, f"UPDATE block SET {column} = ? WHERE version = 3", value)
    blocks = opened()
    listing = blocks.listing()
    assert any("is damaged" in str(error) for error in listing.damage) and blocks.verify()
    intact = {record.id: record.version for record in listing.records}
    assert intact["day"] == 2 and intact["rain"] == 4
    if column not in ("id", "version"):
        assert "night" not in intact
        with pytest.raises(edgemem.StateError, match=r"s\.db: block 'night': is damaged. Run edge"):
            blocks.read("night")
        assert (blocks.rollback("night").version, blocks.read("night")[1]["w"][0]) == (5, 1)
    assert (blocks.read("day")[1]["w"] == 2).all()
    blocks.put("day", {"w": values(9)}, path="1", key=[1, 2], count=1, provenance=ORIGIN)


def test_damaged_arrays_are_reported_when_they_are_read(path, opened):
    payload = bytearray(execute(path, "SELECT content FROM payload WHERE row = 3")[0][0])
    payload[-1] ^= 1
    execute(path, "UPDATE payload SET content = ? WHERE row = 3", bytes(payload))
    blocks = opened()
    assert [record.version for record in blocks.listing().records] == [2, 3, 4]
    assert [error.thing for error in blocks.verify()] == [f"{path}: block 'night'"]
    with pytest.raises(edgemem.StateError, match="block 'night': is damaged"):
        blocks.read("night")
    blocks.forget("night")
    assert blocks.verify() == [] and len(blocks.listing().records) == 2


def test_damage_to_an_earlier_version_does_not_touch_the_current_one(path, opened):
    execute(path, "UPDATE block SET count = 77 WHERE version = 1")
    blocks = opened()
    assert [record.version for record in blocks.listing().records] == [2, 3, 4]
    assert blocks.read("night")[0].version == 3 and len(blocks.verify()) == 1
    with pytest.raises(edgemem.InputError, match="no intact earlier version"):
        blocks.rollback("night")


def test_a_new_version_takes_the_place_of_one_whose_number_is_damaged(path, opened):
    execute(path, "UPDATE block SET version = 'x' WHERE id = 'night' AND version = 3")
    blocks = opened()
    with pytest.raises(edgemem.StateError, match="is damaged"):
        blocks.read("night")
    blocks.put("night", {"w": values(9)}, path="1", key=[1, 2], count=1, provenance=ORIGIN)
    assert blocks.read("night")[1]["w"][0] == 9
    assert [place for place, _ in blocks.intact("night")] == [0, 1]


def test_intact_versions_are_told_with_their_places(path, opened):
    row = execute(path, "SELECT row FROM block WHERE id = 'night' AND version = 3")[0][0]
    execute(path, "UPDATE payload SET content = x'00' WHERE row = ?", row)
    ((place, arrays),) = opened().intact("night")
    assert place == 1 and arrays["w"][0] == 1
    assert list(opened(read_only=True).intact("nobody")) == []


def test_rollback_passes_over_a_damaged_version(opened):
    blocks = opened()
    blocks.put("night", {"w": values(9)}, path="1", key=[1, 2], count=1, provenance=ORIGIN)
    blocks._state.rows("UPDATE block SET count = 77 WHERE version = 3")
    assert (blocks.rollback("night").parent, blocks.read("night")[1]["w"][0]) == (0, 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("version", 0), ("version", 1 << 60), ("parent", 4), ("count", -1), ("path", "../1"),
        ("key", b"123"), ("key", b"\0\0\xc0\x7f"), ("provenance", "[]"), ("provenance", "{"),
        ("provenance", "[" * 100_000), ("provenance", '{"bundle": 1}'), ("id", "a\nb"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused_even_under_their_right_hash(path, opened, column, value):
    row = execute(path, f"SELECT {', '.join(COLUMNS)} FROM block WHERE version = 3")[0]
    changed = dict(zip(COLUMNS, row, strict=True)) | {column: value}
    changed["sha256"] = seal(tuple(changed[name] for name in COLUMNS[:-1]))
    sets = ", ".join(f"{name} = ?" for name in COLUMNS)
    execute(path, f"UPDATE block SET {sets} WHERE version = 3", *changed.values())
    assert "is damaged" in str(opened().listing().damage[0])


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM block WHERE version = 3",
        "DELETE FROM block WHERE version = 1",
        "DELETE FROM about WHERE name = 'tally'",
    ],
)
def test_rows_that_vanished_are_missed_until_somebody_accepts_it(path, opened, statement):
    execute(path, statement)
    blocks = opened()
    assert "has lost written blocks" in str(blocks.listing().damage[0])
    blocks.compact()
    assert blocks.verify() == []
    record = blocks.put("new", {"w": values(1)}, path="", key=[], count=1, provenance=ORIGIN)
    assert record.version > 4


@pytest.mark.parametrize("value", ["junk", "[]", "[1, 2]", "{}", b"\xff", 5, '[9, 4, "0", "0"]'])
def test_a_damaged_tally_stops_writing_and_compacting_counts_anew(path, opened, value):
    execute(path, "UPDATE about SET value = ? WHERE name = 'tally'", value)
    blocks = opened()
    with pytest.raises(edgemem.StateError, match="has lost written blocks, or holds foreign"):
        blocks.put("new", {"w": values(1)}, path="", key=[], count=1, provenance=ORIGIN)
    assert blocks.read("night")[0].version == 3
    blocks.compact()
    assert blocks.verify() == []


@settings(max_examples=60)
@given(st.data())
def test_flipped_and_missing_bytes_give_the_blocks_or_a_state_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "s.db"
    if not _CONTENT:
        filled(path)
        _CONTENT.append(path.read_bytes())
    content = bytearray(_CONTENT[0])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(
                st.integers(0, 7)
            )
    path.write_bytes(content)
    judge(path)
    write_all(path)


_CONTENT = []


def judge(path):
    """Whatever happened to the file: what is read was written, what is not read is reported."""
    empty = path.stat().st_size == 0
    try:
        state = State(path, "bundle")
    except edgemem.StateError as error:
        assert error.thing.startswith(str(path)) and error.remedy
        return
    blocks = WrittenBlocks(state)
    try:
        listing, damage = blocks.listing(), blocks.verify()
        found = {}
        for record in listing.records:
            try:
                found[record.id] = blocks.read(record.id)
            except edgemem.StateError:
                assert damage
    except edgemem.StateError as error:
        assert error.thing.startswith(str(path)) and error.remedy
        return
    finally:
        state.close()
    newest = {"night": 3, "day": 2, "rain": 4}
    for name, (record, arrays) in found.items():
        assert damage or record.version == newest[name]
        assert (arrays["w"] == record.version).all()
    # A file cut to nothing is a new one; otherwise nothing is missing without a word.
    assert damage or empty or found.keys() == newest.keys()


def write_all(path):
    """Every way of writing to a damaged file works, or refuses with an error of ours."""
    with suppress(edgemem.EdgeMemError), closing(State(path, "bundle")) as state:
        blocks = WrittenBlocks(state)
        for call in (
            lambda: blocks.put(
                "night", {"w": values(5)}, path="", key=[1, 2], count=1, provenance=ORIGIN
            ),
            lambda: blocks.rollback("night"),
            lambda: blocks.evict(2000),
            lambda: blocks.forget("rain"),
            blocks.compact,
        ):
            with suppress(edgemem.EdgeMemError):
                call()
