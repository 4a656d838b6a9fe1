"""Whatever happens to the write-ahead log, no commit that was promised is lost without a word."""

import random
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE
from edgemem.state.store import Snapshot, State
from edgemem.testing import state_of

posix = pytest.mark.skipif(sys.platform == "win32", reason="copies files that are in use")


def snapshot(number):
    return Snapshot({"a": np.full(700 * (1 + number % 3), number, np.float32)}, {"n": number})


@pytest.fixture
def state(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as opened:
        opened.rows("PRAGMA synchronous = OFF")  # nothing here cuts the power
        yield opened


@pytest.fixture
def reader(state):
    """Somebody who reads for long, and so keeps the log."""
    state.write(snapshot(1))
    with closing(sqlite3.connect(state.path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM snapshot").fetchall()
        yield other


def copied(state, folder, *, log=None, promise=True):
    """A copy as a power cut leaves the state, with another log."""
    folder.mkdir(exist_ok=True)
    for suffix in ("", "-wal", "-promised"):
        file = Path(f"{state.path}{suffix}")
        if file.exists() and (promise or suffix != "-promised"):
            shutil.copy(file, folder / f"s.db{suffix}")
    if log is not None:
        (folder / "s.db-wal").write_bytes(log)
    return folder / "s.db"


def size(path):
    return Path(path).stat().st_size


def found(path, **options):
    with closing(State(path, "bundle", **options)) as state:
        read = state.read()
        assert (read.arrays["a"] == read.counters["n"]).all()
        return read


@posix
def test_nothing_that_was_committed_is_in_the_log_alone(tmp_path, state):
    for number in range(1, 8):
        state.write(snapshot(number))
        assert size(f"{state.path}-wal") == 0
        path = copied(state, tmp_path / str(number), log=random.Random(number).randbytes(9000))
        read = found(path)
        assert read.counters == {"n": number} and read.damage == ()


@posix
@pytest.mark.parametrize("read_only", [False, True])
def test_commits_that_damage_took_from_the_log_are_missed(tmp_path, state, reader, read_only):
    for number in range(2, 12):
        state.write(snapshot(number))
    log = bytearray(Path(f"{state.path}-wal").read_bytes())
    assert len(log) > 20_000
    whole = found(copied(state, tmp_path / "whole"), read_only=read_only)
    assert whole.counters == {"n": 11} and whole.damage == ()
    places, outcomes = random.Random(3), set()
    for number in range(40):
        damaged = bytearray(log)
        place = places.randrange(len(log))
        damaged[place] ^= 1 << places.randrange(8)
        if number % 4 == 0:
            del damaged[place:]
        path = copied(state, tmp_path / str(number), log=bytes(damaged))
        read = found(path, read_only=read_only)
        lost = 11 - read.counters["n"]
        outcomes.add(lost)
        assert bool(read.damage) == (lost > 0)
        if lost:
            assert f"has lost its last {lost} commits: its write-ahead log" in read.damage[0]
    assert len(outcomes) > 3 and max(outcomes) == 10


@posix
def test_without_its_promise_such_a_loss_goes_unnoticed(tmp_path, state, reader):
    """So the promise is what the tests above find."""
    state.write(snapshot(2))
    assert found(copied(state, tmp_path / "a", log=b"", promise=False)).damage == ()
    assert found(copied(state, tmp_path / "b", log=b"")).damage != ()


@posix
def test_a_loss_is_told_until_there_is_another_commit(tmp_path, state, reader):
    for number in (2, 3):
        state.write(snapshot(number))
    path = copied(state, tmp_path / "copy", log=b"")
    assert found(path).damage == found(path).damage != ()
    with closing(State(path, "bundle")) as other:
        other.write(snapshot(4))
        assert sorted(f.name for f in path.parent.iterdir()) == [
            "s.db", "s.db-lock", "s.db-shm", "s.db-wal"
        ]  # fmt: skip
    assert found(path).damage == () and found(path).counters == {"n": 4}


@posix
def test_the_promise_goes_when_the_log_could_be_emptied(state, reader):
    state.write(snapshot(2))
    assert Path(f"{state.path}-promised").exists()
    reader.execute("COMMIT")
    state.write(snapshot(3))
    assert not Path(f"{state.path}-promised").exists()
    assert size(f"{state.path}-wal") == 0


@posix
def test_a_loss_of_all_commits_is_refused(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as state:
        with closing(sqlite3.connect(state.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM snapshot").fetchall()
            state.write(snapshot(1))
            path = copied(state, tmp_path / "copy", log=b"")
        with (
            pytest.raises(edgemem.StateError, match="has lost its last 1 commits"),
            closing(State(path, "bundle")) as lost,
        ):
            lost.read()


@posix
@pytest.mark.parametrize("junk", [b"", b"x", b"-5", b"1e9", b"9" * 40, b"\xff" * 16, b"0"])
def test_a_promise_that_says_nothing_is_none(tmp_path, state, junk):
    state.write(snapshot(1))
    path = copied(state, tmp_path / "copy")
    Path(f"{path}-promised").write_bytes(junk)
    assert found(path).damage == () and found(path).counters == {"n": 1}
    with closing(State(path, "bundle")) as other:
        other.write(snapshot(2))
    assert found(path).counters == {"n": 2}


@posix
def test_what_a_crash_left_in_the_log_leaves_it_when_the_file_is_opened(tmp_path, state, reader):
    state.write(snapshot(2))
    path = copied(state, tmp_path / "copy")
    Path(f"{path}-promised").unlink()  # as if the crash came right after COMMIT
    with closing(State(path, "bundle")) as opened:
        assert size(f"{path}-wal") == 0
        assert found(copied(opened, tmp_path / "again", log=b"")).counters == {"n": 2}


@posix
@pytest.mark.parametrize(
    "value", ["", "{}", "[1]", "[null, 1, 2]", "[" * 5000, b"\xff", '[-3, 1, "a"]']
)
def test_a_damaged_number_stops_nobody(tmp_path, state, value):
    state.write(snapshot(1))
    state.rows("UPDATE about SET value = ? WHERE name = 'commit'", value)
    path = copied(state, tmp_path / "copy")
    assert found(path).counters == {"n": 1}
    with closing(State(path, "bundle")) as other:
        for number in (2, 3):
            other.write(snapshot(number))
    assert found(path).counters == {"n": 3} and found(path).damage == ()


@posix
def test_a_runtime_tells_of_lost_commits(tmp_path, digits_stream):
    x, _ = digits_stream
    path = tmp_path / "s.db"
    with edgemem.open(BUNDLE, path, threads=1) as runtime:
        runtime.step(x[:64])
        runtime.flush()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM snapshot").fetchall()
            for start in (64, 128):
                runtime.step(x[start : start + 64])
                runtime.flush()
            log = bytearray(Path(f"{path}-wal").read_bytes())
            log[200] ^= 1
            copy = copied(state_of(runtime), tmp_path / "copy", log=bytes(log))
    with edgemem.open(BUNDLE, copy, threads=1) as runtime:
        events = runtime.step(x[:16]).events
        assert [
            event
            for event in events
            if event.kind == "damaged" and "lost its last" in event.message
        ]
