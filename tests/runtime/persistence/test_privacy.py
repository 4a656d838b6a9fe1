"""Frames on disk: none where that is asked for, and none that may show a forgotten class."""

import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from context_runs import BATCH, assert_same_arrays, blocks_of, opened, step_all
from opening import opened_with
from teachable import frames_of, stream_of, write_bundle

import edgemem
from edgemem.errors import StateError
from edgemem.runtime.persistence import commits
from edgemem.state.store import State
from edgemem.testing import ring_of, session_of

pytestmark = pytest.mark.usefixtures("never_familiar")

COMMAND = Path(sys.executable).with_name("edgemem")


@pytest.fixture
def marked():
    """Two batches of uint8 frames that nothing else holds."""
    return np.random.default_rng(9).integers(1, 255, (2 * BATCH, 1, 8, 8)).astype(np.uint8)


def on_disk(folder, frames):
    """How many of these frames are in any file of a folder, in any form that a state has."""
    content = b"\n".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    plain = [np.float32(frame) / np.float32(255) for frame in frames]
    forms = zip(frames, plain, strict=True)
    return sum(any(form.tobytes() in content for form in pair) for pair in forms)


@pytest.mark.parametrize("options", [{}, {"contexts": False}, {"adapt": False}])
def test_frames_that_are_not_kept_are_in_no_file_at_any_time(
    tmp_path, marked, monkeypatch, options
):
    monkeypatch.setattr(commits, "MOST_STEPS", 1)
    with opened(tmp_path / "s.db", keep_frames=False, **options) as runtime:
        for number in range(0, 2 * BATCH, 5):
            runtime.step(marked[number : number + 5])
            assert on_disk(tmp_path, marked) == 0
            runtime.flush()
            assert on_disk(tmp_path, marked) == 0
    assert on_disk(tmp_path, marked) == 0
    with opened(tmp_path / "kept.db", **options) as runtime:  # the search does find them
        runtime.step(marked)
    assert on_disk(tmp_path, marked) == BATCH


def test_frames_that_the_file_holds_already_go_at_once(tmp_path, marked, even_frames):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.step(even_frames[:BATCH])
        runtime.flush()
        runtime.step(marked[:20])
        runtime.flush()
        runtime.step(marked[20:])
        block = session_of(runtime).block
    assert on_disk(tmp_path, marked) > 0
    with opened(path, keep_frames=False) as runtime:
        assert on_disk(tmp_path, marked) == 0 and on_disk(tmp_path, even_frames[:BATCH]) == 0
        assert ring_of(runtime).count == session_of(runtime).pending == 0
        assert_same_arrays(session_of(runtime).block, block)
    assert on_disk(tmp_path, marked) == 0
    with opened(path) as runtime:
        assert_same_arrays(session_of(runtime).block, block)
        assert runtime.counters["frames"] == 3 * BATCH


def test_frames_in_a_damaged_commit_go_too(tmp_path, marked):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.step(marked)
    with closing(State(path, None)) as state:
        state.rows("UPDATE snapshot SET counters = '{}'")
    assert on_disk(tmp_path, marked) > 0
    with opened(path, keep_frames=False):
        assert on_disk(tmp_path, marked) == 0


def test_the_price_is_what_the_docs_say(tmp_path, visits):
    """All that was learnt is there again; the recent frames are as after a new start."""
    path, x = tmp_path / "s.db", visits[0]
    with opened(path, keep_frames=False) as runtime, opened() as whole:
        for one in (runtime, whole):
            step_all(one, x[: 3 * BATCH])
            one.step(x[: BATCH - 1])
        block = session_of(whole).block
    with opened(path, keep_frames=False) as again:
        assert_same_arrays(session_of(again).block, block)
        assert ring_of(again).count == 0
        steps = again.counters["steps"]
        again.step(x[:1])  # would have filled the batch
        assert again.counters["steps"] == steps
        again.step(x[1:BATCH])
        assert again.counters["steps"] == steps + 1
    assert set(blocks_of(path)) >= {"context-1"}


def test_a_new_state_without_frames_runs_as_one_with_them(tmp_path, visits):
    frames = np.concatenate(visits[:2])
    with opened(tmp_path / "a.db") as one, opened(tmp_path / "b.db", keep_frames=False) as other:
        for a, b in zip(step_all(one, frames), step_all(other, frames), strict=True):
            np.testing.assert_array_equal(a.logits, b.logits)


def test_the_command_takes_the_same_choice(tmp_path, marked):
    folder = tmp_path / "state"
    folder.mkdir()
    np.savez(tmp_path / "x.npz", x=marked)
    for option, found in (("--no-keep-frames", 0), ("--keep-frames", BATCH)):
        arguments = [edgemem.demo.BUNDLE, "--input", tmp_path / "x.npz", option]
        finished = subprocess.run(
            [COMMAND, "run", *map(str, arguments), "--state", folder / "s.db"],
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr
        assert on_disk(folder, marked) == found


@pytest.fixture(scope="module")
def teachable(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("teachable") / "t.edgemem")


def features_on_disk(folder, frames):
    content = b"\n".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    return sum(frame.tobytes() in content for frame in frames)


@pytest.mark.parametrize("options", [{}, {"contexts": False}, {"background": True}])
def test_forgetting_a_class_leaves_no_recent_frame_in_file_or_memory(teachable, tmp_path, options):
    path, shown = tmp_path / "s.db", frames_of(2, 20, seed=5)
    stream = stream_of([0, 1], BATCH)[0]
    with opened_with(teachable, path, threads=1, **options) as runtime:
        runtime.step(stream)
        runtime.step(shown)
        runtime.learn(shown[:3], ["cat"] * 3)
        runtime.flush()
        assert features_on_disk(tmp_path, shown) == BATCH
        runtime.forget_class("cat")
        assert features_on_disk(tmp_path, shown) == 0
        assert not ring_of(runtime).last(BATCH).any()
        assert ring_of(runtime).count == session_of(runtime).pending == 0
        result = runtime.step(stream[: BATCH - 1])
        assert np.isfinite(result.logits).all()
        runtime.step(stream[BATCH - 1 :])
    assert features_on_disk(tmp_path, shown) == 0
    with opened_with(teachable, path, threads=1, **options) as again:
        assert len(again.classes()) == 2 and ring_of(again).count == BATCH


def test_what_cannot_be_forgotten_keeps_its_frames(teachable, tmp_path, monkeypatch):
    path, shown = tmp_path / "s.db", frames_of(2, 5, seed=5)

    def refuse(self, *_):
        raise StateError("s.db", "is on a full disk", "Make room")

    with edgemem.open(teachable, path, threads=1) as runtime:
        runtime.step(shown)
        runtime.learn(shown, ["cat"] * 5)
        before, waiting = ring_of(runtime).last(5).copy(), session_of(runtime).pending
        with monkeypatch.context() as patch:
            patch.setattr(State, "write", refuse)
            with pytest.raises(StateError, match="full disk"):
                runtime.forget_class("cat")
        np.testing.assert_array_equal(ring_of(runtime).last(5), before)
        assert (ring_of(runtime).count, session_of(runtime).pending) == (5, waiting)
        runtime.forget_class("cat")
        assert not ring_of(runtime).last(BATCH).any()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_exports_are_for_their_owner_alone(tmp_path, visits, umask):
    path, out = tmp_path / "s.db", tmp_path / "out.safetensors"
    with opened(path) as runtime:
        step_all(runtime, visits[0])
    out.write_bytes(b"old")
    out.chmod(0o666)
    finished = subprocess.run(
        [COMMAND, "bank", "export", path, "--out", out],
        capture_output=True, text=True, umask=umask,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
