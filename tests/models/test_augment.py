"""Augmentation: appearance changes, geometry and range do not."""

import pytest
import torch

from edgemem.models.augment import augment

SHAPES = {"colour": (64, 3, 8, 8), "grey": (64, 1, 8, 8), "signal": (64, 6, 32)}


def frames(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def augmented(x, seed=1):
    return augment(x, torch.Generator().manual_seed(seed))


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
