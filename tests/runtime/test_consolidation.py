"""What the root takes, and what the probe of a consolidation says, beside plain formulas."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgemem.block import ArraySpec, Block, BlockSpec
from edgemem.runtime.consolidation import Outlook, outlook, shared_part

SHARES = st.floats(-1, 1)


def softmax(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(2, 12))
def test_outlook_is_relative_entropy_and_agreement_with_the_frozen_labels(seed, n, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, classes))
    labels = rng.integers(0, classes, n)
    p = softmax(logits)
    found = outlook(logits, labels)
    expected = np.mean([-(row * np.log(row)).sum() for row in p]) / np.log(classes)
    assert np.isclose(found.entropy, expected)
    assert np.isclose(found.agreement, np.mean([p[i].argmax() == labels[i] for i in range(n)]))


def test_a_guess_has_entropy_one_and_certainty_none():
    assert np.isclose(outlook(np.zeros((3, 10)), np.zeros(3, int)).entropy, 1)
    sure = outlook(100 * np.eye(3), np.arange(3))
    assert np.isclose(sure.entropy, 0) and np.isclose(sure.agreement, 1)


def test_logits_that_are_not_finite_are_worse_than_any():
    bad = outlook(np.full((2, 3), np.nan), np.zeros(2, int))
    assert not bad.no_worse_than(Outlook(1.0, 0.0))


@given(SHARES, SHARES)
def test_worse_is_more_entropy_or_less_agreement(entropy, agreement):
    before, after = Outlook(0.5, 0.5), Outlook(0.5 + entropy, 0.5 + agreement)
    expected = after.entropy <= 0.5 and after.agreement >= 0.5
    assert after.no_worse_than(before) == expected
    assert before.no_worse_than(before)


def test_the_root_takes_only_its_share_and_it_can_be_taken_back():
    spec = BlockSpec(
        (
            ArraySpec("a", (2,), "float32", root_share=0.75),
            ArraySpec("b", (), "float32"),
        )
    )
    learnt = Block({"a": np.float32([1, 2]), "b": np.asarray(np.float32(3))})
    part = shared_part(spec, learnt, 1)
    assert list(part) == ["a"]
    np.testing.assert_array_equal(part["a"], np.float32([0.75, 1.5]))
    np.testing.assert_array_equal(shared_part(spec, learnt, 3)["a"], np.float32([0.25, 0.5]))
    root = Block({"a": np.float32([1, 1]), "b": np.asarray(np.float32(1))})
    after = root + part
    np.testing.assert_array_equal(after["a"], np.float32([1.75, 2.5]))
    assert after["b"] is root["b"]
    np.testing.assert_array_equal((after - part)["a"], root["a"])
