"""ROID and SAR: steps at the worst point, ensembling, weights and losses as published."""

import copy
import math

import pytest
import torch
from norm_peers import (
    CLASSES,
    distance,
    images,
    same,
    state_of,
)
from torch import nn
from torch.nn import functional

from benchmarks.adaptation.peers import roid, sar
from benchmarks.adaptation.peers.base import batch_norms, entropies

pytestmark = pytest.mark.slow


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
