"""Functions as simpler ones, and picked places, against torch's own, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from edgemem.export.lowering.padding import select_backward, select_scatter
from edgemem.export.lowering.spelled_out import SPELLED_OUT, SpelledOut


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


X, Y, THETA = randn(2, 3, 5, 6), randn(2, 3, 4, 6, seed=1), randn(2, 2, 3, seed=2)
GRID = 1.2 * torch.tanh(randn(2, 4, 5, 2, seed=3))
SAMPLING = [
    (F.grid_sample, (X, GRID), {"mode": m, "padding_mode": p, "align_corners": a})
    for m, p, a in [
        ("bilinear", "zeros", False),
        ("bilinear", "border", True),
        ("nearest", "reflection", False),
        ("bicubic", "zeros", True),
    ]
]
CALLS = [
    (F.silu, (X,), {"inplace": True}),
    (F.mish, (X,), {}),
    (F.rrelu, (X, 0.1, 0.4), {}),
    (torch.cdist, (X, Y), {}),
    (torch.cdist, (X, Y), {"p": 1.0}),
    (F.bilinear, (X, randn(2, 3, 5, 4), randn(7, 6, 4), randn(7)), {}),
    (F.affine_grid, (THETA, [2, 3, 4, 5]), {"align_corners": True}),
    (F.affine_grid, (THETA, [2, 3, 1, 5]), {"align_corners": False}),
    (F.affine_grid, (randn(2, 3, 4), [2, 3, 4, 1, 5]), {"align_corners": False}),
    (F.pad, (X, (1, 2, 0, 3)), {"mode": "circular"}),
    (F.pad, (X, (-1, 2, 2, -2)), {"mode": "circular"}),
    (F.pad, (X, (1, 2)), {"value": 3.0}),
    (F.adaptive_avg_pool1d, (Y[0], 1), {}),
    (F.adaptive_avg_pool1d, (Y[0], 3), {}),
    (F.adaptive_avg_pool2d, (X, 1), {}),
    (F.adaptive_avg_pool2d, (X, (1, 1)), {}),
    (F.adaptive_avg_pool2d, (X, (2, 3)), {}),
    *SAMPLING,
]


@pytest.mark.parametrize("number", range(len(CALLS)), ids=lambda i: f"{CALLS[i][0].__name__}-{i}")
def test_a_function_and_its_gradient_are_torchs(number):
    function, arguments, options = CALLS[number]
    assert function in SPELLED_OUT

    def run():
        inputs = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        leaves = [a.requires_grad_() for a in inputs if isinstance(a, torch.Tensor)]
        inputs = [a + 0.0 if isinstance(a, torch.Tensor) else a for a in inputs]
        y = function(*inputs, **options)
        grads = torch.autograd.grad(
            y, leaves, randn(*y.shape, seed=9), allow_unused=True, materialize_grads=True
        )
        return y, *grads

    expected = run()
    with SpelledOut():
        found = run()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_rrelu_in_training_stays_random():
    with SpelledOut():
        found = F.rrelu(-torch.ones(64), training=True)
    assert len(found.unique()) > 1


@pytest.mark.parametrize("dim", [0, 2, -1])
@pytest.mark.parametrize("index", [0, 1, -1])
def test_picking_one_place_and_writing_one_are_torchs(dim, index):
    x = X.clone().requires_grad_()
    y = x.select(dim, index)
    grad = randn(*y.shape, seed=4)
    (expected,) = torch.autograd.grad(y, x, grad)
    assert select_backward(grad, x.shape, dim, index).equal(expected)
    assert select_scatter(X, grad, dim, index).equal(torch.select_scatter(X, grad, dim, index))


@pytest.mark.parametrize("pool", [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d])
def test_the_mean_of_an_image_whose_channels_lie_last_works_in_place_nowhere(pool):
    """As in ConvNeXt and Swin, whose norms take the channels last."""
    shape = (2, 6, 4) if pool is F.adaptive_avg_pool1d else (2, 6, 5, 4)
    x = randn(*shape).transpose(1, -1)

    def call(x):
        y, pullback = torch.func.vjp(lambda x: pool(x, 1), x)
        return y, *pullback(torch.ones_like(y))

    with SpelledOut():
        graph = make_fx(call)(x).graph
    targets = {node.target for node in graph.nodes if node.op == "call_function"}
    assert not any(target._schema.is_mutable for target in targets)
