"""Shipped rows in the block of a context: near, far, damaged, slow, and continued bit for bit."""

import shutil
import threading

import context_runs
import numpy as np
import pytest
from context_runs import BATCH, events, step_all
from places import begin_of

from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.ship import ship
from edgemem.bank.levels.level import Level
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import BankError
from edgemem.runtime.contexts.source_in_bundle import source_keys
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.state.store import State
from edgemem.testing import session_of

pytestmark = pytest.mark.usefixtures("block_alone", "never_familiar")


@pytest.fixture(scope="module")
def bright_key(visits):
    """Mean normal key of the bright batches."""
    bundle = open_bundle(BUNDLE)
    graph = OnnxRuntimeBackend(1).open(bundle.path / bundle.manifest.graphs["key"])
    source = source_keys(bundle)
    batches = np.split(visits[0], 4)
    return np.mean([source.normal(graph.run({"x": x})["key"]) for x in batches], 0)


@pytest.fixture(scope="module")
def values():
    """Two blocks: of the bright context, and of one far from everything."""
    size = open_bundle(BUNDLE).manifest.block.elements
    return np.random.default_rng(0).normal(0, 1e-3, (2, size)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, bright_key, values):
    """The demo's bundle with one level: row 0 and row 1 in the order that clustering gave them."""
    folder = tmp_path_factory.mktemp("bundle")
    keys = np.float32([bright_key, bright_key + 100])
    np.savez(folder / "source.npz", keys=keys, blocks=values)
    build_bank(folder / "source.npz", folder / "bank", levels=1, branch=2)
    ship(folder / "bank", BUNDLE, folder / "s.edgemem")
    return folder / "s.edgemem"


def opened(bundle, state=None):
    return context_runs.opened(state, bundle)


def with_generic(bundle, change):
    """Logits of the generic block plus a change, on some frames, as a bare graph gives them."""
    opened_bundle = open_bundle(bundle)
    spec, generic = opened_bundle.manifest.block, opened_bundle.generic
    block = spec.unflatten(spec.flatten(generic) + change)
    graph = OnnxRuntimeBackend(1).open(
        opened_bundle.path / opened_bundle.manifest.graphs["predict"]
    )
    hyper = {
        f"hp.{name}": np.asarray(value.default, np.float32)
        for name, value in opened_bundle.manifest.hyper_parameters.items()
        if f"hp.{name}" in graph.inputs
    }
    feeds = {f"block.{name}": array for name, array in block.items()}
    return lambda frames: graph.run({"x": frames, **feeds, **hyper})["logits"]


def test_a_new_context_starts_with_the_rows_of_the_nearest_leaf(bundle, visits, values):
    with opened(bundle) as runtime:
        found = runtime.step(visits[0][:BATCH])
    expected = with_generic(bundle, values[0])(visits[0][:BATCH])
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)
    other = with_generic(bundle, 0 * values[0])(visits[0][:BATCH])
    assert np.abs(found.logits - other).max() > 1e-3


def test_a_context_far_from_every_leaf_starts_with_the_generic_block(bundle, visits):
    with opened(bundle) as runtime:
        found = runtime.step(visits[1][:BATCH])
    expected = with_generic(bundle, 0.0)(visits[1][:BATCH])
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)


def test_written_blocks_tell_their_place_in_the_tree(bundle, visits, tmp_path):
    with opened(bundle, tmp_path / "s.db") as runtime:
        names = [step_all(runtime, frames)[-1].context for frames in visits]
    state = State(tmp_path / "s.db", None)
    records = {record.id: record for record in WrittenBlocks(state).listing().records}
    state.close()
    path = records[names[0]].path
    assert path in ("0/+", "1/+") and records[names[1]].path == "+"


@pytest.mark.parametrize("cut", [1, 3, 5, 9, 13])
def test_closed_and_reopened_anywhere_it_continues_bit_for_bit(cut, bundle, visits, tmp_path):
    frames = np.concatenate(visits)
    with opened(bundle) as runtime:
        whole = step_all(runtime, frames)
    with opened(bundle, tmp_path / "s.db") as runtime:
        parts = step_all(runtime, frames[: cut * BATCH])
    with opened(bundle, tmp_path / "s.db") as runtime:
        parts += step_all(runtime, frames[cut * BATCH :])
    for one, other in zip(parts, whole, strict=True):
        assert one.context == other.context
        np.testing.assert_array_equal(one.logits, other.logits)


def test_a_flipped_byte_costs_its_row_and_is_reported(bundle, visits, bright_key, tmp_path):
    broken = tmp_path / "broken.edgemem"
    shutil.copytree(bundle, broken)
    with ShippedBank(broken / "bank", open_bundle(broken).manifest.block.elements) as bank:
        (row,) = bank.fetch(bright_key).path
    path = broken / "bank" / "level-1.safetensors"
    with Level(path) as level:
        place = begin_of(path)["blocks"] + row * level.shape.row_bytes + 7
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with opened(broken) as runtime:
        results = step_all(runtime, np.concatenate(visits))
    (message,) = events(results, "damaged")
    assert "level-1.safetensors" in message and "check sum" in message
    expected = with_generic(bundle, 0.0)(visits[0][:BATCH])
    np.testing.assert_allclose(results[0].logits, expected, atol=1e-4)
    assert all(np.isfinite(result.logits).all() for result in results)


def test_a_bank_that_cannot_be_read_is_reported_and_the_rest_works(bundle, visits, monkeypatch):
    def fetch(self, key):
        raise BankError("level-2", "cannot be read (Input/output error)", "Get a fresh copy")

    monkeypatch.setattr(ShippedBank, "fetch", fetch)
    with opened(bundle) as runtime:
        results = step_all(runtime, np.concatenate(visits))
    assert "Input/output error" in events(results, "damaged")[0]
    expected = with_generic(bundle, 0.0)(visits[0][:BATCH])
    np.testing.assert_allclose(results[0].logits, expected, atol=1e-4)
    assert any(result.adapted for result in results)


@pytest.fixture
def slow_disk(monkeypatch):
    """Reads wait until the event is set."""
    ready, fetch = threading.Event(), ShippedBank.fetch

    def slow(self, key):
        ready.wait(600)
        return fetch(self, key)

    monkeypatch.setattr(ShippedBank, "fetch", slow)
    yield ready
    ready.set()


def test_while_rows_are_read_the_generic_block_predicts_and_nothing_is_learnt(
    bundle, visits, values, slow_disk
):
    with opened(bundle) as runtime:
        waiting = step_all(runtime, visits[0][: 2 * BATCH])
        slow_disk.set()
        assert session_of(runtime).contexts.request.answer(60) is not None
        found = runtime.step(visits[0][2 * BATCH : 3 * BATCH])
    assert len(events(waiting, "reading")) == 2
    assert not any(result.adapted for result in waiting) and found.adapted
    for number, result in enumerate(waiting):
        frames = visits[0][number * BATCH : (number + 1) * BATCH]
        np.testing.assert_allclose(result.logits, with_generic(bundle, 0.0)(frames), atol=1e-4)
    expected = with_generic(bundle, values[0])(visits[0][2 * BATCH : 3 * BATCH])
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)


def test_a_commit_waits_for_the_rows(bundle, visits, values, slow_disk, tmp_path):
    with opened(bundle, tmp_path / "s.db") as runtime:
        runtime.step(visits[0][:BATCH])
        threading.Timer(0.2, slow_disk.set).start()
        runtime.flush()
        spec, block = runtime.bundle.manifest.block, session_of(runtime).block
        change = spec.flatten(block) - spec.flatten(runtime.bundle.generic)
    np.testing.assert_allclose(change, values[0], atol=1e-6)


def test_another_context_does_not_wait_for_the_rows_of_the_last(bundle, visits, slow_disk):
    with opened(bundle) as runtime:
        first = step_all(runtime, visits[0][: 2 * BATCH])
        second = runtime.step(visits[1][:BATCH])
        slow_disk.set()
        back = step_all(runtime, visits[2])
    assert first[-1].context != second.context
    assert back[-1].context == first[-1].context and back[-1].adapted
