"""The frozen model's share of an answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.runtime.guard.frozen_share import (
    EQUAL,
    FAR,
    LEAST_SHARE,
    SHARES,
    averaged,
    blended,
    chosen,
    frozen_share,
    is_surer,
    used,
)
from edgemem.runtime.logits import entropies

CLASSES = 5


def logits(scale, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=(16, CLASSES))).astype(np.float32)


def probabilities(values):
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum(1, keepdims=True)


@given(st.floats(0.1, 8), st.floats(0.1, 8), st.floats(0, 20))
def test_the_share_follows_from_the_entropies_and_the_distance(one, other, distance):
    own, frozen = logits(one), logits(other, 1)
    ratio = entropies(own).mean() / max(entropies(frozen).mean(), 1e-3) / EQUAL
    odds = ratio**4 / (1 + (distance / FAR) ** 4)
    expected, found = odds / (1 + odds), frozen_share(own, frozen, distance)
    assert found == pytest.approx(expected, abs=1e-3)
    assert round(found * SHARES) / SHARES == found


@given(st.integers(0, SHARES), st.integers(0, SHARES))
def test_a_share_goes_halfway_to_that_of_the_newest_batch(before, newest):
    found = averaged(before / SHARES, newest / SHARES)
    assert found == pytest.approx((before + newest) / (2 * SHARES), abs=1e-3)
    assert round(found * SHARES) / SHARES == found  # a state file keeps it exactly


@given(st.floats(0, 1))
def test_a_small_share_is_not_worth_its_time_and_none_is_all(share):
    found = used(share)
    assert found == (0 if share < LEAST_SHARE else pytest.approx(share, abs=1.01 / SHARES))
    assert found < 1  # 1 would be the frozen rung, whose answers are not read in order


def test_a_model_that_is_as_certain_as_the_frozen_one_answers_alone():
    assert used(frozen_share(logits(3), logits(3, 1), 0.0)) == 0
    assert used(frozen_share(0 * logits(3), logits(9, 1), 0.0)) > 0.9
    assert used(frozen_share(0 * logits(3), logits(9, 1), 30.0)) == 0


@given(st.floats(0.2, 0.95))
def test_blended_are_the_logarithms_of_averaged_probabilities(share):
    own, frozen = logits(2), logits(5, 1)
    expected = (1 - share) * probabilities(own) + share * probabilities(frozen)
    np.testing.assert_allclose(np.exp(blended(own, frozen, share)), expected, atol=1e-6)


def test_a_share_of_nothing_or_all_leaves_logits_as_they_are():
    own, frozen = logits(2), logits(5, 1)
    assert blended(own, frozen, 0.0) is own and blended(own, frozen, 1.0) is frozen


def test_impossible_logits_give_no_share():
    assert frozen_share(np.full((4, 3), np.nan, np.float32), logits(1)[:4, :3], 0.0) == 0


@given(st.floats(0, 5), st.floats(0.001, 5), st.floats(0.1, 3))
def test_a_block_is_surer_below_its_part_of_the_frozen_entropy(own, frozen, below):
    assert is_surer(own, frozen, below) == (own < below * frozen)


def test_only_entropies_that_are_numbers_tell():
    assert is_surer(1.0, np.nan, 0.5) and not is_surer(np.nan, 1.0, 0.5)


@given(st.integers(0, SHARES))
def test_other_outputs_are_one_of_both(share):
    own, frozen = logits(2), logits(5, 1)
    assert chosen(own, frozen, share / SHARES) is (frozen if 2 * share >= SHARES else own)
