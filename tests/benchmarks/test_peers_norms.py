"""Peers that adapt norms, or nothing: each against its rule, worked out again in the test."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.adaptation.peers import entropy, forward_only, roid, sar, statistics
from benchmarks.adaptation.peers.base import Source, batch_norms, entropies

pytestmark = pytest.mark.slow

CLASSES = 5
PEERS = {
    **statistics.PEERS,
    **entropy.PEERS,
    **sar.PEERS,
    **roid.PEERS,
    **forward_only.PEERS,
}
LEARNS = ("Tent", "ETA", "EATA", "SAR", "RDumb", "ROID", "T3A")
BATCH_NORMED = ("batch statistics", "Tent", "ETA", "EATA", "SAR", "RDumb", "ROID")


def image_model(scale=8.0):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    return settled(model, images(64, seed=9), scale)


def audio_model(scale=8.0):
    model = nn.Sequential(
        nn.Conv1d(1, 8, 5),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )
    return settled(model, sounds(64, seed=9), scale)


def settled(model, frames, scale):
    """Running statistics from some frames, and logits far apart."""
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(frames)
        model[-1].weight.mul_(scale)
    return model.eval()


def images(count, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=random) * torch.rand(
        count, 3, 1, 1, generator=random
    )


def sounds(count, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 64, generator=random)


def noisy(frames):
    return frames + 0.05 * torch.randn_like(frames)


def source_of(frames):
    return Source(frames, torch.zeros(len(frames), dtype=torch.int64), CLASSES, noisy)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return image_model()


@pytest.fixture
def source():
    return source_of(images(40, seed=1))


def weights_of(model):
    return torch.cat([norm.weight.detach().clone() for norm in batch_norms(model)])


def distance(method, model):
    return (weights_of(method.model) - weights_of(model)).norm().item()


def state_of(model):
    return copy.deepcopy(model.state_dict())


def same(first, second):
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


def made(name, model, source):
    torch.manual_seed(3)
    peer = PEERS[name]
    return peer.make(model, source, peer.learning_rate)


@pytest.mark.parametrize("name", PEERS)
def test_the_model_passed_in_stays_as_it_was(name, model, source):
    before = state_of(model)
    method = made(name, model, source)
    for seed in range(3):
        method.adapt(images(32, seed))
    assert same(before, model.state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(norm.track_running_stats for norm in batch_norms(model))


@pytest.mark.parametrize("name", PEERS)
def test_predicting_learns_nothing_and_a_seed_repeats_a_run(name, model, source):
    quiet, asked = made(name, model, source), made(name, model, source)
    answers = []
    for method, asks in ((quiet, 0), (asked, 3)):
        torch.manual_seed(5)
        for seed in range(3):
            for _ in range(asks):
                method.predict(images(32, seed + 20))
            answers.append(method.adapt(images(32, seed)))
            assert answers[-1].shape == (32, CLASSES) and not answers[-1].requires_grad
    for first, second in zip(answers[:3], answers[3:], strict=True):
        assert first.equal(second)


@pytest.mark.parametrize("name", LEARNS)
def test_adapting_changes_the_next_answer(name, model, source):
    method, frames = made(name, model, source), images(64, 2)
    before = method.predict(frames)
    method.adapt(frames)
    assert (method.predict(frames) - before).abs().max() > 1e-6


@pytest.mark.parametrize("name", PEERS)
def test_one_dimensional_frames_are_taken_too(name):
    torch.manual_seed(0)
    method = made(name, audio_model(), source_of(sounds(40, 1)))
    for seed in range(2):
        assert method.adapt(sounds(32, seed)).isfinite().all()


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_norms_use_the_statistics_of_the_batch(name, model, source):
    frames = images(32, 2)
    twin = copy.deepcopy(model).train()
    with torch.no_grad():
        expected = twin(frames)
    if name == "ROID":
        expected = roid.prior_corrected(expected)
    for answer in (
        made(name, model, source).predict(frames),
        made(name, model, source).adapt(frames),
    ):
        torch.testing.assert_close(answer, expected)


def test_the_source_answers_with_its_own_statistics(model, source):
    frames = images(32, 2)
    assert made("source", model, source).adapt(frames).equal(model(frames).detach())


def test_tent_lowers_the_entropy_of_a_batch_seen_again_and_again(model, source):
    method, frames = made("Tent", model, source), images(64, 2)
    first = entropies(method.adapt(frames)).mean()
    for _ in range(20):
        last = entropies(method.adapt(frames)).mean()
    assert last < 0.95 * first


def test_eta_learns_from_certain_and_unlike_samples_only(model):
    method = entropy.Eta(model, 1e-3, CLASSES, similarity=0.4)
    sure, unsure = torch.eye(CLASSES) * 9.0, torch.eye(CLASSES) * 0.1
    method.mean_prediction = torch.eye(CLASSES)[0]
    logits = torch.cat([sure, unsure]).requires_grad_(True)
    method.loss(logits).backward()
    learnt_from = logits.grad.abs().sum(1) > 0
    assert learnt_from.tolist() == [False, True, True, True, True] + [False] * CLASSES


def test_etas_loss_weighs_by_certainty_and_its_mean_prediction_moves_by_a_tenth(model):
    method = entropy.Eta(model, 1e-3, CLASSES, similarity=2.0)
    first, second = torch.eye(CLASSES) * 4.0, torch.eye(CLASSES)[:2] * 6.0
    method.loss(first)
    now = method.mean_prediction
    torch.testing.assert_close(now, first.softmax(1).mean(0))
    h = entropies(second)
    expected = (h * torch.exp(0.4 * math.log(CLASSES) - h)).mean()
    torch.testing.assert_close(method.loss(second), expected)
    moved = 0.9 * now + 0.1 * second.softmax(1).mean(0)
    torch.testing.assert_close(method.mean_prediction, moved)


@pytest.mark.parametrize("name", ["ETA", "EATA", "RDumb", "SAR"])
def test_without_a_reliable_sample_nothing_moves(name, model, source):
    method = made(name, model, source)
    for seed in range(3):  # momentum is there, and must not move anything either
        method.adapt(images(64, seed))
    with torch.no_grad():
        method.model[-1].weight.zero_()
        method.model[-1].bias.zero_()
    before = state_of(method.model)
    method.adapt(images(64, 4))
    assert same(before, method.model.state_dict())


def test_eata_stays_nearer_the_source_than_eta(model, source):
    eta = made("ETA", model, source)
    torch.manual_seed(3)
    eata = entropy.Eata(model, source, 1e-3, strength=1e4)
    eta.similarity = eata.similarity = 2.0  # no sample is redundant: every batch is a step
    for seed in range(30):
        eta.adapt(images(64, seed))
        eata.adapt(images(64, seed))
    assert 0 < distance(eata, model) < 0.8 * distance(eta, model)


def test_eata_adds_the_distance_from_the_source_weighted_by_fisher_information(model, source):
    method, logits = made("EATA", model, source), torch.eye(CLASSES) * 4.0
    plain = method.loss(logits)
    with torch.no_grad():
        for parameter in method.parameters:
            parameter.add_(0.5)
    method.mean_prediction = None
    added = method.loss(logits) - plain
    torch.testing.assert_close(added, sum(0.25 * fisher.sum() for fisher in method.fisher))


def test_the_fisher_information_is_the_mean_of_squared_gradients_over_batches(model, monkeypatch):
    monkeypatch.setattr(entropy, "FISHER_FRAMES", 24)
    monkeypatch.setattr(entropy, "FISHER_BATCH", 8)
    frames, norm = images(40, 1), batch_norms(model)[0]
    torch.manual_seed(7)
    (found,) = entropy.fisher_diagonal(model, frames, [norm.weight])
    torch.manual_seed(7)
    expected = torch.zeros_like(found)
    for batch in torch.randperm(40)[:24].reshape(3, 8):
        model.zero_grad()
        logits = model(frames[batch])
        functional.cross_entropy(logits, logits.argmax(1)).backward()
        expected += norm.weight.grad**2 / 3
    torch.testing.assert_close(found, expected)


def test_rdumb_is_exactly_the_source_again_after_its_reset(model, source):
    method, fresh = (entropy.RDumb(model, 1e-3, CLASSES, every=3) for _ in range(2))
    start = state_of(method.model)
    for seed in range(2):
        method.adapt(images(64, seed))
    assert not same(start, method.model.state_dict())
    method.adapt(images(64, 2))
    assert same(start, method.model.state_dict())
    for seed in (5, 6):  # optimiser and mean prediction are new too
        assert method.adapt(images(64, seed)).equal(fresh.adapt(images(64, seed)))


def test_sar_steps_along_the_gradient_at_the_worst_point_of_reliable_samples(model, source):
    frames = images(64, 2)
    method = sar.Sar(model, source, learning_rate=1.0)
    twin = copy.deepcopy(method.model)
    parameters = [p for norm in batch_norms(twin) for p in (norm.weight, norm.bias)]
    start = [p.detach().clone() for p in parameters]
    margin = 0.4 * math.log(CLASSES)
    h = entropies(twin(frames))
    chosen = (h < margin).nonzero().flatten()
    assert 0 < len(chosen) < 64
    climb = torch.autograd.grad(h[chosen].mean(), parameters)
    length = sum((g**2).sum() for g in climb).sqrt()
    with torch.no_grad():
        for parameter, gradient in zip(parameters, climb, strict=True):
            parameter.add_(0.05 * gradient / length)
    worst = entropies(twin(frames))[chosen]
    descent = torch.autograd.grad(worst[worst < margin].mean(), parameters)
    method.adapt(frames)
    for found, before, gradient in zip(method.parameters, start, descent, strict=True):
        torch.testing.assert_close(found.detach(), before - gradient)


def test_sar_returns_to_the_source_once_its_mean_loss_is_low(model, source):
    method = sar.Sar(model, source, 1e-3, reset_below=0.0)
    start = state_of(method.model)
    method.adapt(images(64, 0))
    assert not same(start, method.model.state_dict())
    method.reset_below = 10.0
    method.adapt(images(64, 1))
    assert same(start, method.model.state_dict()) and method.mean_loss is None


def test_sar_leaves_the_last_stage_of_a_resnet():
    model = nn.ModuleDict({f"layer{n}": nn.Sequential(nn.BatchNorm2d(n)) for n in (1, 2, 3, 4)})
    shapes = [tuple(parameter.shape) for parameter in sar.lower_norm_affine(model)]
    assert shapes == [(1,), (1,), (2,), (2,), (3,), (3,)]


def test_roid_stays_nearer_the_source_than_without_ensembling(model, source):
    kept, free = (roid.Roid(model, source, 1e-3, keep=keep) for keep in (0.99, 1.0))
    for method in (kept, free):
        torch.manual_seed(4)
        for seed in range(30):
            method.adapt(images(64, seed))
    assert 0 < distance(kept, model) < 0.95 * distance(free, model)


def test_roids_weights_leave_out_what_is_like_the_mean_prediction(model, source):
    method = roid.Roid(model, source, 1e-3)
    method.mean_prediction = functional.one_hot(torch.tensor(0), CLASSES).float()
    logits = torch.eye(CLASSES)[[0, 0, 1, 2]] * torch.tensor([[9.0], [8.0], [9.0], [3.0]])
    weights = method.weights(logits)
    assert weights[:2].tolist() == [0.0, 0.0] and weights[2] > weights[3] > 0
    # A sample both the most diverse and the most certain: exp(1 * 1 * 3).
    assert weights[2] == pytest.approx(math.exp(3), rel=1e-3)


def test_roids_losses_and_prior_are_the_published_ones():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]])
    p = logits.softmax(1)
    ratio = torch.stack([-(q * torch.log(q / (q.sum() - q))).sum() for q in p])
    torch.testing.assert_close(roid.soft_likelihood_ratio(logits), ratio, rtol=0, atol=1e-4)
    torch.testing.assert_close(roid.symmetric_cross_entropy(logits, logits), entropies(logits))
    prior = p.mean(0)
    smooth = 0.5 / prior.max()  # max(1/2, 1/3)
    expected = logits * (prior + smooth) / (1 + 3 * smooth)
    torch.testing.assert_close(roid.prior_corrected(logits), expected)


def brute_force_lame(probabilities, features):
    """Algorithm 1 by loops, in float64, for far more rounds than it needs."""
    count = len(features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    apart = np.array([[np.linalg.norm(a - b) for b in unit] for a in unit])
    width = np.mean([sorted(row)[4] for row in apart])
    kernel = np.exp(-(apart**2) / (2 * width**2))
    answers = probabilities.copy()
    for _ in range(2000):
        pulls = [sum(kernel[i, j] * answers[j] for j in range(count)) for i in range(count)]
        answers = probabilities * np.exp(np.array(pulls))
        answers /= answers.sum(1, keepdims=True)
    return answers


def test_lame_agrees_with_a_brute_force_fixed_point_and_changes_no_parameter(model, source):
    method, frames = made("LAME", model, source), images(16, 2)
    start = state_of(method.model)
    answer = method.adapt(frames)
    assert same(start, method.model.state_dict())
    with torch.no_grad():
        features = model[:-1](frames).double().numpy()
        probabilities = model(frames).double().softmax(1).numpy()
    expected = brute_force_lame(probabilities, features)
    np.testing.assert_allclose(answer.exp().numpy(), expected, atol=1e-3)
    assert not np.allclose(expected, probabilities, atol=1e-2)


def test_lame_answers_a_frame_alone(model, source):
    frame = images(1, 2)
    answer = made("LAME", model, source).adapt(frame)
    assert answer.isfinite().all() and answer.argmax() == model(frame).argmax()


def rows_model():
    """Features are the frames themselves; class k has the k-th unit vector."""
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    return model.eval()


def test_t3a_answers_with_the_unit_sum_of_its_most_certain_supports():
    method = forward_only.T3A(rows_model(), keep=2)
    asked = torch.tensor([[1.0, 1.0]])
    torch.testing.assert_close(method.predict(asked), torch.tensor([[1.0, 1.0]]))
    frames = torch.tensor([[3.0, 1.0], [6.0, 0.0], [0.4, 0.2]])  # all class 0, by certainty 2 1 3
    answer = method.adapt(frames)
    # Class 0 keeps (6, 0) and (3, 1): more certain than its own row (1, 0).
    column = torch.tensor([6.0, 0.0]) / 6 + torch.tensor([3.0, 1.0]) / math.sqrt(10)
    prototypes = torch.stack([column / column.norm(), torch.tensor([0.0, 1.0])], 1)
    torch.testing.assert_close(answer, frames @ prototypes)
    torch.testing.assert_close(method.predict(asked), asked @ prototypes)
    assert method.labels.tolist() == [0, 0, 1]


def test_t3a_begins_with_the_classifiers_unit_rows(model, source):
    method, frames = forward_only.T3A(model), images(8, 2)
    with torch.no_grad():
        features = model[:-1](frames)
        rows = model[-1].weight
        labels = model[-1](rows).argmax(1)
    expected = torch.zeros(8, CLASSES)
    for label in labels.unique():
        column = functional.normalize(rows[labels == label], dim=1).sum(0)
        expected[:, label] = features @ (column / column.norm())
    torch.testing.assert_close(method.predict(frames), expected)
