"""Contexts on shipped rows when the disk hangs, and what opening leaves behind."""

import os
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

import edgemem
from edgemem.bank.build import build_bank
from edgemem.bank.ship import ship
from edgemem.bank.shipped import ShippedBank
from edgemem.bank.written import WrittenBlocks
from edgemem.bundle import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import StateError
from edgemem.runtime import context_memory, loop
from edgemem.runtime.onnxruntime_backend import OnnxRuntimeBackend
from edgemem.runtime.shipped_rows import ShippedRows
from edgemem.runtime.source_keys import source_keys
from edgemem.state import State

BATCH = 16
AT_ONCE = 1.0  # seconds; a step takes a few hundredths, a hanging read takes for ever


@pytest.fixture(scope="module")
def visits(even_frames):
    """Bright, dark, bright, dark: four batches each."""
    x = even_frames[: 4 * BATCH]
    dark = (0.2 * x + 0.6).astype(np.float32)
    return [x, dark, x, dark]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, visits):
    """The demo's bundle with two levels that have a leaf for the bright and the dark context."""
    plain = open_bundle(BUNDLE)
    graph, source = OnnxRuntimeBackend(1).open(plain.graph_path("key")), source_keys(plain)
    batches = [batch for frames in visits[:2] for batch in np.split(frames, 4)]
    keys = np.float32([source.normal(graph.run({"x": x})["key"]) for x in batches])
    blocks = np.random.default_rng(0).normal(0, 1e-3, (len(keys), plain.manifest.block.elements))
    folder = tmp_path_factory.mktemp("bundle")
    np.savez(folder / "source.npz", keys=keys, blocks=blocks.astype(np.float32))
    build_bank(folder / "source.npz", folder / "bank", levels=2, branch=2)
    ship(folder / "bank", BUNDLE, folder / "s.edgemem")
    return folder / "s.edgemem"


def opened(bundle, state=None, **options):
    return edgemem.open(
        bundle, state, threads=1, hyper_parameters={"entropy_margin": 9.0}, **options
    )


def step_all(runtime, frames):
    return [runtime.step(frames[i : i + BATCH]) for i in range(0, len(frames), BATCH)]


def events(results, kind):
    return [event.message for result in results for event in result.events if event.kind == kind]


@contextmanager
def written(path):
    """The written blocks of a closed state file, to read or to change."""
    with closing(State(path, None)) as state:
        yield WrittenBlocks(state)


def paths_of(path):
    with written(path) as blocks:
        assert blocks.verify() == []
        return {record.id: record.path for record in blocks.listing().records}


@contextmanager
def at_once():
    start = time.monotonic()
    yield
    assert time.monotonic() - start < AT_ONCE


class Disk:
    """Reads of rows: `ready` to let them go on, `reads` to count them."""

    def __init__(self):
        self.ready, self.reads = threading.Event(), 0
        self.fetch = ShippedBank.fetch


@pytest.fixture
def hanging_disk(monkeypatch):
    """Reads wait until the disk is ready; commits and closing have little patience."""
    disk = Disk()

    def hang(bank, key):
        disk.reads += 1
        disk.ready.wait(60)
        return disk.fetch(bank, key)

    monkeypatch.setattr(ShippedBank, "fetch", hang)
    monkeypatch.setattr(context_memory, "LAST_PATIENCE", 0.1)
    monkeypatch.setattr(ShippedRows.close, "__defaults__", (0.1,))
    yield disk
    disk.ready.set()


def test_no_step_waits_for_the_rows(bundle, visits, hanging_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "COMMIT_STEPS", 1)
    monkeypatch.setattr(loop, "COMMIT_BYTES", 1 << 60)
    frames = np.concatenate(visits)
    with opened(bundle, tmp_path / "s.db") as runtime:
        runtime.step(frames[:3])
        for i in range(3, len(frames), BATCH):
            with at_once():
                runtime.step(frames[i : i + BATCH])


def test_a_commit_goes_on_without_the_leaf_of_rows_that_do_not_come(
    bundle, visits, hanging_disk, tmp_path
):
    state = tmp_path / "s.db"
    runtime = opened(bundle, state)
    first = step_all(runtime, visits[0][: 2 * BATCH])[-1].context
    with at_once():
        runtime.flush()
    with at_once():
        runtime.close()
    assert first not in paths_of(state)
    hanging_disk.ready.set()
    with opened(bundle, state) as runtime:
        results = step_all(runtime, visits[0])
    assert events(results, "context") == [f"{results[0].context} is new"]
    assert results[0].context != first and all(result.adapted for result in results)
    assert paths_of(state)[results[0].context].count("/") == 2


def test_a_run_whose_reads_hang_for_ever_can_be_closed(bundle, visits, hanging_disk, tmp_path):
    runtime = opened(bundle, tmp_path / "s.db")
    runtime.step(visits[0][:BATCH])
    runtime.rollback("source")
    with at_once():
        runtime.close()
    opened(bundle, tmp_path / "s.db").close()


def test_rows_that_nobody_waits_for_any_more_are_not_read(bundle, even_frames, hanging_disk):
    lights = [(1, 0), (0.2, 0.6), (-1, 1), (0.1, 0.1), (0.5, 0), (0.3, 0.7), (0.1, 0.9)]
    x = even_frames[:BATCH]
    with opened(bundle) as runtime:
        names = [runtime.step(np.float32(a * x + b)).context for a, b in lights]
        assert len(set(names)) > 4
        hanging_disk.ready.set()
        runtime._contexts.settle([])
    assert hanging_disk.reads == 2


@pytest.mark.parametrize("reopened", [False, True])
def test_a_context_left_before_its_rows_came_gets_them_when_it_returns(
    reopened, bundle, visits, hanging_disk, tmp_path
):
    state = tmp_path / "s.db"
    runtime = opened(bundle, state)
    names = {result.context for result in step_all(runtime, visits[0])}
    assert len(names) == 1
    runtime.step(visits[1][:BATCH])
    hanging_disk.ready.set()
    step_all(runtime, visits[1][BATCH:])
    if reopened:
        runtime.close()
        runtime = opened(bundle, state)
    back = step_all(runtime, visits[2])
    assert reopened or {result.context for result in back} == names
    assert runtime._contexts._rows.path and all(result.adapted for result in back)
    runtime.close()
    assert paths_of(state)[back[-1].context].count("/") == 2


def test_a_snapshot_that_fails_leaves_no_file_open(bundle, visits, tmp_path):
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("only Linux lists open files")
    state = tmp_path / "s.db"
    with opened(bundle, state) as runtime:
        step_all(runtime, visits[0][: 2 * BATCH])
    with closing(State(state, None)) as file:
        file.rows("UPDATE snapshot SET payload = zeroblob(8)")
    before, kept = len(os.listdir(folder)), []
    for _ in range(3):
        with pytest.raises(StateError, match="damaged") as raised:
            opened(bundle, state)
        kept.append(raised.value)
    assert len(os.listdir(folder)) == before
