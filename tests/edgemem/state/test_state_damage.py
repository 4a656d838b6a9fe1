"""Power cuts, full disks and damage to the state file."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgemem
from edgemem.state.schema import SCHEMA_VERSION
from edgemem.state.store import KEPT_VERSIONS, Snapshot, State

WRITER = """
import resource, sys, numpy as np
from edgemem import StateError
from edgemem.state.store import Snapshot, State
state = State(sys.argv[1], "bundle")
state.write(Snapshot({"a": np.ones(100, np.float32)}, {"steps": 1}))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    state.write(Snapshot({"a": np.ones(1_000_000, np.float32)}, {"steps": 2}))
except StateError as error:
    print(error)
    sys.exit(state.read().counters["steps"] != 1)
sys.exit("the disk was not full")
"""


def commit(path, *values):
    state = State(path, "bundle")
    for value in values:
        state.write(Snapshot({"a": np.full(300, value, np.float32)}, {"steps": value}))
    state.close()


def read(path):
    state = State(path, "bundle")
    try:
        return state.read()
    finally:
        state.close()


def execute(path, statement, *values):
    database = sqlite3.connect(path)
    rows = database.execute(statement, values).fetchall()
    database.commit()
    database.close()
    return rows


def test_versions_grow_by_one_and_only_the_newest_are_kept(tmp_path):
    path = tmp_path / "s.db"
    commit(path, *range(1, 6))
    found = [row[0] for row in execute(path, "SELECT version FROM snapshot ORDER BY version")]
    assert found == list(range(6 - KEPT_VERSIONS, 6))


@pytest.mark.parametrize("column", ["counters", "parts", "sha256"])
@pytest.mark.parametrize("value", [b"\xff\x00", "text", 5, 0.5])
def test_a_changed_column_is_a_damaged_snapshot_whatever_its_type_became(tmp_path, column, value):
    path = tmp_path / "s.db"
    commit(path, 1)
    execute(path, f"UPDATE snapshot SET {column} = ?", value)
    before = execute(path, "SELECT * FROM snapshot")
    with pytest.raises(edgemem.StateError, match=r"s\.db: holds a damaged.*Delete the state file"):
        read(path)
    assert execute(path, "SELECT * FROM snapshot") == before


def flip(path, version):
    """Flip a bit of the arrays of a snapshot."""
    parts = execute(path, "SELECT parts FROM snapshot WHERE version = ?", version)[0][0]
    (digest,) = json.loads(parts).values()
    content = bytearray(execute(path, "SELECT content FROM part WHERE sha256 = ?", digest)[0][0])
    content[-1] ^= 1
    execute(path, "UPDATE part SET content = ? WHERE sha256 = ?", bytes(content), digest)


def test_a_flipped_bit_of_the_arrays_is_noticed(tmp_path):
    path = tmp_path / "s.db"
    commit(path, 1)
    flip(path, 1)
    with pytest.raises(edgemem.StateError, match=r"damaged snapshot \(its a\)"):
        read(path)


@pytest.mark.parametrize("how", ["its arrays", "its row", "its arrays are gone"])
def test_a_damaged_snapshot_costs_one_commit(tmp_path, how):
    path = tmp_path / "s.db"
    commit(path, 1, 2)
    if how == "its arrays":
        flip(path, 2)
    elif how == "its row":
        execute(path, "UPDATE snapshot SET counters = '{}' WHERE version = 2")
    else:
        execute(path, "DELETE FROM part WHERE row = (SELECT max(row) FROM part)")
    found = read(path)
    assert found.counters == {"steps": 1} and (found.arrays["a"] == 1).all()
    assert len(found.damage) == 1 and "holds a damaged snapshot" in found.damage[0]
    commit(path, 3)
    assert read(path).damage == () and read(path).counters == {"steps": 3}
    flip(path, 3)
    with pytest.raises(edgemem.StateError, match="damaged snapshot"):
        read(path)


def hide_newest(path):
    """Alter the number of rows in the head of the table's page: SQLite sees one row less."""
    root = execute(path, "SELECT rootpage FROM sqlite_master WHERE name = 'snapshot'")[0][0]
    size = execute(path, "PRAGMA page_size")[0][0]
    content = bytearray(path.read_bytes())
    content[(root - 1) * size + 4] -= 1  # the low byte of the count of a leaf
    path.write_bytes(content)


@pytest.mark.parametrize(
    "lose",
    [
        hide_newest,
        lambda path: execute(path, "DELETE FROM snapshot WHERE version = 2"),
    ],
)
def test_a_newest_snapshot_that_is_gone_or_another_is_missed(tmp_path, lose):
    path = tmp_path / "s.db"
    commit(path, 1, 2)
    lose(path)
    found = read(path)
    assert found.counters == {"steps": 1} and (found.arrays["a"] == 1).all()
    assert found.damage == ("has lost its newest snapshot, or the note of it",)
    commit(path, 3)
    assert read(path).damage == () and read(path).counters == {"steps": 3}


def test_an_old_snapshot_does_not_become_the_newest_by_its_number(tmp_path):
    path = tmp_path / "s.db"
    commit(path, 1, 2)
    execute(path, "UPDATE snapshot SET version = 9 WHERE version = 1")
    found = read(path)
    assert found.counters == {"steps": 2} and "holds a damaged snapshot" in found.damage


def test_an_only_snapshot_that_is_gone_is_no_new_file(tmp_path):
    path = tmp_path / "s.db"
    commit(path, 1)
    hide_newest(path)
    with pytest.raises(edgemem.StateError, match="has lost its newest snapshot"):
        read(path)


def test_arrays_that_are_no_safetensors_are_refused_even_under_their_right_hash(tmp_path):
    path = tmp_path / "s.db"
    commit(path, 1)
    digest = hashlib.sha256(b"junk").hexdigest()
    parts = json.dumps({"a": digest})
    seal = hashlib.sha256(f"1\0{{}}\0{parts}".encode()).hexdigest()
    execute(path, "UPDATE snapshot SET counters = '{}', parts = ?, sha256 = ?", parts, seal)
    execute(path, "UPDATE part SET content = ?, sha256 = ?", b"junk", digest)
    with pytest.raises(edgemem.StateError, match="not readable safetensors"):
        read(path)


@settings(max_examples=25)  # every commit waits for the disk
@given(st.data())
def test_flipped_and_missing_bytes_of_the_file_give_the_commit_or_a_state_error(
    tmp_path_factory, data
):
    folder = tmp_path_factory.mktemp("state")
    path = folder / "s.db"
    commit(path, 1, 2)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read(path)
    except edgemem.StateError as error:
        assert error.thing == str(path) and error.remedy
    else:
        # A file cut to nothing is new; what is read otherwise was committed.
        steps = 0 if found is None else found.counters["steps"]
        assert steps in (0, 1, 2)
        assert found is None or (found.arrays["a"] == steps).all()


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_schema_version_is_refused_and_untouched(tmp_path, version):
    path = tmp_path / "s.db"
    commit(path, 1)
    execute(path, f"PRAGMA user_version = {version}")
    with pytest.raises(edgemem.StateError, match=f"schema version {version}; .*{SCHEMA_VERSION}"):
        State(path, "bundle")
    assert execute(path, "PRAGMA user_version") == [(version,)]


def test_a_refused_opening_leaves_no_file_behind(tmp_path):
    with pytest.raises(edgemem.StateError, match="cannot be used"):
        State(tmp_path / "missing" / "s.db", "bundle")
    with pytest.raises(edgemem.StateError, match="is a folder"):
        State(tmp_path, "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_new_state(tmp_path):
    (tmp_path / "s.db").write_bytes(b"")
    assert read(tmp_path / "s.db") is None
    assert (tmp_path / "s.db").exists()
    commit(tmp_path / "s.db", 7)
    assert read(tmp_path / "s.db").counters == {"steps": 7}


def test_closing_leaves_one_file_and_none_where_nothing_was_committed(tmp_path):
    state = State(tmp_path / "s.db", "bundle")
    state.close()
    state.close()
    assert list(tmp_path.iterdir()) == []
    commit(tmp_path / "s.db", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]


def test_a_second_owner_is_refused_in_another_process_too(tmp_path):
    code = "import sys; from edgemem.state.store import State; State(sys.argv[1], 'bundle')"
    path = tmp_path / "s.db"
    state = State(path, "bundle")
    finished = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True
    )
    assert "StateError" in finished.stderr and "only once" in finished.stderr
    state.write(Snapshot({}, {"steps": 3}))
    state.close()
    assert read(path).counters == {"steps": 3}


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_file_that_may_not_grow_keeps_the_last_commit(tmp_path):
    path = tmp_path / "s.db"
    finished = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert str(path) in finished.stdout and "free space" in finished.stdout
    assert read(path).counters == {"steps": 1}


@pytest.mark.parametrize("number", [1 << 53, -2, 0.5, "1", None, True, [1]])
def test_a_counter_that_would_not_be_read_again_is_not_written(tmp_path, number):
    path = tmp_path / "s.db"
    with closing(State(path, "bundle")) as state:
        state.write(Snapshot({}, {"steps": 1, "guard.checked": -8}))
        with pytest.raises(edgemem.StateError, match="was not written"):
            state.write(Snapshot({}, {"steps": number}))
    assert read(path).counters == {"steps": 1, "guard.checked": -8}
