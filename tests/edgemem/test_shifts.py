"""Synthetic shifts, for frames of any number of axes."""

import numpy as np
import pytest

from edgemem.shifts import FURTHER, blur, impulse, strong_blur

SHAPES = [(6, 3, 8, 8), (6, 2, 16), (6, 1, 4, 4, 4)]


@pytest.mark.parametrize("name", FURTHER)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shift_changes_frames_and_keeps_their_kind(name, shape):
    frames = np.random.default_rng(0).random(shape, np.float32)
    before = frames.copy()
    found = FURTHER[name](frames, np.random.default_rng(1))
    again = FURTHER[name](frames, np.random.default_rng(1))
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


def test_a_strong_blur_is_five_of_the_others():
    frames = np.random.default_rng(3).random((2, 1, 9, 7), np.float32)
    expected = frames
    for _ in range(5):
        expected = blur(expected, np.random.default_rng(0))
    np.testing.assert_array_equal(strong_blur(frames, np.random.default_rng(0)), expected)


def test_impulses_are_the_ends_of_the_range_and_few():
    frames = np.random.default_rng(4).random((8, 3, 32, 32), np.float32)
    found = impulse(frames, np.random.default_rng(0))
    hit = found != frames
    assert np.isin(found[hit], [frames.min(), frames.max()]).all()
    assert 0.04 < hit.mean() < 0.06
