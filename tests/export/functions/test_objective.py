"""Losses against plain torch computations, one sample at a time."""

import math

import pytest
import torch
from torch.distributions import Categorical

from edgemem.export.functions.objective import OBJECTIVES, ecotta, likelihood_ratio, tent
from edgemem.models import Output

CLASSES = 5


def scalars(objective, **changes):
    values = objective.hyper_parameters | changes
    return {name: torch.tensor(value) for name, value in values.items()}


@pytest.fixture
def logits():
    """Four sure predictions and eight unsure ones."""
    torch.manual_seed(0)
    values = torch.randn(12, CLASSES)
    values[:4] *= 8
    return values.requires_grad_()


def output(logits, *distances):
    return Output(logits, torch.zeros(0), tuple(distances), {}, {})


def test_ecotta_is_the_mean_entropy_of_reliable_samples_plus_the_distances(logits):
    distances = torch.tensor([0.3, 0.7], requires_grad=True)
    objective = ecotta(CLASSES)
    loss = objective.loss(output(logits, *distances), scalars(objective, regularization_weight=0.5))
    entropies = [Categorical(logits=row).entropy() for row in logits]
    kept = [entropy for entropy in entropies if entropy < 0.4 * math.log(CLASSES)]
    assert 0 < len(kept) < len(logits)
    expected = sum(kept) / len(kept) + 0.5 * (0.3 + 0.7)
    torch.testing.assert_close(loss.value, expected)
    for mine, theirs in zip(
        torch.autograd.grad(loss.value, (logits, distances)),
        (torch.autograd.grad(expected, logits)[0], torch.tensor([0.5, 0.5])),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    assert bool(loss.update)
    assert loss.stats["reliable"].item() == pytest.approx(len(kept) / len(logits))
    torch.testing.assert_close(loss.stats["entropy"], sum(entropies) / len(entropies))
    assert loss.stats["distance"].item() == pytest.approx(1.0)


def test_the_margin_is_a_choice_of_the_device(logits):
    objective = ecotta(CLASSES)
    every = objective.loss(output(logits), scalars(objective, entropy_margin=2 * math.log(5)))
    assert every.stats["reliable"] == 1
    torch.testing.assert_close(every.value, Categorical(logits=logits).entropy().mean())


def test_without_a_reliable_sample_nothing_is_updated_and_no_gradient_is_nan():
    logits = torch.zeros(6, CLASSES, requires_grad=True)
    objective = ecotta(CLASSES)
    loss = objective.loss(output(logits, torch.tensor(0.2)), scalars(objective))
    assert not bool(loss.update)
    assert loss.stats["reliable"] == 0
    assert loss.value.item() == pytest.approx(0.2 * 0.25)
    assert torch.autograd.grad(loss.value, logits)[0].equal(torch.zeros_like(logits))


OF_FEATURES = {"alignment", "subspace_alignment"}
OF_LOGITS = {name: make for name, make in OBJECTIVES.items() if name not in OF_FEATURES}


@pytest.mark.parametrize("make", OF_LOGITS.values(), ids=OF_LOGITS)
def test_overconfident_logits_give_finite_gradients(make):
    """p log p at p = 0 is where entropies go wrong."""
    logits = torch.diag(torch.full((CLASSES,), 1e4)).requires_grad_()
    loss = make(CLASSES).loss(output(logits), scalars(make(CLASSES)))
    assert loss.value.isfinite()
    assert loss.value == 0 or make not in (ecotta, tent)
    assert torch.autograd.grad(loss.value, logits)[0].isfinite().all()


def test_the_likelihood_ratio_weighs_certain_predictions_unlike_the_mean(logits):
    objective = likelihood_ratio(CLASSES)
    loss = objective.loss(output(logits, torch.tensor(0.4)), scalars(objective))
    rows = [row.softmax(0) for row in logits]
    shares = [row.clamp(max=0.99) for row in rows]
    ratios = [-(p * torch.log(p / (1 - p) + 1e-5)).sum() for p in shares]
    mean = sum(row.detach() for row in rows) / len(rows)
    unlike = [1 - torch.cosine_similarity(mean, row.detach(), 0).item() for row in rows]
    sure = [-Categorical(probs=row.detach()).entropy().item() for row in rows]

    def rescaled(values):
        return [(v - min(values)) / (max(values) - min(values)) for v in values]

    diversity, certainty = rescaled(unlike), rescaled(sure)
    weights = [
        math.exp(3 * d * c) if d + 1e-3 >= sum(diversity) / len(rows) else 0.0
        for d, c in zip(diversity, certainty, strict=True)
    ]
    assert 0 < weights.count(0.0) < len(rows)
    total = sum(w * ratio for w, ratio in zip(weights, ratios, strict=True))
    expected = total / len(rows) + 0.25 * 0.4
    torch.testing.assert_close(loss.value, expected)
    theirs = torch.autograd.grad(expected, logits)[0]
    torch.testing.assert_close(torch.autograd.grad(loss.value, logits)[0], theirs)
    every = objective.loss(output(logits), scalars(objective, **objective.exercise))
    assert bool(every.update) and every.value != loss.value


def test_equal_predictions_all_weigh_the_same():
    objective = likelihood_ratio(CLASSES)
    alike = torch.tensor([[2.0, 0, 0, 0, 0]]).repeat(6, 1).requires_grad_()
    loss = objective.loss(output(alike), scalars(objective))
    (gradient,) = torch.autograd.grad(loss.value, alike)
    assert gradient.any()
    torch.testing.assert_close(gradient, gradient[:1].expand_as(gradient))


def test_exercise_makes_every_sample_reliable():
    objective = ecotta(CLASSES)
    undecided = output(torch.zeros(3, CLASSES))
    assert bool(objective.loss(undecided, scalars(objective, **objective.exercise)).update)


def test_tent_is_the_mean_entropy_of_all_samples(logits):
    loss = tent(CLASSES).loss(output(logits, torch.tensor(9.0)), {})
    expected = Categorical(logits=logits).entropy().mean()
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss.value, logits)[0], torch.autograd.grad(expected, logits)[0]
    )
    assert bool(loss.update)


def test_tent_does_not_update_on_a_loss_that_is_not_finite():
    assert not bool(tent(CLASSES).loss(output(torch.full((2, CLASSES), torch.nan)), {}).update)


def test_the_names_on_the_command_line_are_these():
    names = {"ecotta", "likelihood_ratio", "prototype_relation", "statistics", "tent"}
    assert set(OBJECTIVES) == names | OF_FEATURES
