"""What went wrong in memory gives way before a commit, or is not written."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from context_runs import BATCH, assert_same_arrays, damaged, events, opened, step_all

from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import StateError
from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.guard.failure_indicators import Evidence
from edgemem.runtime.persistence import commits
from edgemem.runtime.step.graphs import Graphs
from edgemem.state.store import State
from edgemem.testing import notices_of, put_session, ring_of, session_of

pytestmark = pytest.mark.usefixtures("never_familiar")
SPEC = open_bundle(BUNDLE).manifest.frames


def spoil(block):
    """With one NaN."""
    name = next(n for n in sorted(block) if block[n].dtype.kind == "f" and block[n].size)
    array = block[name].copy()
    array.reshape(-1)[-1] = np.nan
    return block.replace({name: array})


def spoil_block(session):
    return replace(session, block=spoil(session.block))


def spoil_both(session):
    block = spoil(session.block)
    return replace(session, block=block, good=block)


def make_huge(session):
    huge = {n: np.full_like(a, 2e30) for n, a in session.block.items()}
    return replace(session, block=Block(huge))


def spoil_good(session):
    return replace(session, good=spoil(session.good))


def spoil_slots(session):
    return replace(session, slots=spoil(session.slots))


def with_kept(session, kept):
    return replace(session, contexts=replace(session.contexts, kept=kept))


def spoil_root(session):
    kept = session.contexts.kept
    return with_kept(session, kept.with_root(spoil(kept.root), "a test"))


def spoil_leaf(session):
    kept = session.contexts.kept
    return with_kept(session, kept.with_leaf(1, spoil(kept.root)))


def spoil_guard(session):
    return replace(session, watch=replace(session.watch, evidence=Evidence(np.nan, 0.0)))


def with_present(session, **change):
    """With a change of what is known of the present context."""
    policy = session.contexts.policy
    changed = replace(policy.known[policy.present], **change)
    policy = replace(policy, known={**policy.known, policy.present: changed})
    return replace(session, contexts=replace(session.contexts, policy=policy))


def spoil_key(session):
    policy = session.contexts.policy
    key = policy.known[policy.present].key.copy()
    key[0] = np.inf
    return with_present(session, key=key)


def spoil_spread(session):
    return with_present(session, spread=np.inf)


SPOILT = [spoil_block, spoil_both, make_huge, spoil_good, spoil_slots, spoil_root, spoil_leaf,
          spoil_guard, spoil_key, spoil_spread]  # fmt: skip


@pytest.mark.parametrize("change", SPOILT)
def test_what_is_unsound_in_memory_gives_way_before_a_commit(tmp_path, visits, change):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, np.concatenate(visits[:2]))
        runtime.flush()
        step_all(runtime, visits[2][:BATCH])
        put_session(runtime, change(session_of(runtime)))
        runtime.flush()
        for arrays in (
            session_of(runtime).block,
            session_of(runtime).good,
            session_of(runtime).contexts.root,
        ):
            assert all(np.isfinite(a).all() and np.abs(a).max() < 1e30 for a in arrays.values())
        block = session_of(runtime).block
        told = [event.kind for event in notices_of(runtime)]
        results = step_all(runtime, visits[3])
        assert all(np.isfinite(result.logits).all() for result in results)
    kinds = {spoil_block: "restored", spoil_both: "restored", make_huge: "restored",
             spoil_root: "damaged", spoil_leaf: "damaged", spoil_key: "damaged",
             spoil_spread: "damaged"}  # fmt: skip
    assert told == [kinds[change]] if change in kinds else told == []
    with opened(path) as again:
        assert not damaged(again)
        assert all(np.isfinite(result.logits).all() for result in step_all(again, visits[0]))
    assert block.keys() == session_of(again).block.keys()


def test_the_last_good_block_comes_back_in_place_of_an_unsound_one(tmp_path, visits):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, visits[0])
        good = session_of(runtime).good
        put_session(runtime, spoil_block(session_of(runtime)))
        runtime.flush()
        assert_same_arrays(session_of(runtime).block, good)
        assert not any(slot.any() for slot in session_of(runtime).slots.values())
    with opened(path) as again:
        assert_same_arrays(session_of(again).block, good)


def kept(path):
    with closing(State(path, None, read_only=True)) as state:
        return state.read()


def test_what_nothing_mends_is_not_written_and_the_last_commit_stays(tmp_path, visits, monkeypatch):
    monkeypatch.setattr(commits, "MOST_STEPS", 1)
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, visits[0])
        runtime.flush()
        before = kept(path)
        ring_of(runtime).push(np.full((BATCH, *SPEC.shape), np.nan, np.float32))
        put_session(runtime, session_of(runtime))
        with pytest.raises(StateError, match="was not written.*its ring.*runtime.rollback"):
            runtime.flush()
        assert kept(path).counters == before.counters
        assert_same_arrays(kept(path).arrays, before.arrays)
        result = runtime.step(visits[1][:BATCH])  # a commit of its own has no frames in it
        assert not events([result], "unwritten") and len(result.labels) == BATCH
    with opened(path) as again:
        assert again.counters["frames"] == len(visits[0]) + BATCH


def test_a_commit_that_nobody_asked_for_tells_what_it_could_not_write(
    tmp_path, visits, monkeypatch
):
    monkeypatch.setattr(commits, "MOST_STEPS", 1)
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, visits[0])
        before = kept(path)
        with monkeypatch.context() as patch:
            patch.setattr(context_blocks, "sound", lambda contexts, files: (contexts, ()))
            put_session(runtime, spoil_spread(session_of(runtime)))
            (text,) = events([runtime.step(visits[0][:BATCH])], "unwritten")
        assert "would not fit the bundle (its contexts)" in text
        assert kept(path).counters == before.counters
    with opened(path) as again:
        assert again.counters["frames"] == len(visits[0]) + BATCH


def test_an_answer_that_is_no_number_is_told(monkeypatch):
    frames = np.random.default_rng(0).random((BATCH, *SPEC.shape)).astype(np.float32)
    with opened() as runtime:
        logits = np.zeros((BATCH, 10), np.float32)
        logits[3] = np.nan
        monkeypatch.setattr(Graphs, "predict", lambda _, window, *more: logits[-len(window) :])
        for result in (runtime.predict(frames), runtime.predict(frames, frozen=True)):
            (text,) = events([result], "overflow")
            assert "1 of 16 answers are no numbers" in text
