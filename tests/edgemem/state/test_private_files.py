"""Files of a state are private and regular, whatever the umask."""

import os
import sqlite3
import stat
from contextlib import closing

import pytest
from state_files import left, number, posix

import edgemem
from edgemem.state.store import State


@posix
def test_all_files_are_private_whatever_the_umask(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    before = os.umask(0)
    try:
        state = State(folder / "s.db", "bundle")
        modes(folder, "s.db", "s.db-lock", "s.db-shm", "s.db-wal")
        with closing(sqlite3.connect(folder / "s.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM snapshot").fetchall()
            state.write(number(1))
            modes(folder, "s.db", "s.db-lock", "s.db-promised", "s.db-shm", "s.db-wal")
        state.compact()
        state.close()
        modes(folder, "s.db")
    finally:
        os.umask(before)


def modes(folder, *names):
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert found == dict.fromkeys(names, 0o600)


@posix
def test_an_empty_file_becomes_private_and_a_mode_that_somebody_chose_stays(tmp_path):
    path = tmp_path / "s.db"
    path.touch()
    path.chmod(0o666)
    with closing(State(path, "bundle")) as state:
        state.write(number(1))
        modes(tmp_path, "s.db", "s.db-lock", "s.db-shm", "s.db-wal")
    path.chmod(0o640)
    with closing(State(path, "bundle")) as state:
        state.write(number(2))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_what_is_no_regular_file_is_refused_and_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "s.db")
    for read_only in (False, True):
        with pytest.raises(edgemem.StateError, match="not a plain file"):
            State(tmp_path / "s.db", "bundle", read_only=read_only)
    assert left(tmp_path) == ["s.db"]
