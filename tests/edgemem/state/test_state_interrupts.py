"""An interrupt (Ctrl-C, a signal handler that raises) after any line of a commit breaks nothing."""

import contextlib
import itertools
import sys
import traceback
from contextlib import closing

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE
from edgemem.runtime.persistence import commits, keeper
from edgemem.state import commit_numbers, connection, schema, sqlite_errors, sqlite_file
from edgemem.state import store as state_module
from edgemem.state.store import Snapshot, State
from edgemem.testing import state_of

MODULES = (
    contextlib,
    state_module,
    sqlite_file,
    commit_numbers,
    connection,
    sqlite_errors,
    schema,
)
FILES = {module.__file__ for module in MODULES}
RUNTIME_FILES = FILES | {module.__file__ for module in (commits, keeper)}


class Interrupts:
    """Raises KeyboardInterrupt before the n-th line of a commit, for each n of `at`.

    files: whose lines count. count: lines that were run. names: of the files they are in.
    """

    def __init__(self, *at, files=FILES):
        self.at, self.files, self.count, self.names = set(at), files, 0, set()

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _trace(self, frame, event, _):
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.count += 1
            self.names.add(frame.f_code.co_filename)
            if self.count in self.at:
                raise KeyboardInterrupt
        return self._trace


def snapshot(number):
    return Snapshot(
        {"a": np.full(50, number, np.float32), "b": np.ones(4, np.float32)}, {"n": number}
    )


@pytest.fixture
def state(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as opened:
        opened.rows("PRAGMA synchronous = OFF")  # nothing here cuts the power
        opened.write(snapshot(0))
        yield opened


@pytest.fixture
def committed(state):
    """What another connection finds committed."""
    with closing(State(state.path, "bundle", read_only=True)) as reader:
        yield lambda: reader.read().counters["n"]


def plain(state, number):
    state.write(snapshot(number))


def nested(state, number):
    with state.transaction():
        state.rows("INSERT OR REPLACE INTO about VALUES ('a', ?)", number)
        with state.transaction():
            state.write(snapshot(number))
        state.drop_earlier()


def with_an_inner_one_that_fails(state, number):
    with state.transaction():
        with contextlib.suppress(ZeroDivisionError), state.transaction():
            state.write(snapshot(-1 + 0 * number))
            raise ZeroDivisionError
        state.write(snapshot(number))


def failing(state, number):
    with contextlib.suppress(ZeroDivisionError), state.transaction():
        state.write(snapshot(number))
        raise ZeroDivisionError


def scrubbing(state, number):
    with state.transaction():
        state.write(snapshot(number))
        state.scrub()


COMMITS = [plain, nested, with_an_inner_one_that_fails, failing, scrubbing]


def interrupted(commit, state, number, *at):
    """Whether an interrupt came through."""
    try:
        with Interrupts(*at):
            commit(state, number)
    except KeyboardInterrupt as error:
        traceback.clear_frames(error.__traceback__)  # Python 3.13 may keep them in a cycle
        return True
    return False


@pytest.mark.parametrize("apart", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("commit", COMMITS)
def test_once_at_every_line(state, committed, commit, apart):
    old, outcomes = 0, set()
    for line in itertools.count(1, apart):
        new = old + 1
        came = interrupted(commit, state, new, line)
        assert committed() in (old, new)
        beside = state.rows("SELECT 1 FROM about WHERE name = 'a' AND value = ?", str(new))
        assert not beside or committed() == new
        if not came:  # behind the last line
            break
        outcomes.add(committed() - old)
        old = new + 1
        state.write(snapshot(old))
        assert committed() == old
    assert line > 100 and outcomes == ({0} if commit is failing else {0, 1})


@pytest.mark.slow
@pytest.mark.parametrize("commit", COMMITS)
def test_twice_so_that_the_second_meets_the_taking_back(state, committed, commit):
    old = 0
    for line in itertools.count(1):
        for more in (1, 2, 3, 5, 8):
            new = old + 1
            came = interrupted(commit, state, new, line, line + more)
            assert committed() in (old, new)
            old = new + 1
            state.write(snapshot(old))
            assert committed() == old
        if not came:
            break
    assert line > 100


def test_with_the_interrupt_kept_as_a_notebook_keeps_it(state, committed):
    """Its frames then hold the transaction that nobody will end."""
    old, kept, left = 0, [], 0
    for line in itertools.count(1):
        try:
            with Interrupts(line):
                plain(state, old + 1)
        except KeyboardInterrupt as error:
            kept.append(error)
        else:
            break
        left += state._database.in_transaction
        state.take_back()
        assert committed() in (old, old + 1)
        old += 2
        state.write(snapshot(old))
        assert committed() == old
    assert left > 0 and line > 100


def test_a_transaction_that_sqlite_gave_up_commits_nothing_of_what_comes_after(state, committed):
    with pytest.raises(edgemem.StateError, match="gave up this transaction"), state.transaction():
        state.rows("ROLLBACK")  # as SQLite does when the disk is full
        state.write(snapshot(5))
    assert committed() == 0
    state.write(snapshot(6))
    assert committed() == 6


def test_a_runtime_goes_on_after_an_interrupt_at_any_of_its_commits_lines(tmp_path, digits_stream):
    x, _ = digits_stream
    kept = []
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        state_of(runtime).rows("PRAGMA synchronous = OFF")
        runtime.step(x[:64])
        with Interrupts(files=RUNTIME_FILES) as counted:
            runtime.flush()
        assert {commits.__file__, keeper.__file__} <= counted.names
        for line in range(1, counted.count, counted.count // 40):
            runtime.step(x[:16])
            try:
                with Interrupts(line, files=RUNTIME_FILES):
                    runtime.flush()
            except KeyboardInterrupt as error:
                kept.append(error)
            runtime.flush()
            with closing(State(tmp_path / "s.db", None, read_only=True)) as reader:
                assert reader.read().counters["frames"] == runtime.counters["frames"]
    assert len(kept) > 10
