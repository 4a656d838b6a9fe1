"""Rendered text, its shifts, and how answers to it are judged."""

from functools import cache

import numpy as np
import pytest

from benchmarks.ocr.rendering import Box, lines, pages, turned_lines
from benchmarks.ocr.scoring import box_error, class_error, distance, overlap, read, text_error
from benchmarks.ocr.shifts import CLEAN, SHIFTS, shifted


def test_the_same_seed_gives_the_same_text_and_another_one_other_text():
    first, again, other = lines(3, 1), lines(3, 1), lines(3, 2)
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.texts == again.texts != other.texts
    assert first.frames.dtype == np.uint8 and all(first.texts)


def test_boxes_of_pages_hold_all_ink():
    made = pages(6, 3)
    for frame, boxes in zip(made.frames, made.boxes, strict=True):
        paper = frame[:, :1, :1]
        ink = (frame != paper).any(0)
        for box in boxes:
            left, top, right, bottom = (round(side) for side in box)
            assert ink[top:bottom, left:right].any()
            ink[top:bottom, left:right] = False
        assert not ink.any()


def test_turned_lines_are_the_others_upside_down():
    frames, turned = turned_lines(20, 4)
    straight = np.where(turned[:, None, None, None] == 1, frames[:, :, ::-1, ::-1], frames)
    # Text begins at the left: there lies its first ink.
    ink = (straight != straight[:, :, :1, :1]).any((1, 2))
    assert 0 < turned.sum() < 20 and (ink.argmax(1) < 20).all()


@pytest.mark.parametrize("name", SHIFTS)
def test_every_shift_changes_frames_alike_for_the_same_seed(name):
    frames = lines(2, 5).frames
    found = shifted(frames, name, 0)
    assert found.shape == frames.shape and found.dtype == np.uint8
    assert (found != frames).mean() > 0.02
    np.testing.assert_array_equal(found, shifted(frames, name, 0))
    assert shifted(frames, CLEAN, 0) is frames


def test_edits_are_the_fewest():
    @cache
    def fewest(one, other):
        if not one or not other:
            return len(one) + len(other)
        same = fewest(one[1:], other[1:]) + (one[0] != other[0])
        return min(same, fewest(one[1:], other) + 1, fewest(one, other[1:]) + 1)

    rng = np.random.default_rng(0)
    for _ in range(50):
        pair = ["".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2)]
        assert distance(*pair) == fewest(*pair)
    assert text_error(["abc", ""], ["abd", "xy"]) == pytest.approx(3 / 5)


def test_reading_joins_repeated_steps_and_drops_blanks():
    steps = np.eye(4, dtype=np.float32)[[[1, 1, 0, 1, 2, 2, 3, 0]]]
    assert read(steps, ["", "a", "b", " "]) == ["aab "]


def test_boxes_count_once_and_both_ways():
    right = [[Box(10, 10, 60, 30), Box(10, 50, 60, 70)]]
    assert overlap(right[0][0], right[0][0]) == 1 and overlap(*right[0]) == 0
    map_ = np.zeros((1, 1, 80, 80), np.float32)
    assert box_error(map_, right) == 1
    map_[0, 0, 16:24, 16:54] = 1  # shrunken, as detectors are taught
    assert box_error(map_, right) == pytest.approx(1 - 2 / 3)
    map_[0, 0, 56:64, 16:54] = 1
    assert box_error(map_, right) == 0
    assert class_error(np.array([[1, 0], [0, 1]], np.float32), np.array([0, 0])) == 0.5
