"""On frames like the source's the frozen model answers and nothing is learnt; not elsewhere."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from opening import opened_with
from sealing import reseal
from sklearn.datasets import load_digits
from teachable import BATCH as FEW
from teachable import frames_of, stream_of, write_bundle

import edgemem
from edgemem.block import Block
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.guard.frozen_fallback import frozen_fallback
from edgemem.runtime.guard.frozen_share import frozen_share
from edgemem.runtime.step.full_batch import answer, own_answers
from edgemem.testing import WatchedBackend, batch_of, open_with, session_of

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    """By context, [n, 1, 8, 8] and labels, in random order; "clear" is like the source."""
    with np.load(STREAM) as held:
        x, y, context = held["x"], held["y"], held["context"]
    rng, found = np.random.default_rng(0), {}
    for name in np.unique(context):
        places = rng.permutation(np.flatnonzero(context == name))
        found[str(name)] = x[places], y[places]
    # The stream's own clear frames have rare and frequent classes; the source has not.
    digits = load_digits()
    held = np.random.default_rng(0).permutation(len(digits.target))[1000:]
    images = np.round(digits.images[held] * (255 / 16)).astype(np.uint8)[:, None]
    found["clear"] = images, digits.target[held]
    return found


def opened(**options):
    return opened_with(BUNDLE, **{"threads": 1} | options)


def run(runtime, x):
    return [runtime.step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def kinds(results):
    return [event.kind for result in results for event in result.events]


@pytest.mark.parametrize("contexts", [True, False])
def test_source_frames_are_answered_as_by_the_frozen_model_and_teach_nothing(frames, contexts):
    x, _ = frames["clear"]
    with opened(contexts=contexts) as runtime:
        results = run(runtime, x[: 40 * BATCH])
        expected = [runtime.predict(x[i : i + BATCH], frozen=True).logits
                    for i in range(0, 40 * BATCH, BATCH)]  # fmt: skip
        assert runtime.counters["steps"] == 0
    assert kinds(results).count("familiar") == 1
    for result, logits in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.logits, logits)


def test_frames_between_batches_are_answered_alike(frames):
    x, _ = frames["clear"]
    with opened() as runtime:
        run(runtime, x[: 8 * BATCH])
        one = x[8 * BATCH : 8 * BATCH + 1]
        expected = runtime.predict(one, frozen=True).logits
        np.testing.assert_allclose(runtime.predict(one).logits, expected, atol=1e-5)
        np.testing.assert_allclose(runtime.step(one).logits, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["fog", "noise", "dusk", "blur"])
def test_other_frames_are_adapted_to(frames, name):
    x, y = frames[name]
    with opened() as runtime:
        results = run(runtime, x[: 20 * BATCH])
        frozen = runtime.predict(x[: 20 * BATCH], frozen=True).labels
        assert runtime.counters["steps"] >= 18
    wrong = (np.concatenate([r.labels for r in results]) != y[: 20 * BATCH]).mean()
    assert wrong < (frozen != y[: 20 * BATCH]).mean()


def test_when_the_frames_change_the_block_answers_and_afterwards_the_frozen_model_again(frames):
    with opened() as runtime:
        first = run(runtime, frames["clear"][0][: 20 * BATCH])
        fog = run(runtime, frames["fog"][0][: 20 * BATCH])
        again = run(runtime, frames["clear"][0][20 * BATCH : 30 * BATCH])
    assert "familiar" in kinds(first) and "unfamiliar" in kinds(fog[:2])
    assert sum(result.adapted for result in fog) >= 17
    assert "familiar" in kinds(again[:3]) and not any(result.adapted for result in again[3:])


def test_source_frames_in_runs_of_a_class_are_read_in_order(frames):
    x, y = frames["clear"]
    order = np.argsort(y, kind="stable")
    with opened() as runtime:
        results = run(runtime, x[order])
        frozen = runtime.predict(x[order], frozen=True).labels
    found = np.concatenate([result.labels for result in results])
    assert (found != y[order]).mean() <= (frozen != y[order]).mean() + 0.01  # where classes change


def test_a_state_file_goes_on_where_it_was(frames, tmp_path):
    x, _ = frames["clear"]
    parts = [x[: 12 * BATCH], x[12 * BATCH : 24 * BATCH]]
    with opened() as runtime:
        run(runtime, parts[0])
        expected = run(runtime, parts[1])
    for part in parts:
        with opened(state=tmp_path / "s.db") as runtime:
            found = run(runtime, part)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    assert "familiar" not in kinds(found)


def test_a_rollback_forgets_what_was_seen(frames):
    with opened() as runtime:
        run(runtime, frames["clear"][0][: 8 * BATCH])
        assert session_of(runtime).familiarity.holds
        runtime.rollback("source")
        assert not session_of(runtime).familiarity.holds


def test_frames_of_another_context_are_not_answered_as_familiar_ones(frames):
    """Between batches the lookahead may find a block for frames that are no longer familiar."""
    x, _ = frames["fog"]
    with opened() as runtime:
        run(runtime, frames["clear"][0][: 8 * BATCH])
        session, batch = session_of(runtime), batch_of(runtime, x[:BATCH])
        assert session.familiarity.holds
        other = Block({name: array.copy() for name, array in session.block.items()})
        found, _ = answer(session, batch, 2, other)
        np.testing.assert_array_equal(found, own_answers(other, session, batch)[0][-2:])
        np.testing.assert_allclose(
            answer(session, batch, 2, session.block)[0],
            runtime.predict(x[BATCH - 2 : BATCH], frozen=True).logits,
            atol=1e-5,
        )


def test_who_does_not_adapt_is_answered_by_the_block_whatever_was_found_before(frames, tmp_path):
    fog = frames["fog"][0][:BATCH]
    with opened(state=tmp_path / "s.db") as runtime:
        run(runtime, fog)  # something is learnt
        run(runtime, frames["clear"][0][: 12 * BATCH])
        assert session_of(runtime).familiarity.holds
    with opened(state=tmp_path / "s.db", adapt=False) as runtime:
        session = session_of(runtime)
        expected, _ = own_answers(session.block, session, batch_of(runtime, fog))
        np.testing.assert_array_equal(runtime.step(fog).logits, expected)
        runtime.rollback("commit")
        np.testing.assert_array_equal(runtime.step(fog).logits, expected)


def test_a_share_of_another_context_is_not_averaged_with_one_of_this(frames):
    fog = frames["fog"][0][:BATCH]
    with opened() as runtime:
        run(runtime, frames["clear"][0][: 8 * BATCH])
        batch, files = batch_of(runtime, fog), ContextFiles(runtime.bundle, None)
        # Of the context before this one, whose frames were familiar from the first.
        before = replace(session_of(runtime).share, of_frozen=0.9)
        session = replace(session_of(runtime), share=before)
        own, frozen = batch.answers(session.block), batch.frozen()
        session, _, _ = frozen_fallback(session, batch, own, files)
        distance = float(np.sqrt((files.source.normal(batch.key) ** 2).mean()))
        assert session.share.of_frozen == frozen_share(own, frozen, distance) < 0.4


def limited(path, below):
    """The demo's bundle, whose block has to be so much surer than the frozen model."""
    shutil.copytree(BUNDLE, path)
    reseal(path, lambda manifest: manifest.update(surer_below=below))
    return path


def test_a_block_that_is_not_sure_enough_leaves_the_answer_to_the_frozen_model(frames, tmp_path):
    x, _ = frames["fog"]
    with opened_with(limited(tmp_path / "b.edgemem", 1e-6)) as runtime:
        results = run(runtime, x[: 12 * BATCH])
        share, taught = session_of(runtime).frozen_share, session_of(runtime).taught
        parts = [x[i : i + BATCH] for i in range(0, 12 * BATCH, BATCH)]
        frozen = [batch_of(runtime, part).frozen_in_order(taught) for part in parts]
    assert share == 0.999 and kinds(results).count("frozen") == 1
    assert any(result.adapted for result in results)  # it goes on learning
    found = np.concatenate([result.labels for result in results])
    assert (found == np.concatenate(frozen).argmax(1)).mean() > 0.99


def test_a_block_that_is_sure_enough_answers_as_without_a_limit(frames, tmp_path):
    x, _ = frames["fog"]
    with opened() as runtime:
        expected = run(runtime, x[: 12 * BATCH])
    with opened_with(limited(tmp_path / "b.edgemem", 1e6)) as runtime:
        found = run(runtime, x[: 12 * BATCH])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def test_where_classes_were_taught_nothing_is_familiar_from_that_moment_on(tmp_path):
    known, _ = stream_of([0, 1], FEW)
    bundle = write_bundle(tmp_path / "t.edgemem", entropy=(0.1, 1.0))
    with edgemem.open(bundle, threads=1) as runtime:
        assert "familiar" in kinds([runtime.step(known)]) and session_of(runtime).familiarity.holds
        new = frames_of(2, 5)
        assert "unfamiliar" not in kinds([runtime.learn(new, ["cat"] * 5)])
        session, batch = session_of(runtime), batch_of(runtime, new)
        expected, _ = own_answers(session.block, session, batch)
        np.testing.assert_array_equal(answer(session, batch, 5)[0], expected)
        told = [event.message for event in runtime.step(known).events if event.kind == "unfamiliar"]
        assert len(told) == 1 and "taught" in told[0] and not session_of(runtime).familiarity.holds


def without_key(call):
    return {**call.outputs, "key": np.full_like(call.outputs["key"], np.nan)}


def test_a_batch_without_a_finite_key_is_not_familiar(frames):
    x, backend = frames["clear"][0], WatchedBackend(OnnxRuntimeBackend(1))
    with open_with(BUNDLE, backend) as runtime:
        run(runtime, x[: 8 * BATCH])
        assert session_of(runtime).familiarity.holds
        backend.change = lambda call: without_key(call) if call.graph == "key" else call.outputs
        assert "unfamiliar" in kinds([runtime.step(x[8 * BATCH : 9 * BATCH])])
        assert not session_of(runtime).familiarity.holds


def test_a_bundle_may_say_that_its_frozen_model_does_not_answer(frames, tmp_path):
    home = tmp_path / "b.edgemem"
    shutil.copytree(BUNDLE, home)
    reseal(home, lambda manifest: manifest.update(familiar=False))
    with edgemem.open(home, threads=1) as runtime:
        results = run(runtime, frames["clear"][0][: 8 * BATCH])
    assert "familiar" not in kinds(results) and sum(result.adapted for result in results) >= 6
    reseal(home, lambda manifest: manifest.update(familiar=1))
    with pytest.raises(edgemem.BundleError, match="neither true nor false"):
        edgemem.open(home, threads=1)


def test_the_first_few_frames_are_answered_by_the_frozen_model_where_they_may_be_the_sources(
    frames,
):
    """Statistics of a few frames are worse than the source's; no full batch has come yet."""
    x, _ = frames["clear"]
    calls = same = 0
    for start in range(0, 40 * BATCH, BATCH):
        with opened() as runtime:
            for few in (x[start : start + 3], x[start + 3 : start + 4], x[start + 4 : start + 12]):
                expected = runtime.predict(few, frozen=True).logits
                np.testing.assert_array_equal(
                    runtime.predict(few).logits, answer := runtime.step(few).logits
                )
                calls, same = calls + 1, same + np.allclose(answer, expected, atol=1e-6)
    assert same >= 0.95 * calls


@pytest.mark.parametrize("name", ["fog", "noise"])
def test_the_first_few_frames_of_a_shift_are_answered_by_the_block(frames, name):
    x, _ = frames[name]
    with opened() as runtime:
        few = x[: BATCH // 2]
        assert not np.allclose(runtime.step(few).logits, runtime.predict(few, frozen=True).logits)
