"""Signs of a block gone astray."""

import numpy as np
import pytest

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.guard.failure_indicators import (
    DISSENT,
    FARTHEST,
    MEMORY,
    Evidence,
    farthest,
    is_still,
    names_one_class,
)


def one_hot(labels):
    return 9 * np.eye(10, dtype=np.float32)[np.asarray(labels)]


def test_only_frames_on_which_both_references_agree_are_evidence():
    ten = np.arange(10).repeat(2)
    other = (ten + 1) % 10
    found = Evidence().after(one_hot(other), one_hot(ten), one_hot(ten))
    assert (found.agreed, found.against) == (20, 20) and found.is_enough()
    assert Evidence().after(one_hot(other), one_hot(other), one_hot(ten)) == Evidence()
    assert not Evidence().after(one_hot(ten), one_hot(ten), one_hot(ten)).is_enough()
    broken = one_hot(ten) * np.where(np.arange(20) < 15, np.nan, 1)[:, None]
    assert Evidence().after(one_hot(other), broken, one_hot(ten)).agreed == 5


def test_small_batches_gather_evidence_and_a_single_one_is_no_verdict():
    three, wrong = one_hot([1, 2, 3]), one_hot([2, 2, 4])
    evidence = Evidence().after(wrong, three, three)
    assert not evidence.is_enough()
    for _ in range(5):
        evidence = evidence.after(wrong, three, three)
    assert evidence.agreed == 18 and evidence.share == pytest.approx(2 / 3)
    assert evidence.is_enough()


def test_the_past_fades():
    many = one_hot(np.arange(10).repeat(30))
    evidence = Evidence().after(many[::-1], many, many)
    assert evidence.agreed == pytest.approx(MEMORY)
    for _ in range(3):
        evidence = evidence.after(many, many, many)
    assert not evidence.is_enough() and evidence.agreed == pytest.approx(MEMORY)


@pytest.mark.parametrize("checks", [1, 8, 64])
def test_a_sound_block_is_rarely_suspected(checks):
    """A block that contradicts on as many frames as is still allowed: false alarms by chance."""
    rng, alarms = np.random.default_rng(0), 0
    same = one_hot(np.zeros(16, np.int64))
    for _ in range(400):
        evidence = Evidence()
        for _ in range(checks):
            labels = (rng.random(16) < DISSENT).astype(np.int64)
            evidence = evidence.after(one_hot(labels), same, same)
        alarms += evidence.is_enough()
    assert alarms <= 4


def test_one_class_is_that_of_nearly_all_frames():
    assert names_one_class(one_hot([3] * 9 + [4])) and not names_one_class(one_hot([3, 4]))
    assert not names_one_class(one_hot([3]))


def test_the_distance_is_that_of_the_array_that_went_farthest():
    bundle = open_bundle(BUNDLE)
    spec, source = bundle.manifest.block, bundle.generic
    kernel = next(a.name for a in spec.arrays if len(a.shape) > 1)
    shift = next(a.name for a in spec.arrays if a.name.endswith("shift"))
    assert farthest(spec, source, source) == 0.0
    block = source.replace({kernel: 1.5 * source[kernel], shift: source[shift] + np.float32(0.25)})
    assert farthest(spec, source, block) == pytest.approx(0.5, rel=1e-5)
    huge = source.replace({shift: np.full_like(source[shift], 1e30)})
    assert farthest(spec, source, huge) > FARTHEST


def test_still_means_equal_in_every_number():
    frames = np.zeros((4, 2, 2), np.float32)
    assert is_still(frames) and not is_still(frames[:1])
    frames[3, 1, 1] = 1e-6
    assert not is_still(frames)
