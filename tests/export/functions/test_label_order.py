"""Reading frames beside their neighbours in time, against sums over all sequences of classes."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemem.export.functions.label_order import HYPER_PARAMETERS, in_order, messages
from edgemem.runtime.step.contract import READING

CLASSES = 10


def read(logits, weight=1.0):
    frames = torch.tensor(float(len(logits)))
    return in_order(torch.as_tensor(logits), frames, torch.tensor(weight))


def noisy(labels, seed, distance=2.0):
    """Logits of a network that is often wrong, and knows how often; seldom at a distance of 4."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), CLASSES)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += distance
    return 2 * logits


def errors(logits, labels):
    return float((np.asarray(logits).argmax(1) != labels).mean())


def runs_of(rng, length, count):
    return np.repeat(rng.integers(CLASSES, size=count), length)


def test_the_runtime_knows_what_is_reading():
    assert set(HYPER_PARAMETERS) == READING


def test_messages_that_have_come_all_the_way_give_the_chains_marginals():
    rng, frames, classes, lasting = np.random.default_rng(0), 5, 3, 0.7
    own = torch.tensor(rng.dirichlet(np.ones(classes), frames))
    prior = torch.tensor(rng.dirichlet(np.ones(classes), 1))
    even = torch.full((1, classes), 1 / classes, dtype=torch.float64)
    before = after = even.expand(frames, classes)
    for _ in range(frames):
        forward, backward = messages(
            own, before, after, prior, torch.tensor(lasting, dtype=torch.float64)
        )
        before = torch.cat([prior, forward[:-1]])
        after = torch.cat([backward[1:], even])
    found = own * before * after
    step = lasting * np.eye(classes) + (1 - lasting) * prior.numpy()
    expected = np.zeros((frames, classes))
    for path in product(range(classes), repeat=frames):
        chance = prior.numpy()[0, path[0]] * np.prod([step[i, j] for i, j in pairwise(path)])
        chance *= np.prod([own[k, c].item() for k, c in enumerate(path)])
        expected[np.arange(frames), path] += chance
    np.testing.assert_allclose(
        found / found.sum(1, keepdim=True), expected / expected.sum(1, keepdims=True), rtol=1e-9
    )


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(2, 30), st.floats(0.0, 1e4), st.integers(0, 1000))
def test_without_weight_nothing_changes_and_with_it_all_stays_finite(frames, classes, scale, seed):
    logits = np.random.default_rng(seed).normal(size=(frames, classes)).astype(np.float32) * scale
    np.testing.assert_array_equal(read(logits, 0.0), logits)
    assert torch.isfinite(read(logits)).all()
    assert torch.isfinite(read(np.zeros_like(logits))).all()


@pytest.mark.parametrize("length", [4, 8, 64])
def test_frames_that_go_on_as_they_were_are_read_far_better(length):
    rng = np.random.default_rng(length)
    before, after = [], []
    for seed in range(20):
        labels = runs_of(rng, length, 64 // length)
        logits = noisy(labels, seed)
        before.append(errors(logits, labels))
        after.append(errors(read(logits), labels))
    assert np.mean(before) > 0.3
    assert np.mean(after) < np.mean(before) / 2


@pytest.mark.parametrize("frames", [1, 2, 8, 16, 64])
def test_frames_in_random_order_are_answered_as_one_by_one(frames):
    rng = np.random.default_rng(frames)
    before, after = [], []
    for seed in range(2000 // frames):
        labels = rng.integers(CLASSES, size=frames)
        logits = noisy(labels, seed)
        before.append(errors(logits, labels))
        after.append(errors(read(logits), labels))
    assert np.mean(after) <= np.mean(before) + 0.015


def test_labels_of_few_classes_in_random_order_are_read_better():
    rng = np.random.default_rng(0)
    before, after = [], []
    for seed in range(30):
        labels = rng.integers(2, size=64)
        logits = noisy(labels, seed)
        before.append(errors(logits, labels))
        after.append(errors(read(logits), labels))
    assert np.mean(after) < np.mean(before) / 2


@pytest.mark.parametrize("distance", [2.0, 4.0])
@pytest.mark.parametrize("frames", [16, 64])
def test_rare_classes_in_random_order_do_not_pass_for_order(frames, distance):
    rng = np.random.default_rng(frames)
    before, after = [], []
    for seed in range(6400 // frames):
        labels = rng.choice(CLASSES, frames, p=[0.6, 0.2, *[0.025] * 8])
        logits = noisy(labels, seed, distance)
        before.append(errors(logits, labels))
        after.append(errors(read(logits), labels))
    assert np.mean(after) <= np.mean(before) + 0.001


def test_time_may_run_backwards():
    labels = runs_of(np.random.default_rng(1), 8, 8)
    logits = noisy(labels, 1)
    forwards, backwards = read(logits), read(logits[::-1].copy()).flip(0)
    assert (forwards.argmax(1) == backwards.argmax(1)).float().mean() > 0.95
