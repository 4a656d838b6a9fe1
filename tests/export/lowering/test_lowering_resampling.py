"""Gradients of resizing and of replication padding against torch's autograd, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemem.export.lowering.padding import replication_pad_backward
from edgemem.export.lowering.table import RULES

EXACT = {"rtol": 1e-10, "atol": 1e-10}
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
MODES = {
    "nearest": [(1, "upsample_nearest1d"), (2, "upsample_nearest2d"), (3, "upsample_nearest3d")],
    "nearest-exact": [
        (1, "_upsample_nearest_exact1d"),
        (2, "_upsample_nearest_exact2d"),
        (3, "_upsample_nearest_exact3d"),
    ],
    "linear": [(1, "upsample_linear1d")],
    "bilinear": [(2, "upsample_bilinear2d")],
    "bicubic": [(2, "upsample_bicubic2d")],
    "trilinear": [(3, "upsample_trilinear3d")],
}
FLAT = ("nearest", "nearest-exact")


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check(operator, sizes, size, scales, *align):
    """The rule of an operator against autograd through it."""
    x = randn(2, 3, *sizes).requires_grad_()
    y = getattr(torch.ops.aten, operator).default(x, size, *align, *scales)
    grad = randn(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, x, grad)
    rule = RULES[getattr(torch.ops.aten, f"{operator}_backward").default]
    found = rule(grad, size, list(x.shape), *align, *scales)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("mode", MODES)
@quick
@given(data=st.data())
def test_the_gradient_of_resizing_equals_torch(mode, data):
    rank, operator = data.draw(st.sampled_from(MODES[mode]))
    sizes = [data.draw(st.integers(2, 9)) for _ in range(rank)]
    align = [] if mode in FLAT else [data.draw(st.booleans())]
    if data.draw(st.booleans()):
        size, scales = [data.draw(st.integers(1, 19)) for _ in range(rank)], [None] * rank
    else:
        factor = st.sampled_from([0.5, 1.0, 1.5, 1.7, 2.0, 3.0])
        scales = [data.draw(factor) for _ in range(rank)]
        size = [max(1, int(n * s)) for n, s in zip(sizes, scales, strict=True)]
    check(operator, sizes, size, scales, *align)


@pytest.mark.parametrize("operator", ["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [[5, 4], [13, 20], [1, 6]])
def test_the_gradient_of_smoothed_resizing_equals_torch(operator, align, size):
    check(operator, [11, 8], size, [None, None], align)


def test_a_whole_factor_and_an_axis_that_shrinks_equal_torch():
    check("upsample_nearest2d", [4, 6], [8, 3], [2.0, 0.5])
    check("upsample_nearest2d", [4, 6], [8, 18], [2.0, 3.0])
    check("upsample_nearest2d", [4, 6], [13, 19], [3.3, 3.3])


@quick
@given(st.data())
def test_the_gradient_of_replication_padding_equals_torch(data):
    rank = data.draw(st.integers(1, 3))
    sizes = [data.draw(st.integers(3, 6)) for _ in range(rank)]
    padding = [data.draw(st.integers(-1, 4)) for _ in range(2 * rank)]
    x = randn(2, 3, *sizes).requires_grad_()
    y = F.pad(x, padding, mode="replicate")
    grad = randn(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, x, grad)
    found = replication_pad_backward(grad, x.detach(), padding)
    torch.testing.assert_close(found, expected, **EXACT)
