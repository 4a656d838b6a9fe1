"""The losses of PRD, each against plain loops written from its formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgemem.errors import InputError
from edgemem.models.prototypes import (
    prototype_loss,
    relation_distillation,
    relation_distillation_of_tasks,
    supervised_contrastive_loss,
)

AXES = ("samples", "prototypes")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    length = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / length


def softmax(scores):
    top = max(scores)
    exps = [math.exp(score - top) for score in scores]
    return [value / sum(exps) for value in exps]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def contrastive_by_loops(projections, labels, temperature):
    rows, losses = projections.tolist(), []
    for i in range(len(rows)):
        scores = {
            a: math.exp(cosine(rows[i], rows[a]) / temperature) for a in range(len(rows)) if a != i
        }
        positives = [p for p in scores if labels[p] == labels[i]]
        if positives:
            logs = [math.log(scores[p] / sum(scores.values())) for p in positives]
            losses.append(-sum(logs) / len(positives))
    return temperature / 0.07 * sum(losses) / len(losses) if losses else 0.0


def relation_by_loops(new, prototypes, old, old_prototypes, temperature, axis):
    def score(feature, prototype):
        value = cosine(feature, prototype)
        return value if axis == "samples" else value * math.sqrt(sum(v * v for v in feature))

    def distributions(features, rows):
        table = [[score(f, p) / temperature for f in features] for p in rows]
        if axis == "prototypes":
            table = [list(column) for column in zip(*table, strict=True)]
        return [softmax(scores) for scores in table]

    pairs = zip(distributions(old, old_prototypes), distributions(new, prototypes), strict=True)
    values = [divergence(p, q) for p, q in pairs]
    return sum(values) / len(values)


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    temperature=st.sampled_from([0.07, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_contrastive_loss_is_the_formula(labels, temperature, seed):
    projections = random(len(labels), 4, seed=seed)
    found = supervised_contrastive_loss(projections, torch.tensor(labels), temperature)
    expected = contrastive_by_loops(projections, labels, temperature)
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_the_default_temperature_is_that_of_the_released_code():
    projections, labels = random(6, 4), [0, 1, 2, 0, 1, 2]
    found = supervised_contrastive_loss(projections, torch.tensor(labels))
    assert found.item() == pytest.approx(contrastive_by_loops(projections, labels, 0.1))


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 1, 2, 2]])
def test_anchors_without_positives_do_not_count_and_give_finite_gradients(labels):
    projections = random(len(labels), 3).requires_grad_()
    loss = supervised_contrastive_loss(projections, torch.tensor(labels))
    loss.backward()
    assert loss.item() == pytest.approx(contrastive_by_loops(projections.detach(), labels, 0.1))
    assert projections.grad.isfinite().all()


def test_the_contrastive_loss_sees_neither_length_nor_order_nor_names():
    projections, labels = random(8, 5), torch.tensor([0, 1, 2, 3] * 2)
    expected = supervised_contrastive_loss(projections, labels)
    order, lengths = torch.randperm(8), torch.rand(8, 1, dtype=torch.float64) + 0.1
    names = torch.tensor([70, 3, 12, 5])
    again = supervised_contrastive_loss((projections * lengths)[order], names[labels][order])
    assert again.item() == pytest.approx(expected.item())


def test_contrastive_gradients_are_those_of_finite_differences():
    labels = torch.tensor([0, 1, 0, 1, 2])
    projections = random(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: supervised_contrastive_loss(p, labels), projections)


@given(targets=st.lists(st.integers(0, 2), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_the_prototype_loss_is_the_formula(targets, seed):
    features, prototypes = random(len(targets), 4, seed=seed), random(3, 4, seed=seed + 100)
    found = prototype_loss(features, prototypes, torch.tensor(targets))
    each = [
        1 - cosine(f, prototypes.tolist()[k])
        for f, k in zip(features.tolist(), targets, strict=True)
    ]
    assert found.item() == pytest.approx(sum(each) / len(each))


def test_the_prototype_loss_trains_prototypes_and_nothing_before_the_features():
    features, prototypes = random(4, 3).requires_grad_(), random(3, 3, seed=1).requires_grad_()
    prototype_loss(features, prototypes, torch.tensor([0, 0, 2, 2])).backward()
    assert features.grad is None
    moved = prototypes.grad.abs().sum(1) > 0
    assert moved.tolist() == [True, False, True]


@given(
    axis=st.sampled_from(AXES),
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
    samples=st.integers(1, 6),
    classes=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_relation_distillation_is_the_formula(axis, temperature, samples, classes, seed):
    new, old = random(samples, 3, seed=seed), random(samples, 3, seed=seed + 100)
    now, before = random(classes, 3, seed=seed + 200), random(classes, 3, seed=seed + 300)
    found = relation_distillation(
        new, now, old, before, temperature=temperature, relation_axis=axis
    )
    arrays = (a.tolist() for a in (new, now, old, before))
    expected = relation_by_loops(*arrays, temperature, axis)
    assert found.item() == pytest.approx(expected, abs=1e-9)
    assert found.item() >= -1e-12


@pytest.mark.parametrize("axis", AXES)
def test_no_change_is_zero_and_has_no_gradient(axis):
    features, prototypes = random(6, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()
    loss = relation_distillation(
        features, prototypes, features.detach(), prototypes.detach(), relation_axis=axis
    )
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert features.grad.abs().max() < 1e-12 and prototypes.grad.abs().max() < 1e-12


@pytest.mark.parametrize("axis", AXES)
def test_a_turn_of_the_whole_space_and_longer_prototypes_change_no_relation(axis):
    features, prototypes = random(6, 4), random(3, 4, seed=1)
    turn, _ = torch.linalg.qr(random(4, 4, seed=2))
    lengths = torch.tensor([[0.3], [2.0], [7.0]], dtype=torch.float64)
    loss = relation_distillation(
        features @ turn, prototypes @ turn * lengths, features, prototypes, relation_axis=axis
    )
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_longer_features_change_relations_along_prototypes_only():
    features, prototypes = random(6, 4), random(3, 4, seed=1)
    values = {
        axis: relation_distillation(
            3 * features, prototypes, features, prototypes, relation_axis=axis
        ).item()
        for axis in AXES
    }
    assert values["samples"] == pytest.approx(0, abs=1e-12)
    assert values["prototypes"] > 0.01


@pytest.mark.parametrize("axis", AXES)
def test_the_order_of_samples_and_of_prototypes_does_not_matter(axis):
    arrays = random(6, 4), random(3, 4, seed=1), random(6, 4, seed=2), random(3, 4, seed=3)
    new, now, old, before = arrays
    rows, classes = torch.randperm(6), torch.randperm(3)
    one = relation_distillation(*arrays, relation_axis=axis)
    other = relation_distillation(
        new[rows], now[classes], old[rows], before[classes], relation_axis=axis
    )
    assert one.item() == pytest.approx(other.item())


@pytest.mark.parametrize("axis", AXES)
def test_the_teacher_gets_no_gradient_and_the_student_all_of_it(axis):
    new, now, old, before = (random(5, 4, seed=seed).requires_grad_() for seed in range(4))
    relation_distillation(new, now, old, before, relation_axis=axis).backward()
    assert old.grad is None and before.grad is None
    assert (new.grad.abs().sum(1) > 0).all() and (now.grad.abs().sum(1) > 0).all()


def test_along_prototypes_the_gradient_is_that_of_the_cross_entropy_of_the_released_code():
    new, now = random(5, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()
    old, before = random(5, 4, seed=2), random(3, 4, seed=3)
    loss = relation_distillation(new, now, old, before, relation_axis="prototypes")
    ours = torch.autograd.grad(loss, [new, now])
    new_scores = new @ now.T / now.norm(dim=1)
    shares = torch.softmax(old @ before.T / before.norm(dim=1), 1)
    entropy = -(shares * torch.log_softmax(new_scores, 1)).sum(1).mean()
    for one, other in zip(ours, torch.autograd.grad(entropy, [new, now]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("axis", AXES)
def test_old_tasks_add_up_and_new_ones_are_left_out(axis):
    new, old = random(5, 4), random(5, 4, seed=1)
    now = [random(2, 4, seed=2), random(3, 4, seed=3), random(2, 4, seed=4)]
    before = [random(2, 4, seed=5), random(3, 4, seed=6)]
    choice = {"temperature": 0.5, "relation_axis": axis}
    found = relation_distillation_of_tasks(new, now, old, before, **choice)
    each = [
        relation_distillation(new, one, old, other, **choice)
        for one, other in zip(now, before, strict=False)
    ]
    assert len(each) == 2
    assert found.item() == pytest.approx(sum(each).item())
    assert relation_distillation_of_tasks(new, now, old, [], **choice).item() == 0


def test_an_unknown_axis_is_refused():
    with pytest.raises(InputError, match=r"'classes': is unknown.*samples, prototypes"):
        relation_distillation(*(random(2, 2) for _ in range(4)), relation_axis="classes")
