"""Gradients of pooling against torch's own operators, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgemem.export.lowering.pooling import (
    adaptive_max,
    average_backward,
    average_pooling,
    max_backward,
)
from edgemem.export.lowering.resampling import adaptive_average_3d, adaptive_average_backward

aten = torch.ops.aten
EXACT = {"rtol": 1e-11, "atol": 1e-11}
quick = settings(max_examples=250, deadline=None, derandomize=True, database=None)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def averages(draw):
    """A random x and the other arguments of an average pooling, in two or three dimensions."""
    rank = draw(st.sampled_from([2, 2, 3]))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    stride = draw(st.one_of(st.just([]), st.tuples(*[st.integers(1, 5)] * rank).map(list)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    size = [draw(st.integers(1, 11 if rank == 2 else 6)) for _ in range(rank)]
    for a in range(rank):
        # In three dimensions torch asks for a window's size without the padding.
        assume(size[a] + 2 * padding[a] * (rank < 3) >= kernel[a])
    x = randn(2, 3, *size, seed=draw(st.integers(0, 2**16)))
    divisor = draw(st.sampled_from([None, 1, 3]))
    return x, kernel, stride, padding, draw(st.booleans()), draw(st.booleans()), divisor


def average(x, *rest):
    pool = aten.avg_pool2d if len(rest[0]) == 2 else aten.avg_pool3d
    return pool(x, *rest)


@quick
@given(averages())
def test_the_gradient_of_average_pooling_equals_torch(arguments):
    x, *rest = arguments
    grad = randn(*average(x, *rest).shape, seed=1)
    backward = aten.avg_pool2d_backward if x.dim() == 4 else aten.avg_pool3d_backward
    found = average_backward(grad, x, *rest)
    torch.testing.assert_close(found, backward(grad, x, *rest), **EXACT)


@quick
@given(averages())
def test_a_divisor_of_its_own_equals_torch(arguments):
    x, *rest, divisor = arguments
    found = average_pooling(x, *rest, divisor)
    if divisor is None:
        assert found is NotImplemented
    else:
        torch.testing.assert_close(found, average(x, *rest, divisor), **EXACT)


def test_average_pooling_of_frames_without_channels_equals_torch():
    x = randn(5, 12).requires_grad_()
    y = F.avg_pool1d(x, 3, 2, 1, ceil_mode=True)
    grad = randn(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, x, grad)
    arguments = ([1, 3], [1, 2], [0, 1], True, True, None)
    found = average_backward(grad.unsqueeze(1), x.detach().unsqueeze(1), *arguments)
    torch.testing.assert_close(found.squeeze(1), expected, **EXACT)


SIZES = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=3)


@quick
@given(SIZES, st.integers(0, 2**16))
def test_adaptive_average_pooling_equals_torch(sizes, seed):
    before, after = zip(*sizes, strict=True)
    x = randn(2, 3, *before, seed=seed).requires_grad_()
    pool = F.adaptive_avg_pool2d if len(sizes) == 2 else F.adaptive_avg_pool3d
    y = pool(x, after)
    grad = randn(*y.shape, seed=seed + 1)
    (expected,) = torch.autograd.grad(y, x, grad)
    found = adaptive_average_backward(len(sizes))(grad, x.detach())
    torch.testing.assert_close(found, expected, **EXACT)
    if len(sizes) == 3:
        torch.testing.assert_close(adaptive_average_3d(x.detach(), after), y.detach(), **EXACT)


@quick
@given(SIZES, st.integers(0, 2**16), st.booleans())
def test_adaptive_max_pooling_equals_torch_and_so_do_its_places(sizes, seed, ties):
    before, after = zip(*sizes, strict=True)
    x = randn(2, 3, *before, seed=seed)
    x = x.round() if ties else x
    pool = F.adaptive_max_pool2d if len(sizes) == 2 else F.adaptive_max_pool3d
    x.requires_grad_()
    y, places = pool(x, after, return_indices=True)
    found = adaptive_max(x.detach(), after)
    assert found[0].equal(y.detach())
    assert found[1].equal(places)
    grad = randn(*y.shape, seed=seed + 1)
    (expected,) = torch.autograd.grad(y, x, grad)
    mine = max_backward(len(sizes))(grad, x.detach(), places)
    torch.testing.assert_close(mine, expected, **EXACT)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 2, "stride": 1, "dilation": 2},
    ],
    ids=["plain", "ceil", "dilated"],
)
def test_max_pooling_in_three_dimensions_equals_torch(options):
    x = randn(2, 3, 5, 6, 7).requires_grad_()
    y, places = F.max_pool3d(x, **options, return_indices=True)
    grad = randn(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, x, grad)
    found = max_backward(3)(grad, x.detach(), "any", "geometry", places)
    torch.testing.assert_close(found, expected, **EXACT)
