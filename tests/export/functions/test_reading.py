"""How taught classes are read: against the formula in numpy, and where it must change nothing."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torch import nn

from edgemem.bundle.manifest import CLOSED
from edgemem.export.functions.class_reading import (
    FRAMES,
    MOST_SEEN,
    READS,
    SEEN,
    SHARPNESS,
    SOURCE_WEIGHT,
    SUMS,
    Reading,
)
from edgemem.export.functions.label_order import in_order
from edgemem.models.adaptive.class_prototypes import ClassPrototypes
from edgemem.models.norms.remembered import FLOOR, HYPER_PARAMETERS, evenness, weighed

OWN, CAPACITY, SIZE, N = 3, 6, 5, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def reading():
    held = ClassPrototypes(
        draw(SIZE, seed=1),
        torch.eye(SIZE) + 0.1 * draw(SIZE, SIZE, seed=2),
        torch.from_numpy(unit(draw(OWN, SIZE, seed=3).numpy())),
    )
    return Reading(held, nn.Linear(SIZE, OWN), CAPACITY)


def block(taught=()):
    """A block in which these classes have been taught."""
    arrays = {
        SUMS: torch.zeros(CAPACITY, SIZE),
        FRAMES: torch.zeros(CAPACITY),
        SEEN: 0.5 * draw(OWN, SIZE, seed=4),
    }
    for c in taught:
        arrays[SUMS][c] = draw(SIZE, seed=10 + c)
        arrays[FRAMES][c] = 2.0
    return arrays


def hp(read="mixed", **values):
    return {name: torch.tensor(value) for name, value in (READS[read] | values).items()}


def by_numpy(reading, logits, features, arrays, share):
    held = reading.prototypes
    own = SOURCE_WEIGHT * held.source.numpy() + arrays[SEEN].numpy()
    sums = np.concatenate([own, np.zeros((CAPACITY - OWN, SIZE))]) + arrays[SUMS].numpy()
    there = [c for c in range(CAPACITY) if c < OWN or arrays[FRAMES][c] > 0]
    embedded = unit((features - held.center.numpy()) @ held.whitening.numpy())
    result = np.full((len(logits), CAPACITY), CLOSED)
    for i, z in enumerate(logits):
        scores = np.array([SHARPNESS * embedded[i] @ unit(sums[c]) for c in there])
        p, by_classifier = softmax(scores), softmax(z)
        left = p[:OWN].sum()
        by_prototypes = p[:OWN] / left
        first, second = share * by_prototypes.max(), (1 - share) * by_classifier.max()
        weight = first / (first + second)
        dealt = weight * by_prototypes + (1 - weight) * by_classifier
        whole = np.concatenate([left * dealt, p[OWN:]])
        result[i, there] = np.log(whole) + logsumexp(z)
    return result


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("taught", [(4,), (3, 5), (0, 4)])
def test_it_is_the_formula(reading, share, taught):
    logits, features, arrays = 3 * draw(N, OWN, seed=5), draw(N, SIZE, seed=6), block(taught)
    found = reading.read(logits, features, arrays, hp(prototype_share=share)).numpy()
    expected = by_numpy(reading, logits.numpy(), features.numpy(), arrays, share)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_with_nothing_taught_the_classifier_answers(reading):
    logits, features = 30 * draw(N, OWN, seed=5), draw(N, SIZE, seed=6)
    found = reading.read(logits, features, block(), hp())
    torch.testing.assert_close(found[:, :OWN], logits, rtol=1e-6, atol=1e-5)
    assert (found[:, OWN:] == CLOSED).all()


def test_read_by_the_classifier_alone_no_new_class_is_answered(reading):
    logits, features = draw(N, OWN, seed=5), draw(N, SIZE, seed=6)
    found = reading.read(logits, features, block((1, 4)), hp("classifier"))
    torch.testing.assert_close(found[:, :OWN], logits, rtol=1e-6, atol=1e-5)
    assert (found[:, OWN:] == CLOSED).all()


def test_all_scalars_at_zero_are_the_classifier(reading):
    logits, features = draw(N, OWN, seed=5), draw(N, SIZE, seed=6)
    zero = {name: torch.zeros_like(array) for name, array in block().items()}
    found = reading.read(logits, features, zero, {n: torch.tensor(0.0) for n in READS["mixed"]})
    torch.testing.assert_close(found[:, :OWN], logits, rtol=1e-6, atol=1e-5)


def test_a_frame_like_the_one_that_was_taught_is_of_its_class(reading):
    features, arrays = draw(1, SIZE, seed=6), block()
    arrays[SUMS][5], arrays[FRAMES][5] = reading.prototypes.embedded(features)[0], 1.0
    found = reading.read(10 * draw(1, OWN, seed=5), features, arrays, hp())
    assert found.argmax().item() == 5


def test_prototypes_alone_are_the_nearest_by_cosine(reading):
    features, arrays = draw(50, SIZE, seed=6), block((1, 4))
    found = reading.read(50 * draw(50, OWN, seed=5), features, arrays, hp("prototypes"))
    cosines = reading.prototypes.embedded(features) @ reading.directions(arrays).T
    cosines[:, [3, 5]] = -2.0
    assert torch.equal(found.argmax(1), cosines.argmax(1))


def test_probabilities_keep_the_level_of_the_classifier(reading):
    logits = 3 * draw(N, OWN, seed=5)
    found = reading.read(logits, draw(N, SIZE, seed=6), block((4,)), hp())
    torch.testing.assert_close(torch.logsumexp(found, 1), torch.logsumexp(logits, 1))


def test_what_is_seen_counts_for_the_class_it_is_taken_for_and_fades(reading):
    features, arrays = draw(N, SIZE, seed=6), block()
    probabilities = torch.softmax(3 * draw(N, CAPACITY, seed=7), 1)
    found = reading.seen(features, probabilities, arrays).numpy()
    embedded = reading.prototypes.embedded(features).numpy()
    for c in range(OWN):
        rows = [i for i in range(N) if probabilities[i].argmax() == c]
        weights = np.array([float(probabilities[i, c]) for i in rows])
        expected = (1 - weights.sum() / MOST_SEEN) * arrays[SEEN][c].numpy()
        expected = expected + sum(w * embedded[i] for w, i in zip(weights, rows, strict=True))
        np.testing.assert_allclose(found[c], expected, rtol=1e-5, atol=1e-6)


def closed_beside(logits):
    room = np.full((len(logits), 2), CLOSED, np.float32)
    return torch.from_numpy(np.concatenate([logits, room], 1))


OPENED = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize("seed", range(3))
def test_room_for_classes_does_not_change_how_order_is_read(seed):
    logits = 4 * draw(12, OWN, seed=seed).repeat_interleave(2, 0)
    frames, weight = torch.tensor(24.0), torch.tensor(1.0)
    alone = log_softmax(in_order(logits, frames, weight).numpy(), 1)
    beside = in_order(closed_beside(logits.numpy()), frames, weight, None, OPENED).numpy()
    np.testing.assert_allclose(log_softmax(beside, 1)[:, :OWN], alone, atol=2e-3)
    assert np.isfinite(beside).all()
    assert (beside[:, OWN:] == CLOSED).all()


def test_room_for_classes_does_not_change_the_class_prior():
    prior, logits = torch.tensor([0.3, -0.1, -0.2]), draw(7, OWN, seed=3)
    parameters = {name: torch.tensor(value) for name, value in HYPER_PARAMETERS.items()}
    alone = weighed(logits, prior, parameters)
    padded = torch.cat([prior, torch.zeros(2)])
    beside = weighed(closed_beside(logits.numpy()), padded, parameters, OPENED, OWN)
    torch.testing.assert_close(beside[:, :OWN], alone)


def test_room_for_classes_does_not_change_evenness():
    mean = torch.tensor([0.6, 0.3, 0.1])
    beside = evenness(torch.cat([mean, torch.zeros(2)]), 16, torch.tensor(3.0))
    torch.testing.assert_close(beside, evenness(mean, 16))


def test_a_class_just_taught_is_not_weighed_down():
    prior = torch.tensor([0.4, -0.2, -0.2, 0.0, 0.0])
    parameters = {name: torch.tensor(value) for name, value in HYPER_PARAMETERS.items()}
    opened = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    found = weighed(torch.zeros(1, 5), prior, parameters, opened, OWN)
    assert found[0, 3].item() == 0.0
    assert found[0, 0].item() > 0.0 > found[0, 1].item()


def test_classes_that_are_taught_do_not_shut_an_absent_one_out():
    """Its prior is a difference to the even one of ten classes; five more have been taught."""
    prior = torch.tensor([-0.1] * 5 + [0.1] * 5 + [0.0] * 5)
    parameters = {name: torch.tensor(value) for name, value in HYPER_PARAMETERS.items()}
    added = weighed(torch.zeros(1, 15), prior, parameters, torch.ones(15), 10)[0]
    lowest = parameters["prior_weight"] * math.log(FLOOR / (1 / 15 + FLOOR))
    assert lowest - 1e-5 <= added[0].item() < 0.0


def test_shares_too_small_for_half_precision_are_not_lost(reading):
    logits, features = torch.tensor([[0.0, -40.0, -60.0]]), draw(1, SIZE, seed=6)
    found = reading.read(logits, features, block((4,)), hp())
    assert torch.isfinite(found).all()
    expected = by_numpy(reading, logits.numpy(), features.numpy(), block((4,)), 0.5)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-3)
