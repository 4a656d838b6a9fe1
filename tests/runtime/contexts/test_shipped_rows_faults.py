"""Contexts on shipped rows when the disk hangs, and when others change the state file."""

import gc
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import context_runs
import numpy as np
import pytest
from context_runs import BATCH, blocks_of, events, move_root, step_all, written

from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.ship import ship
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import StateError
from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.contexts.source_in_bundle import source_keys
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.persistence import commits, keeper
from edgemem.state.store import State
from edgemem.testing import session_of

pytestmark = pytest.mark.usefixtures("never_familiar")

HANGS = 600  # seconds; far more than anything here takes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, visits):
    """The demo's bundle with two levels that have a leaf for the bright and the dark context."""
    plain = open_bundle(BUNDLE)
    graph, source = (
        OnnxRuntimeBackend(1).open(plain.path / plain.manifest.graphs["key"]),
        source_keys(plain),
    )
    batches = [batch for frames in visits[:2] for batch in np.split(frames, 4)]
    keys = np.float32([source.normal(graph.run({"x": x})["key"]) for x in batches])
    blocks = np.random.default_rng(0).normal(0, 1e-3, (len(keys), plain.manifest.block.elements))
    folder = tmp_path_factory.mktemp("bundle")
    np.savez(folder / "source.npz", keys=keys, blocks=blocks.astype(np.float32))
    build_bank(folder / "source.npz", folder / "bank", levels=2, branch=2)
    ship(folder / "bank", BUNDLE, folder / "s.edgemem")
    return folder / "s.edgemem"


def opened(bundle, state=None):
    return context_runs.opened(state, bundle)


@contextmanager
def at_once(disk):
    """Who waited for a read would come back only after one has ended."""
    before = disk.ended
    yield
    assert disk.ended == before


@pytest.fixture
def hanging_disk(monkeypatch):
    """Reads are counted and wait until `ready`; commits and closing have little patience."""
    disk = SimpleNamespace(ready=threading.Event(), reads=0, ended=0)
    sum_rows = ShippedBank.sum_rows

    def hang(bank, path, faults):
        disk.reads += 1
        disk.ready.wait(HANGS)
        disk.ended += 1
        return sum_rows(bank, path, faults)

    monkeypatch.setattr(ShippedBank, "sum_rows", hang)
    for module in (context_blocks, keeper):
        monkeypatch.setattr(module, "LAST_PATIENCE", 0.1)
    yield disk
    disk.ready.set()
    for thread in threading.enumerate():
        if thread.name == "edgemem-rows":
            thread.join(10)


def test_no_step_waits_for_the_rows(bundle, visits, hanging_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "STEPS", 1)
    monkeypatch.setattr(commits, "BYTES", 1 << 60)
    frames = np.concatenate(visits)
    with opened(bundle, tmp_path / "s.db") as runtime:
        runtime.step(frames[:3])
        for i in range(3, len(frames), BATCH):
            with at_once(hanging_disk):
                runtime.step(frames[i : i + BATCH])


def test_a_commit_goes_on_without_the_leaf_of_rows_that_do_not_come(
    bundle, visits, hanging_disk, tmp_path
):
    state = tmp_path / "s.db"
    runtime = opened(bundle, state)
    first = step_all(runtime, visits[0][: 2 * BATCH])[-1].context
    with at_once(hanging_disk):
        runtime.flush()
    with at_once(hanging_disk):
        runtime.close()
    assert first not in blocks_of(state)
    hanging_disk.ready.set()
    with opened(bundle, state) as runtime:
        results = step_all(runtime, visits[0])
    assert events(results, "context") == [f"{results[0].context} is new"]
    assert results[0].context != first and all(result.adapted for result in results)
    assert blocks_of(state)[results[0].context][0].path.count("/") == 2


def test_a_run_whose_reads_hang_for_ever_can_be_closed(bundle, visits, hanging_disk, tmp_path):
    runtime = opened(bundle, tmp_path / "s.db")
    runtime.step(visits[0][:BATCH])
    runtime.rollback("source")
    with at_once(hanging_disk):
        runtime.close()
    opened(bundle, tmp_path / "s.db").close()


def test_opening_does_not_wait_for_ever_and_keeps_the_leaf(
    bundle, visits, tmp_path, monkeypatch, hanging_disk
):
    state = tmp_path / "s.db"
    hanging_disk.ready.set()
    with opened(bundle, state) as runtime:
        present = runtime.step(visits[0]).context
    hanging_disk.ready.clear()
    before = blocks_of(state)[present]
    with at_once(hanging_disk):
        runtime = opened(bundle, state)
    with at_once(hanging_disk):
        runtime.step(visits[0][:BATCH])
    with at_once(hanging_disk):
        runtime.close()
    after = blocks_of(state)[present]
    assert after[0].path == before[0].path
    for name, array in before[1].items():
        np.testing.assert_array_equal(after[1][name], array)


def test_rows_that_nobody_waits_for_any_more_are_not_read(bundle, even_frames, hanging_disk):
    lights = [(1, 0), (0.2, 0.6), (-1, 1), (0.1, 0.1), (0.5, 0), (0.3, 0.7), (0.1, 0.9)]
    x = even_frames[:BATCH]
    with opened(bundle) as runtime:
        names = [runtime.step(np.float32(a * x + b)).context for a, b in lights]
        assert len(set(names)) > 4
        hanging_disk.ready.set()
        assert session_of(runtime).contexts.request.answer(60) is not None
    assert hanging_disk.reads == 2


def left_too_early(runtime, visits, disk):
    """Name of a context that was left before its rows came; they come now."""
    (name,) = {result.context for result in step_all(runtime, visits[0])}
    runtime.step(visits[1][:BATCH])
    disk.ready.set()
    step_all(runtime, visits[1][BATCH:])
    return name


def test_a_context_left_before_its_rows_came_gets_them_when_it_returns(
    bundle, visits, hanging_disk
):
    with opened(bundle) as runtime:
        name = left_too_early(runtime, visits, hanging_disk)
        back = step_all(runtime, visits[2])
        assert len(session_of(runtime).contexts.rows.path) == 2
    assert {result.context for result in back} == {name}
    assert all(result.adapted for result in back)


def test_a_context_left_before_its_rows_came_gets_them_in_the_next_run(
    bundle, visits, hanging_disk, tmp_path
):
    with opened(bundle, tmp_path / "s.db") as runtime:
        left_too_early(runtime, visits, hanging_disk)
    with opened(bundle, tmp_path / "s.db") as runtime:
        step_all(runtime, visits[2])
        assert len(session_of(runtime).contexts.rows.path) == 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
def test_a_state_that_cannot_be_read_leaves_no_file_open(bundle, visits, tmp_path, monkeypatch):
    state, folder = tmp_path / "s.db", Path("/proc/self/fd")
    with opened(bundle, state) as runtime:
        step_all(runtime, visits[0][: 2 * BATCH])

    def refuse(self):
        raise StateError("s.db", "cannot be used (disk I/O error)", "Wait")

    monkeypatch.setattr(State, "snapshots", refuse)
    gc.collect()
    before, kept = len(list(folder.iterdir())), []
    for _ in range(3):
        with pytest.raises(StateError, match="disk I/O error") as raised:
            opened(bundle, state)
        kept.append(raised.value)
    assert len(list(folder.iterdir())) == before


@pytest.mark.parametrize("whose", ["present", "root"])
def test_a_block_rolled_back_between_two_runs_is_taken(whose, bundle, visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(bundle, state) as runtime:
        for frames in visits * 2:
            for half in np.split(frames, 2):
                present = step_all(runtime, half)[-1].context
                move_root(runtime)
                runtime.flush()
        before = session_of(runtime).block
    with written(state) as blocks:
        again = blocks.rollback(present if whose == "present" else "root")
        root, leaf = blocks.read("root")[1], blocks.read(present)[1]
    assert again.provenance.why.startswith("rolled back")
    with opened(bundle, state) as runtime:
        rows = session_of(runtime).contexts.rows
        assert rows.path
        expected = Block(root) + rows.values + leaf
        for name, array in expected.items():
            np.testing.assert_array_equal(session_of(runtime).block[name], array)
        assert any((expected[name] != before[name]).any() for name in expected)
        result = runtime.step(visits[3][:BATCH])
    assert result.context == present
    assert events([result], "context") == [f"the written blocks have changed; {present} is taken"]
