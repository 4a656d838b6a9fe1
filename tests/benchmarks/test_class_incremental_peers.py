"""Peers that learn classes one task after another: each against its rule, in loops."""

import copy
import math

import numpy as np
import pytest
import torch
from tiny_tasks import CPU, ONES, SEED, TINY, tasks_of

from benchmarks.class_incremental.peers.base import Batch, Classifier, head_loss
from benchmarks.class_incremental.peers.icarl import ICaRL, herd
from benchmarks.class_incremental.peers.prototypes import ContrastiveMeans, Prototypes
from benchmarks.class_incremental.peers.regularised import (
    EWC,
    LwF,
    distillation,
    fisher_information,
)
from benchmarks.class_incremental.peers.replay import DER, ER, Reservoir
from benchmarks.class_incremental.running import start_of
from benchmarks.class_incremental.split import merged
from benchmarks.class_incremental.views import crop_and_flip
from edgemem.models.prototypes import learn_task

pytestmark = pytest.mark.slow


def start(setting=TINY):
    return start_of(setting, SEED, CPU)


def learnt(learner, tasks):
    for task in tasks:
        learner.learn(task.classes, task.frames, task.labels)
    return learner


def batch_of(learner, task, count=8):
    frames, labels = task.frames[:count], torch.from_numpy(task.labels[:count])
    return Batch(learner.augmented(frames), frames, labels)


def test_peers_see_the_batches_that_learn_task_makes():
    task, seen = tasks_of()[0], []

    def spy(x, generator):
        seen.append(x.clone())
        return crop_and_flip(x, generator)

    ours = Prototypes(start(), METHODS_RECIPE)
    learn_task(ours.model, task.frames, task.labels, ours.recipe, views=spy)
    peer = Classifier(start())
    peer.tasks.append(list(task.classes))
    found = [b.frames for e in range(2) for b in peer.batches(task.frames, task.labels, e)]
    assert len(seen) == 2 * len(found) == 12
    for mine, theirs in zip(seen[::2], found, strict=True):
        assert torch.equal(mine, torch.from_numpy(theirs).float() / 255)


METHODS_RECIPE = start().recipe


def test_a_head_lets_its_own_classes_compete_only():
    logits, labels = torch.randn(5, 4), torch.tensor([3, 1, 1, 3, 1])
    by_loop = -sum(
        math.log(math.exp(row[k]) / (math.exp(row[1]) + math.exp(row[3])))
        for row, k in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert head_loss(logits, labels, [3, 1]).item() == pytest.approx(by_loop / 5, rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "heads"), [(TINY, [[2, 0], [1, 3]]), (ONES, [[2, 0, 1], [2, 0, 1, 3]])]
)
def test_with_one_class_a_task_all_seen_classes_compete(setting, heads):
    peer = Classifier(start())
    size = setting.classes_per_task
    peer.tasks = [[2, 0, 1, 3][k : k + size] for k in range(0, 4, size)]
    assert peer.heads == heads


def test_distillation_of_lwf_is_its_formula_and_the_teacher_stays():
    new, old = torch.randn(3, 4), torch.randn(3, 4)
    total = 0.0
    for head in ([2, 0], [1]):
        for a, b in zip(new.tolist(), old.tolist(), strict=True):
            mine, theirs = ([math.exp(row[k] / 2) for k in head] for row in (a, b))
            total -= sum(
                t / sum(theirs) * math.log(m / sum(mine)) for m, t in zip(mine, theirs, strict=True)
            )
    found = distillation(new, old, [[2, 0], [1]], 2.0)
    assert found.item() == pytest.approx(total / 3, rel=1e-5)

    first, second = tasks_of()
    peer = learnt(LwF(start(), 3.0), [first])
    before = copy.deepcopy(peer.network.state_dict())
    assert peer.teacher is None
    learnt(peer, [second])
    assert all(torch.equal(v, before[k]) for k, v in peer.teacher.state_dict().items())
    assert not torch.equal(peer.network[1].weight, peer.teacher[1].weight)


def test_fisher_information_is_the_mean_of_squared_gradients_and_ewc_adds_its_penalty():
    first, second = tasks_of()
    peer = learnt(EWC(start(), 5.0), [first])
    network, head = peer.network.eval(), list(first.classes)
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for frame, label in zip(first.frames, first.labels, strict=True):
        logits = network(torch.from_numpy(frame)[None].float() / 255)[0, head]
        network.zero_grad()
        torch.log_softmax(logits, 0)[head.index(label)].backward()
        for name, p in network.named_parameters():
            expected[name] += p.grad**2 / len(first.frames)
    found = fisher_information(network, first.frames, first.labels, head, CPU)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-7)
        assert torch.equal(peer.fisher[name], found[name])

    network.train()
    peer.tasks.append(list(second.classes))
    batch = batch_of(peer, second)
    plain = Classifier.loss(peer, batch).item()
    assert peer.loss(batch).item() == pytest.approx(plain, rel=1e-5)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1)
    plain = Classifier.loss(peer, batch).item()
    penalty = 5 * sum(0.01 * value.sum().item() for value in found.values())
    assert peer.loss(batch).item() - plain == pytest.approx(penalty, rel=1e-3)


def test_a_reservoir_holds_each_item_as_often_as_any_other():
    counts = np.zeros(10)
    for seed in range(1500):
        memory = Reservoir(3, seed)
        for part in np.split(np.arange(10), [2, 7]):
            memory.offer(part, part * 10)
            assert len(memory) <= 3
        items, tens = memory.rows()
        assert len(set(items.tolist())) == 3 and (tens == 10 * items).all()
        counts[items] += 1
    assert abs(counts / 1500 - 0.3).max() < 0.05
    assert len(memory.draw(2)[0]) == 2 and len(memory.draw(9)[0]) == 3


@pytest.mark.parametrize("peer", [ER(start(), 10), DER(start(), 10, 0.3)], ids=["ER", "DER"])
def test_replay_stores_at_most_its_number_and_each_frame_with_its_own_label(peer):
    tasks = tasks_of()
    learnt(peer, tasks)
    frames, labels, *_ = peer.memory.rows()
    assert len(peer.memory) == len(labels) == 10
    assert peer.memory.offered == sum(len(task.labels) for task in tasks) * TINY.epochs
    whole = merged(tasks)
    for frame, label in zip(frames, labels, strict=True):
        assert label in whole.labels[(whole.frames == frame).all((1, 2, 3))]


def test_der_keeps_logits_as_its_formula_says():
    first, second = tasks_of()
    peer = learnt(DER(start(), 2, 0.3), [first])
    memory = copy.deepcopy(peer.memory)
    peer.tasks.append(list(second.classes))
    peer.network.eval()
    batch, state = batch_of(peer, second), peer.generator.get_state()
    found = peer.loss(batch).item()
    frames, _, stored = memory.draw(2)
    peer.generator.set_state(state)
    with torch.no_grad():
        replayed = peer.network(peer.augmented(frames)).tolist()
        own = head_loss(peer.network(batch.x), batch.labels, peer.seen).item()
    pairs = [
        pair
        for rows in zip(replayed, stored.tolist(), strict=True)
        for pair in zip(*rows, strict=True)
    ]
    distance = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert found == pytest.approx(own + 0.3 * distance, rel=1e-4)


def test_herding_takes_at_each_step_what_brings_the_mean_nearest():
    features = np.random.default_rng(0).random((12, 5)).astype(np.float32)
    chosen = []
    for _ in range(6):
        left = [k for k in range(12) if k not in chosen]
        means = [features[[*chosen, k]].mean(0) for k in left]
        gaps = [np.linalg.norm(features.mean(0) - mean) for mean in means]
        chosen.append(left[int(np.argmin(gaps))])
    assert herd(features, 6).tolist() == chosen
    assert sorted(herd(features, 99).tolist()) == list(range(12))


def test_icarl_shares_its_exemplars_among_classes_and_asks_the_teacher_about_old_ones():
    first, second = tasks_of()
    peer = learnt(ICaRL(start(), 9), [first])
    assert {k: len(v) for k, v in peer.exemplars.items()} == dict.fromkeys(first.classes, 4)
    learnt(peer, [second])
    assert {k: len(v) for k, v in peer.exemplars.items()} == dict.fromkeys(peer.seen, 2)
    whole = merged([first, second])
    for label, held in peer.exemplars.items():
        own = whole.frames[whole.labels == label]
        assert all((own == frame).all((1, 2, 3)).any() for frame in held)

    peer.network.eval()
    batch, total = batch_of(peer, second), 0.0
    with torch.no_grad():
        answers = torch.sigmoid(peer.network(batch.x)).tolist()
        teacher = torch.sigmoid(peer.teacher(batch.x)).tolist()
        for mine, theirs, label in zip(answers, teacher, batch.labels.tolist(), strict=True):
            for k in range(4):
                target = theirs[k] if k in first.classes else float(k == label)
                total -= target * math.log(mine[k]) + (1 - target) * math.log(1 - mine[k])
    assert peer.loss(batch).item() == pytest.approx(total / 8, rel=1e-4)


def test_nearest_means_are_those_of_when_a_class_was_learnt():
    first, second = tasks_of()
    peer = learnt(ContrastiveMeans(start()), [first])
    with torch.no_grad():
        features = peer.model.encoder(torch.from_numpy(first.frames).float() / 255)
    features = features / features.norm(dim=1, keepdim=True)
    label = min(first.classes)
    mean = features[torch.from_numpy(first.labels == label)].mean(0)
    torch.testing.assert_close(peer.model.prototypes[0][0].detach(), mean, rtol=1e-3, atol=1e-5)
    held = peer.model.prototypes[0].detach().clone()
    learnt(peer, [second])
    assert torch.equal(peer.model.prototypes[0], held)
