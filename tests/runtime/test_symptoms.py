"""Symptoms of a block gone astray."""

import numpy as np
import pytest

from edgemem.bundle import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.symptoms import FARTHEST, dissent, farthest, is_still


def one_hot(labels):
    return 9 * np.eye(10, dtype=np.float32)[np.asarray(labels)]


def test_dissent_counts_only_where_both_references_agree():
    ten = np.arange(10).repeat(2)
    other = (ten + 1) % 10
    assert "other classes" in dissent(one_hot(other), one_hot(ten), one_hot(ten))
    assert "one class" in dissent(one_hot(0 * ten), one_hot(ten), one_hot(ten))
    assert dissent(one_hot(other), one_hot(other), one_hot(ten)) is None
    assert dissent(one_hot(ten), one_hot(ten), one_hot(ten)) is None
    half = np.where(np.arange(20) % 2, ten, other)
    assert dissent(one_hot(half), one_hot(ten), one_hot(ten)) is None
    assert dissent(one_hot(other)[:6], one_hot(ten)[:6], one_hot(ten)[:6]) is None


def test_the_distance_is_that_of_the_array_that_went_farthest():
    bundle = open_bundle(BUNDLE)
    spec, source = bundle.manifest.block, bundle.generic
    kernel = next(a.name for a in spec.arrays if len(a.shape) > 1)
    shift = next(a.name for a in spec.arrays if a.name.endswith("shift"))
    assert farthest(spec, source, source) == 0.0
    block = source | {kernel: 1.5 * source[kernel], shift: source[shift] + np.float32(0.25)}
    assert farthest(spec, source, block) == pytest.approx(0.5, rel=1e-5)
    huge = source | {shift: np.full_like(source[shift], 1e30)}
    assert farthest(spec, source, huge) > FARTHEST


def test_still_means_equal_in_every_number():
    frames = np.zeros((4, 2, 2), np.float32)
    assert is_still(frames) and not is_still(frames[:1])
    frames[3, 1, 1] = 1e-6
    assert not is_still(frames)
