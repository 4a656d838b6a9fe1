"""Peers that adapt norms, or nothing: each against its rule, worked out again in the test."""

import copy
import math

import pytest
import torch
from norm_peers import (
    CLASSES,
    PEERS,
    distance,
    images,
    made,
    same,
    settled,
    source_of,
    state_of,
)
from torch import nn
from torch.nn import functional

from benchmarks.adaptation.peers import entropy, roid
from benchmarks.adaptation.peers.base import batch_norms, entropies

pytestmark = pytest.mark.slow
LEARNS = ("Tent", "ETA", "EATA", "SAR", "RDumb", "ROID", "T3A")
BATCH_NORMED = ("batch statistics", "Tent", "ETA", "EATA", "SAR", "RDumb", "ROID")


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


def sounds(count, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 64, generator=random)


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
