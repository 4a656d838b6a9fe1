"""How fast moments and class prior are remembered, and what balancing makes of them."""

import numpy as np
import pytest
import torch
from remembered_norms import CLASSES, close, draw, zero
from scipy.stats import entropy
from torch import nn

from edgemem.models.norms import remembered
from edgemem.models.norms.moments import FrameMoments, frame_moments
from edgemem.models.norms.remembered import (
    CLASS_PRIOR,
    EVENNESS,
    FLOOR,
    FRAMES,
    HYPER_PARAMETERS,
    MEAN,
    MOST_FRAMES,
    SOURCE_FRAMES,
    VAR,
    batch_weight,
    evenness,
    next_remembered,
    weighed,
)


def hyper_parameters(**values):
    return {name: torch.tensor(value) for name, value in (HYPER_PARAMETERS | values).items()}


@pytest.mark.parametrize("count", [1.0, 8.0, 64.0])
def test_the_first_batch_counts_alone_and_later_ones_as_their_share_down_to_the_least(count):
    hp = hyper_parameters(least_batch_weight=0.2)
    past = torch.tensor([0.0, 1.0, 8.0, 20.0, 100.0, 1e4, MOST_FRAMES])
    found = batch_weight(torch.tensor(count), {FRAMES: past, EVENNESS: torch.tensor(0.0)}, hp)
    assert found[0] == 1.0
    assert found[-1] == hp["least_batch_weight"]
    assert (found.diff() <= 0).all()
    close(found, [max(0.2, count / (count + p)) for p in past.tolist()])


def test_the_least_weight_rises_with_the_evenness_of_past_batches():
    held = torch.tensor([0.0, 0.5, 0.9, 1.0])
    memory = {FRAMES: torch.tensor(1e5), EVENNESS: held}
    found = batch_weight(
        torch.tensor(8.0), memory, hyper_parameters(least_batch_weight=0.2, even_batch_weight=0.7)
    )
    close(found, 0.2 + 0.5 * held.numpy().astype(np.float64) ** 8)
    high = hyper_parameters(least_batch_weight=0.8, even_batch_weight=0.7)
    assert (batch_weight(torch.tensor(8.0), memory, high) == high["least_batch_weight"]).all()


@pytest.mark.parametrize(("classes", "frames"), [(2, 16), (10, 16), (10, 64), (100, 64)])
def test_evenness_is_one_for_balanced_draws_and_near_zero_for_one_class(classes, frames):
    drawn = np.random.default_rng(0).integers(classes, size=(200, frames))
    share = np.stack([np.bincount(d, minlength=classes) / frames for d in drawn])
    found = [evenness(torch.tensor(s, dtype=torch.float32), frames).item() for s in share]
    assert 0.85 < np.mean(found) <= 1.0
    assert abs(evenness(torch.eye(classes)[0], frames).item()) < 1e-5
    few = max(classes // 5, 1)
    assert evenness(torch.eye(classes)[:few].mean(0), frames) < 0.5


@pytest.mark.parametrize(("classes", "frames"), [(2, 1), (10, 1), (1000, 8)])
def test_evenness_is_finite_and_at_most_one_where_frames_are_fewer_than_classes(classes, frames):
    for mean in (torch.full((classes,), 1 / classes), torch.eye(classes)[0]):
        assert 0.0 <= evenness(mean, frames).item() + 1e-5 <= 1.0 + 1e-5


def test_no_remembered_prior_leaves_logits_bit_for_bit():
    logits = 30.0 * draw(50, CLASSES)
    for weight in (0.0, 1.0, 1.5):
        hp = hyper_parameters(prior_weight=weight)
        assert weighed(logits, torch.zeros(CLASSES), hp).equal(logits)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("prior", [(0.7, 0.2, 0.1, 0.0), (0.3, 0.28, 0.22, 0.2), (0.25,) * 4])
def test_the_prior_multiplies_the_probabilities_unless_it_is_even(weight, prior):
    logits, prior = 3.0 * draw(20, 4), np.array(prior)
    found = weighed(
        logits,
        torch.tensor(prior - 0.25, dtype=torch.float32),
        hyper_parameters(prior_weight=weight),
    )
    weight *= 1 - (np.exp(entropy(prior)) / 4) ** 32
    expected = np.exp(logits.numpy().astype(np.float64)) * (prior + FLOOR) ** weight
    close(found.softmax(1), expected / expected.sum(1, keepdims=True))


def test_a_class_that_was_never_seen_is_still_predicted_when_the_network_is_sure():
    logits = torch.tensor([[0.0, 12.0]])
    prior = torch.tensor([0.5, -0.5])  # the first class only
    assert weighed(logits, prior, hyper_parameters()).argmax() == 1


def brute_force(old, values, source_mean, source_var, logits, hp):
    """`next_remembered` frame by frame in float64. values: [n, channels, positions]."""
    n, classes = logits.shape
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    share = [sum(probabilities[i, c] for i in range(n)) / n for c in range(classes)]
    weights = [sum(p[c] / (share[c] + FLOOR) for c in range(classes)) for p in probabilities]
    weights = [w / sum(weights) for w in weights]
    channels, positions = values.shape[1:]
    mean, var = np.zeros(channels), np.zeros(channels)
    for k in range(channels):
        for i in range(n):
            mean[k] += weights[i] * values[i, k].sum() / positions
        for i in range(n):
            var[k] += weights[i] * ((values[i, k] - mean[k]) ** 2).sum() / positions
    total = old[FRAMES] + n
    rate = max(hp["memory_rate"], n / (total + SOURCE_FRAMES))
    now = {"norm." + MEAN: mean - source_mean, "norm." + VAR: var - source_var}
    new = {name: (1 - rate) * old[name] + rate * value for name, value in now.items()}
    slow = min(rate, 0.5)
    new[CLASS_PRIOR] = (1 - slow) * old[CLASS_PRIOR] + slow * (np.array(share) - 1 / classes)
    new[FRAMES] = min(total, MOST_FRAMES)
    stand_for = np.exp(-sum(s * np.log(s) for s in share))
    drawn = np.exp(max(np.log(classes) - (classes - 1) / (2 * n), 0.0))
    even = min((stand_for - 1) / max(drawn - 1, 1.0), 1.0)
    new[EVENNESS] = min(even, (1 - rate) * old[EVENNESS] + rate * even)
    return new


@pytest.mark.parametrize("count", [1, 8, 100])
@pytest.mark.parametrize("past", [0.0, 24.0, 5000.0])
def test_what_is_remembered_next_equals_a_brute_force_computation(count, past):
    rng = np.random.default_rng(int(count + past))
    values = rng.normal(0.5, 1.5, (count, 3, 6)).astype(np.float32)
    logits = rng.normal(0, 3, (count, 4)).astype(np.float32)
    source_mean, source_var = np.float32([0.1, -0.4, 1.0]), np.float32([0.5, 1.0, 2.0])
    old = {
        CLASS_PRIOR: np.float32([0.3, -0.1, -0.1, -0.1]),
        FRAMES: np.float32(past),
        EVENNESS: np.float32(0.4),
        f"norm.{MEAN}": rng.normal(0, 0.3, 3).astype(np.float32),
        f"norm.{VAR}": rng.uniform(-0.3, 0.3, 3).astype(np.float32),
    }
    tensors = {name: torch.tensor(value) for name, value in old.items()}
    moments = frame_moments(torch.tensor(values), torch.tensor(source_mean))
    seen = {"norm": (torch.tensor(source_var), moments)}
    found = next_remembered(tensors, seen, torch.tensor(logits), hyper_parameters())
    doubles = {name: value.astype(np.float64) for name, value in old.items()}
    expected = brute_force(
        doubles,
        *(value.astype(np.float64) for value in (values, source_mean, source_var, logits)),
        HYPER_PARAMETERS,
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(found[name], value)
        assert found[name].shape == tensors[name].shape


def two_classes(rare, often, seed=0):
    """Values [n, 1, 16], sure logits [n, 2] and the values of each class."""
    low, high = draw(often, 1, 16, seed=seed) - 4.0, 2.0 * draw(rare, 1, 16, seed=seed + 1) + 4.0
    labels = torch.tensor([0] * often + [1] * rare)
    logits = 60.0 * nn.functional.one_hot(labels, 2).float()
    return torch.cat([low, high]), logits, (low, high)


def remembered_of(values, logits):
    """Moments that are left of one batch alone, from a source of mean and variance zero."""
    old = zero(
        {
            CLASS_PRIOR: torch.empty(logits.shape[1]),
            FRAMES: torch.empty(()),
            EVENNESS: torch.empty(()),
            f"norm.{MEAN}": torch.empty(1),
            f"norm.{VAR}": torch.empty(1),
        }
    )
    seen = {"norm": (torch.zeros(1), frame_moments(values, torch.zeros(1)))}
    new = next_remembered(old, seen, logits, hyper_parameters(memory_rate=1.0))
    return new[f"norm.{MEAN}"], new[f"norm.{VAR}"]


def moments_of_an_even_mixture(low, high):
    mean = (low.mean() + high.mean()) / 2
    var = (low.var(unbiased=False) + high.var(unbiased=False)) / 2
    return mean, var + (low.mean() - high.mean()).square() / 4


@pytest.mark.parametrize(("rare", "often"), [(8, 8), (4, 36), (1, 60)])
def test_a_skewed_batch_is_remembered_as_the_even_mixture_of_its_classes(rare, often, monkeypatch):
    """Exactly so without the floor under the share of a class."""
    monkeypatch.setattr(remembered, "FLOOR", 0.0)
    values, logits, classes = two_classes(rare, often)
    mean, var = remembered_of(values, logits)
    expected = moments_of_an_even_mixture(*classes)
    close(mean[0], expected[0], 1e-4)
    close(var[0], expected[1], 1e-4)


def test_with_its_floor_balancing_leaves_a_tenth_of_the_skew():
    values, logits, classes = two_classes(4, 36)
    even = moments_of_an_even_mixture(*classes)[0]
    left = abs(remembered_of(values, logits)[0][0] - even)
    assert left < 0.11 * abs(values.mean() - even)


def step(old, distance, count, **values):
    """One batch of frames that all have the same mean, constant, and are surely of class 0."""
    moments = FrameMoments(torch.full((count, 1), distance), torch.full((count, 1), distance**2))
    logits = torch.tensor([[60.0, 0.0, 0.0]]).expand(count, 3)
    return next_remembered(
        old, {"norm": (torch.ones(1), moments)}, logits, hyper_parameters(**values)
    )


def nothing(past=0.0):
    arrays = {
        CLASS_PRIOR: torch.zeros(3), FRAMES: torch.tensor(past), EVENNESS: torch.tensor(0.0)
    }  # fmt: skip
    return arrays | {f"norm.{kind}": torch.zeros(1) for kind in (MEAN, VAR)}


def test_without_a_least_rate_all_frames_count_alike_and_the_source_as_so_many():
    arrays, distances = nothing(), [1.0, -2.0, 0.5, 4.0]
    for distance in distances:
        arrays = step(arrays, distance, 8, memory_rate=0.0)
    assert arrays[FRAMES] == 32
    close(arrays[f"norm.{MEAN}"][0], 8 * sum(distances) / (32 + SOURCE_FRAMES))
    close(arrays[f"norm.{VAR}"][0], -32 / (32 + SOURCE_FRAMES))  # constants; the source had 1
    close(arrays[CLASS_PRIOR], np.array([2, -1, -1]) / 3 * 32 / (32 + SOURCE_FRAMES))


def test_a_batch_never_counts_less_than_the_least_rate():
    arrays = step(nothing(past=1e5), 2.0, 8, memory_rate=0.05)
    close(arrays[f"norm.{MEAN}"][0], 0.05 * 2.0)
    close(arrays[CLASS_PRIOR][0], 0.05 * 2 / 3)


def test_one_large_batch_moves_the_prior_by_half_at_most():
    arrays = step(nothing(), 2.0, 984)
    close(arrays[f"norm.{MEAN}"][0], 0.984 * 2.0)
    close(arrays[CLASS_PRIOR][0], 0.5 * 2 / 3)


@pytest.mark.parametrize("past", [MOST_FRAMES - 3, MOST_FRAMES])
def test_the_count_of_frames_has_an_end(past):
    assert step(nothing(past), 1.0, 8)[FRAMES] == MOST_FRAMES


def test_the_same_context_is_remembered_better_and_better():
    values, logits, _ = two_classes(4, 36)
    expected, arrays = remembered_of(values, logits)[0], nothing()
    arrays[CLASS_PRIOR] = torch.zeros(2)
    seen, errors = {"norm": (torch.zeros(1), frame_moments(values, torch.zeros(1)))}, []
    for _ in range(100):
        arrays = next_remembered(arrays, seen, logits, hyper_parameters())
        errors.append(abs(arrays[f"norm.{MEAN}"] - expected).item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]
    close(arrays[CLASS_PRIOR], [0.4, -0.4], 1e-2)
