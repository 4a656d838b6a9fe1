"""What counts as wrong: positions, and of sequences what is read."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.models.tasks.answered_wrong import share_wrong

lines = st.integers(1, 12).flatmap(
    lambda steps: st.lists(
        st.lists(st.integers(0, 3), min_size=steps, max_size=steps), min_size=2, max_size=2
    )
)


def edits(one, other):
    """Levenshtein, as it is defined."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        edits(one[1:], other) + 1,
        edits(one, other[1:]) + 1,
        edits(one[1:], other[1:]) + (one[0] != other[0]),
    )


def collapsed(line):
    return [k for k, _ in groupby(line)][:6]


@given(lines)
def test_of_sequences_edits_of_what_is_read_count(pair):
    found, right = (np.array(collapsed(line)) for line in pair)
    size = max(len(found), len(right))
    padded = [np.pad(line, (0, size - len(line)), mode="edge") for line in (found, right)]
    expected = min(1.0, edits(list(found), list(right)) / len(right))
    assert share_wrong("sequence", *padded, 1) == pytest.approx(expected)


def test_where_a_character_stands_does_not_matter():
    right = np.array([0, 0, 5, 5, 0, 7, 0, 0])
    later = np.array([0, 0, 0, 5, 0, 0, 7, 0])
    assert share_wrong("sequence", later, right, 1) == 0
    assert share_wrong("dense", later, right, 1) == 0.375


def test_one_character_of_many_steps_is_one_error():
    right = np.array([[0, 5, 0, 7, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 3, 0]])
    lost = right.copy()
    lost[0, 3] = 4
    assert share_wrong("sequence", lost.ravel(), right.ravel(), 2) == pytest.approx(1 / 8)
