"""The map around a batch's moments, with a gradient of its own, against torch's."""

import pytest
import torch

from edgemem.models.norms.around_batch import Around, around_batch

SHAPES = {"vectors": (8, 3), "signals": (8, 3, 5), "images": (8, 3, 4, 5)}
EPS = 1e-3


@pytest.fixture
def drawn():
    """Of some shape with three channels: frames, and vectors of the channels, in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw


def moved(x, axis):
    return x.movedim(1, -1).contiguous() if axis == -1 else x


def by_torch(distance, weight, bias, past, frame_weights, axis):
    """The same with torch's own gradient, through moments that are computed here."""
    x = distance.movedim(-1, 1) if axis == -1 else distance
    n, channels = x.shape[:2]
    shares = torch.full((n,), 1 / n, dtype=x.dtype) if frame_weights is None else frame_weights
    each = x.reshape(n, channels, -1)
    mean = (shares[:, None] * each.mean(2)).sum(0)
    var = (shares[:, None] * each.square().mean(2)).sum(0) - mean.square()
    past_mean, past_var, share = past
    shift, deviation = share * mean + past_mean, torch.sqrt(share * var + past_var + EPS)
    y = (each - shift[:, None]) / deviation[:, None] * weight[:, None] + bias[:, None]
    around = Around(mean, shift, deviation, share)
    y = y.reshape(x.shape)
    return (y.movedim(1, -1) if axis == -1 else y), around


@pytest.mark.parametrize("weighed", [False, True], ids=["all alike", "weighed"])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_torchs(shape, axis, weighed, drawn):
    distance = moved(drawn(*shape), axis).requires_grad_()
    weight, bias = drawn(3).requires_grad_(), drawn(3).requires_grad_()
    past = drawn(3), drawn(3).square(), torch.tensor(0.4, dtype=torch.float64)
    frame_weights = drawn(8).softmax(0) if weighed else None
    given = (distance, weight, bias)
    expected, around = by_torch(*given, past, frame_weights, axis)
    found = around_batch(distance, (weight, bias), around, frame_weights, axis)
    torch.testing.assert_close(found, expected)
    along = drawn(*expected.shape)
    for mine, torchs in zip(
        torch.autograd.grad(found, given, along),
        torch.autograd.grad(expected, given, along),
        strict=True,
    ):
        torch.testing.assert_close(mine, torchs)


def test_without_a_share_of_the_batch_it_is_an_affine_map(drawn):
    x, weight, bias, shift = drawn(8, 3, 4, 4).requires_grad_(), drawn(3), drawn(3), drawn(3)
    deviation = drawn(3).square() + 1
    around = Around(drawn(3), shift, deviation, torch.zeros((), dtype=torch.float64))
    y = around_batch(x, (weight, bias), around, None, 1)
    (slope,) = torch.autograd.grad(y.sum(), x)
    expected = (weight / deviation)[None, :, None, None].expand_as(slope)
    torch.testing.assert_close(slope, expected)
