"""One owner, always: whatever way leads to the file, and whatever is removed beside it."""

import gc
import os
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from state_files import left, number, posix

import edgemem
from edgemem.state import lock
from edgemem.state.store import State

linux = pytest.mark.skipif(not lock.ON_DATABASE, reason="needs locks on the database")
# Says what became of opening a state in another process: its newest number, or the error.
OTHER = """
import sys
import threading
from edgemem import StateError
from edgemem.state.store import Snapshot, State
try:
    state = State(sys.argv[1], "bundle")
    number = state.read().counters["n"] + 1
    state.write(Snapshot({}, {"n": number}))
    state.close()
    print(number)
except StateError as error:
    print(error)
"""
FORK = """
import os, subprocess, sys
from edgemem import StateError
from edgemem.state.store import Snapshot, State
state = State(sys.argv[1], "bundle")
state.write(Snapshot({}, {"n": 1}))
child = os.fork()
if not child:
    try:
        State(sys.argv[1], None, read_only=READ_ONLY)
    except StateError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
FORKED = """
for code in (reader, again):
    subprocess.run([sys.executable, "-c", code, sys.argv[1]], check=True, timeout=600)
state.write(Snapshot({}, {"n": 2}))
print("parent", state.read().counters["n"])
"""
READER = """
import sys
import threading
from edgemem.state.store import State
print(State(sys.argv[1], None, read_only=True).read().counters["n"])
"""
# Whether another process can take the whole database, as SQLite does before it removes a log.
ALONE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=0)
try:
    print(database.execute("PRAGMA journal_mode = DELETE").fetchone()[0])
except sqlite3.OperationalError as error:
    print(error)
"""


def run(code, path):
    finished = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


@pytest.fixture
def state(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as opened:
        opened.write(number(1))
        yield opened


def test_a_relative_path_stays_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = State("s.db", "bundle")
    state.write(number(1))
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    state.write(number(2))
    assert state.path == tmp_path / "s.db"
    state.close()
    assert left(tmp_path) == ["s.db", "sub"] and left(tmp_path / "sub") == []
    with closing(State("../s.db", "bundle")) as again:
        assert again.read().counters == {"n": 2}


@posix
@pytest.mark.parametrize("kind", ["link", "link of a link", "folder", "hard link"])
def test_every_name_of_a_file_leads_to_its_one_owner(tmp_path, state, kind):
    if kind == "hard link" and not lock.ON_DATABASE:
        pytest.skip("needs locks on the database")
    other = tmp_path / "other"
    if kind == "folder":
        other.symlink_to(tmp_path)
        other = other / "s.db"
    elif kind == "hard link":
        os.link(tmp_path / "s.db", other)
    else:
        other.symlink_to("s.db")
        if kind == "link of a link":
            (tmp_path / "another").symlink_to(other)
            other = tmp_path / "another"
    with pytest.raises(edgemem.StateError, match="is locked"):
        State(other, "bundle")
    assert "is locked" in run(OTHER, other)
    state.write(number(2))


@posix
def test_a_link_to_nothing_makes_the_file_where_it_leads(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "s.db").symlink_to("far/real.db")
    with closing(State(tmp_path / "s.db", "bundle")) as state:
        state.write(number(1))
    assert left(tmp_path / "far") == ["real.db"] and left(tmp_path) == ["far", "s.db"]


@linux
def test_nobody_gets_in_when_the_file_that_names_the_owner_is_removed(tmp_path, state):
    assert (tmp_path / "s.db-lock").read_text() == f"{os.getpid()}\n"
    assert f"in process {os.getpid()}. Open a state file only once" in run(OTHER, state.path)
    (tmp_path / "s.db-lock").unlink()
    assert "is locked: it is open for writing already. Open" in run(OTHER, state.path)
    with pytest.raises(edgemem.StateError, match="is locked"):
        State(state.path, "bundle")
    state.write(number(2))
    state.close()
    assert run(OTHER, state.path) == "3"


@posix
@pytest.mark.parametrize("first_commits", [False, True])
def test_where_a_second_owner_gets_in_the_first_is_told(tmp_path, monkeypatch, first_commits):
    """As on systems where the lock must be on a file of its own."""
    monkeypatch.setattr(lock, "ON_DATABASE", False)
    path = tmp_path / "s.db"
    first = State(path, "bundle")
    first.write(number(1))
    with pytest.raises(edgemem.StateError, match="is locked"):
        State(path, "bundle")
    (tmp_path / "s.db-lock").unlink()
    second = State(path, "bundle")
    loser, winner = (second, first) if first_commits else (first, second)
    winner.write(number(2))
    for _ in range(2):
        with pytest.raises(edgemem.StateError, match=f"has another owner: process {os.getpid()} "):
            loser.write(number(9))
    winner.write(number(3))
    loser.close()
    winner.close()
    with closing(State(path, "bundle")) as again:  # the remedy
        assert again.read().counters == {"n": 3}
        again.write(number(4))


@linux
@pytest.mark.parametrize(
    "closes", ["a reader", "a second owner", "another bundle", "a lost reader"]
)
def test_nothing_that_is_closed_here_ends_the_locks_of_sqlite(tmp_path, state, closes):
    assert run(ALONE, state.path) == "database is locked"
    if closes == "a reader":
        State(state.path, None, read_only=True).close()
    elif closes == "a lost reader":
        State(state.path, None, read_only=True)
        gc.collect()
    else:
        with pytest.raises(edgemem.StateError):
            State(state.path, "bundle" if closes == "a second owner" else "else")
    assert run(ALONE, state.path) == "database is locked"
    os.close(os.open(state.path, os.O_RDONLY))
    assert run(ALONE, state.path) == "delete"  # so the check above can fail


@linux
def test_a_writer_that_closes_leaves_the_locks_of_a_reader(tmp_path, state):
    with closing(State(state.path, None, read_only=True)) as reader:
        assert reader.read().counters == {"n": 1}
        state.close()
        assert run(ALONE, state.path) == "database is locked"
        assert run(OTHER, state.path) == "2"
        assert reader.read().counters == {"n": 2}


@posix
@pytest.mark.parametrize("how", ["lost", "in a circle", "its opening failed"])
def test_a_lost_handle_gives_everything_back(tmp_path, how):
    descriptors = Path("/proc/self/fd")
    path = tmp_path / "s.db"
    with closing(State(path, "bundle")) as state:
        state.write(number(1))
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    if how == "its opening failed":
        with pytest.raises(edgemem.StateError, match="another bundle"):
            State(path, "else")
    else:
        state = State(path, "bundle")
        if how == "in a circle":
            state.itself = state
        del state
    gc.collect()
    if descriptors.exists():
        assert len(list(descriptors.iterdir())) == before
    assert run(OTHER, path) == "2"


@posix
@pytest.mark.parametrize("read_only", [False, True])
def test_a_fork_cannot_open_what_its_parent_has_open(tmp_path, read_only):
    """SQLite in a fork takes the locks of its parent for its own."""
    code = FORK.replace("READ_ONLY", str(read_only)) + f"again = {OTHER!r}\nreader = {READER!r}\n"
    in_fork, in_reader, in_other, last = run(code + FORKED, tmp_path / "s.db").splitlines()
    assert "of which this one is a fork. Open it in a process that was started anew" in in_fork
    assert in_reader == "1"  # the remedy
    assert "is locked" in in_other
    assert last == "parent 2"


def test_of_two_threads_at_once_one_becomes_the_owner(tmp_path, monkeypatch):
    both, opened, refused = threading.Barrier(2), [], []
    take = lock._lock

    def together(descriptor):
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # for the other, if that gets so far
        take(descriptor)

    def work():
        try:
            opened.append(State(tmp_path / "s.db", "bundle"))
        except edgemem.StateError as error:
            refused.append(str(error))

    monkeypatch.setattr(lock, "_lock", together)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), len(refused)) == (1, 1) and "is locked" in refused[0]
    opened[0].write(number(1))
    opened[0].close()


@posix
def test_a_writer_lost_in_a_circle_gives_the_lock_back_while_a_reader_stays(tmp_path):
    path = tmp_path / "s.db"
    state = State(path, "bundle")
    state.write(number(1))
    with closing(State(path, None, read_only=True)) as reader:
        state.itself = state
        del state
        gc.collect()
        assert run(OTHER, path) == "2"
        assert reader.read().counters == {"n": 2}


@linux
def test_nobody_is_given_a_descriptor_that_is_being_closed(tmp_path, monkeypatch):
    path, close = tmp_path / "s.db", os.close
    path.touch()
    closed, go_on, found = threading.Event(), threading.Event(), []
    first = lock.Handle(path, write=True)

    def slowly(descriptor):
        close(descriptor)
        closed.set()
        go_on.wait(600)

    def again():
        handle = lock.Handle(path, write=True)
        found.append(handle.is_current())
        handle.release()

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", slowly)
        threads = [threading.Thread(target=work) for work in (first.release, again)]
        threads[0].start()
        closed.wait(600)
        patch.setattr(os, "close", close)
        threads[1].start()
        threads[1].join(0.5)  # it gets no further, or it is wrong
        go_on.set()
        for thread in threads:
            thread.join()
    assert found == [True]
