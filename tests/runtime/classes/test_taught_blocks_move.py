"""Blocks that were taught classes: rolled back, borrowed, moved to other devices and levels."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from context_runs import blocks_of
from taught_runs import CAT, DOG, SUMS, opened, right, step_all
from teachable import BATCH, CAPACITY, frames_of, stream_of

from edgemem.bank.building.collected import open_learnt
from edgemem.bank.written.transfer import export_blocks, import_blocks
from edgemem.bundle.opening import open_bundle
from edgemem.runtime.contexts.lookahead import Lookahead
from edgemem.state.store import State
from edgemem.testing import put_session, session_of


def names(runtime):
    return {info.index: info.name for info in runtime.classes()}


def test_rollback_takes_the_classes_with_the_block(bundle, tmp_path):
    with opened(bundle, tmp_path / "s.db") as runtime:
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        step_all(runtime, stream_of([0, 1, CAT], 2 * BATCH, 1)[0])
        for target in ("source", "zero"):
            runtime.rollback(target)
            assert names(runtime) == {0: "left", 1: "right"}
            assert (runtime.predict(frames_of(CAT)).logits[:, CAT] == -1e4).all()
            runtime.rollback("commit")
            assert names(runtime)[CAT] == "cat"
            assert (runtime.predict(frames_of(CAT, 4)).labels == CAT).all()
        runtime.rollback("source")
        runtime.learn(frames_of(DOG, 4), ["dog"] * 4)
        assert names(runtime) == {0: "left", 1: "right", CAT: "dog"}
    with opened(bundle) as runtime:
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        runtime.rollback()
        assert names(runtime) == {0: "left", 1: "right"}


def test_what_one_block_for_all_was_taught_every_context_knows(bundle, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
    with opened(bundle, path, contexts=False) as runtime:
        runtime.learn(frames_of(DOG, 4), ["dog"] * 4)
        step_all(runtime, stream_of([0, 1, CAT, DOG], 2 * BATCH)[0])
    with opened(bundle, path) as runtime:
        assert names(runtime) == {0: "left", 1: "right", CAT: "cat", DOG: "dog"}
        for away in (0, 1, 0):
            x, y = stream_of([0, 1, CAT, DOG], 3 * BATCH, 2, away)
            assert right(step_all(runtime, x)[1:], y[BATCH:]) == 1.0
        # A context's prior is no part of what was taught.
        assert not session_of(runtime).contexts.root["remembered_prior"].any()


def test_contexts_off_and_on_again_count_no_lesson_twice(bundle, tmp_path):
    path, x = tmp_path / "s.db", stream_of([0, 1, CAT], 2 * BATCH)[0]
    with opened(bundle, path) as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        before = session_of(runtime).block["prototypes.frames"]
    for _ in range(3):
        with opened(bundle, path, contexts=False) as runtime:
            step_all(runtime, x)
        with opened(bundle, path) as runtime:
            step_all(runtime, x)
            np.testing.assert_allclose(session_of(runtime).block["prototypes.frames"], before)


def borrow(runtime):
    """As if the latest frames had been found to be of another context."""
    session = session_of(runtime)
    put_session(runtime, replace(session, lookahead=Lookahead(borrowed=session.block)))


@pytest.mark.parametrize("to", ["source", "zero", "commit"])
def test_a_borrowed_block_is_dropped_when_another_is_taken(bundle, to):
    with opened(bundle) as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        borrow(runtime)
        runtime.rollback(to)
        assert session_of(runtime).lookahead.borrowed is None


def test_a_borrowed_block_is_dropped_when_classes_change(bundle):
    with opened(bundle) as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        borrow(runtime)
        runtime.forget_class("cat")
        assert session_of(runtime).lookahead.borrowed is None


def test_blocks_that_move_to_another_device_keep_their_classes_but_not_the_names(bundle, tmp_path):
    with opened(bundle, tmp_path / "s.db") as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
    with closing(State(tmp_path / "s.db", None)) as state:
        export_blocks(state, tmp_path / "blocks.safetensors")
    identity = open_bundle(bundle).identity
    with closing(State(tmp_path / "other.db", identity)) as state:
        import_blocks(state, tmp_path / "blocks.safetensors")
    with opened(bundle, tmp_path / "other.db") as runtime:
        x, y = stream_of([0, 1, CAT], 2 * BATCH)
        assert {SUMS, "prototypes.frames"} <= set(session_of(runtime).classes.taught)
        assert right(step_all(runtime, x), y) == 1.0
        assert names(runtime)[CAT] == "class-2"
        runtime.learn(frames_of(DOG, 2), ["dog"] * 2)
        assert names(runtime)[DOG] == "dog"


def test_levels_built_from_devices_know_no_taught_classes(bundle, tmp_path):
    with opened(bundle, tmp_path / "s.db") as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
    assert any(arrays[SUMS].any() for _, arrays in blocks_of(tmp_path / "s.db").values())
    with closing(State(tmp_path / "s.db", None)) as state:
        export_blocks(state, tmp_path / "blocks.safetensors")
    source = open_learnt(open_bundle(bundle), [tmp_path / "blocks.safetensors"], tmp_path)
    block = open_bundle(bundle).manifest.block.unflatten(np.asarray(source.blocks[0]))
    assert block["shift"].any()
    for name in (SUMS, "prototypes.frames", "remembered_prior"):
        assert not block[name].any() and len(block[name]) == CAPACITY
