"""Synthetic shifts, for frames of any number of axes."""

import numpy as np
import pytest

from edgemem.shifts import SHIFTS, blur

SHAPES = [(6, 3, 8, 8), (6, 2, 16), (6, 1, 4, 4, 4)]


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shift_changes_frames_and_keeps_their_kind(name, shape):
    frames = np.random.default_rng(0).random(shape, np.float32)
    before = frames.copy()
    found = SHIFTS[name](frames, np.random.default_rng(1))
    again = SHIFTS[name](frames, np.random.default_rng(1))
    assert found.shape == shape and found.dtype == np.float32
    assert np.abs(found - frames).max() > 0.01
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(found, again)


def test_blur_is_the_mean_of_neighbours_twice():
    """Brute force on a signal."""
    signal = np.random.default_rng(2).random(9).astype(np.float32)
    expected = signal.copy()
    for _ in range(2):
        wide = [expected[0], *expected, expected[-1]]
        expected = np.array([sum(wide[k : k + 3]) / 3 for k in range(9)])
    found = blur(signal[None, None], np.random.default_rng(0))[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
