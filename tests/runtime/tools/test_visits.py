"""Visits of a stream, beside a plain loop over its frames."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgemem.runtime.tools.visits import returns_of, visits_of

NAMES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), min_size=1, max_size=8)


def expanded(spans):
    return np.array([name for name, count in spans for _ in range(count)])


@given(NAMES, st.integers(0, 1000), st.integers(1, 4))
def test_visits_are_what_a_loop_over_frames_finds(spans, seed, first):
    contexts, rng = expanded(spans), np.random.default_rng(seed)
    used = rng.choice(["context-1", "context-2", "generic"], len(contexts))
    wrong = rng.random(len(contexts)) < 0.5
    found = visits_of(contexts, used, wrong, ~wrong, first)
    assert sum(visit.frames for visit in found) == len(contexts)
    had, counts = {}, {}
    for visit in found:
        span = range(visit.start, visit.start + visit.frames)
        assert {contexts[i] for i in span} == {visit.context}
        assert visit.start == 0 or contexts[visit.start - 1] != visit.context
        counts[visit.context] = counts.get(visit.context, 0) + 1
        assert visit.number == counts[visit.context]
        assert np.isclose(visit.error, np.mean([wrong[i] for i in span]))
        assert np.isclose(visit.error + visit.frozen_error, 1)
        assert np.isclose(visit.first_error, np.mean([wrong[i] for i in span[:first]]))
        before = had.setdefault(visit.context, set())
        if visit.number == 1:
            assert visit.recognised is None
        else:
            assert np.isclose(visit.recognised, np.mean([used[i] in before for i in span]))
        before.update(used[i] for i in span)


def test_returns_are_means_over_visits():
    contexts = expanded([("a", 4), ("b", 2), ("a", 2)])
    wrong = np.array([1, 0, 0, 0, 1, 1, 0, 1], bool)
    used = np.array(["x", "x", "x", "y", "y", "y", "y", "z"])
    returns = returns_of(visits_of(contexts, used, wrong, None, 2))
    assert (returns.visits, returns.first_visit, returns.on_return) == (1, 0.75, 0.5)
    assert returns.recognised == 0.5


def test_without_labels_and_names_only_frames_are_counted():
    (visit,) = visits_of(expanded([("a", 3)]), None, None, None, 2)
    assert (visit.frames, visit.error, visit.first_error, visit.recognised) == (3, None, None, None)
    assert returns_of([visit]).on_return is None
