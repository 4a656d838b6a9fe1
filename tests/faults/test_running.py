"""Faults of a running state: two processes, a file that vanishes, what a crash leaves behind."""

import os
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress

import pytest

import edgemem
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import Snapshot, State

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and unlinking")
# Commits one block for every line it is sent, and says so.
OBEDIENT = """
state = State(sys.argv[1], "bundle")
print("open", flush=True)
for line in sys.stdin:
    commit(state, int(line))
    print(line.strip(), flush=True)
"""
SECOND = """
from edgemem import EdgeMemError
try:
    State(sys.argv[1], "bundle")
except EdgeMemError as error:
    print(error)
"""


def tell(process, number):
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    assert process.stdout.readline() == f"{number}\n"


@pytest.fixture
def writer(start, tmp_path):
    """A process that has the state open and has committed number 1."""
    process = start(OBEDIENT, tmp_path / "s.db")
    assert process.stdout.readline() == "open\n"
    tell(process, 1)
    return process


def test_a_second_writer_gets_one_clear_error(tmp_path, writer, run):
    finished = run(SECOND, tmp_path / "s.db")
    assert finished.stdout == (
        f"{tmp_path / 's.db'}: is locked: it is open for writing already, in process {writer.pid}. "
        "Open a state file only once; others may read it with read_only=True.\n"
    )
    tell(writer, 2)


def test_a_reader_follows_a_running_writer(tmp_path, writer):
    with closing(State(tmp_path / "s.db", "bundle", read_only=True)) as reader:
        for number in range(2, 6):
            tell(writer, number)
            assert reader.read().counters == {"steps": number}
            listing = WrittenBlocks(reader).listing()
            assert len(listing.records) == number and not listing.damage


def test_a_reader_changes_nothing(tmp_path, committed):
    committed(tmp_path / "s.db", 1, 2)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with closing(State(tmp_path / "s.db", None, read_only=True)) as reader:
        blocks = WrittenBlocks(reader)
        calls = (
            lambda: reader.write(Snapshot({}, {})),
            lambda: blocks.rollback("context 1"),
            lambda: blocks.forget("context 1"),
            lambda: blocks.evict(0),
            blocks.compact,
        )
        for call in calls:
            with pytest.raises(edgemem.StateError, match="is open read-only"):
                call()
        assert blocks.verify() == [] and reader.bundle_identity == "bundle"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_reader_needs_a_state_and_the_right_bundle(tmp_path, committed):
    for options in ({"read_only": True}, {}):
        with pytest.raises(edgemem.StateError, match=r"s\.db: is not there"):
            State(tmp_path / "s.db", None, **options)
    assert list(tmp_path.iterdir()) == []
    committed(tmp_path / "s.db", 1)
    with pytest.raises(edgemem.StateError, match="belongs to another bundle"):
        State(tmp_path / "s.db", "other", read_only=True)
    (tmp_path / "empty").touch()
    with pytest.raises(edgemem.StateError, match="is not an EdgeMem state file"):
        State(tmp_path / "empty", "bundle", read_only=True)


@posix
def test_a_crash_leaves_no_lock_and_its_log_is_taken_in(tmp_path, writer, checked):
    tell(writer, 2)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"s.db", "s.db-wal", "s.db-shm", "s.db-lock"}
    with closing(State(tmp_path / "s.db", None, read_only=True)) as reader:
        assert reader.read().counters == {"steps": 2}
    found, steps = checked(tmp_path / "s.db")
    assert (len(found), steps) == (2, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]


@posix
@pytest.mark.parametrize("log", [None, b"", b"x", b"\x37\x7f\x06\x82" * 9, bytes(30_000)])
def test_whatever_becomes_of_the_log_of_a_crash_all_commits_are_there(
    tmp_path, writer, checked, log
):
    tell(writer, 2)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    if log is None:
        (tmp_path / "s.db-wal").unlink()
    else:
        (tmp_path / "s.db-wal").write_bytes(log)
    found, steps = checked(tmp_path / "s.db")
    assert steps == len(found) == 2


@posix
def test_a_copy_put_under_the_log_of_a_crash_is_never_a_mixture(tmp_path, writer, committed):
    """SQLite takes the log in, whatever file it finds; hashes and the tally judge the outcome."""
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    committed(tmp_path / "other.db", *range(1, 40))
    shutil.copy(tmp_path / "other.db", tmp_path / "s.db")
    with suppress(edgemem.StateError), closing(State(tmp_path / "s.db", "bundle")) as state:
        blocks = WrittenBlocks(state)
        steps = {record.provenance.steps for record in blocks.listing().records}
        assert blocks.verify() or steps in ({1}, {37, 38, 39})


@posix
@pytest.mark.parametrize("gone", ["s.db", "s.db-wal"])
def test_a_file_deleted_while_in_use_stops_the_commits(tmp_path, committed, gone):
    committed(tmp_path / "s.db", 1)
    state = State(tmp_path / "s.db", "bundle")
    state.write(Snapshot({}, {"steps": 2}))
    (tmp_path / gone).unlink()
    for _ in range(2):
        with pytest.raises(edgemem.StateError, match=f"lost its file {gone}: it was deleted"):
            state.write(Snapshot({}, {"steps": 3}))
    state.close()
    assert not (tmp_path / "s.db-lock").exists()


@posix
def test_a_file_replaced_while_in_use_stops_the_commits(tmp_path, committed, checked):
    committed(tmp_path / "s.db", 1)
    committed(tmp_path / "copy.db", 1, 2, 3)
    state = State(tmp_path / "s.db", "bundle")
    (tmp_path / "copy.db").replace(tmp_path / "s.db")
    with pytest.raises(edgemem.StateError, match="was deleted or replaced while in use"):
        state.write(Snapshot({}, {"steps": 9}))
    state.close()
    assert checked(tmp_path / "s.db")[1] == 3


@posix
def test_a_folder_deleted_while_in_use_stops_the_commits(tmp_path, committed):
    folder = tmp_path / "folder"
    folder.mkdir()
    committed(folder / "s.db", 1)
    state = State(folder / "s.db", "bundle")
    shutil.rmtree(folder)
    with pytest.raises(edgemem.StateError, match=r"lost its file s\.db"):
        state.write(Snapshot({}, {"steps": 2}))
    state.close()


@posix
def test_a_lock_left_by_a_crash_is_taken_over_and_removed(tmp_path, committed, checked):
    (tmp_path / "s.db-lock").touch()
    committed(tmp_path / "s.db", 1)
    assert checked(tmp_path / "s.db")[1] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]


@posix
def test_many_that_open_at_once_are_one_writer_at_a_time(tmp_path, start, checked):
    code = """
from edgemem import StateError
done = 0
while done < 15:
    try:
        state = State(sys.argv[1], "bundle")
    except StateError as error:
        assert "is locked" in str(error), error
        continue
    number = state.read().counters["steps"] + 1 if state.read() else 1
    commit(state, number)
    state.close()
    done += 1
print("done")
"""
    processes = [start(code, tmp_path / "s.db") for _ in range(3)]
    for process in processes:
        out, error = process.communicate(timeout=600)
        assert out == "done\n", error
    assert checked(tmp_path / "s.db")[1] == 45


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused_or_reported(tmp_path, committed, share):
    path = tmp_path / "s.db"
    committed(path, *range(1, 9))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    if not share:  # an empty file is a new one
        State(path, "bundle").close()
        return
    with (
        pytest.raises(edgemem.StateError, match=r"s\.db: .*\. \w"),
        closing(State(path, "bundle")) as state,
    ):
        raise WrittenBlocks(state).verify()[0]


def test_plain_sqlite_writing_at_the_same_time_is_named(tmp_path, committed, checked):
    path = tmp_path / "s.db"
    committed(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(edgemem.StateError, match="database is locked"):
            State(path, "bundle")
    assert not os.path.lexists(f"{path}-lock")
    assert checked(path)[1] == 1


def test_a_clock_going_backwards_between_runs_changes_no_order(
    tmp_path, committed, checked, monkeypatch
):
    for steps, seconds in enumerate((2e9, 1e9, 0.0, -5.0, 3e9), 1):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        committed(tmp_path / "s.db", 3 * steps)
        found, newest = checked(tmp_path / "s.db")
        assert newest == found["context 0"].provenance.steps == 3 * steps
        assert found["context 0"].version == steps
