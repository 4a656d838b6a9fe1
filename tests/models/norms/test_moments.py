"""Moments against their definition, and their short gradient against torch's own."""

import pytest
import torch

from edgemem.models.norms.moments import (
    batch_moments,
    distance_moments,
    frame_moments,
    per_channel,
    pooled_moments,
)

SHAPES = [(4, 3), (4, 3, 7), (2, 5, 4, 6), (1, 2, 1, 1), (2, 3, 2, 3, 4)]


@pytest.fixture(params=SHAPES, ids=str)
def x(request):
    torch.manual_seed(0)
    return (3 * torch.randn(request.param, dtype=torch.float64) + 1).requires_grad_()


def test_frame_moments_are_those_of_each_frame(x):
    center = torch.linspace(-1, 1, x.shape[1], dtype=torch.float64)
    found = frame_moments(x, center)
    distance = x.reshape(*x.shape[:2], -1) - center[:, None]
    torch.testing.assert_close(found.mean, distance.mean(2))
    torch.testing.assert_close(found.square, distance.pow(2).mean(2))


def test_pooled_moments_are_those_of_the_batch(x):
    mean, var = pooled_moments(x)
    expected = batch_moments(x)
    torch.testing.assert_close(mean, expected[0])
    torch.testing.assert_close(var, expected[1])
    even = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    for found, known in zip(distance_moments(x).pooled(even), expected, strict=True):
        torch.testing.assert_close(found, known)


@pytest.mark.parametrize("moments", [distance_moments, pooled_moments])
def test_the_gradient_is_torchs_own(x, moments):
    assert torch.autograd.gradcheck(lambda v: tuple(moments(v)), (x,))


def test_the_gradient_also_comes_by_a_functional_transform(x):
    def loss(v, take):
        mean, var = take(v)
        return (mean.sin() + (var + 1).sqrt()).sum() + (v * per_channel(mean, v)).sum()

    found = torch.func.grad(lambda v: loss(v, pooled_moments))(x.detach())
    expected = torch.func.grad(lambda v: loss(v, batch_moments))(x.detach())
    torch.testing.assert_close(found, expected)
