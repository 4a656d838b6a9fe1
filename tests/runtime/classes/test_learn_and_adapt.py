"""Labelled and unlabelled frames in turn: neither undoes what the other taught."""

from dataclasses import replace

import numpy as np
import pytest
from context_runs import events
from taught_runs import CAT, COW, DOG, SUMS, opened, right, step_all
from teachable import BATCH, frames_of, stream_of, write_bundle

from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.contexts.lookahead import Companions
from edgemem.runtime.guard.escalation import Rung
from edgemem.runtime.guard.frozen_share import blended
from edgemem.runtime.guard.guard_rails import CHECK_EVERY
from edgemem.runtime.logits import entropies
from edgemem.testing import batch_of, put_session, session_of


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("contexts", [True, False])
def test_a_stream_that_alternates_both(bundle, contexts, background, tmp_path):
    known, path = [0, 1], tmp_path / "s.db"
    with opened(bundle, path, contexts=contexts, background=background) as runtime:
        for visit in range(6):
            away = visit % 2
            if visit in (1, 2, 3):
                number = (CAT, DOG, COW)[visit - 1]
                for frames in np.split(stream_of(known, 2 * BATCH, visit, away)[0], 2):
                    runtime.step(frames)
                    runtime.flush()
                runtime.learn(frames_of(number, 3, visit, away), [f"class {number}"] * 3)
                known.append(number)
            before = runtime.counters["updates"]
            x, y = stream_of(known, 6 * BATCH, visit + 10, away)
            results = []
            for i in range(0, len(x), BATCH):
                results.append(runtime.step(x[i : i + BATCH]))
                runtime.flush()  # waits for a step in the background
            # At first a shift of the other context may be in use.
            assert right(results[-2:], y[-2 * BATCH :]) == 1.0, visit
            assert runtime.counters["updates"] == before + 6
            assert not events(results, "reset") and not events(results, "restored")
        assert sum(info.frames for info in runtime.classes()) == 9
        expected = runtime.predict(stream_of(known, BATCH, 99, 1)[0]).logits
    with opened(bundle, path, contexts=contexts) as runtime:
        found = runtime.predict(stream_of(known, BATCH, 99, 1)[0]).logits
        np.testing.assert_array_equal(found, expected)


def test_a_class_is_known_in_every_context_and_best_where_it_was_taught(bundle, tmp_path):
    with opened(bundle, tmp_path / "s.db") as runtime:
        step_all(runtime, stream_of([0, 1], 4 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        here = session_of(runtime).block
        x, y = stream_of([0, 1, CAT], 4 * BATCH, 1, away=1)
        results = step_all(runtime, x)
        assert results[-1].context != "context-1" and right(results[1:], y[BATCH:]) == 1.0
        np.testing.assert_allclose(session_of(runtime).block[SUMS], 0.5 * here[SUMS], rtol=1e-6)
        step_all(runtime, stream_of([0, 1, CAT], 2 * BATCH, 2)[0])
        np.testing.assert_allclose(session_of(runtime).block[SUMS], here[SUMS], rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_root_takes_the_share_that_the_bundle_says(share, tmp_path):
    with opened(write_bundle(tmp_path / "t.edgemem", root_share=share)) as runtime:
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        session = session_of(runtime)
        root, block = session.contexts.root, session.block
        np.testing.assert_array_equal(root[SUMS], share * block[SUMS])
        assert not root["shift"].any() and block["shift"].any()


def test_before_any_context_the_root_takes_all(bundle):
    with opened(bundle) as runtime:
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        expected = session_of(runtime).block
        for name, array in session_of(runtime).contexts.root.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-6)
        x, y = stream_of([0, 1, CAT], 2 * BATCH)
        assert right(step_all(runtime, x), y) == 1.0


def test_the_root_has_what_was_taught_and_nothing_of_what_steps_learn(bundle):
    with opened(bundle) as runtime:
        step_all(runtime, stream_of([0, 1], 4 * BATCH, away=1)[0])
        runtime.learn(frames_of(CAT, 4, away=1), ["cat"] * 4)
        taught = session_of(runtime).contexts.root[SUMS]
        step_all(runtime, stream_of([0, 1, CAT], 4 * BATCH, 1, away=2)[0])
        session = session_of(runtime)
        assert taught.any() and session.block["shift"].any()
        np.testing.assert_array_equal(session.contexts.root[SUMS], taught)
        assert not session.contexts.root["shift"].any()


def test_a_context_that_is_evicted_takes_no_class_with_it(bundle, monkeypatch):
    monkeypatch.setattr(context_blocks, "CAPACITY", 2)
    with opened(bundle) as runtime:
        step_all(runtime, stream_of([0, 1], 3 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        for away in (1, 2, 3, 0):
            x, y = stream_of([0, 1, CAT], 3 * BATCH, 1, away=away)
            results = step_all(runtime, x)
            assert right(results[1:], y[BATCH:]) == 1.0
        assert results[-1].context not in ("context-1", "generic")


def spoil(runtime, *, good=False):
    """As if steps had led far away. good: and as if nothing had been found wrong with that."""
    session = session_of(runtime)
    block = session.block.replace({"shift": np.full(6, 50, np.float32)})
    session = replace(session, block=block, good=block if good else session.good)
    put_session(runtime, session.counting(updates=CHECK_EVERY))


@pytest.mark.parametrize("contexts", [True, False])
def test_guard_rails_keep_what_was_taught(bundle, contexts):
    with opened(bundle, contexts=contexts) as runtime:
        step_all(runtime, stream_of([0, 1], 4 * BATCH)[0])
        runtime.learn(np.concatenate([frames_of(CAT, 4), frames_of(DOG, 4)]), [CAT] * 4 + [DOG] * 4)
        taught, kinds = session_of(runtime).block[SUMS], set()
        x, y = stream_of([CAT, DOG], BATCH, 1)
        for climb in range(12):
            spoil(runtime, good=climb > 3)
            result = runtime.step(x)
            kinds |= {event.kind for event in result.events}
            np.testing.assert_allclose(session_of(runtime).block[SUMS], taught, rtol=1e-6)
            if session_of(runtime).watch.escalation.rung is Rung.FROZEN:
                assert (result.labels == y).all()
        assert kinds >= {"restored", "reset", "frozen"}
        assert not session_of(runtime).block["remembered_prior"].any()


def test_taught_classes_are_no_failure(bundle):
    """A stream of nothing but new classes, of which the frozen model knows none."""
    with opened(bundle) as runtime:
        runtime.learn(np.concatenate([frames_of(CAT, 4), frames_of(DOG, 4)]), [CAT] * 4 + [DOG] * 4)
        x, y = stream_of([CAT, DOG], 20 * BATCH)
        results = step_all(runtime, x)
        assert right(results, y) == 1.0 and session_of(runtime).watch.escalation.rung is Rung.LEARN
        for kind in ("skipped", "restored", "reset", "frozen"):
            assert not events(results, kind)


def test_a_block_that_fails_on_the_spot_falls_back_to_one_that_knows_the_classes(bundle):
    with opened(bundle) as runtime:
        step_all(runtime, stream_of([0, 1], 4 * BATCH)[0])
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        session = session_of(runtime)
        bad = session.block.replace({"shift": np.full(6, np.nan, np.float32)})
        put_session(runtime, replace(session, block=bad, good=bad))
        x, y = stream_of([0, 1, CAT], BATCH, 1)
        results = step_all(runtime, x)
        assert events(results, "restored") and right(results, y) == 1.0


def test_only_predict_frozen_is_the_frozen_model(bundle):
    with opened(bundle) as runtime:
        x = frames_of(CAT, 4)
        before = runtime.predict(x, frozen=True).logits
        runtime.learn(x, ["cat"] * 4)
        np.testing.assert_array_equal(runtime.predict(x, frozen=True).logits, before)
        assert (batch_of(runtime, x).frozen(session_of(runtime).taught).argmax(1) == CAT).all()


def test_taught_classes_do_not_say_that_a_context_is_known(bundle):
    with opened(bundle) as runtime:
        runtime.learn(frames_of(CAT, 4), ["cat"] * 4)
        assert not Companions(runtime.bundle).knows(session_of(runtime).block)
        step_all(runtime, stream_of([0, 1], BATCH)[0])
        assert Companions(runtime.bundle).knows(session_of(runtime).block)


def test_classes_that_are_not_open_are_no_trouble_to_answers_of_both_models():
    own, frozen = np.float32([[2, 1, -1e4]]), np.float32([[0, 3, -1e4]])
    both = blended(own, frozen, 0.5)
    p = np.exp(both)
    expected = [(np.exp(x) / np.exp(x).sum())[0] for x in (own.astype(float), frozen.astype(float))]
    np.testing.assert_allclose(p[0], np.mean(expected, 0), atol=1e-6)
    assert np.isfinite(both).all() and np.isfinite(entropies(own)).all()
