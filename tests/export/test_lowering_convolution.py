"""Backward rules against torch's own operators, in float64."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from edgemem.errors import ExportError
from edgemem.export.lowering.convolution import convolution_backward, swapped
from edgemem.export.lowering.pooling import avg_pool2d_backward
from edgemem.export.lowering.table import decompositions

aten = torch.ops.aten
EXACT = {"rtol": 1e-11, "atol": 1e-11}
quick = settings(max_examples=250, deadline=None, derandomize=True, database=None)


@st.composite
def convolutions(draw):
    """Arguments of aten.convolution_backward for a 1-D or 2-D convolution."""
    rank = draw(st.sampled_from([1, 2]))

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
    dilation, size = axes(st.integers(1, 2)), axes(st.integers(1, 12))
    for a in range(rank):
        assume(size[a] + 2 * padding[a] >= dilation[a] * (kernel[a] - 1) + 1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    n = draw(st.integers(1, 3))
    x = torch.randn(n, inputs, *size, dtype=torch.float64, generator=generator)
    w = torch.randn(outputs, inputs // groups, *kernel, dtype=torch.float64, generator=generator)
    shift = [0] * rank
    y = aten.convolution(x, w, None, stride, padding, dilation, False, shift, groups)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    mask = [draw(st.booleans()) for _ in range(3)]
    return grad, x, w, [outputs], stride, padding, dilation, False, shift, groups, mask


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


def test_swapping_kernels_twice_gives_them_back():
    w = torch.randn(6, 4, 3, 5)
    assert swapped(swapped(w, 2), 2).equal(w)


@pytest.mark.parametrize(
    ("transposed", "rank", "word"), [(True, 2, "transposed"), (False, 3, "3-dimensional")]
)
def test_transposed_and_three_dimensional_convolutions_are_refused(transposed, rank, word):
    x = torch.randn(1, 2, *[4] * rank)
    w = torch.randn(2, 2, *[3] * rank)
    one, zero = [1] * rank, [0] * rank
    with pytest.raises(ExportError, match=f"{word} convolution.*no backward rule"):
        convolution_backward(x, x, w, None, one, one, one, transposed, zero, 1, [True] * 3)


@st.composite
def poolings(draw):
    """Arguments of aten.avg_pool2d_backward without ceil mode."""
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    stride = draw(st.one_of(st.just([]), st.tuples(*[st.integers(1, 4)] * 2).map(list)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    size = [draw(st.integers(1, 11)) for _ in range(2)]
    for a in (0, 1):
        assume(size[a] + 2 * padding[a] >= kernel[a])
    count_padding = True if any(padding) else draw(st.booleans())
    divisor = draw(st.sampled_from([None, 1, 3]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    rest = (kernel, stride, padding, False, count_padding, divisor)
    y = aten.avg_pool2d(x, *rest)
    return torch.randn(y.shape, dtype=torch.float64, generator=generator), x, *rest


@quick
@given(poolings())
def test_average_pooling_backward_equals_torch(arguments):
    found = avg_pool2d_backward(*arguments)
    torch.testing.assert_close(found, aten.avg_pool2d_backward(*arguments), **EXACT)


@pytest.mark.parametrize(
    ("padding", "ceil", "count"), [([0, 0], True, True), ([1, 0], False, False)]
)
def test_average_pooling_with_unequal_windows_is_refused(padding, ceil, count):
    x = torch.randn(1, 1, 5, 5)
    grad = aten.avg_pool2d(x, [2, 2], [2, 2], padding, ceil, count)
    with pytest.raises(ExportError, match="ceil_mode or uncounted padding"):
        avg_pool2d_backward(grad, x, [2, 2], [2, 2], padding, ceil, count, None)


def test_the_table_takes_both_rules_into_a_trace():
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
