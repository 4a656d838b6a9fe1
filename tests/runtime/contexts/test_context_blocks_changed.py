"""Written blocks that others changed, and runs in between: what the next run goes on with."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from context_runs import (
    BATCH,
    assert_same_arrays,
    assert_same_blocks,
    blocks_of,
    events,
    known,
    move_root,
    opened,
    step_all,
    written,
)

from edgemem.bank.written.transfer import export_blocks, import_blocks
from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.contexts import context_blocks
from edgemem.state.store import State
from edgemem.testing import session_of

pytestmark = pytest.mark.usefixtures("never_familiar")


@pytest.fixture(scope="module")
def lights(even_frames):
    """Two batches each in thirteen lights, then one batch each of the last six once more."""
    x, scales = even_frames[: 2 * BATCH], (1, 0.2, -1, 0.1, 0.5, 0.3, 0.1, 0.6, 0.2, -0.5, -0.2)
    levels = (0, 0.6, 1, 0.1, 0, 0.7, 0.9, 0.2, 0.2, 0.5, 0.9, 0.5, 0.7)
    frames = [a * x + b for a, b in zip((*scales, 0.05, -0.4), levels, strict=True)]
    return np.concatenate([*frames, *(f[:BATCH] for f in frames[-6:])]).astype(np.float32)


def learnt(path, visits):
    """A state file with the blocks of these visits, each committed twice; the blocks."""
    with opened(path) as runtime:
        for frames in visits:
            for half in np.split(frames, 2):
                step_all(runtime, half)
                move_root(runtime)
                runtime.flush()
    return blocks_of(path)


def versions_of(path, name):
    """The kept versions of a written block, newest first."""
    statement = "SELECT version FROM block WHERE id = ? ORDER BY version DESC"
    with closing(sqlite3.connect(path)) as database:
        return [version for (version,) in database.execute(statement, (name,))]


def imported(blocks_at, path):
    with closing(State(blocks_at, None)) as state:
        export_blocks(state, path.with_suffix(".safetensors"))
    with closing(State(path, open_bundle(BUNDLE).identity)) as state:
        import_blocks(state, path.with_suffix(".safetensors"))
    return path


def test_imported_blocks_are_known_on_opening_used_and_kept(visits, tmp_path):
    blocks = learnt(tmp_path / "elsewhere.db", visits)
    state = imported(tmp_path / "elsewhere.db", tmp_path / "s.db")
    with opened(state) as runtime:
        assert known(runtime) == set(blocks) - {"root"}
        assert_same_arrays(session_of(runtime).block, blocks["root"][1])
        (result,) = step_all(runtime, visits[0][:BATCH])
        assert events([result], "context") == [f"{result.context} is back"]
        expected = Block(blocks["root"][1]) + blocks[result.context][1]
        assert_same_arrays(session_of(runtime).good, expected)
    after = blocks_of(state)
    record = after.pop(result.context)[0]
    assert record.count == blocks.pop(result.context)[0].count + 1
    assert_same_blocks(after, blocks)
    assert all(after[name][0].version == blocks[name][0].version for name in blocks)


def test_a_few_frames_leave_imported_blocks_as_they_are(visits, tmp_path):
    blocks = learnt(tmp_path / "elsewhere.db", visits)
    state = imported(tmp_path / "elsewhere.db", tmp_path / "s.db")
    with opened(state) as runtime:
        runtime.step(visits[0][:3])
    assert_same_blocks(blocks_of(state), blocks)


@pytest.mark.parametrize(
    "damage",
    [
        "payload SET content = zeroblob(8)",
        "block SET count = 99",
        "block SET version = 'x'",
    ],
)
def test_a_damaged_root_gives_way_to_its_newest_intact_version(damage, visits, tmp_path):
    state = tmp_path / "s.db"
    before = learnt(state, visits * 2)
    with written(state) as blocks:
        expected = dict(blocks.intact("root"))[1]
    newest, intact, *older = versions_of(state, "root")
    with closing(sqlite3.connect(state)) as database, database:
        newest_row = "SELECT row FROM block WHERE id = 'root' AND version = ?"
        database.execute(f"UPDATE {damage} WHERE row = ({newest_row})", (newest,))
    with opened(state) as runtime:
        assert known(runtime) == set(before) - {"root"}
        assert_same_arrays(session_of(runtime).contexts.root, expected)
        results = step_all(runtime, visits[3][:BATCH])
    assert any("block 'root': is damaged" in message for message in events(results, "damaged"))
    assert set(versions_of(state, "root")) >= {intact, *older[:-1]}
    with written(state) as blocks:
        after = {record.id: blocks.read(record.id) for record in blocks.listing().records}
    assert_same_arrays(after["root"][1], expected)
    others = set(before) - {"root", results[-1].context}
    assert_same_blocks({n: after[n] for n in others}, {n: before[n] for n in others})


@pytest.mark.parametrize("path", ["99/+", "0/0/0/+", "0/3/+", "9" * 16 + "/+"])
def test_a_block_on_rows_that_the_bundle_lacks_is_reported(path, shipped_bundle, visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state, shipped_bundle) as runtime:
        name = runtime.step(visits[0]).context
    with written(state) as blocks:
        record, arrays = blocks.read(name)
        about = replace(record.provenance, why="imported")
        blocks.put(name, arrays, path=path, key=record.key, count=99, provenance=about)
    with opened(state, shipped_bundle) as runtime:
        result = runtime.step(visits[0])
    assert any(path in message for message in events([result], "damaged"))
    assert result.context != name and np.isfinite(result.logits).all()


@pytest.mark.parametrize("name", ["context-" + "9" * 20, "context-007"])
def test_a_block_of_an_odd_name_is_left_alone(name, visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state) as runtime:
        own = runtime.step(visits[0])
    with written(state) as blocks:
        record, arrays = blocks.read(own.context)
        about = replace(record.provenance, why="imported")
        blocks.put(name, arrays, path="+", key=record.key + 1, count=99, provenance=about)
    with opened(state) as runtime:
        results = step_all(runtime, np.concatenate(visits[:2]))
        assert name not in known(runtime)
    assert {result.context for result in results} == {"context-1", "context-2"}
    assert_same_arrays(blocks_of(state)[name][1], arrays)


@pytest.mark.parametrize("reopened", [False, True])
def test_rolled_back_to_zero_a_new_context_starts_from_zero(reopened, visits, tmp_path):
    state, zero = tmp_path / "s.db", open_bundle(BUNDLE).manifest.block.zero()
    runtime = opened(state)
    step_all(runtime, np.concatenate(visits[:2]))
    runtime.rollback("zero")
    if reopened:
        runtime.close()
        runtime = opened(state)
    assert_same_arrays(session_of(runtime).block, zero)
    (result,) = step_all(runtime, visits[0][:BATCH])
    assert events([result], "context") == ["context-3 is new"] and result.adapted
    assert_same_arrays(session_of(runtime).good, zero)
    runtime.close()
    blocks = blocks_of(state)
    assert set(blocks) == {"root", "context-3"}
    assert_same_arrays(blocks["root"][1], zero)


@pytest.mark.slow
def test_at_capacity_reopened_after_every_step_it_continues_bit_for_bit(
    lights, tmp_path, monkeypatch
):
    monkeypatch.setattr(context_blocks, "CAPACITY", 4)
    with opened() as runtime:
        whole = step_all(runtime, lights)
        assert session_of(runtime).contexts.policy.opened > 12
    parts = []
    for frames in np.split(lights, len(lights) // BATCH):
        with opened(tmp_path / "s.db") as runtime:
            parts.append(runtime.step(frames))
    assert [result.context for result in parts] == [result.context for result in whole]
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


@pytest.mark.parametrize("option", ["contexts", "adapt"])
def test_a_run_without_contexts_keeps_their_spreads_and_numbers(option, visits, tmp_path):
    state = tmp_path / "s.db"

    def spreads():
        with opened(state) as runtime:
            contexts = session_of(runtime).contexts.policy
            return {n: c.spread for n, c in contexts.known.items()}, contexts.opened

    learnt(state, visits)
    before = spreads()
    with opened(state, **{option: False}) as runtime:
        step_all(runtime, visits[2])
        runtime.rollback("commit")
        step_all(runtime, visits[2])
    assert all(before[0].values()) and spreads() == before
