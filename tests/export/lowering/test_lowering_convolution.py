"""Backward rules against torch's own operators, in float64."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from edgemem.export.lowering.convolution import convolution, convolution_backward, swapped
from edgemem.export.lowering.table import decompositions

aten = torch.ops.aten
EXACT = {"rtol": 1e-11, "atol": 1e-11}
quick = settings(max_examples=500, deadline=None, derandomize=True, database=None)


@st.composite
def convolutions(draw):
    """Arguments of aten.convolution_backward, plain or transposed, in one to three dimensions."""
    rank, transposed = draw(st.sampled_from([1, 2, 2, 3])), draw(st.booleans())

    def axes(values):
        return [draw(values) for _ in range(rank)]

    groups, depthwise = draw(st.sampled_from([1, 2, 4])), draw(st.booleans())
    if depthwise:
        groups = inputs = draw(st.sampled_from([1, 2, 4, 6]))
    else:
        inputs = groups * draw(st.integers(1, 3))
    outputs = groups * draw(st.integers(1, 2))
    kernel = axes(st.sampled_from([1, 2, 3, 5]))
    stride, padding = axes(st.integers(1, 3)), axes(st.integers(0, 2))
    dilation, size = axes(st.integers(1, 3)), axes(st.integers(1, 12 if rank < 3 else 6))
    extra = [0] * rank
    for a in range(rank):
        reach = dilation[a] * (kernel[a] - 1) + 1
        if transposed:
            extra[a] = draw(st.integers(0, max(stride[a], dilation[a]) - 1))
            assume((size[a] - 1) * stride[a] - 2 * padding[a] + reach + extra[a] >= 1)
        else:
            assume(size[a] + 2 * padding[a] >= reach)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    n = draw(st.integers(1, 3))
    x = torch.randn(n, inputs, *size, dtype=torch.float64, generator=generator)
    channels = (inputs, outputs) if transposed else (outputs, inputs)
    shape = (channels[0], channels[1] // groups, *kernel)
    w = torch.randn(shape, dtype=torch.float64, generator=generator)
    geometry = (stride, padding, dilation, transposed, extra, groups)
    y = aten.convolution(x, w, None, *geometry)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    mask = [draw(st.booleans()) for _ in range(3)]
    return grad, x, w, [outputs], *geometry, mask


@quick
@given(convolutions())
def test_convolution_backward_equals_torch(arguments):
    found = convolution_backward(*arguments)
    expected = aten.convolution_backward(*arguments)
    for mine, theirs, asked in zip(found, expected, arguments[-1], strict=True):
        assert (mine is not None) == asked
        if asked:
            torch.testing.assert_close(mine, theirs, **EXACT)


@settings(quick, max_examples=60)
@given(convolutions())
def test_convolution_backward_needs_shapes_only_so_it_can_be_traced(arguments):
    *tensors, sizes, stride, padding, dilation, transposed, shift, groups, _ = arguments
    rest = (sizes, stride, padding, dilation, transposed, shift, groups, [True] * 3)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = [mode.from_tensor(tensor) for tensor in tensors]
        shapes = [g.shape for g in convolution_backward(*fake, *rest)]
    assert shapes == [tensors[1].shape, tensors[2].shape, torch.Size(sizes)]


def test_a_convolution_of_even_kernel_and_unequal_axes_equals_torch():
    """One awkward case by hand: sizes leave a remainder, axes differ in everything."""
    x = torch.randn(2, 4, 9, 12, dtype=torch.float64)
    w = torch.randn(6, 2, 2, 5, dtype=torch.float64)
    geometry = ([3, 2], [1, 0], [2, 1], False, [0, 0], 2)
    grad = torch.randn_like(aten.convolution(x, w, None, *geometry))
    arguments = (grad, x, w, [6], *geometry, [True, True, True])
    for mine, theirs in zip(
        convolution_backward(*arguments), aten.convolution_backward(*arguments), strict=True
    ):
        torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.mark.parametrize("padding", [[0, 1], [2, 0], [2, 4]])
def test_output_padding_that_reaches_the_stride_equals_torch(padding):
    x = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    geometry = ([1, 2], padding, [3, 3], True, [2, 1], 2)
    expected = aten.convolution(x, w, bias, *geometry)
    torch.testing.assert_close(convolution(x, w, bias, *geometry), expected, **EXACT)
    assert convolution(x, w, bias, [1, 2], padding, [3, 3], True, [0, 1], 2) is NotImplemented


def test_swapping_kernels_twice_gives_them_back():
    w = torch.randn(6, 4, 3, 5)
    assert swapped(swapped(w, 2), 2).equal(w)


def test_the_table_takes_rules_into_a_trace():
    def loss(x, w):
        y = torch.nn.functional.conv2d(x, w, stride=2, padding=1)
        return torch.nn.functional.avg_pool2d(y, 2).pow(2).sum()

    x, w = torch.randn(2, 3, 16, 16), torch.randn(4, 3, 3, 3)
    gradient = torch.func.grad(loss, argnums=(0, 1))
    graph = make_fx(gradient, decomposition_table=decompositions())(x, w)
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if "_backward" in name]
    for mine, theirs in zip(graph(x, w), gradient(x, w), strict=True):
        torch.testing.assert_close(mine, theirs)
