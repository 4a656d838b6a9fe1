"""Peers with a teacher, a memory, a pool or meta networks: each against its rule."""

import copy
import math

import pytest
import torch
from teacher_peers import CLASSES, PARTS, PEERS, frames_of, made, settled
from torch import nn

from benchmarks.adaptation.peers import cotta, ecotta, petta, rotta
from benchmarks.adaptation.peers.balanced_memory import BalancedMemory
from benchmarks.adaptation.peers.base import batch_norms
from benchmarks.shared import views

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [*PEERS, "EcoTTA"])
def test_answers_are_finite_repeat_with_the_seed_and_follow_learning(name, kind):
    streams = []
    for _ in range(2):
        method = made(name, kind)
        torch.manual_seed(1)
        streams.append([method.adapt(frames_of(kind, 64, seed=k) * 0.5) for k in range(3)])
    for first, again in zip(*streams, strict=True):
        assert first.shape == (64, CLASSES) and first.isfinite().all() and not first.requires_grad
        torch.testing.assert_close(first, again, rtol=0, atol=0)
    probe = frames_of(kind, 64, seed=5)
    assert not torch.equal(method.predict(probe), made(name, kind).predict(probe))


@pytest.mark.parametrize("name", [*PEERS, "EcoTTA"])
def test_predict_learns_nothing_and_the_given_model_stays(name):
    model, source = settled()
    before = copy.deepcopy(model.state_dict())
    if name == "EcoTTA":
        method = ecotta.make_ecotta(model, source, 5e-3, PARTS)
    else:
        method = PEERS[name].make(model, source, 1e-3)
    method.adapt(frames_of("image", 64))
    probe = frames_of("image", 70, seed=2)
    first = method.predict(probe)
    for k in range(3):
        method.predict(frames_of("image", 64, seed=k) * 0.2)
    torch.testing.assert_close(method.predict(probe), first, rtol=0, atol=0)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(p.grad is not None for p in model.parameters())


def test_views_keep_shape_and_range_and_are_drawn_anew():
    frames = frames_of("image", 5)
    for view in (views.image_view, views.warm_up_view):
        torch.manual_seed(0)
        seen = [view(frames) for _ in range(12)]
        assert all(x.shape == frames.shape and x.isfinite().all() for x in seen)
        assert all(x.min() >= 0 and x.max() <= 1 for x in seen)
        assert not torch.equal(seen[0], seen[1])
        torch.manual_seed(0)
        assert torch.equal(view(frames), seen[0])
    sound = views.sound_view(frames_of("sound", 5))
    assert sound.shape == (5, 1, 64) and sound.isfinite().all()


def test_a_view_that_does_not_move_shows_the_frames():
    frames = frames_of("image", 4)
    still = views.warped(frames, 0.0, [0, 0], 1.0, 0, "border")
    torch.testing.assert_close(still, frames, atol=1e-5, rtol=0)
    right = views.warped(frames, 0.0, [1, 0], 1.0, 0, "border")
    torch.testing.assert_close(right[..., 1:], frames[..., :-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(views.hue_shifted(frames, torch.tensor(1.0)), frames)
    third = views.hue_shifted(frames, torch.tensor(1 / 3))
    torch.testing.assert_close(third, frames.roll(1, 1), atol=1e-5, rtol=0)


def brute_force(offers, capacity):
    """The rule of the memory as the paper tells it, over a flat list of (time, label, entropy)."""
    held = []
    for now, (label, entropy) in enumerate(offers):

        def bad(item, now=now):
            return 1 / (1 + math.exp(-(now - item[0]) / capacity)) + item[2] / math.log(CLASSES)

        counts = [sum(item[1] == k for item in held) for k in range(CLASSES)]
        new = (now, label, entropy)
        rivals = []
        if counts[label] >= capacity / CLASSES:
            rivals = [item for item in held if item[1] == label]
        elif len(held) >= capacity:
            rivals = [item for item in held if counts[item[1]] == max(counts)]
        if rivals:
            worst = max(rivals, key=bad)
            if bad(worst) <= bad(new):
                continue
            held.remove(worst)
        held.append(new)
    return held


@pytest.mark.parametrize("capacity", [10, 16])
@pytest.mark.parametrize("seed", range(5))
def test_the_memory_keeps_what_the_rule_keeps(capacity, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (150,), generator=random).clamp_max(seed).tolist()
    doubts = (math.log(CLASSES) * torch.rand(150, generator=random)).tolist()
    memory = BalancedMemory(capacity, CLASSES)
    for now, (label, doubt) in enumerate(zip(labels, doubts, strict=True)):
        memory.add(torch.tensor([float(now)]), label, doubt)
        assert len(memory) <= capacity
        assert max(map(len, memory.by_class)) <= math.ceil(capacity / CLASSES)
    held = brute_force(list(zip(labels, doubts, strict=True)), capacity)
    expected = sorted(held, key=lambda item: (item[1], item[0]))
    assert memory.frames()[:, 0].tolist() == [item[0] for item in expected]
    ages = torch.tensor([(150 - item[0]) / capacity for item in expected])
    torch.testing.assert_close(memory.ages(), ages)


def test_the_teacher_of_cotta_is_the_average_of_its_students():
    method, expected = made("CoTTA"), None
    for k in range(3):
        frames = frames_of("image", 32, seed=k)
        before = [p.clone() for p in method.teacher.parameters()]
        student, optimizer = copy.deepcopy((method.student, method.optimizer))
        torch.manual_seed(k)
        targets = method.targets(frames)
        loss = -(targets.softmax(1) * student(frames).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected = [
            0.999 * p + 0.001 * q for p, q in zip(before, student.parameters(), strict=True)
        ]
        torch.manual_seed(k)
        torch.testing.assert_close(method.adapt(frames), targets, rtol=0, atol=0)
        for p, q in zip(method.teacher.parameters(), expected, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_cotta_looks_at_views_only_when_the_source_is_unsure():
    method, calls = made("CoTTA"), []
    method.augment = lambda frames: calls.append(len(frames)) or frames
    method.confidence = 0.0
    method.adapt(frames_of("image", 16))
    assert calls == []
    method.confidence = 1.1
    method.adapt(frames_of("image", 16))
    assert calls == [16] * 32


def test_restoring_takes_a_share_of_the_weights_back():
    model, anchor = nn.Linear(200, 100), nn.Linear(200, 100)
    before = model.weight.detach().clone()
    cotta.restore(model, anchor, 0.1)
    back = model.weight == anchor.weight
    assert 0.08 < back.float().mean() < 0.12
    assert torch.equal(model.weight[~back], before[~back])


def test_slow_norms_move_a_twentieth_of_the_way_and_use_what_they_moved_to(kind):
    model, _ = settled(kind)
    norm = batch_norms(model)[0]
    slow = rotta.RobustNorm(norm)
    values = 3 * torch.randn((16, 6, 5, 5) if kind == "image" else (16, 6, 5)) + 1
    torch.testing.assert_close(slow.eval()(values), norm(values), rtol=1e-4, atol=1e-5)
    axes = [0, *range(2, values.ndim)]
    mean = 0.95 * norm.running_mean + 0.05 * values.mean(axes)
    variance = 0.95 * norm.running_var + 0.05 * values.var(axes, unbiased=False)
    trained = slow.train()(values)
    torch.testing.assert_close((slow.mean, slow.variance), (mean, variance))
    torch.testing.assert_close(slow.eval()(values), trained)


@pytest.mark.parametrize("name", ["RoTTA", "PeTTA"])
@pytest.mark.parametrize("sizes", [[64] * 4, [200, 56], [1, 62, 1, 100, 92], [256], [63]])
def test_there_is_one_step_for_every_64_frames(name, sizes):
    method, seen = made(name), 0
    for k, size in enumerate(sizes):
        method.adapt(frames_of("image", size, seed=k))
        seen += size
        assert method.steps == seen // 64


def test_the_step_of_rotta_trains_norms_only_and_moves_the_teacher():
    method = made("RoTTA")
    before = copy.deepcopy(method.teacher.state_dict())
    method.adapt(frames_of("image", 64))
    source = dict(settled()[0].named_parameters())
    for name, parameter in method.student.named_parameters():
        normed = name.split(".")[:2] in (["layers", "1"], ["layers", "4"])
        assert torch.equal(parameter, source[name]) != normed
        slow = 0.999 * before[name] + 0.001 * parameter.detach()
        torch.testing.assert_close(method.teacher.state_dict()[name], slow)


def test_petta_feels_the_drift_between_0_and_1():
    method, felt = made("PeTTA"), []
    for k in range(6):
        method.adapt(1 - frames_of("image", 64, seed=k) ** 3)
        felt.append(method.divergence)
    assert felt[0] == 0 and all(0 <= value <= 1 for value in felt)
    assert felt == sorted(felt) and felt[-1] > 0
    means, spread = torch.zeros(2, 3), torch.ones(2, 3)
    assert petta.divergence_of(means, means, spread) == 0
    assert petta.divergence_of(means + 100, means, spread) == 1
    assert petta.divergence_of(means + 1, means, spread) == pytest.approx(
        1 - math.exp(-1), abs=1e-5
    )


def test_petta_takes_source_statistics_of_predicted_classes():
    model, source = settled()
    method = petta.Petta(model, source, 1e-3)
    features = model.layers(source.frames).flatten(2).mean(2).detach()
    predicted = model(source.frames).argmax(1)
    for k in predicted.unique().tolist():
        own = features[predicted == k]
        if len(own) > 1:
            torch.testing.assert_close(method.means[k], own.mean(0))
            torch.testing.assert_close(method.variances[k], own.T.cov().diagonal())
