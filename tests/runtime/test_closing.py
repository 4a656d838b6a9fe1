"""Closing a runtime whose commit fails: it stays open, until all is committed or given up."""

import gc
import logging
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from context_runs import BATCH, assert_same_arrays, opened, step_all
from teachable import frames_of, write_bundle

import edgemem
from edgemem.demo import BUNDLE
from edgemem.errors import StateError
from edgemem.runtime.step.graphs import Graphs
from edgemem.state.store import State
from edgemem.testing import session_of

pytestmark = pytest.mark.usefixtures("never_familiar")


def refuse(self, *_):
    raise StateError(str(self.path), "is on a full disk", "Make room")


@pytest.fixture
def full(monkeypatch):
    """A disk that takes no commit, until `undo`."""
    with monkeypatch.context() as patch:
        patch.setattr(State, "write", refuse)
        yield patch


@pytest.fixture
def path(tmp_path, even_frames):
    """A state with two steps."""
    with opened(tmp_path / "s.db") as runtime:
        step_all(runtime, even_frames[: 2 * BATCH])
    return tmp_path / "s.db"


def steps(path):
    with closing(State(path, None, read_only=True)) as state:
        return state.read().counters["steps"]


@pytest.mark.parametrize("options", [{}, {"contexts": False}, {"background": True}])
def test_a_close_that_could_not_commit_can_be_called_again(path, even_frames, full, options):
    runtime = opened(path, **options)
    step_all(runtime, even_frames[: 3 * BATCH])
    for _ in range(3):
        with pytest.raises(StateError, match=r"full disk; the runtime stays open\. .*rollback\(\)"):
            runtime.close()
        with pytest.raises(StateError, match="only once"):
            opened(path)
        assert len(runtime.predict(even_frames[:3]).labels) == 3
    runtime.step(even_frames[:BATCH])  # it may even go on
    full.undo()
    runtime.close()
    runtime.close()
    count, block = runtime.counters["steps"], session_of(runtime).block
    assert count == steps(path) >= 3
    with opened(path, **options) as again:
        assert_same_arrays(session_of(again).block, block)
        assert again.counters["frames"] == 6 * BATCH


def test_the_end_of_a_with_block_says_that_nothing_was_committed(path, even_frames, full):
    with pytest.raises(StateError, match="full disk; the runtime stays open"), opened(path) as held:
        held.step(even_frames[:BATCH])
    assert steps(path) == 2
    full.undo()
    held.close()
    assert steps(path) == 3


def test_an_error_inside_a_with_block_is_not_lost_behind_it(path, even_frames, full):
    with pytest.raises(StateError, match="full disk") as raised, opened(path) as held:
        held.step(even_frames[:BATCH])
        raise KeyError("inside")
    links, error = [], raised.value
    while error is not None:
        links.append(type(error))
        error = error.__cause__ or error.__context__
    assert KeyError in links
    full.undo()
    held.close()


def test_a_rollback_gives_up_what_cannot_be_committed(path, even_frames, full):
    runtime = opened(path)
    step_all(runtime, even_frames[: 3 * BATCH])
    with pytest.raises(StateError):
        runtime.close()
    runtime.rollback()
    runtime.close()
    full.undo()
    with opened(path) as again:
        assert again.counters["steps"] == 2
    assert steps(path) == 2


def test_a_rollback_gives_up_a_file_that_vanished(tmp_path, even_frames):
    path = tmp_path / "s.db"
    runtime = opened(path)
    runtime.step(even_frames[:BATCH])
    runtime.flush()
    runtime.step(even_frames[:BATCH])
    path.unlink()
    with pytest.raises(StateError, match=r"lost its file.*runtime\.rollback\(\) and close"):
        runtime.close()
    runtime.rollback()
    runtime.close()
    with opened(path) as again:
        assert again.counters["steps"] == 0


def test_learning_after_a_rollback_is_committed(path, even_frames):
    with opened(path) as runtime:
        runtime.step(even_frames[:BATCH])
        runtime.rollback()
        runtime.step(even_frames[:BATCH])
    assert steps(path) == 4  # what happened is counted, whatever became of it


def test_a_runtime_that_is_let_go_frees_its_state_and_tells_the_log(
    path, even_frames, full, caplog
):
    runtime = opened(path)
    runtime.step(even_frames[:BATCH])
    with pytest.raises(StateError):
        runtime.close()
    with caplog.at_level(logging.WARNING):
        del runtime
        gc.collect()
    assert "what was learnt since the last commit is lost" in caplog.text
    full.undo()
    with opened(path) as again:
        assert again.counters["steps"] == 2


def test_a_step_that_failed_in_the_background_does_not_keep_it_open(path, even_frames, monkeypatch):
    runtime = opened(path, background=True)
    runtime.step(even_frames[:3])

    def broken(*_):
        raise edgemem.BundleError("step", "failed", "Export again")

    monkeypatch.setattr(Graphs, "adapt", broken)
    runtime.step(even_frames[3 : BATCH + 3])
    with pytest.raises(edgemem.BundleError, match="step: failed"):
        runtime.close()
    runtime.close()
    with opened(path) as again:
        assert again.counters["frames"] == 3 * BATCH + 3


def test_what_is_taught_goes_back_with_the_error_and_close_is_quiet(tmp_path, full):
    bundle = write_bundle(tmp_path / "t.edgemem")
    runtime = edgemem.open(bundle, tmp_path / "s.db", threads=1)
    with pytest.raises(StateError, match="full disk"):
        runtime.learn(frames_of(2, 3), ["cat"] * 3)
    assert len(runtime.classes()) == 2
    runtime.close()
    assert not (tmp_path / "s.db").exists()


LIMITED = """
import resource, sys
import numpy as np
import edgemem

bundle, path, source = sys.argv[1:]
frames = np.load(source)["x"]
runtime = edgemem.open(bundle, path, threads=1, provider="cpu")
runtime.step(frames[:64])
runtime.flush()
runtime.step(frames[64:264])
allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, allowed[1]))
for _ in range(2):
    try:
        runtime.close()
    except edgemem.StateError as error:
        print("refused" if "stays open" in str(error) else error)
resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
runtime.close()
print(runtime.counters["frames"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_file_that_may_not_grow_for_a_while_loses_nothing(tmp_path, digits_stream):
    np.savez(tmp_path / "x.npz", x=digits_stream[0][:264])
    finished = subprocess.run(
        [sys.executable, "-c", LIMITED, BUNDLE, tmp_path / "s.db", tmp_path / "x.npz"],
        capture_output=True,
        text=True,
    )
    assert finished.stdout.split() == ["refused", "refused", "264"], finished.stderr
    with opened(tmp_path / "s.db") as again:
        assert again.counters["frames"] == 264
