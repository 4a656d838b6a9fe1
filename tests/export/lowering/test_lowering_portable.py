"""Strided transposed convolutions by phases, against torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgemem.export.lowering.portable import PORTABLE, convolution

aten = torch.ops.aten


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)).filter(lambda s: max(s) > 1),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    groups=st.sampled_from([1, 2, 4]),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_phases_are_the_transposed_convolution(
    kernel, stride, padding, extra, groups, size, dilation
):
    padding = [min(p, k - 1) for p, k in zip(padding, kernel, strict=True)]
    extra = [min(e, s - 1) for e, s in zip(extra, stride, strict=True)]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    weight = torch.randn(4, 8 // groups, *kernel, dtype=torch.float64)
    bias = torch.randn(8, dtype=torch.float64)
    expected = F.conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)
    given_ = (list(stride), list(padding), list(dilation), True, list(extra), groups)
    found = convolution(x, weight, bias, *given_)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 3])
def test_phases_of_signals_and_volumes(rank):
    x = torch.randn(2, 4, *[4, 3, 5][:rank], dtype=torch.float64)
    weight = torch.randn(4, 3, *[3, 2, 4][:rank], dtype=torch.float64)
    geometry = ([2, 3, 1][:rank], [1, 0, 1][:rank], [1, 2, 1][:rank], True, [1, 0, 0][:rank], 2)
    expected = aten.convolution(x, weight, None, *geometry)
    torch.testing.assert_close(convolution(x, weight, None, *geometry), expected)


def test_other_convolutions_stay_as_they_are():
    x, weight = torch.zeros(1, 4, 5, 5), torch.zeros(4, 4, 3, 3)
    plain = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
    assert convolution(x, weight, None, *plain) is NotImplemented
    unstrided = ([1, 1], [1, 1], [1, 1], True, [0, 0], 1)
    assert convolution(x, weight, None, *unstrided) is NotImplemented


@pytest.mark.parametrize("above", [True, False])
def test_a_gate_is_open_beyond_its_limit_only(above):
    gate = PORTABLE[torch.ops.edgemem.beyond.default]
    x = torch.tensor([-1.0, 0.5, 1.0, torch.inf])
    expected = torch.ops.edgemem.beyond.default(x, 0.5, above)
    assert torch.equal(gate(x, 0.5, above), expected)
