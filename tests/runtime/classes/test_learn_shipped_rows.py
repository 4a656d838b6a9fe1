"""Classes taught in contexts that stand on shipped rows, and while these are still being read."""

import threading

import numpy as np
import pytest
from teachable import BATCH, BLOCK, FEATURES, TAUGHT, frames_of, stream_of, write_bundle

import edgemem
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.ship import ship
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.persistence import keeper
from edgemem.testing import session_of

CAT, SUMS = 2, "prototypes.sums"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Its rows shift frames a little, and know nothing of classes."""
    folder, rng = tmp_path_factory.mktemp("shipped"), np.random.default_rng(0)
    write_bundle(folder / "t.edgemem")
    blocks = []
    for _ in range(12):
        shift = rng.normal(0, 0.01, FEATURES).astype(np.float32)
        blocks.append(BLOCK.flatten({**BLOCK.zero(), "shift": shift}))
    keys = rng.normal(size=(12, FEATURES)).astype(np.float32)
    np.savez(folder / "source.npz", keys=keys, blocks=np.stack(blocks))
    build_bank(folder / "source.npz", folder / "bank", levels=2, branch=2, storage="float32")
    ship(folder / "bank", folder / "t.edgemem", folder / "shipped.edgemem")
    return folder / "shipped.edgemem"


def step_all(runtime, x):
    return [runtime.step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def test_the_leaf_has_the_rest_and_rows_have_nothing(bundle, tmp_path):
    path = tmp_path / "s.db"
    with edgemem.open(bundle, path, threads=1) as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        assert session_of(runtime).contexts.rows.path
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        expected = session_of(runtime).block
        np.testing.assert_array_equal(session_of(runtime).contexts.root[SUMS], 0.5 * expected[SUMS])
    with edgemem.open(bundle, path, threads=1) as runtime:
        for name, array in expected.items():
            np.testing.assert_array_equal(session_of(runtime).block[name], array)
        for away in (1, 0):
            x, y = stream_of([0, 1, CAT], 3 * BATCH, 1, away)
            results = step_all(runtime, x)
            assert (results[-1].labels == y[-BATCH:]).all()
        np.testing.assert_allclose(session_of(runtime).block[SUMS], expected[SUMS], rtol=1e-5)
        runtime.forget_class("cat")
        assert not any(session_of(runtime).block[name][CAT].any() for name in TAUGHT)


@pytest.mark.parametrize("later", [False, True])
def test_what_is_taught_while_rows_are_read_is_every_contexts(bundle, later, tmp_path, monkeypatch):
    ready, sum_rows = threading.Event(), ShippedBank.sum_rows

    def hang(bank, path, faults):
        ready.wait(600)
        return sum_rows(bank, path, faults)

    monkeypatch.setattr(ShippedBank, "sum_rows", hang)
    for module in (context_blocks, keeper):
        monkeypatch.setattr(module, "LAST_PATIENCE", 0.1)
    path = tmp_path / "s.db"
    with edgemem.open(bundle, path, threads=1) as runtime:
        runtime.learn(frames_of(0, 2), ["left"] * 2)
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        assert session_of(runtime).contexts.reading
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        taught = session_of(runtime).block[SUMS]
        assert session_of(runtime).contexts.reading and taught[CAT].any() and taught[0].any()
        np.testing.assert_array_equal(session_of(runtime).contexts.root[SUMS], taught)
        if later:
            ready.set()
            x, y = stream_of([0, 1, CAT], 2 * BATCH, 1)
            assert (step_all(runtime, x)[-1].labels == y[-BATCH:]).all()
            np.testing.assert_array_equal(session_of(runtime).block[SUMS], taught)
    ready.set()
    with edgemem.open(bundle, path, threads=1) as runtime:
        x, y = stream_of([0, 1, CAT], 2 * BATCH, 1)
        assert (step_all(runtime, x)[-1].labels == y[-BATCH:]).all()
        assert [info.frames for info in runtime.classes()] == [2, 0, 4]
