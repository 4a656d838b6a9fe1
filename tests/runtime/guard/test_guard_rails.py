"""Guard rails: each fires on a stream made to break it, and what comes after is no worse."""

from dataclasses import replace

import numpy as np
import pytest
from opening import opened_with

from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.errors import InputError
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.guard.escalation import Escalation, Rung
from edgemem.runtime.guard.frozen_fallback import HALF
from edgemem.runtime.guard.frozen_share import blended, used
from edgemem.runtime.guard.guard_rails import CHECK_EVERY, starting_again
from edgemem.runtime.session import Share, Watch
from edgemem.runtime.step.full_batch import answer, own_answers
from edgemem.runtime.step.graphs import Graphs
from edgemem.testing import batch_of, put_session, session_of

BATCH, NO_SHARE = 16, Share()


@pytest.fixture(scope="module")
def stream():
    with np.load(STREAM) as held:
        return held["x"], held["y"], held["context"]


@pytest.fixture(scope="module")
def clear(stream):
    """Frames like the source, labels in random order."""
    x, y, context = stream
    order = np.random.default_rng(0).permutation(np.flatnonzero(context == "clear"))
    return x[order], y[order]


def opened(**options):
    return opened_with(BUNDLE, **{"contexts": False, "threads": 1} | options)


def run(runtime, frames):
    return [runtime.step(frames[i : i + BATCH]) for i in range(0, len(frames), BATCH)]


def messages(results, kind):
    return [e.message for result in results for e in result.events if e.kind == kind]


def error(results, labels):
    return float((np.concatenate([r.labels for r in results]) != labels).mean())


def spoil(runtime, change):
    """As if steps had led there: the block in use after a change of every array that learns."""
    spec = runtime.bundle.manifest.block
    session = session_of(runtime)
    learns = session.block.part(a.name for a in spec.arrays if a.learns)
    changed = {name: change(name, array).astype(array.dtype) for name, array in learns.items()}
    block = session.block.replace(changed)
    put_session(runtime, replace(session, block=block).counting(updates=CHECK_EVERY))


def stand(runtime, watch, share=NO_SHARE):
    """As if the guard rails had come to stand there, on frames of which nothing is familiar."""
    session = starting_again(session_of(runtime), ContextFiles(runtime.bundle, None))
    put_session(runtime, replace(session, watch=watch, share=share))


def collapse(runtime, x):
    """Spoil the block, at no great distance, until it names one class, mostly a wrong one."""
    sound, frozen = session_of(runtime), runtime.predict(x, frozen=True).labels
    windows = np.split(x, len(x) // BATCH)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        put_session(runtime, sound)
        spoil(runtime, lambda name, array, rng=rng: array + rng.normal(0, 0.9, array.shape)
              if array.ndim == 1 else array)  # fmt: skip
        found = session_of(runtime)
        answers = [own_answers(found.block, found, batch_of(runtime, x))[0] for x in windows]
        labels = np.concatenate(answers).argmax(1)
        if np.bincount(labels).max() >= 0.9 * len(x) and (labels != frozen).mean() > 0.6:
            return found.block
    raise AssertionError("no such block was found")


def test_a_block_that_drifts_away_is_left_for_the_last_good_one(clear):
    x, _ = clear
    with opened() as runtime:
        run(runtime, x[: BATCH * 9])
        good = session_of(runtime).good
        spoil(runtime, lambda name, array: array * 3 + 1)
        found = runtime.step(x[:BATCH])
        assert "drifted" in messages([found], "restored")[0]
        assert session_of(runtime).block is good and not found.adapted
        after = run(runtime, x[BATCH : 5 * BATCH])
        assert messages(after, "recovered") and after[-1].adapted


@pytest.mark.slow
def test_a_learning_rate_that_runs_away_does_no_lasting_harm(clear):
    x, y = clear
    with opened(hyper_parameters={"learning_rate": 30.0}) as runtime:
        results = run(runtime, x)
        counters = runtime.counters
        frozen = (runtime.predict(x, frozen=True).labels != y).mean()
    assert counters["skipped"] + counters["restored"] > 0 or messages(results, "reset")
    half = len(results) // 2
    assert error(results[half:], y[half * BATCH :]) <= frozen + 0.15


def test_all_in_one_class_is_noticed_and_the_frozen_model_is_not_contradicted(clear):
    """A block that names one class climbs from rung to rung until another block is in use."""
    x, _ = clear
    with opened() as runtime:
        found = []
        runtime.step(x[:BATCH])
        bad = collapse(runtime, x[: 8 * BATCH])
        for start in range(BATCH, 12 * BATCH, BATCH):
            found.append(runtime.step(x[start : start + BATCH]))
        assert messages(found, "skipped") or messages(found, "restored") or messages(found, "reset")
        assert session_of(runtime).block is not bad


def test_a_stuck_sensor_teaches_nothing(clear):
    x, _ = clear
    still = np.repeat(x[:1], 4 * BATCH, axis=0)
    with opened() as runtime:
        run(runtime, x[:BATCH])
        block = session_of(runtime).block
        results = run(runtime, still)
        assert session_of(runtime).block is block
        assert len(messages(results, "still")) == 4
        assert all(result.labels.shape == (BATCH,) for result in results)
        assert run(runtime, x[BATCH : 2 * BATCH])[0].adapted


def test_frames_of_noise_do_not_spoil_what_comes_after(clear):
    x, y = clear
    noise = np.random.default_rng(2).integers(0, 256, (40 * BATCH, *x.shape[1:]), dtype=np.uint8)
    with opened() as runtime:
        run(runtime, noise)
        results = run(runtime, x)
        frozen = (runtime.predict(x, frozen=True).labels != y).mean()
    assert error(results[2:], y[2 * BATCH :]) <= frozen + 0.03


def test_bursts_of_one_class_are_left_to_the_frozen_model(clear):
    """Statistics of batches of one class are of no use; the frozen model needs none."""
    x, y = clear
    order = np.argsort(y, kind="stable")
    with opened() as runtime:
        results = run(runtime, x[order])
        frozen = (runtime.predict(x, frozen=True).labels != y).mean()
    assert any("unsure" in text for text in messages(results, "frozen"))
    assert error(results, y[order]) <= frozen + 0.03


def test_the_adapted_model_answers_again_when_it_is_certain(clear, stream):
    x, y = clear
    other, _, context = stream
    with opened() as runtime:
        burst = run(runtime, x[y == 1][: 4 * BATCH])
        assert messages(burst, "frozen") and session_of(runtime).share.of_frozen >= HALF
        results = run(runtime, other[context == "fog"][: 20 * BATCH])
        assert messages(results, "recovered") and used(session_of(runtime).share.of_frozen) == 0


def test_a_frozen_model_that_is_wrong_with_certainty_gets_no_share_far_from_the_source(stream):
    other, labels, context = stream
    fog = other[context == "fog"]
    with opened() as runtime:
        results = run(runtime, fog)
        wrong = runtime.predict(fog, frozen=True).labels != labels[context == "fog"]
    assert wrong.mean() > 0.9 and error(results, labels[context == "fog"]) < 0.4


def test_single_frames_are_answered_with_the_share_of_the_last_batch(clear):
    x, y = clear
    with opened() as runtime:
        run(runtime, x[y == 1][: 2 * BATCH])
        share = used(session_of(runtime).share.of_frozen)
        assert share > 0
        batch, session = batch_of(runtime, x[y == 1][BATCH : 2 * BATCH]), session_of(runtime)
        read = batch.frozen_in_order(Block({}))
        expected = blended(batch.answers(session.block), read, share)[-1]
        found, _ = answer(session, batch, 1)
        np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_a_stream_without_frames_changes_nothing():
    with opened() as runtime:
        block, counters = session_of(runtime).block, runtime.counters
        empty = np.zeros((0, *runtime.bundle.manifest.frames.shape), np.uint8)
        with pytest.raises(InputError, match="no frames|empty|0 frames"):
            runtime.step(empty)
        assert session_of(runtime).block is block and runtime.counters == counters


@pytest.mark.slow
def test_where_nothing_is_wrong_no_rail_fires(stream):
    x, _, _ = stream
    with opened(contexts=True) as runtime:
        results = run(runtime, x)
    for kind in ("skipped", "restored", "reset", "still"):
        assert messages(results, kind) == []


def test_the_frozen_rung_answers_as_the_frozen_model_until_checks_pass(clear):
    x, _ = clear
    with opened() as runtime:
        run(runtime, x[:BATCH])
        stand(runtime, Watch(Escalation(Rung.FROZEN)))
        answers = []
        for start in range(BATCH, 6 * BATCH, BATCH):
            frames = x[start : start + BATCH]
            frozen = runtime.predict(frames, frozen=True).logits
            result = runtime.step(frames)
            answers.append((np.array_equal(result.logits, frozen), bool(result.adapted)))
        assert answers[:3] == [(True, False)] * 3 and answers[-1][1]


@pytest.mark.parametrize("rung", list(Rung))
def test_a_state_file_keeps_the_rung(rung, clear, tmp_path):
    x, _ = clear
    with opened(state=tmp_path / "s.db") as runtime:
        run(runtime, x[:BATCH])
        stand(runtime, Watch(Escalation(rung), checked=1), Share(0.25))
    with opened(state=tmp_path / "s.db") as runtime:
        assert session_of(runtime).watch.escalation.rung is rung
        assert session_of(runtime).frozen_share == (1.0 if rung is Rung.FROZEN else 0.25)
        runtime.rollback("source")
        assert session_of(runtime).watch.escalation.rung is Rung.LEARN
        assert session_of(runtime).frozen_share == 0


def test_the_second_opinion_is_read_in_order_and_the_frozen_model_is_not(clear):
    x, y = clear
    window = (x[np.argsort(y, kind="stable")][:BATCH] / np.float32(255)).astype(np.float32)
    with opened() as runtime:
        parameters = dict(runtime.hyper_parameters)
        graphs = Graphs(open_bundle(BUNDLE), OnnxRuntimeBackend(1))
        frozen = graphs.frozen(window)
        np.testing.assert_array_equal(runtime.predict(window, frozen=True).logits, frozen)
        alone = graphs.frozen_read(window, parameters | {"label_order": 0.0}, Block({}))
        np.testing.assert_array_equal(alone, frozen)
        assert not np.allclose(graphs.frozen_read(window, parameters, Block({})), frozen, atol=0.1)
