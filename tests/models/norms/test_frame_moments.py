"""Moments of every frame: weighted, whole, and of constant channels."""

import numpy as np
import pytest
import torch
from remembered_norms import close, draw

from edgemem.models.norms.moments import frame_moments

SHAPES = {"1d": (7, 3, 11), "2d": (6, 4, 5, 3), "one frame": (1, 2, 4, 4), "bare": (9, 5, 1)}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))


@shapes
def test_uniform_weights_give_mean_and_variance_of_the_whole_batch(shape):
    x = 2.0 * draw(*shape) + 1.0
    source_mean = draw(shape[1], seed=1)
    dims = [0, *range(2, len(shape))]
    weights = torch.full((shape[0],), 1.0 / shape[0])
    mean, var = frame_moments(x, source_mean).pooled(weights)
    close(mean, x.mean(dims) - source_mean)
    close(var, x.var(dims, unbiased=False))


@shapes
def test_weighted_moments_are_those_of_every_value_with_its_frames_weight(shape):
    x, source_mean = draw(*shape).numpy(), draw(shape[1], seed=1).numpy()
    weights = np.random.default_rng(2).random(shape[0])
    weights /= weights.sum()
    found = frame_moments(torch.tensor(x), torch.tensor(source_mean)).pooled(
        torch.tensor(weights, dtype=torch.float32)
    )
    for channel in range(shape[1]):
        values = x[:, channel].reshape(shape[0], -1).astype(np.float64)
        each = np.repeat(weights / values.shape[1], values.shape[1])
        mean = each @ values.ravel()
        var = each @ (values.ravel() - mean) ** 2
        close(found[0][channel], mean - source_mean[channel])
        close(found[1][channel], var)


@pytest.mark.parametrize("level", [0.0, 0.1, -3.7, 1e3, 1e-20])
def test_a_constant_channel_has_a_variance_of_zero_and_never_less(level):
    x = torch.full((13, 3, 5, 5), level)
    source_mean = torch.tensor([0.0, level, 0.3])
    for seed in range(5):
        weights = draw(13, seed=seed).softmax(0)
        var = frame_moments(x, source_mean).pooled(weights)[1]
        assert (var >= 0).all()
        assert (var <= 1e-5 * max(level**2, 1.0)).all()
        assert var[1] == 0  # at the source mean
