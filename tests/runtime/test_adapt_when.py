"""When the step runs: on one batch in so many, or while a context is drifting."""

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE, STREAM
from edgemem.errors import InputError
from edgemem.runtime.contexts import YOUNG, Context, Contexts, drifting
from edgemem.runtime.policy import due

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:
        return stream["x"]


@pytest.mark.parametrize(("when", "steps"), [(1, 24), (3, 8), (10, 3), (100, 1)])
def test_one_batch_in_so_many_is_adapted_to_from_the_first(frames, when, steps):
    with edgemem.open(BUNDLE, contexts=False, adapt_when=when) as runtime:
        for start in range(0, 24 * BATCH, 5):
            runtime.step(frames[start : min(start + 5, 24 * BATCH)])
        assert runtime.counters["steps"] == steps


def test_batches_between_are_predicted_with_the_block_as_it_is(frames):
    with edgemem.open(BUNDLE, contexts=False, adapt_when=2) as runtime:
        runtime.step(frames[:BATCH])
        expected = runtime.predict(frames[BATCH : 2 * BATCH]).logits
        found = runtime.step(frames[BATCH : 2 * BATCH])
        assert found.adapted is False
        np.testing.assert_array_equal(found.logits, expected)


def test_contexts_are_followed_without_a_step(frames):
    """The names found are those found when every batch is adapted to."""
    names = []
    for when in (1, 7):
        with edgemem.open(BUNDLE, adapt_when=when) as runtime:
            names.append(
                [runtime.step(frames[i : i + BATCH]).context for i in range(0, 960, BATCH)]
            )
    assert names[0] == names[1]
    assert len(set(names[0])) > 1


def test_on_drift_a_settled_context_costs_no_steps(frames):
    still = np.tile(frames[:240], (4, 1, 1, 1))  # one context
    with edgemem.open(BUNDLE, adapt_when="drift") as runtime:
        for start in range(0, len(still), BATCH):
            runtime.step(still[start : start + BATCH])
        batches = len(still) // BATCH
        assert runtime.counters["frames"] == len(still)
        assert 0 < runtime.counters["steps"] < batches


def test_a_young_context_drifts_and_a_settled_one_does_when_its_key_moves():
    key = np.zeros(2, np.float32)

    def contexts(count, distance):
        return Contexts({1: Context(1, key, count, 1.0)}, present=1, drift=distance)

    assert drifting(Contexts(), novelty=1.0)
    assert drifting(contexts(YOUNG, 0.0), novelty=1.0)
    assert not drifting(contexts(YOUNG + 1, 1.0), novelty=1.0)
    assert drifting(contexts(YOUNG + 1, 1.3), novelty=1.0)


def test_the_rule_is_a_pure_function():
    assert [due(3, batch, drifting=False) for batch in range(4)] == [True, False, False, True]
    assert due("drift", 1, drifting=True)
    assert not due("drift", 0, drifting=False)


@pytest.mark.parametrize("when", [0, -1, "often", 1.5, None])
def test_an_unknown_rule_is_refused(when):
    with pytest.raises(InputError, match="adapt_when"):
        edgemem.open(BUNDLE, adapt_when=when)


def test_drift_needs_contexts():
    with pytest.raises(InputError, match="needs contexts"):
        edgemem.open(BUNDLE, contexts=False, adapt_when="drift")
