"""Augmentation: appearance changes, geometry and range do not."""

import numpy as np
import pytest
import torch

from edgemem.models.warmup.augment import augment_pictures, augmentation

SHAPES = {
    "colour": (64, 3, 8, 8),
    "grey": (64, 1, 8, 8),
    "signal": (64, 6, 32),
    "features": (64, 12),
    "many bands": (64, 5, 8, 8),
}


def frames(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def augmented(x, seed=1):
    change = augmentation(x.numpy())
    return change(x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes_stay_inputs_stay_and_the_seed_decides(shape):
    x = frames(shape)
    before = x.clone()
    y = augmented(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert x.equal(before)
    assert y.equal(augmented(x))
    assert not y.equal(augmented(x, seed=2))
    changed = (y != x).flatten(1).any(1).float().mean()
    assert 0.2 < changed < 0.8


@pytest.mark.parametrize("name", ["colour", "grey"])
def test_images_stay_between_zero_and_one(name):
    x = frames(SHAPES[name])
    y = augmented((x > 0.5).float())
    assert y.min() >= 0
    assert y.max() <= 1


def test_images_are_never_moved_or_mirrored():
    """A bright left half stays brighter than the right half in every image."""
    x = torch.full((200, 3, 8, 8), 0.2)
    x[..., :4] = 0.7
    y = augmented(x)
    assert (y[..., :4].mean((1, 2, 3)) > y[..., 4:].mean((1, 2, 3))).all()


def test_constant_images_have_no_edges_afterwards():
    y = augmented(torch.full((100, 3, 8, 8), 0.4))
    torch.testing.assert_close(y, y.mean((2, 3), keepdim=True).expand_as(y))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_told_by_type_and_range_not_by_shape(channels):
    x = np.random.default_rng(0).uniform(0, 1, (20, channels, 8, 8)).astype(np.float32)
    assert augmentation(x) is augment_pictures
    assert augmentation((255 * x).astype(np.uint8)) is augment_pictures
    for other in (x - 0.5, 100 * x, -60 + 40 * x):
        assert augmentation(other) is not augment_pictures


@pytest.mark.parametrize("shape", [(64, 1, 8, 8), (64, 3, 8, 8), (64, 6, 32), (64, 12)])
@pytest.mark.parametrize(("scale", "zero"), [(12.0, -45.0), (0.01, 3.0), (2000.0, 0.0)])
def test_signals_change_alike_wherever_zero_lies_and_whatever_their_unit(shape, scale, zero):
    """In dB, in volts or in steps of a converter: the same signal comes out in that unit."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plain = augmented(x)
    moved = augmented(x * scale + zero)
    torch.testing.assert_close((moved - zero) / scale, plain, rtol=0.0, atol=2e-3)


def test_decibels_are_neither_cut_nor_squeezed():
    x = -45 + 12 * torch.randn(200, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    y = augmented(x)
    assert y.min() < -60
    assert abs(y.mean() - x.mean()) < 2
    assert 0.8 < y.std() / x.std() < 1.3


def test_channels_of_different_units_change_by_their_own_deviation():
    x = torch.randn(200, 2, 32, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([1.0, 1000.0])[:, None] + torch.tensor([0.0, 5000.0])[:, None]
    change = (augmented(x) - x).std((0, 2))
    torch.testing.assert_close(change[1] / change[0], torch.tensor(1000.0), rtol=0.15, atol=0.0)
