"""When the step runs: on one batch in so many, or while a context is drifting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opening import opened_with

from edgemem.demo import BUNDLE, STREAM
from edgemem.errors import InputError
from edgemem.runtime.contexts.recognition import YOUNG, Context, Contexts, drifting
from edgemem.runtime.step.schedule import Schedule

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:
        return stream["x"]


@pytest.mark.parametrize(("when", "steps"), [(1, 24), (3, 8), (10, 3), (100, 1)])
def test_one_batch_in_so_many_is_adapted_to_from_the_first(frames, when, steps):
    with opened_with(BUNDLE, contexts=False, adapt_when=when) as runtime:
        for start in range(0, 24 * BATCH, 5):
            runtime.step(frames[start : min(start + 5, 24 * BATCH)])
        assert runtime.counters["steps"] == steps


@pytest.mark.usefixtures("block_alone")
def test_batches_between_are_predicted_with_the_block_as_it_is(frames):
    with opened_with(BUNDLE, contexts=False, adapt_when=2) as runtime:
        runtime.step(frames[:BATCH])
        expected = runtime.predict(frames[BATCH : 2 * BATCH]).logits
        found = runtime.step(frames[BATCH : 2 * BATCH])
        assert found.adapted is False
        np.testing.assert_array_equal(found.logits, expected)


def test_contexts_are_followed_without_a_step(frames):
    """The names found are those found when every batch is adapted to."""
    names = []
    for when in (1, 7):
        with opened_with(BUNDLE, adapt_when=when) as runtime:
            names.append(
                [runtime.step(frames[i : i + BATCH]).context for i in range(0, 960, BATCH)]
            )
    assert names[0] == names[1]
    assert len(set(names[0])) > 1


def test_on_drift_a_settled_context_costs_no_steps(frames):
    still = np.tile(frames[:240], (4, 1, 1, 1))  # one context
    with opened_with(BUNDLE, adapt_when="drift") as runtime:
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


def test_one_in_so_many_and_drift():
    assert [Schedule(3).due(b, drifting=False) for b in range(4)] == [True, False, False, True]
    assert Schedule("drift").due(1, drifting=True)
    assert not Schedule("drift").due(0, drifting=False)


@given(
    st.floats(0.1, 20),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.01, 5)), min_size=1, max_size=200),
)
def test_a_budget_is_kept_but_for_the_last_step(seconds, batches):
    """However batches come: steps take no more than the budget, its start and one step."""
    now, spent, longest = 0.0, 0.0, 0.0
    schedule = Schedule(f"{seconds:.3f}s/min", lambda: now)
    for pause, cost in batches:
        now += pause
        if schedule.due(0, drifting=False):
            schedule.spend(cost)
            now, spent, longest = now + cost, spent + cost, max(longest, cost)
        assert spent <= (round(seconds, 3) / 60) * (now + 60) + longest + 1e-6


def test_a_budget_is_used_up():
    now = 0.0
    schedule, spent = Schedule("6s/min", lambda: now), 0.0
    for _ in range(6000):
        now += 0.1
        if schedule.due(0, drifting=False):
            schedule.spend(0.05)
            spent += 0.05
    assert spent == pytest.approx(66, rel=0.02)  # ten minutes, and the one it starts with


@pytest.mark.parametrize("background", [False, True])
def test_steps_are_counted_against_the_budget(frames, background):
    when = {"adapt_when": "0.001s/min", "contexts": False}
    with opened_with(BUNDLE, background=background, **when) as runtime:
        for start in range(0, 40 * BATCH, BATCH):
            runtime.step(frames[start : start + BATCH])
        runtime.flush()
        assert 0 < runtime.counters["steps"] < 10


@pytest.mark.parametrize("when", [0, -1, "often", 1.5, "0s/min", "61s/min", "2s", "-1s/min"])
def test_an_unknown_rule_is_refused(when):
    with pytest.raises(InputError, match="adapt_when"):
        opened_with(BUNDLE, adapt_when=when)


def test_drift_needs_contexts():
    with pytest.raises(InputError, match="needs contexts"):
        opened_with(BUNDLE, contexts=False, adapt_when="drift")
