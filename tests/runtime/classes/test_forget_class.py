"""Forgetting and renaming classes: what was taught is nowhere, in memory or on disk."""

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from context_runs import blocks_of
from taught_runs import CAT, DOG, everything, opened, step_all, table
from teachable import BATCH, FEATURES, frames_of, stream_of

from edgemem.bundle.opening import open_bundle
from edgemem.errors import InputError, StateError
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.loop import Runtime
from edgemem.state.store import State
from edgemem.testing import put_session, session_of


def rows_of(runtime, number):
    """Bytes of the prototype of a class, in whatever is in use."""
    session = session_of(runtime)
    kept = session.contexts.kept
    blocks = [session.block, session.good, kept.root, *kept.leaves.values()]
    rows = [block["prototypes.sums"][number] for block in blocks]
    return {row.tobytes() for row in rows if row.any()}


def rows_on_disk(path, number):
    """The same, of all versions of all written blocks and of the snapshots."""
    arrays = [block["prototypes.sums"] for _, block in blocks_of(path).values()]
    with closing(State(path, None)) as state:
        snapshot = state.read().arrays
    arrays += [snapshot[f"{name}.prototypes.sums"] for name in ("block", "good")]
    return {array[number].tobytes() for array in arrays if array[number].any()}


def test_a_forgotten_class_is_nowhere_on_disk(bundle, options, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path, **options) as runtime:
        found = set()
        for away in (0, 1, 0):
            step_all(runtime, stream_of([0, 1], 3 * BATCH, away=away)[0])
            runtime.learn(frames_of(CAT, 3, away=away), ["cat"] * 3)
            runtime.learn(frames_of(DOG, 2, away=away), ["dog"] * 2)
            found |= rows_of(runtime, CAT)
    found |= rows_on_disk(path, CAT)
    content = path.read_bytes()
    assert len(found) > 1 and any(row in content for row in found)
    with opened(bundle, path, **options) as runtime:
        runtime.forget_class("cat")
        for file in (path, tmp_path / "s.db-wal"):
            content = file.read_bytes()
            assert not any(row in content for row in found) and b"cat" not in content
        assert table(runtime) == {0: ("left", 0), 1: ("right", 0), 3: ("dog", 6)}
        assert (runtime.predict(frames_of(CAT, 5)).logits[:, CAT] == -1e4).all()
        for away in (0, 1):
            x, y = stream_of([DOG, 1], 3 * BATCH, seed=2, away=away)
            for result in step_all(runtime, x):
                assert (result.logits[:, CAT] == -1e4).all()
            assert (result.labels == y[-BATCH:]).all()
    assert not rows_on_disk(path, CAT) and rows_on_disk(path, DOG)


def test_what_one_way_of_opening_taught_another_forgets(bundle, tmp_path):
    """Blocks of contexts are in the file even while contexts are not told apart."""
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
    with opened(bundle, path, contexts=False) as runtime:
        assert (runtime.predict(frames_of(CAT, 3)).labels == CAT).all()
        runtime.forget_class(CAT)
    assert not rows_on_disk(path, CAT)
    with opened(bundle, path) as runtime:
        results = step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        assert (results[-1].logits[:, CAT] == -1e4).all() and CAT not in table(runtime)


def test_own_classes_forget_what_they_were_taught(bundle, options):
    with opened(bundle, **options) as runtime:
        expected = runtime.predict(frames_of(0, 3)).logits
        runtime.learn(frames_of(0, 3), [0] * 3)
        runtime.hyper_parameters.set(prior_weight=0.0)
        runtime.forget_class("left")
        session = session_of(runtime)
        still = session.block.replace({"shift": np.zeros(FEATURES, np.float32)})
        put_session(runtime, replace(session, block=still))
        np.testing.assert_array_equal(runtime.predict(frames_of(0, 3)).logits, expected)
        with pytest.raises(InputError, match="nothing was taught of it"):
            runtime.forget_class("left")


def test_forget_and_rename_refuse_what_is_not_there(bundle):
    with opened(bundle) as runtime:
        for label in ("cat", 2, -1, True, 1.0, None):
            with pytest.raises(InputError):
                runtime.forget_class(label)
            with pytest.raises(InputError):
                runtime.rename_class(label, "dog")
        for name in ("right", "", None, 3):
            with pytest.raises(InputError):
                runtime.rename_class("left", name)
        assert table(runtime) == {0: ("left", 0), 1: ("right", 0)}


def test_a_damaged_block_stops_forgetting(bundle, tmp_path):
    path = tmp_path / "s.db"
    state = State(path, open_bundle(bundle).identity)
    with Runtime(open_bundle(bundle), OnnxRuntimeBackend(1), state=state) as runtime:
        for away in (0, 1):
            step_all(runtime, stream_of([0, 1], 3 * BATCH, away=away)[0])
            runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        (row,) = state.rows(
            "SELECT row FROM block WHERE id = 'context-1' ORDER BY version DESC LIMIT 1"
        )[0]
        state.rows("UPDATE payload SET content = x'00' WHERE row = ?", row)
        before = everything(runtime)
        with pytest.raises(StateError, match="block 'context-1': is damaged"):
            runtime.forget_class("cat")
        assert everything(runtime) == before


@contextmanager
def reading(path):
    """Somebody else reads the state file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM snapshot").fetchall()
        yield


def test_a_reader_keeps_the_bytes_in_the_log_and_that_is_said(bundle, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        with reading(path), pytest.raises(StateError, match="is being read"):
            runtime.forget_class("cat")
        assert CAT not in table(runtime)
    with opened(bundle, path) as runtime:
        assert CAT not in table(runtime)
