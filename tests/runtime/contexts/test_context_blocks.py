"""Blocks of contexts: kept apart, shared in part, written, fetched and continued bit for bit."""

import shutil
import sqlite3
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from context_runs import BATCH, blocks_of, bright_and_dark, move_root, opened, step_all

import edgemem
from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import BundleError
from edgemem.runtime.contexts import context_files
from edgemem.runtime.contexts.context_blocks import ContextBlocks, arrive
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.guard import guard_rails
from edgemem.runtime.persistence import commits
from edgemem.testing import batch_of, session_of

pytestmark = pytest.mark.usefixtures("never_familiar")


@pytest.fixture(scope="module")
def visits(even_frames):
    """Frames of all classes alike, whose contexts are easy to tell."""
    return bright_and_dark(even_frames[: 6 * BATCH])


@pytest.fixture(scope="module")
def restless(digits_stream):
    """Frames of few classes, among which contexts change all the time."""
    return bright_and_dark(digits_stream[0][: 6 * BATCH].astype(np.float32) / 255)


def test_a_context_that_returns_gets_its_name_and_block_back(visits):
    with opened() as runtime:
        names = [[result.context for result in step_all(runtime, frames)] for frames in visits]
    bright, dark = names[0][-1], names[1][-1]
    assert bright != dark
    assert set(names[2]) == {bright} and set(names[3]) == {dark}


def test_arriving_is_an_event_that_names_the_context(visits):
    with opened() as runtime:
        for frames in visits[:2]:
            step_all(runtime, frames)
        back = step_all(runtime, visits[2])[0]
    assert [e.message for e in back.events if e.kind == "context"] == [f"{back.context} is back"]


def test_without_contexts_there_is_one_block(visits):
    with opened(contexts=False) as runtime:
        assert {r.context for frames in visits for r in step_all(runtime, frames)} == {"generic"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["visits", "restless"])
@pytest.mark.parametrize("cut", [3, 6, 8, 13, 17, 20])
def test_closed_and_reopened_anywhere_it_continues_bit_for_bit(kind, cut, request, tmp_path):
    frames = np.concatenate(request.getfixturevalue(kind))
    with opened() as runtime:
        whole = step_all(runtime, frames)
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        parts = step_all(runtime, frames[: cut * BATCH])
    with opened(state) as runtime:
        parts += step_all(runtime, frames[cut * BATCH :])
    assert [r.context for r in parts] == [r.context for r in whole]
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def test_blocks_are_written_on_close_with_key_count_and_provenance(visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        for frames in visits:
            results = step_all(runtime, frames)
    written = blocks_of(state)
    assert results[-1].context in written and len(written) >= 2
    assert "root" not in written  # it is the generic block
    for record, leaf in written.values():
        assert record.path == "+"
        assert record.key.shape == (open_bundle(BUNDLE).manifest.key,) and record.count >= 1
        assert record.provenance.bundle == open_bundle(BUNDLE).identity
        assert open_bundle(BUNDLE).manifest.block.mismatch(leaf) is None


NOVEL = 40.0


@pytest.fixture(scope="module")
def files():
    """What the demo's bundle knows of contexts; nothing is written anywhere."""
    return ContextFiles(open_bundle(BUNDLE), None)


def test_what_a_context_learns_is_its_own_and_comes_back(files):
    """Context 1 has seen two batches and learnt; context 2 arrives; context 1 comes back."""
    generic = files.bundle.generic
    first = np.zeros(files.bundle.manifest.key, np.float32)
    start = arrive(ContextBlocks.new(generic, follows=True), first, generic, files)
    again = arrive(start.contexts, first, start.block, files)
    assert again.block is None
    learnt = start.block + {name: np.ones_like(array) for name, array in generic.items()}
    second = arrive(again.contexts, first + np.float32(NOVEL), learnt, files)
    assert [event.kind for event in second.events] == ["context"]
    for name, array in generic.items():
        np.testing.assert_array_equal(second.block[name], array)
        np.testing.assert_array_equal(second.contexts.root[name], array)
    back = arrive(second.contexts, first, second.block, files)
    for name, array in learnt.items():
        np.testing.assert_allclose(back.block[name], array, rtol=1e-6, atol=1e-6)


def test_root_and_leaf_make_the_block():
    rng = np.random.default_rng(0)
    root, block = (Block({"a": rng.random(3), "b": rng.random(())}) for _ in range(2))
    found = root + (block - root)
    for name in block:
        assert isinstance(found[name], np.ndarray)
        np.testing.assert_allclose(found[name], block[name], rtol=1e-12)


def test_a_damaged_written_block_starts_afresh_and_is_told(visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        for frames in visits[:3]:
            present = step_all(runtime, frames)[-1].context
    database = sqlite3.connect(state)
    with database:
        rows = "SELECT row FROM block WHERE id != ?"
        database.execute(
            f"UPDATE payload SET content = zeroblob(8) WHERE row IN ({rows})", (present,)
        )
    database.close()
    with opened(state) as runtime:
        results = step_all(runtime, np.concatenate([visits[2], visits[3]]))
    assert "damaged" in [event.kind for result in results for event in result.events]
    assert all(np.isfinite(result.logits).all() for result in results)


def test_rolling_back_to_the_source_forgets_every_context(visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        for frames in visits:
            step_all(runtime, frames)
        runtime.flush()
        runtime.rollback("source")
    assert blocks_of(state) == {}


def test_rolling_back_to_the_commit_takes_its_contexts(visits, tmp_path):
    with opened(tmp_path / "s.db") as runtime:
        step_all(runtime, visits[0])
        runtime.flush()
        expected = step_all(runtime, visits[1])
        runtime.rollback("commit")
        again = runtime.predict(visits[0][:BATCH])
        assert again.context != expected[-1].context


def test_impossible_source_keys_are_refused(tmp_path):
    path = tmp_path / "x.edgemem"
    shutil.copytree(BUNDLE, path)
    bundle = open_bundle(path)
    (path / bundle.manifest.source).write_bytes(b"no")
    with pytest.raises(BundleError, match=r"source\.safetensors"):
        edgemem.open(path, threads=1)


def test_without_a_state_file_the_commit_is_the_opening_and_has_no_contexts(visits):
    with opened() as runtime:
        step_all(runtime, visits[0])
        runtime.rollback("commit")
        assert runtime.predict(visits[0][:BATCH]).context == "generic"
        assert session_of(runtime).block is runtime.bundle.generic


def test_a_run_without_contexts_in_between_leaves_the_written_blocks(visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        for frames in visits[:2]:
            step_all(runtime, frames)
    before = blocks_of(state)
    with opened(state, contexts=False) as runtime:
        step_all(runtime, visits[2])
    with opened(state) as runtime:
        known = {f"context-{number}" for number in session_of(runtime).contexts.policy.known}
        assert known == set(before) - {"root"}
        names = {result.context for result in step_all(runtime, 1 - visits[0])}
    assert names.isdisjoint(before)  # new contexts take numbers that were never used
    after = blocks_of(state)
    for name, (record, leaf) in before.items():
        if name == "root":
            continue
        assert after[name][0].count == record.count
        assert all((after[name][1][array] == value).all() for array, value in leaf.items())


@pytest.mark.slow
def test_commits_on_changes_of_context_are_bounded_in_steps_and_bytes(
    restless, tmp_path, monkeypatch
):
    def sizes_of_commits(**limits):
        for name, value in limits.items():
            monkeypatch.setattr(commits, name, value)
        with opened(tmp_path / f"{limits}.db") as runtime:
            seen = []
            for frames in restless * 2:
                for i in range(0, len(frames), BATCH):
                    runtime.step(frames[i : i + BATCH])
                    seen.append(runtime.bytes_written)
        return [b - a for a, b in pairwise([0, *seen]) if b > a], len(seen) * BATCH

    often, _ = sizes_of_commits(STEPS=1, BYTES=1 << 40)
    seldom, _ = sizes_of_commits(STEPS=16, BYTES=1 << 40)
    assert len(often) > 20 and 2 <= len(seldom) <= 4
    limit = 10 * max(often)
    sizes, frames = sizes_of_commits(STEPS=1, BYTES=limit)
    assert 3 <= len(sizes) < len(often)
    assert sum(sizes[:-1]) <= limit * frames / 1000


def test_contexts_that_do_not_fit_the_budget_make_room(visits, tmp_path, monkeypatch):
    bundle = open_bundle(BUNDLE)
    root_and_one = int(2.5 * bundle.manifest.block.nbytes)
    monkeypatch.setattr(context_files, "BANK_BYTES", root_and_one)
    state, results = tmp_path / "s.db", []
    with opened(state) as runtime:
        for frames in visits:
            results += step_all(runtime, frames)
            move_root(runtime)
            runtime.flush()
    assert "evicted" in [event.kind for result in results for event in result.events]
    left = blocks_of(state)
    assert set(left) - {"root"} == {results[-1].context}
    with opened(state) as runtime:
        known = {f"context-{number}" for number in session_of(runtime).contexts.policy.known}
        assert known == set(left) - {"root"}


def test_what_happens_to_contexts_is_logged(visits, caplog):
    with caplog.at_level("INFO", "edgemem"), opened() as runtime:
        results = step_all(runtime, np.concatenate(visits[:2]))
    told = [event.message for r in results for event in r.events if event.kind == "context"]
    assert told and all(any(text in line for line in caplog.messages) for text in told)


def test_drift_is_the_distance_to_the_context_in_use(visits):
    with opened() as runtime:
        results = step_all(runtime, visits[0])
        drift = runtime.predict(visits[0][:3]).drift
    assert results[0].drift == 0.0 and 0 < results[1].drift < 3
    assert drift == results[-1].drift
    with opened(contexts=False) as runtime:
        assert runtime.step(visits[0]).drift is None


def test_what_is_dropped_for_a_failure_is_not_taken_from_the_root(visits, files):
    """The root knows more than the bundle, the block without steps less. That is no lesson."""
    with opened() as runtime:
        step_all(runtime, visits[0])
        session = session_of(runtime)
        key = batch_of(runtime, visits[1][:BATCH]).key
    learns = [a.name for a in files.bundle.manifest.block.arrays if a.learns]

    def more(block, much):
        return block + {name: np.full_like(block[name], much) for name in learns}

    kept = session.contexts.kept
    kept = kept.with_root(more(kept.root, 0.01), "as if others had learnt")
    contexts = replace(session.contexts, kept=kept)
    session = replace(session, contexts=contexts, block=more(session.block, 0.02))
    session, found = guard_rails.fall_back(session, lambda block: True, files)
    for name in learns:
        np.testing.assert_array_equal(found[name], files.bundle.generic[name])
    arrival = arrive(session.contexts, key, found, files)
    assert arrival.block is not None
    for name in learns:
        np.testing.assert_array_equal(arrival.contexts.root[name], kept.root[name])
