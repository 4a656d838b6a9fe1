"""Written blocks that others changed, and runs in between: what the next run goes on with."""

from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest

import edgemem
from edgemem.bank.build import build_bank
from edgemem.bank.ship import ship
from edgemem.bank.transfer import export_blocks, import_blocks
from edgemem.bank.written import WrittenBlocks
from edgemem.bundle import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime import context_memory
from edgemem.runtime.consolidation import moved
from edgemem.runtime.context_memory import total
from edgemem.runtime.onnxruntime_backend import OnnxRuntimeBackend
from edgemem.runtime.source_keys import source_keys
from edgemem.state import State

BATCH = 16


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


@pytest.fixture(scope="module")
def restless(digits_stream):
    """24 batches of few classes in six lights, which open and drop contexts all the time."""
    x = digits_stream[0][: 24 * BATCH].astype(np.float32) / 255
    lights = [x, 0.2 * x + 0.6, 1 - x, 0.5 * x, 0.3 * x, 0.1 * x + 0.9]
    chosen = np.random.default_rng(3).integers(0, len(lights), 24)
    parts = [lights[k][i * BATCH : (i + 1) * BATCH] for i, k in enumerate(chosen)]
    return np.concatenate(parts).astype(np.float32)


def opened(state=None, bundle=BUNDLE, **options):
    return edgemem.open(
        bundle, state, threads=1, hyper_parameters={"entropy_margin": 9.0}, **options
    )


def step_all(runtime, frames):
    return [runtime.step(frames[i : i + BATCH]) for i in range(0, len(frames), BATCH)]


def events(results, kind):
    return [event.message for result in results for event in result.events if event.kind == kind]


def known(runtime):
    return {f"context-{number}" for number in runtime._contexts.contexts.known}


@contextmanager
def written(path):
    """The written blocks of a closed state file, to read or to change."""
    with closing(State(path, None)) as state:
        yield WrittenBlocks(state)


def blocks_of(path):
    with written(path) as blocks:
        assert blocks.verify() == []
        return {r.id: blocks.read(r.id) for r in blocks.listing().records}


def learnt(path, visits, bundle=BUNDLE):
    """A state file with the blocks of these visits, each committed twice; the blocks."""
    with opened(path, bundle) as runtime:
        for frames in visits:
            for half in np.split(frames, 2):
                step_all(runtime, half)
                runtime.flush()
    return blocks_of(path)


def assert_same_arrays(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def assert_same_blocks(found, expected):
    assert set(found) == set(expected)
    for name, (record, arrays) in expected.items():
        assert (found[name][0].path, found[name][0].count) == (record.path, record.count)
        assert_same_arrays(found[name][1], arrays)


def assert_same_logits(found, expected):
    assert [result.context for result in found] == [result.context for result in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def rewrite(state, name, other_name, path):
    """Write a block once more, under another name or path, with a key of its own."""
    with written(state) as blocks:
        record, arrays = blocks.read(name)
        key = record.key + (other_name != name)
        about = replace(record.provenance, why="imported")
        blocks.put(other_name, arrays, path=path, key=key, count=99, provenance=about)


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
        assert_same_arrays(runtime._block, blocks["root"][1])
        (result,) = step_all(runtime, visits[0][:BATCH])
        assert events([result], "context") == [f"{result.context} is back"]
        expected = total(blocks["root"][1], blocks[result.context][1])
        assert_same_arrays(runtime._good, expected)
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


@pytest.mark.parametrize("whose", ["present", "root"])
def test_a_block_rolled_back_between_two_runs_is_taken(whose, bundle, visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state, bundle) as runtime:
        for frames in visits * 2:
            for half in np.split(frames, 2):
                present = step_all(runtime, half)[-1].context
                runtime.flush()
        before = runtime._block
    with written(state) as blocks:
        again = blocks.rollback(present if whose == "present" else "root")
        root, leaf = blocks.read("root")[1], blocks.read(present)[1]
    assert again.provenance.why.startswith("rolled back")
    with opened(state, bundle) as runtime:
        rows = runtime._contexts._rows
        assert rows.path
        expected = total(moved(root, rows.values), leaf)
        assert_same_arrays(runtime._block, expected)
        assert any((expected[name] != before[name]).any() for name in expected)
        result = runtime.step(visits[3][:BATCH])
    assert result.context == present
    assert events([result], "context") == [f"the written blocks have changed; {present} is taken"]


@pytest.mark.parametrize("path", ["99/+", "0/0/0/+", "0/3/+", "9" * 16 + "/+"])
def test_a_block_on_rows_that_the_bundle_lacks_is_reported(path, bundle, visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state, bundle) as runtime:
        name = step_all(runtime, visits[0])[-1].context
    rewrite(state, name, name, path)
    with opened(state, bundle) as runtime:
        results = step_all(runtime, np.concatenate(visits))
    assert any(path in message for message in events(results, "damaged"))
    assert all(np.isfinite(result.logits).all() for result in results)


@pytest.mark.parametrize("name", ["context-" + "9" * 20, "context-" + "9" * 15, "context-007"])
def test_a_block_of_an_odd_name_does_no_harm(name, bundle, visits, tmp_path):
    state = tmp_path / "s.db"
    with opened(state, bundle) as runtime:
        own = step_all(runtime, visits[0])[-1].context
    rewrite(state, own, name, "+")
    with opened(state, bundle) as runtime:
        results = step_all(runtime, np.concatenate(visits))
    with opened(state, bundle) as runtime:
        results += step_all(runtime, np.concatenate(visits))
    assert all(np.isfinite(result.logits).all() for result in results)
    assert {own, name} <= set(paths_of(state))


@pytest.fixture
def zero():
    return open_bundle(BUNDLE).manifest.block.zero()


@pytest.mark.parametrize("reopened", [False, True])
def test_rolled_back_to_zero_a_new_context_starts_from_zero(reopened, visits, zero, tmp_path):
    state = tmp_path / "s.db"
    runtime = opened(state)
    step_all(runtime, np.concatenate(visits[:2]))
    runtime.rollback("zero")
    if reopened:
        runtime.close()
        runtime = opened(state)
    assert_same_arrays(runtime._block, zero)
    (result,) = step_all(runtime, visits[0][:BATCH])
    assert events([result], "context") == ["context-3 is new"] and result.adapted
    assert_same_arrays(runtime._good, zero)
    runtime.close()
    blocks = blocks_of(state)
    assert set(blocks) == {"root", "context-3"}
    assert_same_arrays(blocks["root"][1], zero)


def test_at_capacity_reopened_after_every_step_it_continues_bit_for_bit(
    restless, tmp_path, monkeypatch
):
    monkeypatch.setattr(context_memory, "CAPACITY", 4)
    with opened() as runtime:
        whole = step_all(runtime, restless)
        assert runtime._contexts.contexts.opened > 10 and len(known(runtime)) == 4
    parts = []
    for i in range(0, len(restless), BATCH):
        with opened(tmp_path / "s.db") as runtime:
            parts += step_all(runtime, restless[i : i + BATCH])
    assert [result.context for result in parts] == [result.context for result in whole]
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


@pytest.mark.parametrize("option", ["contexts", "adapt"])
def test_a_run_without_contexts_keeps_their_spreads_and_numbers(option, visits, tmp_path):
    state = tmp_path / "s.db"

    def spreads():
        with opened(state) as runtime:
            contexts = runtime._contexts.contexts
            return {n: c.spread for n, c in contexts.known.items()}, contexts.opened

    learnt(state, visits)
    before = spreads()
    with opened(state, **{option: False}) as runtime:
        step_all(runtime, visits[2])
        runtime.rollback("commit")
        step_all(runtime, visits[2])
    assert all(before[0].values()) and spreads() == before
