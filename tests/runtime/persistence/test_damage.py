"""Damage to a state file costs what was damaged: what is intact goes on, and that is told."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from context_runs import (
    BATCH,
    assert_same_arrays,
    assert_same_blocks,
    blocks_of,
    known,
    move_root,
    opened,
    step_all,
    written,
)
from teachable import frames_of, stream_of, write_bundle

import edgemem
from edgemem.bank.written.record import Provenance
from edgemem.bank.written.transfer import export_blocks, import_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.state.store import Snapshot, State
from edgemem.testing import notices_of, ring_of, session_of, state_of

pytestmark = pytest.mark.usefixtures("never_familiar")

IDENTITY = open_bundle(BUNDLE).identity
COMMAND = Path(sys.executable).with_name("edgemem")


@pytest.fixture(scope="module")
def image(never_familiar, visits, tmp_path_factory):
    """A file with two commits, and its snapshots, newest first."""
    path = tmp_path_factory.mktemp("image") / "s.db"
    with opened(path) as runtime:
        step_all(runtime, np.concatenate(visits[:2]))
        runtime.step(visits[2][:3])
        move_root(runtime)
        runtime.flush()
        step_all(runtime, visits[2][3 : 3 * BATCH])
    with closing(State(path, None, read_only=True)) as state:
        return path.read_bytes(), list(state.snapshots())


@pytest.fixture
def path(tmp_path, image):
    (tmp_path / "s.db").write_bytes(image[0])
    return tmp_path / "s.db"


def execute(path, statement, *values):
    with closing(sqlite3.connect(path)) as database:
        found = database.execute(statement, values).fetchall()
        database.commit()
    return found


def flip(path, part, place=0):
    """Flip a bit of a part of a snapshot, 0 = the newest."""
    rows = execute(path, "SELECT parts FROM snapshot ORDER BY version DESC")
    digest = json.loads(rows[place][0])[part]
    content = bytearray(execute(path, "SELECT content FROM part WHERE sha256 = ?", digest)[0][0])
    content[-1] ^= 4
    execute(path, "UPDATE part SET content = ? WHERE sha256 = ?", bytes(content), digest)


def damage_of(runtime):
    return [event.message for event in notices_of(runtime) if event.kind == "damaged"]


def part_of(snapshot, name):
    start = f"{name}."
    return {n.removeprefix(start): a for n, a in snapshot.arrays.items() if n.startswith(start)}


def assert_goes_on(path, frames):
    """It runs, commits, and is whole after two commits."""
    for _ in range(2):
        with opened(path) as runtime:
            assert np.isfinite(runtime.step(frames).logits).all()
    with opened(path) as runtime:
        assert damage_of(runtime) == []
        return runtime.counters["steps"]


@pytest.mark.parametrize("part", ["opt", "ring", "guard", "contexts"])
def test_a_damaged_part_costs_that_part_alone(path, image, visits, part):
    flip(path, part)
    newest, _ = image[1]
    with opened(path) as runtime:
        (text,) = damage_of(runtime)
        assert f"holds a damaged snapshot (its {part})" in text and "Delete" not in text
        assert_same_arrays(session_of(runtime).block, part_of(newest, "block"))
        assert runtime.counters["steps"] == newest.counters["steps"]
        slots = {n: np.zeros_like(a) for n, a in part_of(newest, "opt").items()}
        assert_same_arrays(
            session_of(runtime).slots, slots if part == "opt" else part_of(newest, "opt")
        )
        assert ring_of(runtime).count == (0 if part == "ring" else BATCH)
    assert assert_goes_on(path, visits[2][:BATCH]) >= newest.counters["steps"] + 1


@pytest.mark.parametrize("how", ["block", "row"])
def test_without_its_block_a_commit_gives_way_to_the_one_before(path, image, visits, how):
    if how == "block":
        flip(path, "block")
    else:
        execute(path, "UPDATE snapshot SET sha256 = 'x' WHERE version = "
                      "(SELECT max(version) FROM snapshot)")  # fmt: skip
    newest, earlier = image[1]
    with opened(path) as runtime:
        assert any("holds a damaged snapshot" in text for text in damage_of(runtime))
        assert runtime.counters["steps"] == earlier.counters["steps"] < newest.counters["steps"]
        assert known(runtime) == {"context-1", "context-2"}
    assert_goes_on(path, visits[2][:BATCH])


def ruin_rows(path):
    execute(path, "UPDATE snapshot SET counters = '{}'")


def ruin_blocks(path):
    for place in (0, 1):
        flip(path, "block", place)


def lose_rows(path):
    execute(path, "UPDATE snapshot SET parts = x'00ff'")


def ruin_page(path):
    """Damage to the order of the table itself, which no statement can read past."""
    page = execute(path, "SELECT rootpage FROM sqlite_master WHERE name = 'snapshot'")[0][0]
    (size,) = execute(path, "PRAGMA page_size")[0]
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : (page - 1) * size + 8] = b"\xff" * 8
    path.write_bytes(content)


@pytest.mark.parametrize("ruin", [ruin_rows, ruin_blocks, lose_rows])
def test_without_any_snapshot_the_written_blocks_are_taken(path, visits, ruin):
    blocks = blocks_of(path)
    ruin(path)
    with opened(path) as runtime:
        assert "The written blocks are taken" in damage_of(runtime)[-1]
        assert not any("Delete" in text for text in damage_of(runtime))
        assert known(runtime) == set(blocks) - {"root"} and runtime.counters["steps"] == 0
        root = blocks["root"][1] if "root" in blocks else open_bundle(BUNDLE).generic
        assert_same_arrays(session_of(runtime).block, root)
        result = runtime.step(visits[0][:BATCH])
        assert result.context in blocks
        assert_same_arrays(session_of(runtime).good, Block(root) + blocks[result.context][1])
    assert_goes_on(path, visits[0][:BATCH])


def test_a_file_that_takes_no_commits_any_more_still_predicts_and_exports(path, visits, tmp_path):
    ruin_page(path)
    runtime = opened(path)
    assert "The written blocks are taken" in damage_of(runtime)[-1]
    assert runtime.step(visits[0][:BATCH]).context in known(runtime)
    with pytest.raises(edgemem.StateError, match="the runtime stays open"):
        runtime.close()
    assert np.isfinite(runtime.predict(visits[0][:BATCH]).logits).all()
    runtime.rollback()
    runtime.close()
    with closing(State(path, None, read_only=True)) as state:
        assert len(export_blocks(state, tmp_path / "f")) == len(blocks_of(path))
    with closing(State(tmp_path / "new.db", IDENTITY)) as state:
        import_blocks(state, tmp_path / "f")
    assert_same_blocks(blocks_of(tmp_path / "new.db"), blocks_of(path))


def commit_again(path, change):
    """Commit the newest snapshot once more with other contents, under its right hash."""
    with closing(State(path, IDENTITY)) as state:
        snapshot = state.read()
        arrays, counters = dict(snapshot.arrays), dict(snapshot.counters)
        change(arrays, counters)
        state.write(Snapshot(arrays, counters))


def one_of(arrays, group):
    return next(name for name in sorted(arrays) if name.startswith(f"{group}."))


MISFITS = {
    "no block": lambda a, c: a.pop(one_of(a, "block")),
    "one more": lambda a, c: a.update({"block.more": np.zeros(1, np.float32)}),
    "another shape": lambda a, c: a.update({one_of(a, "block"): np.zeros(3, np.float32)}),
    "another dtype": lambda a, c: a.update(
        {one_of(a, "block"): a[one_of(a, "block")].astype(np.float64)}
    ),
    "not finite": lambda a, c: a.update({one_of(a, "block"): a[one_of(a, "block")] * np.nan}),
    "huge": lambda a, c: a.update({one_of(a, "block"): a[one_of(a, "block")] + np.float32(1e38)}),
    "nothing": lambda a, c: a.clear(),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_commit_that_does_not_fit_gives_way_to_the_one_before(path, image, name):
    commit_again(path, MISFITS[name])
    with opened(path) as runtime:
        (text,) = damage_of(runtime)
        assert "do not fit the bundle" in text and "is passed over" in text
        assert_same_arrays(session_of(runtime).block, part_of(image[1][0], "block"))
        assert runtime.counters["steps"] == image[1][0].counters["steps"]


OTHERS = {
    "good": lambda a, c: a.pop(one_of(a, "good")),
    "opt": lambda a, c: a.pop(one_of(a, "opt")),
    "ring": lambda a, c: a.pop("ring"),
    "ring ": lambda a, c: a.update(ring=a["ring"].astype(np.float32) * np.float32(np.nan)),
    "ring  ": lambda a, c: a.update(ring=a["ring"][:, :, :7]),
    "ring   ": lambda a, c: a.update(ring=np.zeros((17, 1, 8, 8), np.float32)),
    "ring    ": lambda a, c: a.update(ring=np.array(1.0, np.float32)),
    "ring     ": lambda a, c: a.update(ring=np.full((2, 1, 8, 8), 1e30, np.float32)),
    "ring      ": lambda a, c: c.update(pending=16),
    "ring       ": lambda a, c: c.update(pending=-1),
    "guard": lambda a, c: a.update({"guard.evidence": np.full(2, np.nan, np.float32)}),
    "contexts": lambda a, c: a.update({"contexts.spread": a["contexts.spread"] + np.inf}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_fit_beside_a_block_is_left_out(path, image, visits, name):
    commit_again(path, OTHERS[name])
    with opened(path) as runtime:
        assert damage_of(runtime) == [f"{path}: {name.strip()} of a commit does not fit"]
        assert_same_arrays(session_of(runtime).block, part_of(image[1][0], "block"))
        assert np.isfinite(runtime.step(visits[0][: 2 * BATCH]).logits).all()
    with opened(path) as runtime:
        assert damage_of(runtime) == []


def test_a_rollback_passes_over_what_does_not_fit_too(path, image, visits):
    with opened(path) as runtime:
        step_all(runtime, visits[0])
        arrays = {**image[1][0].arrays, "block.more": np.zeros(1, np.float32)}
        state_of(runtime).write(Snapshot(arrays, {}))
        runtime.rollback()
        assert "is passed over" in damage_of(runtime)[0]
        assert_same_arrays(session_of(runtime).block, part_of(image[1][0], "block"))


@pytest.fixture(scope="module")
def teachable(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("teachable") / "t.edgemem")


def test_names_of_classes_are_taken_from_the_commit_that_has_them(teachable, tmp_path):
    path, stream = tmp_path / "s.db", stream_of([0, 1], 16)[0]
    with edgemem.open(teachable, path, threads=1) as runtime:
        runtime.learn(frames_of(2, 3), ["cat"] * 3)
        runtime.step(stream)
        runtime.rename_class("cat", "kitten")
    flip(path, "classes")
    with edgemem.open(teachable, path, threads=1) as runtime:
        assert [info.name for info in runtime.classes()] == ["left", "right", "cat"]
        assert (runtime.predict(frames_of(2, 3)).labels == 2).all()
        assert "its classes" in damage_of(runtime)[0]


def test_classes_whose_names_are_lost_are_known_by_number(teachable, tmp_path):
    path = tmp_path / "s.db"
    with edgemem.open(teachable, path, threads=1) as runtime:
        runtime.learn(frames_of(2, 3), ["cat"] * 3)
    flip(path, "classes")
    with edgemem.open(teachable, path, threads=1) as runtime:
        assert [info.name for info in runtime.classes()] == ["left", "right", "class-2"]
        assert (runtime.predict(frames_of(2, 3)).labels == 2).all()
        runtime.rename_class("class-2", "cat")
    with edgemem.open(teachable, path, threads=1) as runtime:
        assert damage_of(runtime) == []
        assert [info.name for info in runtime.classes()] == ["left", "right", "cat"]


def ruin_payload(path, name):
    """Damage the current version of a written block."""
    execute(path, "UPDATE payload SET content = zeroblob(9) WHERE row = (SELECT row FROM block "
                  "WHERE id = ? ORDER BY version DESC LIMIT 1)", name)  # fmt: skip


def test_a_damaged_leaf_gives_way_to_its_earlier_version(path, visits):
    ruin_rows(path)
    with written(path) as blocks:
        (_, earlier), *_ = [v for v in blocks.intact("context-1") if v[0] == 1]
    ruin_payload(path, "context-1")
    root = blocks_of_root(path)
    with opened(path) as runtime:
        result = runtime.step(visits[0][:BATCH])
        assert result.context == "context-1"
        assert "context-1" in " ".join(e.message for e in result.events if e.kind == "damaged")
        assert_same_arrays(session_of(runtime).good, Block(root) + earlier)


def blocks_of_root(path):
    with written(path) as blocks:
        names = [record.id for record in blocks.listing().records]
        return blocks.read("root")[1] if "root" in names else open_bundle(BUNDLE).generic


SPOILT = {
    "NaN": lambda array: array * np.float32(np.nan),
    "infinite": lambda array: array + np.float32(np.inf),
    "huge": lambda array: array + np.float32(3e38),
}


def spoilt(path, name, change, out):
    """A file of blocks as if its device had learnt this."""
    with closing(State(path, None)) as state:
        blocks = WrittenBlocks(state)
        record, arrays = blocks.read(name)
        arrays = {n: change(a) if a.size else a for n, a in arrays.items()}
        about = Provenance(IDENTITY, 1, 0.5, "a test")
        blocks.put(name, arrays, path=record.path, key=record.key, count=9, provenance=about)
        export_blocks(state, out)


@pytest.mark.parametrize("name", ["root", "context-2"])
@pytest.mark.parametrize("how", SPOILT)
def test_an_import_of_what_no_block_holds_is_refused_and_changes_nothing(path, tmp_path, name, how):
    out, target = tmp_path / "f", tmp_path / "t.db"
    target.write_bytes(path.read_bytes())
    before = blocks_of(target)
    spoilt(path, name, SPOILT[how], out)
    with (
        closing(State(target, IDENTITY)) as state,
        pytest.raises(edgemem.InputError, match="holds values that no sound block has"),
    ):
        import_blocks(state, out)
    assert_same_blocks(blocks_of(target), before)


@pytest.mark.parametrize("name", ["root", "context-2"])
@pytest.mark.parametrize("how", SPOILT)
def test_blocks_that_came_in_unsound_are_told_and_cost_themselves(
    path, visits, tmp_path, name, how
):
    """As an import of an earlier release, or another program, may have left them."""
    spoilt(path, name, SPOILT[how], tmp_path / "f")
    for _ in range(2):
        with opened(path) as runtime:
            results = step_all(runtime, np.concatenate(visits[:2]))
            assert all(np.isfinite(result.logits).all() for result in results)
    with opened(path) as runtime:
        assert damage_of(runtime) == []
    for _, arrays in blocks_of(path).values():
        assert all(np.abs(array).max() < 1e30 for array in arrays.values())


def test_commands_on_a_file_without_snapshots_do_what_they_can(path, tmp_path):
    ruin_blocks(path)
    for arguments in (
        ("blocks", path), ("export", path, "--out", tmp_path / "f"),
        ("import", path, tmp_path / "f"), ("rollback", path, "context-1"), ("compact", path),
    ):  # fmt: skip
        finished = subprocess.run(
            [COMMAND, "bank", *map(str, arguments)], capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr
    with opened(path) as runtime:
        assert known(runtime) == {"context-1", "context-2"}
