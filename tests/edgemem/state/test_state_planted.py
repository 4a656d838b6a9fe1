"""State files that somebody else made: their SQL is not run, their values are not believed."""

import hashlib
import json
import os
import shutil
import sqlite3
import struct
from contextlib import closing

import numpy as np
import pytest

import edgemem
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.connection import connected
from edgemem.state.store import KEPT_VERSIONS, Snapshot, State

PLANTED = {
    "a trigger that deletes": (
        "CREATE TRIGGER z AFTER INSERT ON snapshot BEGIN DELETE FROM snapshot; END"
    ),
    "a trigger on deleting": "CREATE TRIGGER z BEFORE DELETE ON part BEGIN SELECT 1; END",
    "a view": "CREATE VIEW z AS SELECT 1",
    "a table": "CREATE TABLE z (x)",
    "an index": "CREATE INDEX z ON part (sha256)",
    "an index of an expression": "CREATE INDEX z ON block (abs(version))",
    "another column": "ALTER TABLE snapshot ADD COLUMN z",
    "another column name": "ALTER TABLE about RENAME COLUMN value TO z",
    "a table less": "DROP TABLE payload",
    "statistics": "ANALYZE",
    "a column that is computed": "ALTER TABLE part ADD COLUMN z AS (sha256)",
}
ENDLESS = """
CREATE VIEW snapshot AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
SELECT i AS version, 0.0 AS written, '{}' AS counters, '{}' AS parts, '' AS sha256 FROM n
"""


def commit(path, *values):
    with closing(State(path, "bundle")) as state:
        for value in values:
            state.write(Snapshot({"a": np.full(300, value, np.float32)}, {"steps": value}))


def execute(path, *statements):
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(*((statement,) if isinstance(statement, str) else statement))
        database.commit()


@pytest.fixture
def path(tmp_path):
    commit(tmp_path / "s.db", 1, 2)
    return tmp_path / "s.db"


def refuses(path, reason):
    before = path.read_bytes()
    for identity, read_only in (("bundle", False), (None, True)):
        with pytest.raises(edgemem.StateError, match=reason):
            State(path, identity, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("planted", PLANTED)
def test_a_schema_that_is_not_exactly_ours_is_refused_and_nothing_runs(path, planted):
    execute(path, PLANTED[planted])
    refuses(path, "is not as EdgeMem made it: see .* in its schema. Do not use it; restore a copy")


def test_a_view_that_never_ends_is_not_read(path):
    execute(path, "DROP TABLE snapshot", ENDLESS)
    refuses(path, "is not as EdgeMem made it: see 'snapshot'")


@pytest.mark.parametrize("planted", ["a trigger that deletes", "an index"])
def test_what_is_planted_while_the_file_is_open_stops_the_commits(path, planted):
    with closing(State(path, "bundle")) as state:
        execute(path, PLANTED[planted])
        for _ in range(2):
            with pytest.raises(edgemem.StateError, match="is not as EdgeMem made it: see 'z'"):
                state.write(Snapshot({}, {"steps": 3}))
    execute(path, f"DROP {planted.split()[1]} z")
    with closing(State(path, "bundle")) as state:
        assert state.read().counters == {"steps": 2}


def test_tables_that_share_their_pages_are_refused(path):
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(
            "UPDATE sqlite_master SET rootpage = "
            "(SELECT rootpage FROM sqlite_master WHERE name = 'part') WHERE name = 'payload'"
        )
        database.commit()
    refuses(path, "is not as EdgeMem made it|malformed")


@pytest.mark.parametrize("table", ["snapshot", "part", "block"])
def test_pages_that_lead_in_circles_end_in_an_error(tmp_path, path, table):
    """A tree of 400^6 rows in 60 kB: each page names the next one again and again."""
    with closing(State(path, "bundle")) as state:
        root = state.rows("SELECT rootpage FROM sqlite_master WHERE name = ?", table)[0][0]
        if table == "block":
            state.rows("INSERT INTO block VALUES (1,'a','',1,0,x'',1,1,'',1,'','')")
    content = bytearray(path.read_bytes())
    size, pages = 4096, len(content) // 4096
    assert len(content) == size * pages
    leaf = content[(root - 1) * size : root * size]
    content += leaf  # the rows, on a page of their own
    for number in range(6):  # above it pages of nothing but pointers to the page before
        content += interior(pages + 1 + number)
    content[(root - 1) * size : root * size] = interior(pages + 7)
    content[28:32] = struct.pack(">I", pages + 7)
    path.write_bytes(content)
    with (
        pytest.raises(edgemem.StateError, match="its pages lead in circles"),
        closing(State(path, "bundle")) as state,
    ):
        if table == "snapshot":
            state.read()
        elif table == "part":
            state.write(Snapshot({}, {"steps": 3}))
        else:
            raise next(iter(WrittenBlocks(state).listing().damage))


def interior(child):
    """An inner page of a table's tree, whose 400 cells all name one child."""
    cells, size = 400, 4096
    cell = struct.pack(">I", child) + b"\x01"
    page = bytearray(size)
    start = size - cells * len(cell)
    page[0:12] = struct.pack(">BHHHBI", 5, 0, cells, start, 0, child)
    for number in range(cells):
        place = start + number * len(cell)
        page[12 + 2 * number : 14 + 2 * number] = struct.pack(">H", place)
        page[place : place + len(cell)] = cell
    return page


def test_a_long_statement_on_an_honest_file_ends_by_itself(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as state, state.transaction():
        for number in range(30_000):
            state.rows("INSERT INTO about VALUES (?, 'x')", f"context-{number}-of-a-long-life")
        state.write(Snapshot({}, {"steps": 1}))
    with closing(State(tmp_path / "s.db", "bundle")) as state:
        found = state.rows("SELECT name FROM about WHERE value = 'x' ORDER BY value, name")
        assert len(found) == 30_000
        assert state.compact() >= 0


@pytest.mark.parametrize("setting", ["trusted_schema", "cell_size_check", "mmap_size"])
def test_settings_for_files_of_others_are_on(path, setting):
    with closing(connected(path, read_only=True)) as database:
        ours = database.execute(f"PRAGMA {setting}").fetchone()
    with closing(sqlite3.connect(path)) as plain:
        usual = plain.execute(f"PRAGMA {setting}").fetchone()
    wanted = {"trusted_schema": (0,), "cell_size_check": (1,), "mmap_size": (0,)}[setting]
    assert ours == wanted and (ours != usual or setting == "mmap_size")


def seal(version, counters, parts):
    return hashlib.sha256(f"{version}\0{counters}\0{parts}".encode()).hexdigest()


def planted(path, counters=None, parts=None):
    """Change the newest snapshot and compute its hash again, as anybody can."""
    with closing(sqlite3.connect(path)) as database:
        version, old, old_parts = database.execute(
            "SELECT version, counters, parts FROM snapshot ORDER BY version DESC"
        ).fetchone()
        new = old if counters is None else counters, old_parts if parts is None else parts
        database.execute(
            "UPDATE snapshot SET counters = ?, parts = ?, sha256 = ? WHERE version = ?",
            (*new, seal(version, *new), version),
        )
        database.commit()


COUNTERS = [
    "[]", "null", "5", '"text"', "{", "[" * 30_000, '{"a":' * 30_000, '{"pending": "x"}',
    '{"pending": 0.5}', '{"steps": true}', '{"opened": []}', '{"guard.rung": null}',
    '{"frames": NaN}', '{"frames": Infinity}', '{"steps": -5}', '{"steps": 9007199254740992}',
    '{"steps": 1' + "0" * 5000 + "}", '{"steps": 1e2}', "",
]  # fmt: skip
DIGEST = "0" * 64
PARTS = [
    "[]", "null", "7", "", '{"a": 5}', '{"a": null}', '{"a": []}', '{"a": "xyz"}',
    f'{{"a": "{DIGEST}0"}}', f'{{"a": "{"g" * 64}"}}', '{"a": "' + "\\u0000" * 64 + '"}',
]  # fmt: skip


@pytest.mark.parametrize(
    ("counters", "parts"), [(c, None) for c in COUNTERS] + [(None, p) for p in PARTS]
)
def test_values_of_another_kind_cost_one_commit_even_under_their_right_hash(path, counters, parts):
    planted(path, counters, parts)
    with closing(State(path, "bundle")) as state:
        found = state.read()
        assert found.counters == {"steps": 1} and len(found.damage) == 1
        assert "that EdgeMem did not write" in found.damage[0]
        state.write(Snapshot({"a": np.zeros(3, np.float32)}, {"steps": 3}))
        assert state.read().damage == ()
        count = state.rows("SELECT count(*) FROM snapshot")[0][0]
        assert count == KEPT_VERSIONS


def test_such_values_in_all_snapshots_are_one_state_error(path):
    with closing(State(path, "bundle")) as state:
        state.drop_earlier()
    for counters in COUNTERS:
        other = path.with_name("copy.db")
        shutil.copy(path, other)
        planted(other, counters)
        with (
            closing(State(other, "bundle")) as state,
            pytest.raises(edgemem.StateError, match="did not write. Delete the state file"),
        ):
            state.read()


def test_a_sparse_file_gives_no_statement_more_time(path):
    os.truncate(path, 1 << 40)
    with closing(connected(path, read_only=True)) as database:
        assert database.limit is not None
        rounds = 0
        while not database.limit.round():
            rounds += 1
        assert rounds < 100


def test_extreme_counters_come_back(path):
    counters = {"present": -1, "steps": (1 << 53) - 1, "zero": 0}
    with closing(State(path, "bundle")) as state:
        state.write(Snapshot({}, counters))
        assert state.read().counters == counters
        assert json.loads(state.rows("SELECT value FROM about WHERE name = 'commit'")[0][0])[0] == 3
