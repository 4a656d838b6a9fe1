"""The policy that tells contexts apart, on keys drawn around known centres."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemem.runtime.contexts.recognition import NONE, Contexts, SourceKeys, elsewhere, follow

SIZE, NOVELTY = 8, 1.5
CENTRES = 6.0 * np.eye(SIZE, dtype=np.float32)


def keys_of(centre, count, rng, scatter=1.0):
    """Keys at a root mean square distance `scatter` from a centre."""
    noise = rng.standard_normal((count, SIZE)) * scatter / SIZE**0.5
    return (CENTRES[centre] + noise).astype(np.float32)


def run(keys, contexts=None, capacity=64):
    """The contexts after every key."""
    contexts = contexts or Contexts()
    history = []
    for key in keys:
        contexts = follow(contexts, key, NOVELTY, capacity)
        history.append(contexts)
    return history


def presents(history):
    return [contexts.present for contexts in history]


def test_the_first_batch_opens_a_context_on_trial():
    (first,) = run(keys_of(0, 1, np.random.default_rng(0), 0.5))
    assert first.present == 1 and first.known[1].on_trial and first.opened == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(5)), st.integers(2, 5))
def test_contexts_that_return_are_recognised_with_their_first_batch(seed, order, stay):
    rng = np.random.default_rng(seed)
    visits = [*order, *order[::-1], *order]
    history = presents(run(np.concatenate([keys_of(c, stay, rng, 0.6) for c in visits])))
    numbers = [history[i * stay : (i + 1) * stay] for i in range(len(visits))]
    names = {}
    for centre, found in zip(visits, numbers, strict=True):
        assert set(found) == {names.setdefault(centre, found[0])}
    assert len(set(names.values())) == len(order)


def test_one_stray_batch_leaves_no_context_behind():
    rng = np.random.default_rng(0)
    home, stray = keys_of(0, 5, rng, 0.5), keys_of(3, 1, rng)
    last = run(np.concatenate([home, stray, home]))[-1]
    assert list(last.known) == [1] and last.present == 1
    assert last.opened == 2


def test_a_context_that_holds_is_left_only_for_one_preferred_twice():
    a, b = np.zeros((2, SIZE), np.float32)
    near_b = b.copy()
    b[0], near_b[0] = 3.5, 2.2  # nearer to b, and not out of reach of a
    settled = run([a, a, b, b, a, a])[-1]
    assert presents(run([near_b, near_b], settled)) == [1, 2]
    assert presents(run([near_b, a, near_b, a], settled)) == [1, 1, 1, 1]


def test_alternating_batches_of_near_contexts_do_not_thrash():
    a = np.zeros(SIZE, np.float32)
    b = a.copy()
    b[0] = 1.9
    history = presents(run([a, a, a, *[b, a] * 10]))
    assert set(history) == {1}


def test_alternating_batches_of_far_contexts_use_the_block_of_each():
    rng = np.random.default_rng(0)
    one, two = keys_of(0, 12, rng, 0.4), keys_of(1, 12, rng, 0.4)
    settled = run([*one[:2], *two[:2]])[-1]
    history = presents(
        run([k for pair in zip(one[2:], two[2:], strict=True) for k in pair], settled)
    )
    assert history == [1, 2] * 10


def test_the_number_of_contexts_is_bounded_and_numbers_are_not_used_twice():
    rng = np.random.default_rng(0)
    contexts, seen = Contexts(), set()
    for _ in range(30):
        centre = rng.standard_normal(SIZE) * 20
        for key in (centre, centre, centre):
            contexts = follow(contexts, key.astype(np.float32), NOVELTY, 4)
            assert len(contexts.known) <= 4
        assert contexts.present not in seen
        seen.add(contexts.present)
    assert contexts.opened == 30


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_present_context_is_always_known_and_counts_what_it_saw(centres, seed):
    rng = np.random.default_rng(seed)
    history = run([keys_of(c, 1, rng, 2.0)[0] for c in centres], capacity=3)
    for contexts in history:
        assert contexts.present in contexts.known and contexts.present != NONE
        assert 1 <= len(contexts.known) <= 3
        assert all(c.count >= 1 and c.spread >= 0 for c in contexts.known.values())


def test_the_normal_key_is_the_whitened_distance_from_the_source():
    rng = np.random.default_rng(0)
    whitening = rng.standard_normal((3, 3)).astype(np.float32)
    mean = np.array([1, 2, 3], np.float32)
    source = SourceKeys(mean, whitening, 1.0)
    a, b = rng.standard_normal((2, 3)).astype(np.float32)
    difference = source.normal(a) - source.normal(b)
    assert np.linalg.norm(difference) == pytest.approx(
        np.linalg.norm(whitening @ (a - b)), rel=1e-4
    )
    assert (source.normal(mean) == 0).all()


@given(st.integers(0, 1000), st.floats(0.5, 6), st.integers(0, 4))
def test_elsewhere_is_the_nearest_other_context_within_reach_or_an_unknown_one(seed, reach, at):
    rng = np.random.default_rng(seed)
    contexts = run(np.concatenate([keys_of(c, 3, rng, 0.4) for c in (0, 1, 2)]))[-1]
    key = keys_of(at, 1, rng, 1.0)[0]
    distances = {n: np.linalg.norm(c.key - key) for n, c in contexts.known.items()}
    found = elsewhere(contexts, key, reach)
    if distances[contexts.present] <= max(reach, contexts.known[contexts.present].reach(0.0)):
        assert found is None
    elif min(distances.values()) <= reach:
        assert distances[found] == min(distances.values())
    else:
        assert found == NONE


def test_elsewhere_is_nowhere_before_the_first_batch():
    assert elsewhere(Contexts(), CENTRES[0], 1.0) is None
