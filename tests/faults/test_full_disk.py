"""A disk that is full at any write: the last commit stays, the error is one, and space helps."""

import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits"),
]
# The largest size a file may take grows step by step, so that every write is once the one too many.
FULL = """
import resource
from edgemem import StateError


def attempt(path, largest, number):
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    state = None
    try:
        state = State(path, "bundle")
        commit(state, number)
        return True
    except StateError as error:
        assert str(error).startswith(path) and error.reason and error.remedy, error
        return str(error)
    finally:
        if state is not None:
            state.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


path, committed, said = sys.argv[1], 0, set()
for largest in range(0, 130_000, 1021):
    found = attempt(path, largest, committed + 1)
    if found is True:
        committed += 1
    else:
        said.add(found)
    if committed:
        state = State(path, "bundle")
        assert state.read().counters["steps"] == committed
        assert not (damage := WrittenBlocks(state).verify()), damage
        state.close()
assert said and committed > 5, (said, committed)
print(*sorted(said), sep="\\n")
"""
COMPACT = """
import resource
from edgemem import StateError
path = sys.argv[1]
state = State(path, "bundle")
for number in range(1, 30):
    commit(state, number)
before = WrittenBlocks(state).listing().records
for largest in range(1000, 100_000, 1999):
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    try:
        state.compact()
    except StateError as error:
        assert "free space" in error.remedy, error
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    found = WrittenBlocks(state)
    assert [r.as_dict() for r in found.listing().records] == [r.as_dict() for r in before]
    assert not (damage := found.verify()), damage
commit(state, 30)
state.close()
"""


def test_full_at_every_write_of_a_commit(tmp_path, run, checked):
    finished = run(FULL, tmp_path / "s.db")
    assert finished.returncode == 0, finished.stderr
    for line in finished.stdout.splitlines():
        assert "s.db: cannot be used" in line and "free space" in line
    assert checked(tmp_path / "s.db")[1] > 5


def test_full_while_compacting(tmp_path, run, checked):
    finished = run(COMPACT, tmp_path / "s.db")
    assert finished.returncode == 0, finished.stderr
    assert checked(tmp_path / "s.db")[1] == 30
