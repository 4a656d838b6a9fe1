"""Frames like the source's, as pure functions: means beside brute force, verdicts beside chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.runtime.contexts.recognition import SourceKeys
from edgemem.runtime.guard.familiar import (
    ENTROPY_TOLERANCE,
    MEMORY,
    TOLERANCE,
    goes_on,
    is_as_certain,
    is_near,
    nothing_seen,
    seen_of,
)
from edgemem.runtime.logits import entropies

KEY, CLASSES, BATCH = 12, 5, 16
SOURCE = SourceKeys(np.zeros(KEY), np.eye(KEY), 1.6, entropy=0.8, entropy_deviation=0.4)


def keys(count, away=0.0, batch=BATCH, seed=0):
    """Normal keys of source batches: a batch is about one from the mean, which lies `away`
    deviations of single frames off."""
    rng = np.random.default_rng(seed)
    shift = np.zeros(KEY)
    shift[0] = away * np.sqrt(batch)
    return (rng.normal(0, 1 / np.sqrt(KEY), (count, KEY)) + shift).astype(np.float32)


def seen_after(found, batch=BATCH):
    seen = nothing_seen(KEY, CLASSES)
    for key in found:
        seen = seen.with_key(key, batch)
    return seen


@given(st.integers(1, 20), st.sampled_from([1, 4, 16]))
def test_at_first_the_mean_is_that_of_all_batches(count, batch):
    found = keys(count, 0.3)
    seen = seen_after(found, batch)
    np.testing.assert_allclose(seen.key, found.mean(0), atol=1e-5)
    assert seen.frames == count * batch


def test_later_the_past_fades():
    seen = seen_after(keys(200))
    assert seen.frames == 2 * MEMORY
    for key in keys(100, 1.0):
        seen = seen.with_key(key, BATCH)
    assert seen.key[0] == pytest.approx(np.sqrt(BATCH), rel=0.15)


@pytest.mark.parametrize("batch", [4, 16, 64])
def test_source_batches_are_near_from_the_first_to_the_last(batch):
    far = 0
    for seed in range(50):
        seen = nothing_seen(KEY, CLASSES)
        for key in keys(100, 0.0, batch, seed):
            seen = seen.with_key(key, batch)
            far += not is_near(seen, SOURCE, batch)
    assert far <= 25  # of 5,000


@pytest.mark.parametrize("batch", [4, 16, 64])
def test_a_shift_is_noticed_within_some_hundred_frames(batch):
    for seed in range(20):
        seen = seen_after(keys(400 // batch, 3 * TOLERANCE, batch, seed), batch)
        assert not is_near(seen, SOURCE, batch)
        assert is_near(seen_after(keys(400 // batch, 0.3 * TOLERANCE, batch, seed), batch),
                       SOURCE, batch)  # fmt: skip


def logits(labels, certainty=3.0):
    return certainty * np.eye(CLASSES, dtype=np.float32)[np.asarray(labels)]


def test_answers_are_averaged_as_they_come():
    rng, seen = np.random.default_rng(0), nothing_seen(KEY, CLASSES)
    given_labels = rng.integers(0, CLASSES, (6, BATCH))
    for row in given_labels:
        seen = seen.with_answers(logits(row))
    assert seen.asked == given_labels.size
    assert seen.entropy == pytest.approx(entropies(logits([0]))[0], rel=1e-5)
    assert seen.same == pytest.approx((given_labels[:, 1:] == given_labels[:, :-1]).mean())
    shares = np.bincount(given_labels.ravel(), minlength=CLASSES) / given_labels.size
    np.testing.assert_allclose(seen.shares, shares, atol=1e-6)


@pytest.mark.parametrize("away", [-0.3, -0.12, 0.0, 0.12, 0.3])
def test_more_certain_is_as_strange_as_less_certain(away):
    seen = nothing_seen(KEY, CLASSES)
    assert not is_as_certain(seen, SOURCE)
    answers = logits([1] * 1024, certainty=1.5)
    level = float(entropies(answers)[0]) / (1 + away)
    source = SourceKeys(SOURCE.mean, SOURCE.whitening, 1.6, level, 1e-6)
    assert is_as_certain(seen.with_answers(answers), source) == (abs(away) < ENTROPY_TOLERANCE)


def test_tasks_without_labels_are_as_certain_as_their_entropies_say():
    """Most positions may be plain, so no part of a guess's entropy is room."""
    given_entropies = np.full(1024, 0.02, np.float32)
    seen = nothing_seen(KEY, 0).with_entropies(given_entropies)
    assert seen.asked == 1024 and seen.entropy == pytest.approx(0.02)
    for level, alike in ((0.02, True), (0.0205, True), (0.03, False), (0.01, False)):
        source = SourceKeys(SOURCE.mean, SOURCE.whitening, 1.6, level, 1e-6)
        assert is_as_certain(seen, source) == alike
    assert not goes_on(seen)


def test_between_hardly_any_doubt_and_none_there_is_no_difference():
    seen = nothing_seen(KEY, CLASSES).with_answers(logits([1] * 64, certainty=9.0))
    source = SourceKeys(SOURCE.mean, SOURCE.whitening, 1.6, 0.03, 1e-6)
    assert is_as_certain(seen, source) and seen.entropy < 0.01


def test_labels_go_on_only_where_chance_does_not_make_them():
    rng = np.random.default_rng(1)
    mixed, runs, skewed = (nothing_seen(KEY, CLASSES) for _ in range(3))
    for _ in range(30):
        mixed = mixed.with_answers(logits(rng.integers(0, CLASSES, BATCH)))
        runs = runs.with_answers(logits(np.repeat(rng.integers(0, CLASSES, 2), BATCH // 2)))
        skewed = skewed.with_answers(
            logits(rng.choice(CLASSES, BATCH, p=[0.6, 0.1, 0.1, 0.1, 0.1]))
        )
    assert goes_on(runs) and not goes_on(mixed) and not goes_on(skewed)
    assert not goes_on(nothing_seen(KEY, CLASSES))


def test_a_snapshot_brings_it_back():
    seen = seen_after(keys(3)).with_answers(logits([1, 2, 2]))
    again = seen_of(seen.to_array(), KEY, CLASSES)
    np.testing.assert_array_equal(again.key, seen.key)
    np.testing.assert_array_equal(again.shares, seen.shares)
    assert (again.frames, again.asked) == (seen.frames, seen.asked)
    assert again.entropy == pytest.approx(seen.entropy) and again.same == seen.same
    for wrong in (None, np.zeros(3, np.float32)):
        assert seen_of(wrong, KEY, CLASSES).frames == 0
