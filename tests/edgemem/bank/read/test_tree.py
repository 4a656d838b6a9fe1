"""Descent against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.bank.read.tree import descend, squared_distances


def brute_force(levels, branch, key):
    """Path and distances in whole numbers, one child after another."""
    row, path, distances = 0, [], []
    for keys in levels:
        best = None
        for child in range(row * branch, row * branch + branch):
            if np.isfinite(keys[child]).all():
                away = sum((int(a) - int(b)) ** 2 for a, b in zip(keys[child], key, strict=True))
                if best is None or away < best[0]:
                    best = away, child
        if best is None:
            break
        row = best[1]
        path.append(row)
        distances.append(best[0])
    return tuple(path), tuple(distances)


@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 4), st.data())
def test_descent_is_that_of_brute_force_with_ties_and_absent_children(branch, depth, length, data):
    # Few whole numbers, so that ties are common and sums are exact.
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels = []
    for number in range(1, depth + 1):
        keys = random.integers(-2, 3, (branch**number, length)).astype(np.float32)
        away = random.random(len(keys))
        keys[away < 0.2] = np.inf
        keys[away > 0.9] = np.nan
        levels.append(keys)
    key = random.integers(-2, 3, length).astype(np.float32)
    found = descend(lambda level, row: levels[level][row * branch : (row + 1) * branch], depth, key)
    assert (found.path, found.distances) == brute_force(levels, branch, key)


def test_a_tie_goes_to_the_lowest_row():
    keys = np.array([[5.0], [1.0], [-1.0], [1.0]], np.float32)
    assert descend(lambda level, row: keys, 1, np.zeros(1, np.float32)).path == (1,)


def test_unreadable_children_end_the_path():
    keys = np.zeros((2, 1), np.float32)
    found = descend(lambda level, row: keys if level == 0 else None, 3, keys[0])
    assert found.path == (0,) and found.distances == (0.0,)


def test_the_largest_numbers_do_not_overflow():
    keys = np.array([[3e38, 3e38], [-3e38, -3e38], [np.inf, np.inf], [np.nan, 0]], np.float32)
    away = squared_distances(keys, keys[1])
    assert away[0] == pytest.approx(8 * 9e76) and away[1] == 0
    assert np.isinf(away[2:]).all()
